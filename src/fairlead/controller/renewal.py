"""Certificates that the cluster issues itself are made anew before they end, under the same root.

Rules, and what each stops:

1. A new certificate has the same name under the same root, so nobody has to be told: bundles and engines know the root
   and the name (join protocol, section 10). The portal takes the one before for its own for another minute.
2. What all Controllers share the leader makes, fenced; what is one Controller's own, that one. The transaction compares
   that nobody was faster, and holds the audit record. While a rotation is under way, which has noted what it exchanges,
   what is presented is left to it; one that is to start later, in a year at most, has noted nothing yet.
3. What cannot be made anew is logged and tried again: it keeps no Controller from starting, expired or not.
4. Whoever switches it off sees to what people and engines are shown. A member of the store gets its certificate all the
   same: nobody else sees that one, and no Controller would come in when it is over.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from fairlead.audit.record import Entry
from fairlead.base.clock import rfc3339
from fairlead.base.errors import FairleadError, OperatorError
from fairlead.cluster.etcd import certificate as member_certificate
from fairlead.controller import secrets
from fairlead.controller.expiring import API, CHANNEL, STORE, Journal
from fairlead.controller.secrets import Certified
from fairlead.controller.signing import Signing
from fairlead.keys.wire import sha256
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Endpoint
from fairlead.nodes.records import API_CERTIFICATES
from fairlead.pki.certificate import der_of
from fairlead.pki.expiry import due, life
from fairlead.rotation import phases
from fairlead.rotation.driver import NOW as ROTATION
from fairlead.store.fence import Fence
from fairlead.store.protocol import Absent, Compare, StoreUnavailable, Unchanged

PLACE = secrets.CERTIFICATES + secrets.SECURE_CHANNEL

log = structlog.get_logger("fairlead.controller")


class Membership(Protocol):
    """This Controller's part in the cluster."""

    @property
    def leading(self) -> bool:
        """Whether it leads."""
        ...

    @property
    def clustered(self) -> bool:
        """Whether the store has members."""
        ...

    @property
    def fence(self) -> Fence:
        """What the leader's transactions compare."""
        ...

    async def renew_identity(self) -> bytes:
        """A new certificate for its member of the store, PEM. Raises FairleadError."""
        ...


@dataclass(slots=True)
class Renewal:
    """Makes them anew, when it is time."""

    state: Path
    signing: Signing
    audit: Journal
    directory: Directory
    endpoint: Callable[[], Endpoint]
    cluster: Membership
    enabled: bool = True

    async def look(self) -> bool:
        """Once, all of them; whether there is another one to present. Raises StoreUnavailable."""
        if self.cluster.clustered:
            await self._try(STORE, self._member)
        if not self.enabled:
            return False
        channel = self.cluster.leading and await self._try(CHANNEL, self._channel)
        api = await self._try(API, self._api)
        return channel or api

    async def mend(self, by: str) -> None:
        """Make the secure channel's certificate anew where it is broken, on whichever Controller is asked.

        Raises FairleadError when it cannot be made.
        """
        record = await self.signing.store.get(PLACE)
        try:
            await self.signing.channel_certificate()
        except OperatorError as error:
            if error.code != "FL-CERT-BROKEN":
                raise
            made = await self.signing.issue_portal(self.directory.hosts())
            outcome = await self.audit.append_with(
                [Absent(PLACE) if record is None else Unchanged(PLACE, record.revision)],
                [secrets.sealed(self.signing.cluster_key, PLACE, made)],
                [Entry("certificate.repaired", CHANNEL, by, {
                    "why": error.message, "sha256": sha256(der_of(made.certificate_pem)).hex()})])
            if outcome.succeeded:  # else somebody was faster
                log.warning("certificate.repaired", certificate=CHANNEL, by=by)

    async def _try(self, name: str, step: Callable[[], Awaitable[bool]]) -> bool:
        try:
            return await step()
        except StoreUnavailable:
            raise
        except FairleadError as error:
            log.warning("certificate.not-renewed", certificate=name, code=error.code, reason=error.message)
            return False

    async def _channel(self) -> bool:
        found = await self.signing.channel_certificate()
        return await self._due(found.certificate_pem) and await self._keep(
            CHANNEL, PLACE, found, await self.signing.issue_portal(self.directory.hosts()), self.cluster.fence)

    async def _api(self) -> bool:
        found = await self.signing.api_certificate(self.endpoint())
        return await self._due(found.certificate_pem) and await self._keep(
            API, API_CERTIFICATES + self.signing.trust.node_id, found,
            await self.signing.issue_api(sorted({host for host, _ in self.endpoint().places})), tuple)

    async def _member(self) -> bool:
        before = await asyncio.to_thread(member_certificate, self.state)
        if not await self._due(before):
            return False
        made = await self.cluster.renew_identity()
        await self.audit.append_with([], [], [self._entry(STORE, before, made)])
        _tell(STORE, made)
        return True

    async def _due(self, pem: bytes) -> bool:
        now = await self.signing.now()
        return due(life(der_of(pem)), now, await self.signing.latest_end(now))

    async def _keep(self, name: str, place: str, before: Certified, made: Certified, fence: Fence) -> bool:
        """In place of the one *before*, unless somebody was faster."""
        record = await self.signing.store.get(place)
        compare: Compare = Absent(place) if record is None else Unchanged(place, record.revision)
        if record is not None and secrets.opened(record, self.signing.cluster_key, place) != before:
            return False
        outcome = await self.audit.append_with(
            [*fence(), compare, await self._undisturbed()], [secrets.sealed(self.signing.cluster_key, place, made)],
            [self._entry(name, before.certificate_pem, made.certificate_pem)])
        if outcome.succeeded:
            _tell(name, made.certificate_pem)
        return outcome.succeeded

    async def _undisturbed(self) -> Compare:
        """That no rotation is under way."""
        record = await self.signing.store.get(ROTATION)
        return Absent(ROTATION) if record is None or _begun(record.value) else Unchanged(ROTATION, record.revision)

    def _entry(self, name: str, before: bytes, made: bytes) -> Entry:
        return Entry("certificate.renewed", name, self.signing.trust.node, {
            "ends": rfc3339(life(der_of(made)).last), "sha256": sha256(der_of(made)).hex(),
            "before": sha256(der_of(before)).hex()})


def _begun(rotation: bytes) -> bool:
    """Whether it is more than scheduled; one that cannot be read, of a newer version, say, may be."""
    try:
        return phases.decode(rotation).phase != "scheduled"
    except ValueError:
        return True


def _tell(name: str, made: bytes) -> None:
    log.info("certificate.renewed", certificate=name, ends=rfc3339(life(der_of(made)).last))
