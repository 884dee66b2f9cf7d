"""The child that does what somebody asked for over SSH: what it gets, what it does not, and how it ends."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from fairlead.controller import commands as room
from fairlead.controller.commands import Commands
from fairlead.transport.visit import Terminal, Visitor

VISITOR = Visitor("jane", "the-session-secret", "the-csrf-token")
LOOK = """
import json, os, sys
fd = int(sys.argv[1])
letter = os.read(fd, 1 << 20).decode(); os.close(fd)
size = tuple(os.get_terminal_size(0)) if os.isatty(0) else None
print(json.dumps({"argv": open("/proc/self/cmdline").read(), "env": open("/proc/self/environ").read(),
    "letter": json.loads(letter), "fds": sorted(map(int, os.listdir("/proc/self/fd"))), "cwd": os.getcwd(),
    "group": os.getpgrp() == os.getpid() == os.getsid(0), "size": size, "given": sys.stdin.read() if not size else ""}))
sys.stderr.write("a remark")
sys.exit(7)
"""


class FakeChannel:
    """What is at the other end of the channel."""

    def __init__(self, given: bytes = b"", *, reads: bool = True) -> None:
        self.given = [given] if given else []
        self.out = self.error = b""
        self.status: int | None = None
        self.closed = asyncio.Event()
        self.ended = asyncio.Event()
        self.reading = asyncio.Event()
        if reads:
            self.reading.set()

    async def receive(self) -> bytes:
        if self.given:
            return self.given.pop()
        await self.ended.wait()
        return b""

    async def send(self, data: bytes, kind: int | None = None) -> None:
        await self.reading.wait()
        if kind:
            self.error += data
        else:
            self.out += data

    def exit(self, status: int) -> None:
        self.status = status

    async def wait_closed(self) -> None:
        await self.closed.wait()

    @property
    def open(self) -> bool:
        return not self.closed.is_set()


def call(channel: Any, command: str | None = "node list", terminal: Terminal | None = None) -> Any:
    from fairlead.transport.visit import Call
    return Call(channel, command, terminal)


def program(text: str) -> list[str]:
    return [sys.executable, "-I", "-c", text]


async def test_a_child_gets_who_it_is_in_a_letter_and_nothing_else(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "x")
    monkeypatch.setenv("LD_PRELOAD_X", "x")
    inherited = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    channel = FakeChannel(b"what was typed")
    channel.ended.set()
    command = "node list '$(id)' \"quoted\"; ü"
    try:
        async with asyncio.timeout(30):
            await Commands(program(LOOK), tmp_path).serve(VISITOR, call(channel, command))
    finally:
        os.close(inherited)
    seen = json.loads(channel.out)
    assert (channel.status, channel.error) == (7, b"a remark")
    assert seen["letter"] == {"state": str(tmp_path), "session": "the-session-secret", "csrf": "the-csrf-token",
                              "user": "jane", "command": command}
    for where in ("argv", "env"):
        assert "the-session-secret" not in seen[where]
        assert "the-csrf-token" not in seen[where]
        assert "$(id)" not in seen[where]
    assert {pair.partition("=")[0] for pair in seen["env"].split("\0") if pair} == {"PATH", "HOME", "LANG", "TERM"}
    assert len(seen["fds"]) == 4, "its own three, and the one that lists them"
    assert seen["fds"][:3] == [0, 1, 2]
    assert (seen["cwd"], seen["group"], seen["given"]) == ("/", True, "what was typed")


async def test_with_a_terminal_it_has_one_of_that_size(tmp_path: Path) -> None:
    channel = FakeChannel()
    async with asyncio.timeout(30):
        await Commands(program(LOOK), tmp_path).serve(VISITOR, call(channel, None, Terminal("vt100", 123, 45)))
    seen = json.loads(channel.out.replace(b"a remark", b""))
    assert (seen["size"], channel.status) == ([123, 45], 7)
    assert "TERM=vt100" in seen["env"]


async def running(channel: FakeChannel) -> int:
    """The pid that a child has told."""
    async with asyncio.timeout(30):
        while b"\n" not in channel.out:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return int(channel.out)


SLEEP = "import os, time, signal; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"


def gone(pid: int) -> bool:
    """Whether a process has ended; who has taken it in may not have looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("how", ["the channel closes", "the daemon stops"])
async def test_a_child_does_not_outlive_who_asked(tmp_path: Path, how: str) -> None:
    fork = "import os\nif os.fork() == 0:\n    import time; time.sleep(600)\n" + SLEEP
    channel = FakeChannel()
    task = asyncio.ensure_future(Commands(program(fork), tmp_path).serve(VISITOR, call(channel)))
    pid = await running(channel)
    (child,) = children(pid)
    if how == "the channel closes":
        channel.closed.set()
        await task
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert gone(pid)
    try:
        async with asyncio.timeout(10):
            while not gone(child):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


async def test_what_the_client_does_not_read_is_not_read_from_the_child(tmp_path: Path) -> None:
    text = "import sys\nfor n in range(10000): sys.stdout.write('x' * 1000); sys.stderr.write(str(n) + ' ')"
    channel = FakeChannel(reads=False)
    task = asyncio.ensure_future(Commands(program(text), tmp_path).serve(VISITOR, call(channel)))
    await asyncio.sleep(1)
    assert not task.done()
    channel.reading.set()
    async with asyncio.timeout(30):
        await task
    assert (len(channel.out), channel.status) == (10_000_000, 0)


async def test_a_child_that_reads_nothing_and_one_that_is_killed(tmp_path: Path) -> None:
    channel = FakeChannel(bytes(1 << 20))
    async with asyncio.timeout(30):
        await Commands(program("import os; os.close(0); print('done')"), tmp_path).serve(VISITOR, call(channel))
    assert (channel.out, channel.status) == (b"done\n", 0)
    channel = FakeChannel()
    async with asyncio.timeout(30):
        await Commands(program("import os; os.kill(os.getpid(), 9)"), tmp_path).serve(VISITOR, call(channel))
    assert channel.status == 137


async def test_commands_are_limited_for_each_and_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_CHILDREN", 3)
    monkeypatch.setattr(room, "MOST_EACH", 2)
    commands = Commands(program(SLEEP), tmp_path)
    channels = [FakeChannel() for _ in range(3)]
    names = ["jane", "jane", "john"]
    tasks = [asyncio.ensure_future(commands.serve(Visitor(name, "s", "c"), call(channel)))
             for name, channel in zip(names, channels, strict=True)]
    for channel in channels:
        await running(channel)
    for name in ("jane", "john"):
        refused = FakeChannel()
        async with asyncio.timeout(10):
            await commands.serve(Visitor(name, "s", "c"), call(refused))
        assert (refused.status, b"[FL-SSH-BUSY]" in refused.error) == (1, True)
    channels[0].closed.set()
    await tasks[0]
    again = FakeChannel()
    tasks.append(asyncio.ensure_future(commands.serve(Visitor("john", "s", "c"), call(again))))
    await running(again)
    for channel in (*channels, again):
        channel.closed.set()
    await asyncio.gather(*tasks)


async def test_what_was_opened_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    for terminal in (None, Terminal("vt100", 80, 24)):
        channel = FakeChannel()
        channel.ended.set()
        await Commands(program("print(1)"), tmp_path).serve(VISITOR, call(channel, None, terminal))

        async def broken(*_: object, **__: object) -> Any:
            raise OSError("no more processes")

        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "create_subprocess_exec", broken)
            channel = FakeChannel()
            await Commands(program("print(1)"), tmp_path).serve(VISITOR, call(channel, None, terminal))
            assert (channel.status, b"[FL-SSH-BUSY]" in channel.error) == (1, True)
    assert descriptors() <= before
