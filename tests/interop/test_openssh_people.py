"""People with the stock OpenSSH client at a running Controller: commands, a prompt, and what is not there."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import need
from tests.processes import DEADLINE_S, Daemon, Site, free_port, listens, until

pytestmark = pytest.mark.timeout(400)
ADMIN, JANE = "admin-of-the-cluster-1", "the password of jane"
ASK = """#!/bin/sh
echo "$1" >> "$ASKED"
case "$1" in *User:*) echo "$WHO" ;; *) echo "$PASSWORD" ;; esac
"""


@dataclass(frozen=True)
class House:
    folder: Path
    controller: Daemon

    def command(self, *options: object, user: str = "admin", words: tuple[str, ...] = (), key: str = "") -> list[str]:
        known = self.folder / "known_hosts"
        known.write_text(self.controller.cli("hosts", "--known-hosts").done().out)
        fixed = [f"UserKnownHostsFile={known}", "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes",
                 "IdentitiesOnly=yes", "IdentityAgent=none", "ControlMaster=no", "ControlPath=none"]
        identity = ["-i", str(self.folder / key), "-o", "BatchMode=yes"] if key else ["-i", "/nonexistent"]
        return ["ssh", "-F", "none", *(part for option in fixed for part in ("-o", option)), *identity,
                "-p", str(self.controller.ports["ssh"]), *map(str, options), "-o", "LogLevel=ERROR",
                f"{user}@127.0.0.1", *words]

    def environment(self, password: str = "", who: str = "") -> dict[str, str]:
        ask = self.folder / "ask"
        if not ask.exists():
            ask.write_text(ASK)
            ask.chmod(0o755)
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "SSH_ASKPASS": str(ask), "DISPLAY": ":0",
                "SSH_ASKPASS_REQUIRE": "force", "PASSWORD": password, "WHO": who, "ASKED": str(self.folder / "asked"),
                "SECRET_OF_MINE": "x", "LC_ALL": "C"}

    def run(self, *options: object, user: str = "admin", words: tuple[str, ...] = (), key: str = "", password: str = "",
            who: str = "", given: str | None = None) -> "subprocess.CompletedProcess[str]":
        """One client to its end."""
        (self.folder / "asked").unlink(missing_ok=True)
        return subprocess.run(self.command(*options, user=user, words=words, key=key), input=given or "", text=True,
                              env=self.environment(password, who), timeout=DEADLINE_S, check=False, capture_output=True)

    @property
    def asked(self) -> list[str]:
        """What the last client was asked for."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "asked").read_text().splitlines()
        return []

    def as_jane(self, *words: str, options: tuple[object, ...] = (), given: str | None = None,
                ) -> "subprocess.CompletedProcess[str]":
        return self.run(*options, user="cli", words=words, password=JANE, who="jane", given=given)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    need("ssh", "ssh-keygen", "sftp", "scp")
    folder = tmp_path_factory.mktemp("house")
    with Site(folder) as site:
        controller = site.controller(password=ADMIN)
        for name in ("laptop", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True)
        controller.cli("user", "key", "add", "admin", folder / "laptop.pub").done()
        controller.cli("user", "add", "jane", "--role", "viewer", "--password-file", "-", given=JANE).done()
        yield House(folder, controller)


def test_one_command_with_a_key(house: House) -> None:
    done = house.run(words=("node", "list", "--json"), key="laptop")
    assert (done.returncode, done.stderr) == (0, "")
    assert [node["name"] for node in json.loads(done.stdout)] == ["ctl"]
    for failing, code in (("token show 00", 1), ("node show", 2), ("node list --nonsense", 1)):
        assert house.run(words=(failing,), key="laptop").returncode == code


def test_one_command_with_a_password_either_way_that_clients_ask_for_it(house: House) -> None:
    for method, asked in (("password", "admin@127.0.0.1's password: "),
                          ("keyboard-interactive", "(admin@127.0.0.1) Password: ")):
        done = house.run("-o", f"PreferredAuthentications={method}", words=("status", "--json"), password=ADMIN)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["node"] == "ctl"
        assert house.asked == [asked]


def test_cli_asks_for_user_and_password_before_anything_else(house: House) -> None:
    done = house.as_jane("node", "list", "--json")
    assert [node["name"] for node in json.loads(done.stdout)] == ["ctl"]
    assert house.asked == ["(cli@127.0.0.1) User: ", "(cli@127.0.0.1) Password: "]
    events = house.controller.cli("audit", "list", "--json").done().json
    last = [event for event in events if event["event"] == "user.login"][-1]
    assert (last["subject"], last["details"]) == ("jane", {"source": "127.0.0.1", "via": "ssh"})


def test_what_is_done_is_done_in_the_name_and_the_role_of_who_came(house: House) -> None:
    for command in ("node remove ctl", "user list", "user add eve --role admin", "bundle export --role engine"):
        done = house.as_jane(command)
        assert done.returncode == 1, command
        assert "[FL-PERMISSION]" in done.stderr
    made = house.run(words=("bundle export --role engine --node se-9",), key="laptop")
    assert made.returncode == 0
    assert json.loads(made.stdout)
    token = house.controller.cli("token", "list", "--json").done().json[-1]
    assert token["issued_by"] == "admin", "and not the daemon's user"
    shown = house.run(words=("bundle", "show", "-", "--json"), key="laptop", given=made.stdout)
    assert json.loads(shown.stdout)["node"] == "se-9"


def test_secrets_come_by_standard_input(house: House) -> None:
    add = "user add tom --role viewer --password-file -"
    done = house.run(words=(add,), key="laptop", given="the password of tom\n")
    assert done.returncode == 0, done.stderr
    assert house.run(user="cli", words=("version",), who="tom", password="the password of tom").returncode == 0
    public = (house.folder / "stranger.pub").read_text()
    assert house.run(words=("user key add tom -",), key="laptop", given=public).returncode == 0
    refused = house.run(user="tom", words=("version",), key="stranger")
    assert (refused.returncode, "Permission denied" in refused.stderr) == (255, True), "only admin has such a door"
    assert house.run(words=("user remove tom",), key="laptop").returncode == 0


def test_a_prompt_without_a_terminal(house: House) -> None:
    done = house.as_jane(given="node list\nstatus; id\n\nnode remove ctl\nhelp\nversion\nexit\nversion\n")
    assert done.returncode == 0, "of the last command"
    assert done.stdout.count("fairlead 0.") == 1
    assert "[FL-SSH-COMMAND]" in done.stderr
    assert "[FL-PERMISSION]" in done.stderr
    assert "uid=" not in done.stdout


def test_a_prompt_with_a_terminal_its_size_and_ctrl_c(house: House) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    said = ""
    with subprocess.Popen(house.command("-t", key="laptop"), env=house.environment(), stdin=theirs, stdout=theirs,
                          stderr=theirs, start_new_session=True) as process:
        os.close(theirs)

        def sees(pattern: str) -> None:
            nonlocal said

            def look() -> bool:
                nonlocal said
                with contextlib.suppress(OSError):
                    said += os.read(ours, 65536).decode()
                return bool(re.search(pattern, said))

            until(look, pattern, 20)
            said = said[re.search(pattern, said).end():]  # type: ignore[union-attr]

        try:
            sees("fairlead> ")
            os.write(ours, b"versionn\x7f\r")
            sees(r"fairlead 0\.")
            sees("fairlead> ")
            os.write(ours, b"node remove ctl\x03")
            sees("fairlead> ")
            os.write(ours, b"user password nobody --password-file -\r")
            sees("Password")
            os.write(ours, b"a secret that is typed\r")
            sees(r"\[FL-USER-UNKNOWN\]")
            assert "a secret" not in said
            sees("fairlead> ")
            os.write(ours, b"\x04")
            assert process.wait(20) == 1
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.parametrize("command", [
    "id", "sh", "/bin/sh -c id", "scp -t /tmp", "internal-sftp", "node list --state /etc", "hosts --install",
    "backup create --output /tmp/x --recipient y", "controller destroy --yes", "controller run", "engine run",
    "login x --ca /etc/passwd", "bundle show /etc/shadow", "bundle export --for /etc/shadow",
    "user password admin --password-file /etc/shadow", "cluster client-certificate --output /tmp/x", "bench tunnel",
    "demo", "node list; id", "$(id)", "`id`", "node list\nid", "\x1b[31mid", "node show '\x1b[2J'"])
def test_no_shell_and_no_command_of_this_machine(house: House, command: str) -> None:
    done = house.run(words=(command,), key="laptop")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("[FL-SSH-COMMAND]\n")
    assert "\x1b" not in done.stderr


def test_words_that_a_shell_would_take_are_only_words(house: House) -> None:
    for command in ("node show $HOME", "node show ~", "node show *", "node list | id", "node list && id",
                    "token show ../x"):
        done = house.run(words=(command,), key="laptop")
        assert done.returncode in (1, 2), command
        assert (done.stdout, "uid=" in done.stderr, "Traceback" in done.stderr) == ("", False, False)


def test_a_command_that_is_very_long_or_no_text_is_refused(house: House) -> None:
    for command in ("x" * 9000, b"node \xff\xfe".decode("utf-8", "surrogateescape")):
        done = house.run(words=(command,), key="laptop")
        assert (done.returncode, done.stdout) == (255, "")
        assert "exec request failed" in done.stderr


def test_nothing_of_the_clients_environment_comes_along(house: House) -> None:
    done = house.run("-o", "SetEnv=FAIRLEAD_STATE=/etc LD_PRELOAD=/tmp/x PYTHONPATH=/tmp PYTHONSTARTUP=/tmp/x",
                     "-o", "SendEnv=SECRET_OF_MINE", words=("node list --json",), key="laptop")
    assert [node["name"] for node in json.loads(done.stdout)] == ["ctl"]


def test_no_forwarding_of_anything(house: House, tmp_path: Path) -> None:
    port, internal = free_port(), house.controller.ports["api"]
    for options in (("-R", f"127.0.0.1:{port}:127.0.0.1:{internal}"), ("-R", f"{port}"),
                    ("-R", f"{tmp_path}/sock:127.0.0.1:{internal}")):
        refused = house.run("-N", "-o", "ExitOnForwardFailure=yes", *options, key="laptop")
        assert (refused.returncode, "forwarding failed" in refused.stderr) == (255, True), refused.stderr
    for host in ("127.0.0.1", "localhost", "127.64.0.1"):
        refused = house.run("-W", f"{host}:{internal}", key="laptop")
        assert (refused.returncode, refused.stdout) == (255, "")
    for option, local in (("-L", f"127.0.0.1:{port}:127.0.0.1:{internal}"), ("-D", f"127.0.0.1:{port}")):
        with subprocess.Popen(house.command("-N", option, local, key="laptop"), env=house.environment(),
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as client:
            try:
                until(lambda: listens("127.0.0.1", port), "ssh listens")
                found = subprocess.run(["ssh-keyscan", "-T", "3", "-p", str(port), "127.0.0.1"], capture_output=True,
                                       text=True, check=False, timeout=DEADLINE_S)
                assert found.stdout == ""
            finally:
                client.terminate()
    agent = house.run("-A", "-X", "-Y", words=("version",), key="laptop")
    assert agent.returncode == 0, "asked for, and not given"


def test_no_file_transfer_and_no_subsystem(house: House) -> None:
    for subsystem in ("sftp", "fairlead-engine", "fairlead-join", "fairlead-controllers", "netconf"):
        refused = house.run("-s", words=(subsystem,), key="laptop")
        assert (refused.returncode, refused.stdout) == (255, "")
    ours = house.command(key="laptop")
    rest = [*ours[1:ours.index("-p")], "-P", str(house.controller.ports["ssh"]), "admin@127.0.0.1:/etc/passwd",
            str(house.folder / "got")]
    for tool in (["sftp"], ["scp"], ["scp", "-O"]):
        tried = subprocess.run([*tool, *rest], env=house.environment(), capture_output=True, text=True, check=False,
                               timeout=DEADLINE_S, stdin=subprocess.DEVNULL)
        assert tried.returncode != 0, tool
        assert not (house.folder / "got").exists()


@pytest.mark.parametrize("user", ["admin", "cli", "aviseuser", "avictlruser", "root", "nobody-at-all", "jane"])
def test_each_name_looks_alike(house: House, user: str) -> None:
    refused = house.run("-o", "NumberOfPasswordPrompts=1", "-o", "LogLevel=DEBUG1", user=user, words=("version",),
                        password="wrong wrong wrong", who=f"nobody-{user}")
    assert refused.returncode == 255
    methods = set(re.findall(r"can continue: (\S+)", refused.stderr))
    assert methods == {"publickey,keyboard-interactive,password"}
    prompts = [re.sub(r".*(User|Password|password): $", r"\1", line) for line in house.asked]
    assert prompts == (["User"] if user == "cli" else []) + ["Password", "password"]
    assert "Permission denied (publickey,keyboard-interactive,password)." in refused.stderr
    stranger = house.run(user=user, words=("version",), key="stranger")
    assert "Permission denied (publickey,keyboard-interactive,password)." in stranger.stderr


def test_internal_users_have_no_password(house: House) -> None:
    for user in ("aviseuser", "avictlruser", "root", "jane"):
        refused = house.run("-o", "NumberOfPasswordPrompts=1", user=user, words=("version",), password=JANE)
        assert (refused.returncode, "Permission denied" in refused.stderr) == (255, True)


def test_the_process_of_a_prompt_has_nothing_of_the_daemons(house: House) -> None:
    with subprocess.Popen(house.command("-o", "SetEnv=X_MINE=1", key="laptop"), env=house.environment(),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdin
            assert client.stdout
            client.stdin.write("version\n")
            client.stdin.flush()
            assert client.stdout.readline()
            pid = house.controller.pid
            (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            process = Path("/proc") / child
            environment = process.joinpath("environ").read_text().split("\0")
            assert {pair.partition("=")[0] for pair in environment if pair} == {"PATH", "HOME", "LANG", "TERM"}
            arguments = process.joinpath("cmdline").read_text().split("\0")
            assert arguments[-4:-2] == ["-m", "fairlead.cli.visitor"]
            assert len(arguments[-2]) < 4, "the number of a descriptor"
            open_ones = {int(one.name): one.readlink() for one in (process / "fd").iterdir()}
            assert set(open_ones) == {0, 1, 2}, "the letter is read and closed"
            assert all(str(target).startswith("pipe:") for target in open_ones.values())
        finally:
            client.kill()


def test_another_password_ends_what_is_open(house: House) -> None:
    with subprocess.Popen(house.command(user="cli"), env=house.environment(JANE, "jane"), stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdin
            assert client.stdout
            client.stdin.write("version\n")
            client.stdin.flush()
            assert client.stdout.readline().startswith("fairlead 0.")
            house.controller.cli("user", "password", "jane", "--password-file", "-", given="another for jane").done()
            assert client.wait(20) == 255
        finally:
            client.kill()
    house.controller.cli("user", "password", "jane", "--password-file", "-", given=JANE).done()
    assert house.as_jane("version").returncode == 0


def test_another_key_ends_too_and_a_client_that_goes_leaves_no_process(house: House) -> None:
    def children() -> list[str]:
        return Path(f"/proc/{house.controller.pid}/task/{house.controller.pid}/children").read_text().split()

    until(lambda: not children(), "all are gone")
    fingerprint = house.controller.cli("user", "key", "list", "admin", "--json").done().json[0]["fingerprint"]
    for how in ("the client is killed", "the key is removed"):
        with subprocess.Popen(house.command(key="laptop"), env=house.environment(), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdin
                assert client.stdout
                client.stdin.write("version\n")
                client.stdin.flush()
                assert client.stdout.readline()
                assert len(children()) == 1
                if how == "the client is killed":
                    client.kill()
                else:
                    house.controller.cli("user", "key", "remove", "admin", fingerprint).done()
                    assert client.wait(20) == 255
            finally:
                client.kill()
        until(lambda: not children(), "the child is gone")
    assert house.run(words=("version",), key="laptop").returncode == 255
    house.controller.cli("user", "key", "add", "admin", house.folder / "laptop.pub").done()


def test_keys_that_are_none_are_refused_with_the_reason_and_private_ones_go_nowhere(house: House) -> None:
    rsa = house.folder / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-N", "", "-f", rsa], check=True)
    assert "ssh-rsa" in house.controller.cli("user", "key", "add", "admin", f"{rsa}.pub").refused("FL-USER-KEY")
    for file in ("laptop", "rsa"):
        refused = house.controller.cli("user", "key", "add", "admin", house.folder / file).refused("FL-USER-KEY")
        assert "private key" in refused
    for mine in ("host.pub", "user.pub"):
        node = house.controller.state / "keys" / mine
        if node.exists():
            assert "node's" in house.controller.cli("user", "key", "add", "admin", node).refused("FL-USER-KEY")


def test_the_log_and_the_state_folder_hold_no_password(house: House) -> None:
    for path in house.controller.state.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert ADMIN.encode() not in content
            assert JANE.encode() not in content
    assert ADMIN not in house.controller.log
    assert JANE not in house.controller.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_when_the_controller_ends_so_does_all_that_it_runs_for_people(house: House, number: signal.Signals) -> None:
    """The last: it ends the Controller, in order and not."""
    if not house.controller.runs:
        house.controller.start()
    with subprocess.Popen(house.command("-tt", key="laptop"), env=house.environment(), stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        try:
            assert client.stdout
            assert b"help names" in client.stdout.readline()
            (child,) = Path(f"/proc/{house.controller.pid}/task/{house.controller.pid}/children").read_text().split()
            house.controller.signal(number)
            assert house.controller.ended(15) == (0 if number == signal.SIGTERM else -number)
            assert client.wait(15) == 255
            until(lambda: not Path(f"/proc/{child}").exists(), "the child is gone")
        finally:
            client.kill()
