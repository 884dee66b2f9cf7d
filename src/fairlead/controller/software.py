"""A Controller's part in upgrade bundles, put together: what is pinned, what is kept, fetched, given and brought up."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairlead.audit.log import AuditLog
from fairlead.audit.record import Entry
from fairlead.base.clock import Clock
from fairlead.cluster.move import MovableStore
from fairlead.controller.images import Keeping, Records
from fairlead.controller.mesh import Mesh
from fairlead.controller.upgrade_trust import UpgradeTrust
from fairlead.controller.uploads import Uploads
from fairlead.fleet.images import Giving
from fairlead.link.images import SUBSYSTEM
from fairlead.objects.shelf import Shelf
from fairlead.upgrade.bringing import Bringing
from fairlead.upgrade.images import Images
from fairlead.upgrade.versions import Versions


@dataclass(frozen=True, slots=True)
class Software:
    """Its pieces."""

    trust: UpgradeTrust
    bringing: Bringing
    records: Records
    keeping: Keeping
    giving: Giving
    uploads: Uploads


def software(state: Path, versions: Versions, store: MovableStore, audit: AuditLog, shelf: Shelf, mesh: Mesh,
             clock: Clock, me: str, referrers: Callable[[str, str], object], in_use: Callable[[str], bool]) -> Software:
    """Those of the Controller *me* in *state*; nodes may ask it for images from now on. *referrers*, *in_use*: of
    `Uploads`.
    """
    async def lying(controller: str, sha256: str) -> None:
        await audit.append(Entry("image.other-bytes", controller, me, {"sha256": sha256}))

    trust, images, records = UpgradeTrust(store, audit, versions, me), Images(state), Records(shelf)
    bringing = Bringing(images, mesh.supervisor, trust, clock, store.now,
                        used=lambda: uploads.used(),  # noqa: PLW0108 - it is made with this
                        lying=lying, having=records.having)
    uploads = Uploads(state, images, records, bringing, trust, audit, clock, me, referrers, in_use)
    keeping = Keeping(images, records, bringing, me,
                      lambda: [node.name for node in mesh.directory.controllers()], uploads.files)
    giving = Giving(images, records)
    mesh.sessions.offer(SUBSYSTEM, giving.serve, controllers=True)
    return Software(trust, bringing, records, keeping, giving, uploads)
