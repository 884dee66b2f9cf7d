"""Certificates that come near their end: said in `status`, in numbers, and on record.

Rules, and what each stops:

1. What is looked at is what is presented, with all that it stands under: an intermediate takes its leaf along.
2. Each warning is on record once, whatever is started again: the store holds the last one of each certificate. Of what
   all Controllers share the leader says it, of what is its own each Controller.
3. What is only near its end makes no Controller unhealthy: nobody takes it out of service for what is due in a month.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from fairlead.api.certificates import SYSTEM as OWN
from fairlead.audit.record import Entry
from fairlead.base import strict
from fairlead.base.clock import SECOND, rfc3339
from fairlead.base.errors import FairleadError, OperatorError
from fairlead.cluster.etcd import certificate as member_certificate
from fairlead.controller.presentation import Presentation
from fairlead.controller.signing import Signing
from fairlead.keys.wire import sha256
from fairlead.nodes.records import EXPIRY
from fairlead.pki.certificate import der_of
from fairlead.pki.expiry import EXPIRED, Life, life, warning
from fairlead.portal.listener import Presented
from fairlead.store.fence import Fence
from fairlead.store.protocol import Absent, Compare, Operation, Outcome, Put, StoreUnavailable, Unchanged

LOOK_S = 15.0
CHANNEL, API, ROOT, STORE = "secure-channel", "api", "root-ca", "store"
_TITLES: Mapping[str, str] = {CHANNEL: "the secure channel", API: "this Controller's API", ROOT: "the root CA",
                              STORE: "this Controller's member of the store"}
_BY_ITSELF = "it is made anew by itself, unless renew_certificates is off or the root CA ends too"

log = structlog.get_logger("fairlead.controller")


class Journal(Protocol):
    """A transaction with its audit record."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do all of *then*, and record *entries*, if all of *compare* hold."""
        ...


@dataclass(frozen=True, slots=True)
class Watched:
    """A certificate that is in use."""

    name: str
    sha256: str
    """Of the leaf, hex."""
    life: Life
    own: bool = False
    """Whether it is this Controller's alone."""
    brought: bool = False
    """Whether it is an operator's."""


@dataclass(slots=True)
class Expiring:
    """Looks, again and again."""

    state: Path
    signing: Signing
    audit: Journal
    presentation: Presentation
    leading: Callable[[], bool]
    fence: Fence
    clustered: Callable[[], bool]
    renew: Callable[[], Awaitable[bool]] | None = None
    """Makes anew what is due; whether anything was. Raises FairleadError."""
    hints: Sequence[str] = ()
    """Lines about those that come near their end."""
    problems: Sequence[str] = ()
    """Lines about those that are over."""
    ends: Mapping[str, float] = field(default_factory=dict)
    """When each ends, by its name; seconds since the epoch."""

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.step()
            except StoreUnavailable:
                pass  # of which others speak
            except FairleadError as error:
                log.warning("certificate.unread", code=error.code, reason=error.message)
            await asyncio.sleep(LOOK_S)

    async def step(self) -> None:
        """Once: make anew what is due, then look at what is presented now. Raises FairleadError."""
        now = await self.signing.now()  # before: nothing is told of that becomes due in between
        if self.renew is not None and await self.renew():
            await self.presentation.follow()
        await self.look(now)

    async def look(self, now: int) -> None:
        """What is near its end at *now* (microseconds). Raises FairleadError for what cannot be read."""
        watched = await self._watched()
        days = self.presentation.settings.properties.ssl_certificate_expiry_warning_days
        stand = [(one, days_left) for one in watched if (days_left := warning(one.life, now, days)) is not None]
        self.ends = {one.name: one.life.last / SECOND for one in watched}
        self.problems = [_line(one, left) for one, left in stand if left == EXPIRED]
        self.hints = [_line(one, left) for one, left in stand if left != EXPIRED]
        for one, left in stand:
            if one.own or self.leading():
                await self._record(one, left)

    async def _watched(self) -> Sequence[Watched]:
        presentation, found = self.presentation, list[Watched]()
        root = der_of(await self.signing.root())
        if presentation.channel is not None and presentation.known is not None:
            found.append(_presented(CHANNEL, presentation.channel, presentation.known.certificates,
                                    brought=presentation.used_channel not in OWN))
        if presentation.api is not None:
            found.append(_presented(API, presentation.api, [], brought=presentation.used_api not in OWN, own=True))
        found.append(Watched(ROOT, sha256(root).hex(), life(root)))
        if self.clustered():
            leaf = der_of(await asyncio.to_thread(member_certificate, self.state))
            found.append(Watched(STORE, sha256(leaf).hex(), life(leaf), own=True))
        return found

    async def _record(self, one: Watched, left: int) -> None:
        """On record, if that was not done: by one of several that look at the same time."""
        node = self.signing.trust.node_id
        place = f"{EXPIRY}{node}/{one.name}" if one.own else f"{EXPIRY}{one.name}"
        record = await self.signing.store.get(place)
        if record is not None and _said(record.value, one.sha256, left):
            return
        event = "certificate.expired" if left == EXPIRED else "certificate.expiring"
        ends = rfc3339(one.life.last)
        outcome = await self.audit.append_with(
            [*([] if one.own else self.fence()),
             Absent(place) if record is None else Unchanged(place, record.revision)],
            [Put(place, json.dumps({"sha256": one.sha256, "days": left}).encode())],
            [Entry(event, one.name, self.signing.trust.node, {"days": left, "ends": ends, "sha256": one.sha256})])
        if outcome.succeeded:
            log.warning(event, certificate=one.name, days=left, ends=ends)


def _presented(name: str, presented: Presented, known: Sequence[bytes], *, brought: bool, own: bool = False) -> Watched:
    identity = presented.current
    return Watched(name, identity.certificate_hash.hex(), life(identity.certificate_der, [*identity.above, *known]),
                   own, brought)


def _said(value: bytes, digest: str, left: int) -> bool:
    """Whether a stored note says that this warning, or a later one, is on record."""
    try:
        note = strict.loads(value)
        return bool(note["sha256"] == digest and note["days"] <= left)
    except (ValueError, TypeError, KeyError):
        return False


def _line(one: Watched, left: int) -> str:
    code, verb = ("FL-CERT-EXPIRED", "has expired at") if left == EXPIRED else ("FL-CERT-EXPIRES", "expires at")
    remedy = _BY_ITSELF
    if one.name == ROOT:
        remedy = "`fairlead rotate start root-ca` makes another"
    elif one.brought:
        remedy = f"`fairlead cert csr` asks for another, `fairlead rotate start {one.name} --to NAME` takes it into use"
    return OperatorError(code, f"the certificate of {_TITLES[one.name]} {verb} {rfc3339(one.life.last)}", remedy).line()
