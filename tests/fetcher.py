"""An engine's fetching as a process of its own, which a test may kill: its keys, its Controllers, over the mesh.

``python -m tests.fetcher STATE SHA256 SIZE ROOT.json`` prints the version that it has verified, and how much came.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from fairlead.base.clock import SystemClock
from fairlead.engine.images import bringing
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.trust import load
from fairlead.link.messages import Plan, PlanController
from fairlead.mesh.dialling import dialling
from fairlead.mesh.supervisor import Supervisor
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import choose
from fairlead.upgrade.versions import Versions


async def fetch(state: Path, plan: Plan, sha256: str, size: int, root: bytes) -> str:
    """What was verified."""
    trust, clock, keyring = load(state), SystemClock(), Keyring(state)
    up = asyncio.Event()

    async def talk(controller: PlanController, tunnel: Tunnel) -> None:
        up.set()
        await tunnel.wait_closed()

    async def nothing(*_: object) -> None:
        return None

    with contextlib.closing(choose(os.environ)) as way:
        supervisor = Supervisor(dialling(trust.user, lambda: keyring.held, 5.0, clock, way), talk, nothing, nothing)
        supervisor.want(plan.controllers)
        versions = Versions(state, "0.1.0")
        versions.pin(root)
        taking = bringing(state, supervisor, versions, clock, clock.now, lambda *_, **__: None)
        await up.wait()
        verified = await taking.bring(sha256, size)
        await supervisor.close()
        taking.close()
        return f"{verified.manifest.version} {taking.moved.bytes}"


if __name__ == "__main__":
    where, digest, size_of, root_of = sys.argv[1:]
    told = Plan.model_validate_json((Path(where) / "plan.json").read_bytes())
    sys.stdout.write(asyncio.run(fetch(Path(where), told, digest, int(size_of), Path(root_of).read_bytes())))
