"""Stock OpenSSH clients learn the next host key before it is in use, and forget the one that is retired."""

import asyncio
import shutil
from pathlib import Path

import pytest

from fairlead.keys.ssh import PrivateKey
from fairlead.transport.visit import Call
from tests.unit.transport.test_visit import FakeReception
from tests.unit.transport.world import BOB, HOST_KEY, World, world

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="no OpenSSH client")
NEXT = PrivateKey.from_seed(b"n" * 32)


async def log_in(w: World, folder: Path, *options: str) -> tuple[int, str]:
    """Run a command as admin; how it ended, and what ssh said."""
    process = await asyncio.create_subprocess_exec(
        "ssh", "-F", "/dev/null", "-v", "-p", str(w.port), "-i", str(folder / "bob"), "-l", "admin",
        "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=yes",
        "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={folder / 'known_hosts'}",
        "-o", "GlobalKnownHostsFile=/dev/null", *options, "127.0.0.1", "status",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C"})
    async with asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_known_hosts_follow_a_rotation_step_by_step(tmp_path: Path) -> None:
    async def answer(call: Call) -> None:
        call.exit(0)

    def known() -> set[str]:
        lines = [line for line in (tmp_path / "known_hosts").read_text().splitlines() if line]
        assert all(line.startswith(f"[127.0.0.1]:{w.port} ") for line in lines)
        return {line.partition(" ")[2] for line in lines}

    (tmp_path / "bob").touch(0o600)
    (tmp_path / "bob").write_bytes(BOB.openssh())
    reception = FakeReception(answer=answer)
    old, new = HOST_KEY.public.line, NEXT.public.line
    async with world(reception=reception) as w:
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{w.port} {old}\n")
        learns = "-o", "UpdateHostKeys=yes"
        ended, said = await log_in(w, tmp_path, *learns)
        assert (ended, known()) == (0, {old}), said
        w.host_keys[:] = HOST_KEY, NEXT
        ended, said = await log_in(w, tmp_path, *learns)
        assert (ended, known()) == (0, {old, new}), said
        w.host_keys[:] = NEXT, HOST_KEY
        ended, said = await log_in(w, tmp_path, *learns)
        assert (ended, known()) == (0, {old, new}), said
        w.host_keys[:] = [NEXT]
        ended, said = await log_in(w, tmp_path, *learns)
        assert (ended, known()) == (0, {new}), said
        w.host_keys[:] = [HOST_KEY]  # whoever has stolen it
        ended, said = await log_in(w, tmp_path)
        assert ended == 255
        assert "Host key verification failed" in said
        for one in reception.visits:
            one.close("the test is over")
            await one.closed.wait()
