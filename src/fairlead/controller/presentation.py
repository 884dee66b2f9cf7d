"""What this Controller presents on 443 and 8443, and what joining nodes are told to expect there.

Rules, and what each stops:

1. The system configuration names both certificates; every Controller follows it. What cannot be opened or used is a
   problem that `status` shows, and what was presented before stays; at the start the cluster's own stands in, made for
   the moment where that is broken too. To name what stands in already changes nothing for anybody, and is let through.
2. The secure channel's is exchanged directly only where nobody knows the old one: *ensure that there are no Service
   Engines in the system*, *only no access clouds and single node cluster* (seed). All that is unmet is said at once.
3. Tokens name what the portal presents. Those that name what it presented before are revoked: they would lead to a
   refusal that looks like an attack. Whoever joins while it changes has the change taken back.
4. With nodes attached it changes by a rotation only. While one is under way nobody else changes either certificate, and
   what is believed is both: the one that is presented, and the one that comes or goes (`also`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from ssl import TLSVersion
from typing import TypeVar

import structlog

from fairlead.api.certificates import SYSTEM as OWN
from fairlead.api.certificates import Certificates
from fairlead.api.configuration import CERTIFICATE, CHANNEL_CERTIFICATE, PORTAL_CERTIFICATE, SystemConfiguration
from fairlead.api.fleet import CLOUD, NO_ACCESS
from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.controller import secrets
from fairlead.controller.application import Settings
from fairlead.controller.desk import Desk
from fairlead.controller.signing import Signing
from fairlead.enrol.trust import Trust
from fairlead.keys.wire import b64
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Endpoint
from fairlead.pki import secure_channel
from fairlead.pki.certificate import der_of, portal_name
from fairlead.pki.own import Owned
from fairlead.portal.listener import Identity, Presented, server_identity
from fairlead.rotation.phases import Rotation
from fairlead.store.protocol import StoreUnavailable

log = structlog.get_logger("fairlead.controller")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known:
    """How nodes know the portal."""

    certificates: tuple[bytes, ...]
    """DER: CAs, or the very certificate."""
    tls_name: str


@dataclass(slots=True)
class Presentation:
    """What is presented now."""

    state: Path
    trust: Trust
    endpoint: Callable[[], Endpoint]
    clock: Clock
    signing: Signing
    settings: Settings
    directory: Directory
    desk: Desk
    certificates: Certificates
    api_tls: TLSVersion = TLSVersion.TLSv1_3
    """The oldest that the API speaks."""
    rotating: Callable[[], Rotation | None] = lambda: None
    followed: Callable[[], None] = lambda: None
    """Called when something else may be presented, or believed."""
    mend: Callable[[str], Awaitable[object]] = lambda _: _same(None)
    """Have the cluster's own certificate made anew for somebody, where it is broken."""
    problem: str = ""
    unready: str = ""
    """Why what comes by a rotation cannot be presented."""
    stands_in: bool = False
    """Whether the cluster's own certificate stands in for the one that is named."""
    seen: tuple[str, str] = ("", "")
    """The rotation and its phase that are followed."""
    also: Known | None = None
    """How nodes know the portal besides, while one certificate takes the place of the other."""
    channel: Presented | None = None
    api: Presented | None = None
    known: Known | None = None
    roots: tuple[bytes, ...] = ()
    """The cluster's roots by which the nodes know it, DER; in an order that does not tell which one signs."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load(self) -> tuple[Presented, Presented]:
        """The first time: what the portal and the API present. Raises StoreUnavailable, OperatorError.

        With a certificate that cannot be used the cluster's own stands in, so that somebody can come and mend it.
        """
        system = self.settings.system
        self.roots = await self._roots()
        channel, self.known = await self._or(lambda: self._channel(_channel_of(system)), self._stand_in)
        api = await self._or(lambda: self._api(_api_of(system)), lambda: self._api(PORTAL_CERTIFICATE))
        self.channel, self.api = Presented(channel), Presented(api)
        if not self.problem:
            self._keep()
        return self.channel, self.api

    async def follow(self) -> None:
        """Present what the configuration, the addresses and the roots say now; what cannot be had stays as it is."""
        async with self._turn:
            await self._follow()

    async def _follow(self) -> None:
        if self.channel is None or self.api is None:
            return
        system, now, self.problem = self.settings.system, self.clock.monotonic(), ""
        self.roots = await self._roots()
        shown, known, api = self.channel.current, self.known, self.api.current
        channel, known = await self._or(lambda: self._channel(_channel_of(system)), lambda: _same((shown, known)))
        self.stands_in = self.stands_in and bool(self.problem)
        identity = await self._or(lambda: self._api(_api_of(system)), lambda: _same(api))
        for presented, found in ((self.channel, channel), (self.api, identity)):
            if found.certificate_hash != presented.current.certificate_hash:
                presented.swap(found, now)
        rotation, of_now = self.rotating(), self.problem
        self.known, self.also = known, await self._or(lambda: self._other(rotation), lambda: _same(self.also))
        self.unready = self.problem if self.problem != of_now else ""
        self.seen = (rotation.id, rotation.phase) if rotation is not None else ("", "")
        self._keep()
        self.followed()

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong, one line each."""
        found = [self.problem] if self.problem else []
        if self.stands_in:
            found.append(OperatorError(
                "FL-CERT-STAND-IN", f"{secrets.SECURE_CHANNEL} stands in for the secure channel's certificate",
                f"mend that one, or stay with this one: `fairlead cert use {secrets.SECURE_CHANNEL}`").line())
        return found

    @property
    def believed(self) -> Known | None:
        """How nodes know the portal now: as it is presented first, and as it is to be believed besides."""
        if self.known is None or self.also is None:
            return self.known
        return Known(tuple(dict.fromkeys((*self.known.certificates, *self.also.certificates))), self.known.tls_name)

    @property
    def names(self) -> Sequence[str]:
        """What a portal's certificate may carry now, the one that is presented first."""
        return list(dict.fromkeys(known.tls_name for known in (self.known, self.also) if known is not None))

    @property
    def used_channel(self) -> str:
        """The uuid of the secure channel's certificate."""
        return _channel_of(self.settings.system)

    @property
    def used_api(self) -> str:
        """The uuid of the API's certificate."""
        return _api_of(self.settings.system)

    async def judged_channel(self, uuid: str) -> Identity:
        """What the portal would present with that certificate. Raises Refused, with every reason."""
        return (await self._channel(uuid, secure_channel.LEAST_LIFETIME))[0]

    async def judged_api(self, uuid: str) -> Identity:
        """What the API would present with that certificate. Raises Refused, with the reason."""
        return await self._api(uuid)

    def keep(self, trust: Trust) -> None:
        """This Controller believes that from now on. Raises OperatorError."""
        if trust != self.trust:
            trust.save(self.state)
            self.trust = trust

    def facts(self) -> Mapping[str, str]:
        """What is presented, for the other Controllers."""
        found = {"problem": self.unready, "rotation": self.seen[0], "phase": self.seen[1]}
        if self.channel is not None and self.api is not None:
            found |= {"channel": self.channel.current.certificate_hash.hex(),
                      "api": self.api.current.certificate_hash.hex(), "api-uuid": self.used_api}
        return found

    async def _other(self, rotation: Rotation | None) -> Known | None:
        """See that what comes can be presented: how nodes know the portal by that, or by what goes.

        What goes and can be presented no more, because it has expired, say, holds nobody up: it is believed no longer.
        """
        if rotation is None or not rotation.both or "to" not in rotation.material:
            return None
        of_channel = rotation.kind == "secure-channel"
        used = self.used_channel if of_channel else self.used_api
        uuid = rotation.material["from" if used == rotation.material["to"] else "to"]
        try:
            if of_channel:
                return (await self._channel(uuid))[1]
            await self._api(uuid)
        except StoreUnavailable:
            raise
        except FairleadError:
            if uuid == rotation.material["to"]:
                raise
        return None

    async def _or(self, wanted: Callable[[], Awaitable[T]], instead: Callable[[], Awaitable[T]]) -> T:
        """What is wanted, or what stands in for it, with a problem that says so. Raises StoreUnavailable."""
        try:
            return await wanted()
        except StoreUnavailable:
            raise
        except FairleadError as error:
            self.problem = error.line()
            log.error("certificate.unusable", code=error.code, reason=error.message)
            return await instead()

    async def _stand_in(self) -> tuple[Identity, Known]:
        """The cluster's own; made for the moment, and kept by nobody, where the store's is broken."""
        self.stands_in = _channel_of(self.settings.system) != CHANNEL_CERTIFICATE
        try:
            return await self._channel(CHANNEL_CERTIFICATE)
        except StoreUnavailable:
            raise
        except FairleadError as error:
            log.error("certificate.broken", code=error.code, reason=error.message)
            hosts = sorted({host for host, _ in self.endpoint().places})
            return await self._own(await self.signing.issue_portal(hosts))

    async def _own(self, found: secrets.Certified) -> tuple[Identity, Known]:
        return (server_identity(found.certificate_pem, found.key_pem),
                Known(self.roots, portal_name(self.trust.cluster_uuid)))

    async def check(self, before: SystemConfiguration, after: SystemConfiguration, by: str) -> None:
        """Whether the certificates that *after* names may be presented. Raises Refused, with every reason."""
        rotation = self.rotating()
        if rotation is not None and (_api_of(after), _channel_of(after)) != (_api_of(before), _channel_of(before)):
            raise Refused("FL-ROTATE-BUSY", f"a rotation is under way ({rotation.kind})",
                          "wait for its end, or `fairlead rotate abort`")
        if _api_of(after) != _api_of(before):
            await self._api(_api_of(after))
        if _channel_of(after) == CHANNEL_CERTIFICATE:
            await self.mend(by)
        if _channel_of(after) == _channel_of(before):
            return
        if not self._stands(after) and (unmet := self._unmet()):
            raise _precondition(unmet)
        await self._channel(_channel_of(after), secure_channel.LEAST_LIFETIME)

    async def settle(self, before: SystemConfiguration, after: SystemConfiguration, by: str) -> None:
        """Present it before the answer says so, and end the tokens that name something else.

        Raises Refused when it cannot be used after all, or when somebody has joined meanwhile who knows the old one.
        """
        stood = self._stands(after)
        await self.follow()
        if self.problem:
            raise Refused("FL-CERT-PAIR", f"it cannot be presented: {self.problem}", "name another certificate")
        if _channel_of(after) == _channel_of(before):
            return
        if not stood and (unmet := self._unmet()):
            raise _precondition(unmet)
        current = self.desk.enrolment.office.anchor().hash.hex()
        for token, _ in await self.desk.tokens():
            if token.state in ("open", "reserved") and token.anchor_hash != current:
                await self.desk.revoke(token.id, by)

    def _stands(self, after: SystemConfiguration) -> bool:
        return self.stands_in and _channel_of(after) == CHANNEL_CERTIFICATE

    def _unmet(self) -> list[str]:
        nodes = self.directory.nodes.values()
        engines = sorted(n.name for n in nodes if n.role == "engine")
        controllers = sorted(n.name for n in nodes if n.role == "controller")
        clouds = [item.name for item in self.settings.shelf.all(CLOUD.path)
                  if getattr(item.value, "vtype", NO_ACCESS) != NO_ACCESS]
        unmet = []
        if engines:
            unmet.append(f"{len(engines)} Service Engines are in the system ({_few(engines)})")
        if len(controllers) > 1:
            unmet.append(f"the cluster has {len(controllers)} Controllers ({_few(controllers)}), not one")
        if clouds:
            unmet.append(f"there are clouds that are not no-access ({_few(clouds)})")
        return unmet

    async def _channel(self, uuid: str, least: int = 0) -> tuple[Identity, Known]:
        """What the portal presents with that certificate, and how nodes know it.

        *least*: for how long it has to be good, microseconds; one that is in use is used to its end. Raises Refused.
        """
        if uuid in OWN:
            if uuid != CHANNEL_CERTIFICATE:
                raise Refused("FL-CERT-NAME", f"{OWN[uuid]} cannot serve the portal", "name another certificate")
            return await self._own(await self.signing.channel_certificate())
        owned = await self._owned(uuid)
        hosts = [host for node in self.directory.controllers() if node.endpoint for host, _ in node.endpoint.places]
        name, now = portal_name(self.trust.cluster_uuid), await self.signing.now()
        judged = secure_channel.judge(owned, hosts, name, now, least)
        return (server_identity(judged.chain_pem, owned.key_pem), Known(judged.ca_certificates, judged.tls_name))

    async def _api(self, uuid: str) -> Identity:
        if uuid in OWN:
            if uuid != PORTAL_CERTIFICATE:
                raise Refused("FL-CERT-NAME", f"{OWN[uuid]} cannot serve the API", "name another certificate")
            found = await self.signing.api_certificate(self.endpoint())
            return server_identity(found.certificate_pem, found.key_pem, self.api_tls)
        owned = await self._owned(uuid)
        return server_identity(owned.certificate_pem.rstrip() + b"\n" + owned.chain_pem, owned.key_pem, self.api_tls)

    async def _roots(self) -> tuple[bytes, ...]:
        return tuple(sorted(map(der_of, await self.signing.roots())))

    async def _owned(self, uuid: str) -> Owned:
        """An operator's certificate with its key. Raises Refused FL-CERT-PENDING, FL-CERT-BROKEN."""
        if self.settings.shelf.one(CERTIFICATE, uuid) is None:
            raise Refused("FL-CERT-BROKEN", "the certificate that the configuration names is not there, or cannot be "
                          "read", "name another one")
        owned = await self.certificates.owned(uuid)
        if owned is None:
            raise Refused("FL-CERT-PENDING", "the certificate is not there yet: only its request is",
                          "import what the CA has issued")
        return owned

    def _keep(self) -> None:
        """How this Controller itself knows the portal, for the next start."""
        known = self.believed
        assert known is not None
        self.keep(self.trust.but(ca_certificates=[b64(der) for der in known.certificates], tls_name=known.tls_name,
                                 tls_names=[name for name in self.names if name != known.tls_name]))


async def _same(value: T) -> T:
    return value


def _precondition(unmet: Sequence[str]) -> Refused:
    return Refused("FL-CHANNEL-PRECONDITION", "the secure channel certificate cannot be exchanged directly: "
                   + "; ".join(unmet), "`fairlead rotate start secure-channel --to NAME` does it with all of them")


def _channel_of(system: SystemConfiguration) -> str:
    return _uuid(system.secure_channel_configuration.sslkeyandcertificate_refs, CHANNEL_CERTIFICATE)


def _api_of(system: SystemConfiguration) -> str:
    return _uuid(system.portal_configuration.sslkeyandcertificate_refs, PORTAL_CERTIFICATE)


def _uuid(refs: Sequence[str], default: str) -> str:
    return refs[0].partition("/")[2] if refs else default


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
