"""A Controller's certificates on the ground: made by init, in a real store, with a clock that stands still."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fairlead.api import configuration
from fairlead.api.certificates import CERTIFICATE, Certificates, SSLCertificate, SSLKeyAndCertificate
from fairlead.api.configuration import Configured, SystemConfiguration
from fairlead.audit.log import AuditLog
from fairlead.audit.record import AuditRecord
from fairlead.base.clock import DAY
from fairlead.cluster.etcd import put_identity
from fairlead.controller import secrets
from fairlead.controller.application import Settings, certificates_of, shelf_for
from fairlead.controller.expiring import Expiring
from fairlead.controller.initialise import STORE, initialise
from fairlead.controller.presentation import Presentation
from fairlead.controller.renewal import Renewal
from fairlead.controller.settings import ControllerSettings
from fairlead.controller.signing import Signing
from fairlead.enrol.trust import Trust
from fairlead.enrol.trust import load as load_trust
from fairlead.nodes.directory import Directory
from fairlead.objects.catalogue import Catalogue
from fairlead.objects.model import Item
from fairlead.objects.shelf import Shelf, Shelved
from fairlead.pki.request import new_request
from fairlead.store.fence import Fence
from fairlead.store.sqlite import SQLiteStore
from tests.unit.pki.organisation import Holder
from tests.world import ManualClock

CHANNEL = secrets.CERTIFICATES + secrets.SECURE_CHANNEL


@dataclass
class Ground:
    """One Controller, ``ctl-1`` at 192.0.2.10."""

    state: Path
    clock: ManualClock
    store: SQLiteStore
    trust: Trust
    signing: Signing
    audit: AuditLog
    shelf: Shelf
    settings: Settings
    certificates: Certificates
    directory: Directory
    presentation: Presentation
    expiring: Expiring
    renewal: Renewal
    leading: bool = True
    clustered: bool = False
    fence: Fence = tuple

    async def look(self) -> None:
        """At what is near its end."""
        await self.expiring.look(self.clock.now())

    async def renew(self) -> bool:
        """What is done again and again."""
        self.renewal.cluster = cast("Any", SimpleNamespace(
            leading=self.leading, clustered=self.clustered, fence=self.fence, renew_identity=self.renew_identity))
        return await self.renewal.look()

    async def renew_identity(self) -> bytes:
        """As `Cluster.renew_identity`, without connections to mind."""
        key, request = new_request()
        made = await self.signing.certify(next(iter(self.directory.nodes.values())), request)
        put_identity(self.state, made, key, await self.signing.root())
        return made

    def pass_days(self, days: float) -> None:
        """So much later."""
        self.clock.instant += round(days * DAY)

    async def events(self, prefix: str = "certificate.") -> list[AuditRecord]:
        """What is on record, oldest first."""
        return [r for r in await self.audit.records(1000) if r.event.startswith(prefix)]

    async def bring(self, name: str, leaf: Holder, above: Sequence[Holder]) -> Item:
        """An operator's certificate."""
        return await self.certificates.make(SSLKeyAndCertificate(
            name=name, certificate=SSLCertificate(certificate=leaf.pem.decode()), key=leaf.key_pem.decode(),
            ca_certs=[cast("Any", {"certificate": one.pem.decode()}) for one in above]), "admin", tenant="admin",
            uuid=None)

    async def use(self, uuid: str) -> Item:
        """What `cert use` does."""
        configured = Configured(Shelved(self.shelf, configuration.SYSTEM, self.certificates.referrers),
                                self.presentation)
        old = self.shelf.one("systemconfiguration", "default")
        assert old is not None
        assert isinstance(old.value, SystemConfiguration)
        chosen = old.value.secure_channel_configuration.model_copy(update={
            "sslkeyandcertificate_refs": [f"{CERTIFICATE.path}/{uuid}"]})
        return await configured.change(old, old.value.model_copy(update={"secure_channel_configuration": chosen}),
                                       "admin")


@contextlib.asynccontextmanager
async def grounded(state: Path, clock: ManualClock | None = None) -> AsyncIterator[Ground]:
    """A Controller in *state*, the one that is there or a new one, as its process has it; nothing is presented yet."""
    clock = clock or ManualClock()
    endpoint = ControllerSettings(addresses=["192.0.2.10"])
    if not (state / STORE).exists():
        await initialise(state, "ctl-1", endpoint, "a long password", clock)
    trust, store = load_trust(state), SQLiteStore.open(state / STORE, clock)
    try:
        audit = AuditLog(store, trust.node)
        signing = Signing(trust, store, await secrets.open_cluster_key(store, state, trust.node_id))
        directory, catalogue = Directory(store), Catalogue()
        shelf = shelf_for(store, audit, str(trust.cluster_uuid))
        await shelf.load()
        await directory.load()
        certificates, settings = certificates_of(shelf, signing, catalogue), Settings(shelf)
        catalogue.add(certificates)
        desk: Any = SimpleNamespace(tokens=_nothing, enrolment=SimpleNamespace(office=SimpleNamespace(
            anchor=lambda: SimpleNamespace(hash=b""))))
        renewal = Renewal(state, signing, audit, directory, lambda: endpoint.endpoint, cast("Any", None))
        presentation = Presentation(state, trust, lambda: endpoint.endpoint, clock, signing, settings, directory, desk,
                                    certificates, mend=renewal.mend)
        expiring = Expiring(state, signing, audit, presentation, lambda: made.leading, tuple, lambda: made.clustered)
        made = Ground(state, clock, store, trust, signing, audit, shelf, settings, certificates, directory,
                      presentation, expiring, renewal)
        following = [asyncio.ensure_future(work) for work in (shelf.follow(), directory.follow())]
        try:
            yield made
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
    finally:
        await store.close()


async def _nothing() -> list[Any]:
    return []
