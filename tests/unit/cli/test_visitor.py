"""The command line of who came in over SSH: it asks in his session, and there is no other way for it to ask."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.errors import Refused
from fairlead.cli import visitor
from fairlead.cli.main import application
from fairlead.cli.program import visitor as program
from fairlead.client.api import Api
from tests.processes import until


class FakeApi(Api):
    """Answers with what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def _send(self, method: str, path: str, **content: Any) -> Any:
        self.asked.append((method, path))
        if path == "/api/node/gone":
            raise Refused("FL-NODE-UNKNOWN", "there is no node \x1b[31mgone", "see `fairlead node list`")
        return {"results": [{"name": "se-1\x1b[2J", "role": "engine", "address": "127.0.0.1", "full_name": "x"}]}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def test_a_command_asks_the_api_that_it_was_given(api: FakeApi, capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_STATE", "/var/lib/somewhere")
    assert visitor.run(api, "node list") == 0
    assert visitor.run(api, "node remove se-1") == 0
    assert visitor.run(api, "node show gone") == 1
    assert api.asked == [("GET", "/api/node"), ("DELETE", "/api/node/se-1"), ("GET", "/api/node/gone")]
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert said.err.splitlines()[-1].endswith("[FL-NODE-UNKNOWN]")


@pytest.mark.parametrize(("text", "code"), [("nothing", 1), ("node list --output x", 1), ("node show", 2),
                                            ("token show", 2), ("node list | cat", 2), ("node list > /tmp/x", 2),
                                            ("node list && id", 2), ("help", 0), ("node list --help", 0)])
def test_exit_codes_are_those_of_the_command_line(api: FakeApi, text: str, code: int) -> None:
    assert visitor.run(api, text) == code
    assert api.asked == []


@pytest.mark.parametrize("command", [
    ["backup", "restore", "-"], ["controller", "destroy", "--yes"], ["controller", "run"], ["engine", "run"],
    ["cluster", "recover", "--yes"]], ids=str)
def test_no_command_finds_a_state_folder(api: FakeApi, tmp_path: Path, command: list[str]) -> None:
    """Even if it were in the list: what works in a folder of this machine is not for who came in over SSH."""
    with pytest.raises(Refused) as caught:
        application()(args=[*command, "--state", str(tmp_path / "none")], prog_name="fairlead", obj=api)
    assert caught.value.code == "FL-SSH-COMMAND"


LETTER = '{"state": "/nonexistent", "session": "s3cret", "csrf": "c", "user": "jane", "command": %s}'


def letter(command: str) -> int:
    descriptor = os.memfd_create("letter")
    os.write(descriptor, (LETTER % command).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.set_inheritable(descriptor, True)
    return descriptor


def started(command: str, *passed: int, **streams: Any) -> "subprocess.Popen[bytes]":
    descriptor = letter(command)
    try:
        # not isolated: these tests also run on a copy of the source, which the environment names
        surroundings = {"TERM": "xterm", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        return subprocess.Popen([sys.executable, "-m", "fairlead.cli.visitor", str(descriptor)],
                                pass_fds=(descriptor, *passed), env=surroundings, cwd="/",
                                start_new_session=True, **streams)
    finally:
        os.close(descriptor)


def test_lines_of_a_pipe_are_commands_until_exit() -> None:
    pipe = subprocess.PIPE
    with started("null", stdin=pipe, stdout=pipe, stderr=pipe) as process:
        out, err = process.communicate(b"version\n\nnode list\nid\nexit\nversion\n", timeout=60)
    assert process.returncode == 1, "of the last command"
    assert out.count(b"fairlead 0") == 1
    assert [line.rpartition("[")[2] for line in err.decode().splitlines()] == ["FL-STATE-MISSING]", "FL-SSH-COMMAND]"]
    assert b"s3cret" not in out + err


def test_it_has_no_descriptors_but_its_own() -> None:
    pipe = subprocess.PIPE
    others = [os.dup(0) for _ in range(3)]
    try:
        with started("null", *others, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(b"version\n")
            process.stdin.flush()
            assert process.stdout.readline()
            assert {int(one.name) for one in Path(f"/proc/{process.pid}/fd").iterdir()} == {0, 1, 2}
            process.stdin.close()
            assert process.wait(20) == 0
    finally:
        for descriptor in others:
            os.close(descriptor)


@pytest.fixture
def terminal() -> Any:
    ours, theirs = pty.openpty()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what runs in the background
    try:
        process = started("null", stdin=theirs, stdout=theirs, stderr=theirs)
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(theirs)
    os.set_blocking(ours, False)
    yield Typing(ours)
    process.kill()
    process.wait()
    os.close(ours)


class Typing:
    """Somebody at a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.said = ""

    def types(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def sees(self, pattern: str) -> str:
        """What was said until *pattern* came, which is taken away."""
        def look() -> "re.Match[str] | None":
            try:
                self.said += os.read(self._descriptor, 65536).decode()
            except BlockingIOError:
                pass
            except OSError:
                assert re.search(pattern, self.said), self.said
            return re.search(pattern, self.said)

        found = until(look, pattern, 20)
        assert found
        before, self.said = self.said[:found.end()], self.said[found.end():]
        return before


def test_a_prompt_edits_lines_and_ctrl_c_ends_a_line_and_ctrl_d_the_prompt(terminal: Typing) -> None:
    terminal.sees("fairlead> ")
    terminal.types("versionx\x7f\r")
    terminal.sees(r"fairlead 0\.")
    terminal.sees("fairlead> ")
    terminal.types("node remove everything")
    terminal.sees("everything")
    terminal.types("\x03")
    terminal.sees("fairlead> ")
    terminal.types("\x1b[A\r")
    terminal.sees(r"fairlead 0\.")
    terminal.sees("fairlead> ")
    terminal.types("\x04")
    with pytest.raises(AssertionError):
        terminal.sees("fairlead> ")


@pytest.mark.parametrize("keys", ["et\t\t", "et\x1b?", "et\x1b*", "et\x1b=", "~root/\x1b&"])
def test_the_prompt_shows_no_files(terminal: Typing, keys: str) -> None:
    terminal.sees("fairlead> ")
    terminal.types(keys)
    terminal.types("\x05 the-end\r")
    said = terminal.sees("fairlead> ")
    assert not re.search(r"\betc\b|/root/", said.replace("~root/", "")), said


def test_the_program_is_started_without_what_surrounds_it() -> None:
    assert "-I" in program()
    assert program()[0] == sys.executable
    assert Path(program()[0]).is_absolute()
