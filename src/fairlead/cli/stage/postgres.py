"""A real PostgreSQL server, with a password of its own, on loopback only; and the stock psql."""

import os
import pwd
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fairlead.cli.stage.processes import Processes, Result

ROLE = "demo"
_ACCOUNT = "postgres"
"""As root the server must run as somebody else; Debian's packages bring this account."""


@dataclass(slots=True)
class Postgres:
    """The server; it has a folder of its own where it runs as a user of its own."""

    folder: Path = Path()
    account: str = ""
    programs: Path = Path()
    """None, where it is not installed."""
    password: str = field(default_factory=partial(secrets.token_hex, 16))

    @property
    def installed(self) -> bool:
        """Whether server and client are there."""
        return self.programs != Path()

    @classmethod
    def find(cls, folder: Path) -> "Postgres":
        """The newest version that is installed; *folder*: where it may live, unless root starts it."""
        account = _ACCOUNT if os.geteuid() == 0 else ""
        programs = _programs()
        if programs == Path():
            return cls()
        if account:
            try:
                owner = pwd.getpwnam(account)
            except KeyError:
                return cls()
            folder = Path(tempfile.mkdtemp(prefix=f"{folder.name}-pg-"))
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        else:
            folder = folder / "postgres"
            folder.mkdir(mode=0o700)
        return cls(folder, account, programs)

    def start(self, processes: Processes, port: int, log: Path, within: Sequence[str] = ()) -> None:
        """Make an empty database and serve it, by the command *within*. Raises Failed."""
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        if self.account:
            shutil.chown(secret, self.account, self.account)
        data = str(self.folder / "data")
        processes.run([
            str(self.programs / "initdb"), "-D", data, "-U", ROLE, "-A", "scram-sha-256", f"--pwfile={secret}",
            "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"], user=self.account).done()
        processes.start("postgres", [
            str(self.programs / "postgres"), "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c",
            f"unix_socket_directories={self.folder}", "-c", "fsync=off"], log, stop=signal.SIGINT, user=self.account,
            within=within)

    def query(self, processes: Processes, host: str, port: int, sql: str, within: Sequence[str] = ()) -> Result:
        """What the stock client, run by the command *within*, answers to *sql*."""
        client = shutil.which("psql") or str(self.programs / "psql")
        return processes.run([client, "-X", "-A", "-t", "-h", host, "-p", str(port), "-U", ROLE, "-d", "postgres", "-c",
                              sql], environment={"PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "10"}, within=within)

    def remove(self) -> None:
        """Delete its folder."""
        if self.installed:
            shutil.rmtree(self.folder, ignore_errors=True)


def _programs() -> Path:
    """The folder of the server's programs; empty when it is not installed."""
    def version(path: Path) -> int:
        return int(number[0]) if (number := re.search(r"\d+", path.parent.name)) else 0

    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version, reverse=True)
    found = shutil.which("postgres")
    places += [Path(found).resolve().parent] if found else []
    return next((p for p in places if (p / "initdb").exists() and (p / "postgres").exists()), Path())
