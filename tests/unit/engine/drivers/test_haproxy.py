"""HAProxy, the real one: what it is given, what it refuses, and that nothing of what runs is lost by it."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.errors import FairleadError, Refused
from fairlead.engine.drivers.haproxy import FILE, FOLDER, HaproxyDriver, render
from fairlead.engine.settings import HaproxySettings
from fairlead.link.documents import Haproxy, check, read
from tests.conftest import need
from tests.processes import an_address, free_port
from tests.world import refusal

PLACES = {("shop", None): ("127.64.0.1", 8000), ("shop", "ctl-2"): ("127.64.0.2", 8000)}


def resolve(service: str, owner: str | None) -> tuple[str, int] | None:
    return PLACES.get((service, owner))


def document(bind: str, server: str = "127.0.0.1:9", name: str = "web", **more: Any) -> str:
    return check("haproxy", {
        "listeners": [{"name": name, "bind": [bind], "back_end": "app"}],
        "back_ends": [{"name": "app", "servers": [{"name": "a", "address": server, "check": False}]}], **more})


@contextlib.asynccontextmanager
async def back_end(answer: bytes) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(answer + line)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


async def ask(bind: str, question: bytes = b"?\n") -> bytes:
    host, _, port = bind.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(question)
    try:
        return await reader.readline()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def driver(state: Path, settings: HaproxySettings | None = HaproxySettings()) -> AsyncIterator[HaproxyDriver]:  # noqa: B008
    need("haproxy")
    made = HaproxyDriver(state, lambda: settings, resolve)
    try:
        yield made
    finally:
        await made.close()


def place() -> str:
    return f"{an_address()}:{free_port()}"


def test_a_service_is_where_the_plan_says() -> None:
    body: Haproxy = read("haproxy", check("haproxy", {
        "listeners": [{"name": "web", "bind": ["127.0.0.1:80"], "mode": "http", "back_end": "app",
                       "most_connections": 5}],
        "back_ends": [{"name": "app", "mode": "http", "health_path": "/up", "balance": "leastconn", "servers": [
            {"name": "a", "service": "shop"}, {"name": "b", "service": "shop", "owner": "ctl-2", "weight": 0}]}]}))
    text = render({"edge": body}, resolve, HaproxySettings())
    for line in ("frontend edge.web", "    bind 127.0.0.1:80", "    maxconn 5", "    default_backend edge.app",
                 "    server a 127.64.0.1:8000 weight 100 check", "    server b 127.64.0.2:8000 weight 0 check",
                 "    option httpchk GET /up", "    balance leastconn"):
        assert line in text.splitlines()


async def test_it_runs_reloads_and_drops_no_connection(tmp_path: Path) -> None:
    bind, other = place(), place()
    async with driver(tmp_path) as haproxy, back_end(b"one") as one, back_end(b"two") as two:
        held = {"edge": document(bind, one)}
        await haproxy.apply("edge", held["edge"], {})
        host, _, port = bind.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"1\n")
        assert await reader.readline() == b"one1\n"
        for number in range(5):  # whoever comes meanwhile gets an answer, too
            asking = [asyncio.get_running_loop().create_task(ask(bind)) for _ in range(20)]
            text = document(bind, two if number % 2 else one, timeouts={"client": 60 + number})
            await haproxy.apply("edge", text, held)
            held["edge"] = text
            assert all(answer.endswith(b"?\n") for answer in await asyncio.gather(*asking))
        await haproxy.apply("edge", document(bind, two), held)
        assert await ask(bind) == b"two?\n"
        writer.write(b"2\n")
        assert await reader.readline() == b"one2\n", "the connection from before goes on where it was"
        writer.close()
        held["edge"] = document(bind, two)
        await haproxy.apply("more", document(other, one), held)
        held["more"] = document(other, one)
        assert (await ask(bind), await ask(other)) == (b"two?\n", b"one?\n")
        await haproxy.remove("edge", held)
        with pytest.raises(OSError, match=r"refused|failed"):
            await ask(bind)
        assert await ask(other) == b"one?\n"


async def test_what_is_refused_leaves_what_runs(tmp_path: Path) -> None:
    bind = place()
    async with driver(tmp_path) as haproxy, back_end(b"one") as one:
        held = {"edge": document(bind, one)}
        await haproxy.apply("edge", held["edge"], {})
        file = (tmp_path / FOLDER / FILE).read_bytes()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            theirs = f"127.0.0.1:{taken.getsockname()[1]}"
            for text, code in (
                    (document(theirs), "FL-DRIVER-TAKEN"), (document("192.0.2.1:80"), "FL-DRIVER-BIND"),
                    (document("0.0.0.0:80"), "FL-DRIVER-BIND"), (document(bind, name="again"), "FL-DRIVER-TAKEN"),
                    (check("haproxy", {"back_ends": [{"name": "x", "servers": [
                        {"name": "a", "service": "other"}]}]}), "FL-DRIVER-SERVICE")):
                assert await refusal(haproxy.apply("bad", text, held)) == code
                assert await ask(bind) == b"one?\n"
        assert (tmp_path / FOLDER / FILE).read_bytes() == file


async def test_what_a_full_disk_refuses_counts_as_in_force_at_no_time(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bind = place()
    async with driver(tmp_path) as haproxy, back_end(b"one") as one, back_end(b"two") as two:
        held = {"edge": document(bind, one)}
        await haproxy.apply("edge", held["edge"], {})
        replace = Path.replace

        def full(path: Path, target: Path) -> Path:
            if target.name == FILE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            assert await refusal(haproxy.apply("edge", document(bind, two), held)) == "FL-DISK"
        assert await ask(bind) == b"one?\n"
        await haproxy.apply("edge", document(bind, two), held)
        assert await ask(bind) == b"two?\n"


async def test_its_own_words_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only HAProxy finds: here a line that the rendering would never write."""
    from fairlead.engine.drivers import haproxy as module
    bind = place()
    async with driver(tmp_path) as haproxy, back_end(b"one") as one:
        held = {"edge": document(bind, one)}
        await haproxy.apply("edge", held["edge"], {})
        monkeypatch.setattr(module, "render", lambda *_: "frontend x\n    nonsense\n")
        with pytest.raises(FairleadError) as caught:
            await haproxy.apply("bad", document(place()), held)
        assert caught.value.code == "FL-DRIVER-PROGRAM"
        assert "unknown keyword 'nonsense'" in caught.value.message
        assert str(tmp_path) not in caught.value.message
        assert await ask(bind) == b"one?\n"


async def test_it_is_started_again_when_it_ends_and_dies_with_us(tmp_path: Path) -> None:
    bind = place()
    async with driver(tmp_path) as haproxy, back_end(b"one") as one:
        await haproxy.apply("edge", document(bind, one), {})
        running = haproxy._running
        assert running is not None
        os.killpg(running.child.pid, signal.SIGKILL)
        await running.child.wait()
        assert "started again" in haproxy.problems[0]
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    if haproxy._running is not running and await ask(bind) == b"one?\n":
                        break
                await asyncio.sleep(0.05)
        last = haproxy._running
        assert last is not None
        folder = last.sockets
    assert last.child.returncode is not None
    assert not folder.exists()
    with pytest.raises(OSError, match=r"refused|failed"):
        await ask(bind)


async def test_without_leave_it_is_not_run(tmp_path: Path) -> None:
    async with driver(tmp_path, None) as haproxy:
        assert await refusal(haproxy.apply("edge", document(place()), {})) == "FL-DRIVER-OFF"
        await haproxy.restore({})
    async with driver(tmp_path, HaproxySettings(program="no-such-haproxy")) as haproxy:
        assert await refusal(haproxy.apply("edge", document(place()), {})) == "FL-DRIVER-PROGRAM"


async def test_what_the_settings_allow_no_longer_is_out_of_force(tmp_path: Path) -> None:
    """Also when another document comes, and after a restart: what is held is no leave."""
    need("haproxy")
    near, far = f"127.0.0.1:{free_port()}", place()
    settings = [HaproxySettings()]
    haproxy = HaproxyDriver(tmp_path, lambda: settings[0], resolve)
    try:
        async with back_end(b"one") as one:
            held = {"far": document(far, one), "near": document(near, one)}
            await haproxy.restore(held)
            assert (await ask(near), await ask(far)) == (b"one?\n", b"one?\n")
            settings[0] = HaproxySettings(bind=["127.0.0.1/32"])
            with pytest.raises(Refused, match="far: this engine's HAProxy may not listen") as refused:
                await haproxy.restore(held)
            assert refused.value.code == "FL-DRIVER-BIND"
            held["near"] = document(near, one, timeouts={"client": 61})
            await haproxy.apply("near", held["near"], held)
            assert await ask(near) == b"one?\n"
            with pytest.raises(OSError, match=r"refused|failed"):
                await ask(far)
            settings[0] = HaproxySettings(bind=["::1/128"])
            with pytest.raises(Refused):
                await haproxy.restore(held)
            with pytest.raises(OSError, match=r"refused|failed"):
                await ask(near)
    finally:
        await haproxy.close()
