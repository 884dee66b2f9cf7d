"""etcd as our child: who gets in, where it listens, and that it comes back and goes with us."""

import asyncio
import base64
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fairlead.base import leash
from fairlead.base.errors import OperatorError
from fairlead.cluster import etcd as module
from fairlead.cluster.etcd import (
    CLIENT_PORT,
    PEER_PORT,
    arguments,
    check_etcd,
    client_url,
    environment,
    member_context,
    put_identity,
)
from fairlead.cluster.members import Members
from fairlead.pki.authority import Authority, Issued
from fairlead.pki.certificate import der_of
from fairlead.pki.request import new_request, read_request
from fairlead.store.gateway import Gateway, GatewayRefused, GatewayUnavailable, encoded
from tests.conftest import need
from tests.unit.cluster.ring import NOW, Ring, fetch, presented, ring, until

OK = "HTTP/1.1 200 OK"
KEY, VALUE = "a2V5", "dmFsdWU="  # base64


def program(folder: Path, text: str) -> Path:
    """An etcd that is none."""
    file = folder / "etcd"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o700)
    return file


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def a_member(cluster: Ring, root: Authority) -> Issued:
    """The certificate of one more member, signed by *root*."""
    key, request = new_request()
    return Issued(root.certify_member(cluster.uuid, "ctl-9", cluster.address(9), read_request(request), NOW), key)


async def test_members_and_clients_get_in_by_their_doors_and_nobody_else(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = await cluster.site(1).start().ready()
        assert [member.name for member in await Members(site.own).list()] == ["ctl-1"]
        client, member = cluster.root.issue_client(cluster.uuid, NOW), a_member(cluster, cluster.root)
        others = Authority.create(cluster.uuid, NOW)
        strangers = {
            "nobody": None,
            "portal": cluster.root.issue_portal(cluster.uuid, [site.address], NOW),
            "api": cluster.root.issue_api(cluster.uuid, [site.address], NOW),
            "a member of another CA": a_member(cluster, others),
            "a client of another CA": others.issue_client(cluster.uuid, NOW),
        }
        doors = {CLIENT_PORT: "/health", PEER_PORT: "/members"}
        for port, path in doors.items():
            for name, who in strangers.items():
                assert await fetch(site.address, port, path, cluster.context(who)) == "", (name, port)
            assert (await fetch(site.address, port, path, cluster.context(member))).startswith(OK)
        let_in = await fetch(site.address, CLIENT_PORT, "/health", cluster.context(client))
        assert let_in.startswith(OK)
        assert "access-control-allow-origin" not in let_in.lower()  # no page asks with its reader's certificate
        assert await fetch(site.address, PEER_PORT, "/members", cluster.context(client)) == ""
        weak = cluster.context(member, newest=ssl.TLSVersion.TLSv1_2)
        assert (await fetch(site.address, CLIENT_PORT, "/health", weak)).startswith(OK)
        weak.set_ciphers("ECDHE-ECDSA-AES128-SHA")
        assert await fetch(site.address, CLIENT_PORT, "/health", weak) == ""


async def test_it_listens_on_its_address_only_and_the_environment_has_no_say(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ring(tmp_path) as cluster:
        monkeypatch.setenv("ETCD_LISTEN_METRICS_URLS", f"http://{cluster.address(99)}:2381")
        monkeypatch.setenv("ETCD_ENABLE_PPROF", "true")
        monkeypatch.setenv("NOTIFY_SOCKET", "@nobody")
        site = await cluster.site(1).start().ready()
        assert site.listens() == {(site.address, CLIENT_PORT), (site.address, PEER_PORT)}
        assert set(site.about("environ").split("\0")) <= {"", "LC_CTYPE=C.UTF-8"}  # which Python adds
        written = [site.state / "etcd", *(site.state / "etcd").rglob("*")]
        assert site.state / "etcd/data/member/snap/db" in written
        assert not [path for path in written if path.stat().st_mode & 0o077]


async def test_a_transaction_may_be_large_and_a_lease_short(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = await cluster.site(1).start().ready()
        puts = [{"requestPut": {"key": base64.b64encode(b"%d" % number).decode()}} for number in range(513)]
        assert (await site.own.call("kv/txn", {"success": puts[:512]}))["succeeded"]
        with pytest.raises(GatewayRefused):
            await site.own.call("kv/txn", {"success": puts})
        assert (await site.own.call("lease/grant", {"TTL": "1"}))["TTL"] == "1"


async def test_a_new_certificate_counts_from_the_next_handshake(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = await cluster.site(1).start().ready()
        context = cluster.context(cluster.root.issue_client(cluster.uuid, NOW))
        key, request = new_request()
        made = cluster.root.certify_member(cluster.uuid, site.name, site.address, read_request(request), NOW)
        assert await presented(site.address, CLIENT_PORT, context) != der_of(made)
        put_identity(site.state, made, key, cluster.root.certificate_pem)
        for port in (CLIENT_PORT, PEER_PORT):
            assert await presented(site.address, port, context) == der_of(made)
        assert not site.etcd.problems


async def test_other_cas_count_from_the_next_start_only(tmp_path: Path) -> None:
    """What `restart` is for: an etcd that began to read them anew would need none."""
    async with ring(tmp_path) as cluster:
        site = await cluster.site(1).start().ready()
        new = Authority.create(cluster.uuid, NOW)
        context = cluster.context(new.issue_client(cluster.uuid, NOW))
        assert not site.etcd.stale
        cluster.certify(site, cluster.root, [cluster.root, new])
        assert await fetch(site.address, CLIENT_PORT, "/health", context) == ""
        assert site.etcd.stale
        first = site.etcd.pid
        await site.etcd.restart()
        assert (await fetch(site.address, CLIENT_PORT, "/health", context)).startswith(OK)
        assert not site.etcd.stale
        assert site.etcd.pid not in (None, first)
        assert not site.etcd.problems  # an end that was asked for is none that is told of


async def test_roots_change_member_after_member_and_no_write_is_lost(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        sites, old, new = await cluster.three(), cluster.root, Authority.create(cluster.uuid, NOW)
        every = Gateway([client_url(site.address) for site in sites], member_context(sites[0].state))
        written, gaps, writing = list[str](), list[float](), asyncio.Event()
        writing.set()

        async def write() -> None:
            last = time.monotonic()
            while writing.is_set():
                key = encoded(b"%d" % len(written))
                with contextlib.suppress(GatewayUnavailable):  # whether it was written is not known: once more
                    await every.call("kv/put", {"key": key, "value": VALUE})
                    written.append(key)
                    gaps.append(time.monotonic() - last)
                    last = time.monotonic()
                await asyncio.sleep(0.01)

        task = asyncio.ensure_future(write())
        for signs, believed, again in ((old, [old, new], True), (new, [old, new], False), (new, [new], True)):
            for site in sites:
                cluster.certify(site, signs, believed)
                await site.own.present(member_context(site.state))
                if again:
                    await site.etcd.restart()
            await every.present(member_context(sites[0].state))
        writing.clear()
        await task
        assert max(gaps) < 2  # seconds; with a leader of etcd that gives the lead away it is a few hundredths
        for site in sites:
            for key in (written[0], written[-1]):
                assert (await site.own.call("kv/range", {"key": key}))["count"] == "1"
            count = await site.own.call("kv/range", {"key": encoded(b"0"), "range_end": encoded(b":"),
                                                     "count_only": True})
            assert int(count["count"]) == len(written)
            assert not site.etcd.problems
        await every.close()


async def test_a_leaf_of_the_root_that_is_gone_opens_no_door_and_is_believed_by_nobody(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site, old, new = await cluster.site(1).start().ready(), cluster.root, Authority.create(cluster.uuid, NOW)
        late = [a_member(cluster, old), old.issue_client(cluster.uuid, NOW)]
        cluster.certify(site, new, [new])
        await site.own.present(member_context(site.state))
        await site.etcd.restart()
        for who in late:
            context = cluster.context(who)
            context.load_verify_locations(cadata=der_of(new.certificate_pem))
            for port in (CLIENT_PORT, PEER_PORT):
                assert await fetch(site.address, port, "/health", context) == ""
        cluster.certify(site, old, [old])  # an impostor with the root's old key, at the door that we go to
        await site.stop()
        site.start()
        await until(lambda: site.etcd.pid and (site.address, CLIENT_PORT) in site.listens(), "it serves")
        with pytest.raises(GatewayUnavailable, match="verify"):
            await site.own.call("kv/range", {"key": KEY})


async def test_a_killed_etcd_is_started_again_with_its_data(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = await cluster.site(1).start().ready()
        await site.own.call("kv/put", {"key": KEY, "value": VALUE})
        first = site.etcd.pid
        assert first is not None
        assert not site.etcd.problems
        with capture_logs() as logs:
            os.kill(first, signal.SIGKILL)
            await until(lambda: site.problem("FL-ETCD-DOWN"), "it is said that it ended")
            await until(lambda: site.etcd.pid not in (None, first), "there is another")
            await site.ready()
        assert "signal 9" in next(str(one["reason"]) for one in logs if one["event"] == "etcd.down")
        assert not site.etcd.problems
        assert (await site.own.call("kv/range", {"key": KEY}))["kvs"][0]["value"] == VALUE


async def test_it_ends_with_us(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = await cluster.site(1).start().ready()
        pid = site.etcd.pid
        assert pid is not None
        await site.stop()
        assert gone(pid)


async def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ring(tmp_path) as cluster:
        deaf = program(tmp_path, f"trap '' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 0.1; done")
        monkeypatch.setattr(module, "STOP_S", 0.2)
        site = cluster.site(1, binary=deaf).start()
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "it runs")
        await site.stop()
        assert gone(int((tmp_path / "pid").read_text()))


ALONE = """
import asyncio, sys, uuid
from pathlib import Path
from fairlead.cluster.etcd import Etcd, Plan, check_etcd, client_url, member_context
from fairlead.store.gateway import Gateway

async def main(state, address, cluster):
    own = Gateway([client_url(address)], member_context(state))
    etcd = Etcd(check_etcd(), state, Plan("ctl-1", address, cluster, {"ctl-1": address}, existing=False), own)
    running = asyncio.ensure_future(etcd.run())
    await etcd.ready()
    print("pid", etcd.pid, file=sys.stderr, flush=True)
    await running

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], uuid.UUID(sys.argv[3])))
"""


async def test_a_daemon_that_is_killed_takes_its_etcd_along(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = cluster.site(1)
        daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ALONE, site.state, site.address, str(cluster.uuid),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)
        pid = 0
        try:
            assert daemon.stderr is not None
            pid = int((await asyncio.wait_for(daemon.stderr.readuntil(b"\n"), 30)).removeprefix(b"pid "))
            daemon.kill()
            await daemon.wait()
            await until(lambda: gone(pid), "etcd has ended too")
        finally:
            if daemon.returncode is None:
                daemon.kill()
                await daemon.wait()
            if pid and not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_leash_without_its_owner_runs_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(leash.__file__), "1", "/bin/touch", str(tmp_path / "ran")],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the parent is gone" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_what_is_leashed_writes_for_its_owner_only() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid()), "/bin/sh", "-c", "umask"],
                          capture_output=True, text=True, check=True)
    assert done.stdout == "0077\n"


async def test_an_etcd_of_an_earlier_life_is_named_and_waited_for(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = await cluster.site(1).start().ready()
        await site.stop()
        orphan = await asyncio.create_subprocess_exec(
            check_etcd(), *arguments(site.state, site.plan), env=environment(),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
        try:
            await until(lambda: module._locked(site.state / "etcd/data/member/snap/db"), "the orphan has the data")
            site.start()
            await until(lambda: site.problem("FL-ETCD-HELD"), "the orphan is seen")
            assert site.problem("FL-ETCD-HELD").endswith(f": pid {orphan.pid}; kill {orphan.pid} [FL-ETCD-HELD]")
            assert site.etcd.pid is None
        finally:
            orphan.kill()
            await orphan.wait()
        await site.ready()
        assert not site.etcd.problems


async def test_who_is_on_its_port_is_named(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = cluster.site(1)
        with socket.create_server((site.address, CLIENT_PORT)):
            site.start()
            await until(lambda: site.problem("FL-ETCD-PORT"), "the other is seen")
            assert f"{site.address}:{CLIENT_PORT} is taken by pid {os.getpid()} (" in site.problem("FL-ETCD-PORT")
            assert site.etcd.pid is None


async def test_what_ends_at_once_is_started_again_and_its_last_words_are_told(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        words = '{"level":"fatal","msg":"discovery failed","error":"no \\\\u001b[2J disk"}'
        runs = tmp_path / "runs"
        site = cluster.site(1, binary=program(tmp_path, f"echo x >>{runs}; echo '{words}' >&2; sleep 0.2; exit 3"))
        site.start()
        await until(lambda: site.problem("FL-ETCD-DOWN"), "it is said")
        told = set()

        def lives() -> int:
            told.add(site.problem("FL-ETCD-DOWN"))
            return len(runs.read_text().splitlines())

        await until(lambda: lives() >= 4, "four lives")
        (line,) = told  # all the while, not by turns
        assert "(exit code 3: discovery failed: no \\x1b[2J disk)" in line


async def test_what_etcd_logs_is_ours_and_says_each_thing_once(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        etcd = cluster.site(1).etcd
        with capture_logs() as logs:
            for line in (b'{"level":"info","msg":"a"}', b'{"level":"warn","msg":"b","n":1}',
                         b'{"level":"warn","msg":"b"}', b"goroutine 1 [running]:\x1b", b"[]",
                         b'{"level":"warn","event":"x","message":"y","msg":"c"}'):
                etcd._tell(line)
        assert [(one["log_level"], one["message"]) for one in logs] == [
            ("debug", "a"), ("warning", "b"), ("debug", "b"), ("debug", "goroutine 1 [running]:\\x1b"), ("debug", "[]"),
            ("warning", "c")]
        assert logs[1]["detail"] == {"n": 1}


@pytest.mark.parametrize("said", ["echo etcd Version: 3.3.25", "echo etcd Version: 3.5.2", "echo etcd Version: 3.6.0",
                                  "echo etcd Version: x", "exit 1", "echo '\377'"])
def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    program(tmp_path, said)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OperatorError) as refused:
        check_etcd()
    assert refused.value.code == "FL-ETCD-VERSION"
    assert "install etcd 3.4 or 3.5" in refused.value.remedy


def test_a_version_that_will_do_is_found_and_none_at_all_is_refused(tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    need("etcd")
    assert check_etcd().name == "etcd"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OperatorError) as refused:
        check_etcd()
    assert refused.value.code == "FL-ETCD-MISSING"
    assert program(tmp_path, "echo etcd Version: 3.5.21; echo Git SHA: x") == check_etcd()


async def test_a_folder_in_disorder_starts_nothing(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = cluster.site(1)
        pair = site.state / "etcd/member.pem"
        for content, mode, code in ((None, 0o644, "FL-STATE-OPEN"), (b"x", 0o600, "FL-ETCD-IDENTITY")):
            pair.write_bytes(content if content is not None else pair.read_bytes())
            pair.chmod(mode)
            with pytest.raises(OperatorError) as refused:
                async with asyncio.timeout(5):
                    await site.etcd.run()
            assert refused.value.code == code
        pair.unlink()
        with pytest.raises(OperatorError) as refused:
            member_context(site.state)
        assert refused.value.code == "FL-ETCD-IDENTITY"
