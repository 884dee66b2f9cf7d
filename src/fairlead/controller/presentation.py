"""What this Controller presents on 443 and 8443, and what joining nodes are told to expect there.

Rules, and what each stops:

1. The system configuration names both certificates; every Controller follows it. What cannot be opened or used is a
   problem that `status` shows, and what was presented before stays.
2. The secure channel's is exchanged directly only where nobody knows the old one: *ensure that there are no Service
   Engines in the system*, *only no access clouds and single node cluster* (seed). All that is unmet is said at once.
3. Tokens name what the portal presents. Those that name what it presented before are revoked: they would lead to a
   refusal that looks like an attack. Whoever joins while it changes has the change taken back.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from ssl import TLSVersion
from typing import TypeVar

import structlog

from fairlead.api.certificates import SYSTEM as OWN
from fairlead.api.certificates import Certificates
from fairlead.api.configuration import CHANNEL_CERTIFICATE, PORTAL_CERTIFICATE, SystemConfiguration
from fairlead.api.fleet import CLOUD, NO_ACCESS
from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError, Refused
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
    problem: str = ""
    channel: Presented | None = None
    api: Presented | None = None
    known: Known | None = None

    async def load(self) -> tuple[Presented, Presented]:
        """The first time: what the portal and the API present. Raises StoreUnavailable, OperatorError.

        With a certificate that cannot be used the cluster's own stands in, so that somebody can come and mend it.
        """
        system = self.settings.system
        channel, self.known = await self._or(lambda: self._channel(_channel_of(system)),
                                             lambda: self._channel(CHANNEL_CERTIFICATE))
        api = await self._or(lambda: self._api(_api_of(system)), lambda: self._api(PORTAL_CERTIFICATE))
        self.channel, self.api = Presented(channel), Presented(api)
        if not self.problem:
            self._keep()
        return self.channel, self.api

    async def follow(self) -> None:
        """Present what the configuration and the addresses say now; what cannot be had stays as it is."""
        if self.channel is None or self.api is None:
            return
        system, now, self.problem = self.settings.system, self.clock.monotonic(), ""
        shown, known, api = self.channel.current, self.known, self.api.current
        channel, known = await self._or(lambda: self._channel(_channel_of(system)), lambda: _same((shown, known)))
        identity = await self._or(lambda: self._api(_api_of(system)), lambda: _same(api))
        for presented, found in ((self.channel, channel), (self.api, identity)):
            if found.certificate_hash != presented.current.certificate_hash:
                presented.swap(found, now)
        self.known = known
        self._keep()

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

    async def check(self, before: SystemConfiguration, after: SystemConfiguration) -> None:
        """Whether the certificates that *after* names may be presented. Raises Refused, with every reason."""
        if _api_of(after) != _api_of(before):
            await self._api(_api_of(after))
        if _channel_of(after) == _channel_of(before):
            return
        if unmet := self._unmet():
            raise _precondition(unmet)
        await self._channel(_channel_of(after))

    async def settle(self, before: SystemConfiguration, after: SystemConfiguration, by: str) -> None:
        """Present it before the answer says so, and end the tokens that name something else.

        Raises Refused when it cannot be used after all, or when somebody has joined meanwhile who knows the old one.
        """
        await self.follow()
        if self.problem:
            raise Refused("FL-CERT-PAIR", f"it cannot be presented: {self.problem}", "name another certificate")
        if _channel_of(after) == _channel_of(before):
            return
        if unmet := self._unmet():
            raise _precondition(unmet)
        current = self.desk.enrolment.office.anchor().hash.hex()
        for token, _ in await self.desk.tokens():
            if token.state in ("open", "reserved") and token.anchor_hash != current:
                await self.desk.revoke(token.id, by)

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

    async def _channel(self, uuid: str) -> tuple[Identity, Known]:
        if uuid in OWN:
            if uuid != CHANNEL_CERTIFICATE:
                raise Refused("FL-CERT-NAME", f"{OWN[uuid]} cannot serve the portal", "name another certificate")
            found = await secrets.open_certified(self.signing.store, self.signing.cluster_key,
                                                 secrets.CERTIFICATES + secrets.SECURE_CHANNEL)
            root = der_of(await self.signing.root())
            return (server_identity(found.certificate_pem, found.key_pem),
                    Known((root,), portal_name(self.trust.cluster_uuid)))
        owned = await self._owned(uuid)
        hosts = [host for node in self.directory.controllers() if node.endpoint for host, _ in node.endpoint.places]
        judged = secure_channel.judge(owned, hosts, portal_name(self.trust.cluster_uuid), await self.signing.now())
        return (server_identity(judged.chain_pem, owned.key_pem), Known(judged.ca_certificates, judged.tls_name))

    async def _api(self, uuid: str) -> Identity:
        if uuid in OWN:
            if uuid != PORTAL_CERTIFICATE:
                raise Refused("FL-CERT-NAME", f"{OWN[uuid]} cannot serve the API", "name another certificate")
            found = await self.signing.api_certificate(self.endpoint())
            return server_identity(found.certificate_pem, found.key_pem, self.api_tls)
        owned = await self._owned(uuid)
        return server_identity(owned.certificate_pem.rstrip() + b"\n" + owned.chain_pem, owned.key_pem, self.api_tls)

    async def _owned(self, uuid: str) -> Owned:
        """An operator's certificate with its key. Raises Refused FL-CERT-PENDING."""
        owned = await self.certificates.owned(uuid)
        if owned is None:
            raise Refused("FL-CERT-PENDING", "the certificate is not there yet: only its request is",
                          "import what the CA has issued")
        return owned

    def _keep(self) -> None:
        """How this Controller itself knows the portal, for the next start."""
        known = self.known
        assert known is not None
        certificates = [b64(der) for der in known.certificates]
        if (certificates, known.tls_name) != (self.trust.ca_certificates, self.trust.tls_name):
            self.trust = self.trust.but(ca_certificates=certificates, tls_name=known.tls_name)
            self.trust.save(self.state)


async def _same(value: T) -> T:
    return value


def _precondition(unmet: Sequence[str]) -> Refused:
    return Refused("FL-CHANNEL-PRECONDITION", "the secure channel certificate cannot be exchanged directly: "
                   + "; ".join(unmet), "do it before engines and followers join")


def _channel_of(system: SystemConfiguration) -> str:
    return _uuid(system.secure_channel_configuration.sslkeyandcertificate_refs, CHANNEL_CERTIFICATE)


def _api_of(system: SystemConfiguration) -> str:
    return _uuid(system.portal_configuration.sslkeyandcertificate_refs, PORTAL_CERTIFICATE)


def _uuid(refs: Sequence[str], default: str) -> str:
    return refs[0].partition("/")[2] if refs else default


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
