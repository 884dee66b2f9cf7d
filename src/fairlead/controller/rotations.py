"""Rotation on a Controller, put together: the kinds, what is believed, who is waited for, what operators ask for."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from fairlead.api.configuration import (
    CERTIFICATE,
    CHANNEL_CERTIFICATE,
    PORTAL_CERTIFICATE,
    SYSTEM,
    PortalConfiguration,
    SecureChannelConfiguration,
    SystemConfiguration,
)
from fairlead.audit.log import AuditLog
from fairlead.base.clock import rfc3339
from fairlead.base.errors import Refused
from fairlead.controller import secrets, telling
from fairlead.controller.cluster import Cluster
from fairlead.controller.desk import Desk
from fairlead.controller.mesh import Mesh
from fairlead.controller.presentation import Presentation
from fairlead.controller.rooted import Rooted
from fairlead.controller.roots import Roots
from fairlead.controller.rotating.api import ApiCertificate
from fairlead.controller.rotating.exchanged import Exchanged
from fairlead.controller.rotating.host_keys import HostKeyRotation
from fairlead.controller.rotating.named import Named
from fairlead.controller.rotating.own_host_key import OwnHostKey
from fairlead.controller.rotating.root_ca import RootCA
from fairlead.controller.rotating.secure_channel import SecureChannel
from fairlead.controller.rotating.user_keys import UserKeysOfNodes
from fairlead.controller.secrets import Certified
from fairlead.controller.telling import Telling
from fairlead.controller.user_keys import NodeKeys
from fairlead.enrol.succession import Succession
from fairlead.enrol.trust import Trust
from fairlead.fleet.attached import Attached
from fairlead.fleet.trusting import EngineTrust
from fairlead.keys.ssh import PublicKey
from fairlead.nodes.directory import Directory
from fairlead.nodes.records import API_CERTIFICATES
from fairlead.objects.shelf import Shelved
from fairlead.pki.certificate import der_of
from fairlead.pki.statement import Content, Stated
from fairlead.rotation import phases
from fairlead.rotation.driver import Driver, Working
from fairlead.rotation.phases import KINDS, Kind, Rotation
from fairlead.rotation.statements import Statements
from fairlead.store.protocol import StoreUnavailable

AGAIN_S = 10.0
"""An engine that refused a trust statement is asked again so often."""


@dataclass(slots=True)
class Following:
    """What of rotations and statements stands in the store, as the directory follows it."""

    directory: Directory
    records: dict[str, Rotation] = field(init=False)
    statements: dict[str, str] = field(init=False)
    """Texts by number."""
    told: dict[str, Mapping[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.records = self.directory.keep("rotation", phases.decode)
        self.statements = self.directory.keep("trust", bytes.decode)
        self.told = self.directory.keep("told", telling.read)

    @property
    def now(self) -> Rotation | None:
        """The rotation that is under way."""
        return self.records.get("now")

    def listen(self, changed: Callable[[], None]) -> None:
        """Have *changed* called when a rotation has come another step."""
        self.directory.listen_to("rotation", changed)

    @property
    def past(self) -> Sequence[Rotation]:
        """Those that are over, the newest first."""
        return [one for key, one in sorted(self.records.items(), reverse=True) if key != "now"]

    def newest(self) -> list[str]:
        """The newest statement's text, if there is one."""
        return [self.statements[max(self.statements)]] if self.statements else []


class Rotations:
    """See the module."""

    def __init__(self, *, following: Following, audit: AuditLog, cluster: Cluster, mesh: Mesh, desk: Desk, trust: Trust,
                 presentation: Presentation, engines: EngineTrust, attached: Attached, configured: Shelved,
                 rooted: Rooted, keys: NodeKeys, succession: Succession, host_key: OwnHostKey) -> None:
        self._following = following
        self._cluster = cluster
        self._mesh = mesh
        self._desk = desk
        self._presentation = presentation
        self._engines = engines
        self._attached = attached
        self._configured = configured
        self.rooted = rooted
        self._keys = keys
        signing = cluster.signing
        self.telling = Telling(cluster.store, mesh.directory, trust.node_id, presentation, following.statements,
                               following.told, [presentation.facts, rooted.facts, host_key.facts])
        own = secrets.CERTIFICATES

        self.kinds: dict[Kind, Working] = {
            "secure-channel": SecureChannel(self.telling, Named(
                CHANNEL_CERTIFICATE, Exchanged(signing, cluster.fence, own + secrets.SECURE_CHANNEL,
                                               lambda: self._issued(signing.issue_portal)),
                presentation.judged_channel, lambda: presentation.used_channel, self._use_channel),
                attached.look, cluster.store.now),
            "api": ApiCertificate(self.telling, Named(
                PORTAL_CERTIFICATE, Exchanged(signing, cluster.fence, own + secrets.API,
                                              lambda: self._issued(signing.issue_api), self._own_of_api),
                presentation.judged_api, lambda: presentation.used_api, self._use_api)),
            "root-ca": RootCA(self.telling, Roots(signing, cluster.fence), self._absent, attached.look, self._believed),
            "user-keys": UserKeysOfNodes(keys, succession, attached.look),
            "host-keys": HostKeyRotation(
                trust.cluster_uuid, cluster.store, audit, mesh.directory, cluster.fence, self.telling,
                lambda: [trust.node, *mesh.peers.connected], attached.look),
        }
        self.driver = Driver(
            cluster.store, audit, cluster.fence, lambda: cluster.leading, trust.node, kinds=self.kinds,
            statements=Statements(cluster.store, audit, cluster.fence, trust.cluster_uuid, trust.node, signing.signers),
            fleet=self, bundles=self, content=self._content)

    async def follow(self) -> None:
        """Bring new statements to the engines, and say what this Controller does, at every change; until cancelled."""
        changed, directory = asyncio.Event(), self._mesh.directory
        seen: tuple[int, ...] = ()

        def look() -> None:  # engines come and go all the time, and are none of it
            nonlocal seen
            now = (directory.common, *(directory.changes[kind] for kind in ("rotation", "trust", "told")))
            if seen != (seen := now):
                changed.set()

        directory.listen(look)
        self._presentation.followed = self.rooted.settled = changed.set
        changed.set()
        loop = asyncio.get_running_loop()
        again = loop.time() + AGAIN_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(again):
                    await changed.wait()
            if loop.time() >= again:  # also where something changes all the time
                await self._engines.again()
                again = loop.time() + AGAIN_S
            changed.clear()
            await self._engines.bring()
            self.telling.changed.set()
            self.driver.nudge()

    @property
    def problems(self) -> list[str]:
        """What is wrong, one line each."""
        return [line for line in (self.driver.problem, self.telling.problem, self.rooted.problem) if line]

    # -- what the driver asks -----------------------------------------------------------------------------------------

    async def behind(self, number: int) -> Mapping[str, str]:
        """By node: who does not follow that statement yet."""
        engines = await self._attached.look(number)
        away = dict.fromkeys(engines.away, "it may be coming back") if not self.driver.settled else {}
        silent = dict.fromkeys(engines.silent, "it does not say how the engines stand that are connected to it")
        return {**away, **engines.behind, **silent, **self.telling.behind_statement(number)}

    async def lacking(self) -> Sequence[str]:
        """Ids of the tokens whose bundle does not know what one of now would know."""
        current = self._desk.enrolment.office.anchor().hash.hex()
        return [token.id for token, _ in await self._desk.tokens()
                if token.state in ("open", "reserved") and token.anchor_hash != current]

    async def revoke(self, token_id: str, by: str) -> object:
        """Make a token worthless."""
        return await self._desk.revoke(token_id, by)

    async def _content(self, rotation: Rotation | None) -> Content:
        believed = self._presentation.believed
        if believed is None or not self._mesh.generation:
            raise StoreUnavailable("this Controller presents nothing yet")
        if self._presentation.seen != ((rotation.id, rotation.phase) if rotation is not None else ("", "")):
            raise StoreUnavailable("this Controller has not seen the phase yet")
        roots = tuple(sorted(map(der_of, await self._cluster.signing.roots())))
        if self._presentation.roots != roots:
            raise StoreUnavailable("this Controller has not seen the roots yet")
        return Content(
            self._mesh.generation, roots, believed.certificates,
            tuple(self._presentation.names), tuple(
                Stated(node.id, node.name, tuple(node.endpoint.places), node.endpoint.ssh_port, node.internal_address,
                       PublicKey.from_line(node.user_key), node.host_keys)
                for node in self._mesh.directory.controllers() if node.endpoint is not None))

    async def _issued(self, issue: Callable[[Sequence[str]], Awaitable[Certified]]) -> Certified:
        return await issue(self._mesh.directory.hosts())

    def _own_of_api(self) -> Sequence[str]:
        return [API_CERTIFICATES + node.id for node in self._mesh.directory.controllers()]

    def _absent(self) -> Mapping[str, str]:
        there = {*self._mesh.peers.connected, self._cluster.trust.node}
        return {node.name: "it is not connected: nobody waits for its member of the store, which asks for a "
                           "certificate of the new root when it comes back"
                for node in self._mesh.directory.controllers() if node.name not in there}

    async def _believed(self) -> int:
        return len(await self._cluster.signing.roots())

    async def _use_channel(self, uuid: str, by: str) -> None:
        await self._name(by, secure_channel_configuration=SecureChannelConfiguration(
            sslkeyandcertificate_refs=[f"{CERTIFICATE}/{uuid}"]))

    async def _use_api(self, uuid: str, by: str) -> None:
        value = await self._system()
        await self._name(by, portal_configuration=value.portal_configuration.model_copy(update={
            "sslkeyandcertificate_refs": [f"{CERTIFICATE}/{uuid}"]}))

    async def _system(self) -> SystemConfiguration:
        item = await self._configured.item(str(SYSTEM.singleton))
        assert item is not None
        assert isinstance(item.value, SystemConfiguration)
        return item.value

    async def _name(self, by: str, **changes: PortalConfiguration | SecureChannelConfiguration) -> None:
        old = await self._configured.item(str(SYSTEM.singleton))
        assert old is not None
        await self._configured.exchange(old, replace(old, value=old.value.model_copy(update=changes)), by,
                                        compare=self._cluster.fence(), details={"rotation": "1"})

    # -- what operators ask -------------------------------------------------------------------------------------------

    async def plan(self, kind: str, to: str) -> dict[str, Any]:
        """Who would be stranded by a rotation to the certificate *to* (its uuid). Raises Refused."""
        return await self._desk.handed("rotate-plan", kind=kind, to=to)

    async def start(self, kind: str, *, to: str, by: str, starts_at: int, forced: Sequence[str], revoke_tokens: bool,
                    patience_s: int) -> dict[str, Any]:
        """Begin a rotation. Raises Refused."""
        return await self._desk.handed("rotate-start", id=uuid4().hex[:12], kind=kind, to=to, by=by,
                                       starts_at=starts_at, forced=list(forced), revoke_tokens=revoke_tokens,
                                       patience_s=patience_s)

    async def abort(self, by: str) -> dict[str, Any]:
        """Call the rotation off. Raises Refused."""
        return await self._desk.handed("rotate-abort", by=by)

    def statements(self, root: str, after: int) -> Sequence[str]:
        """Trust statements with higher numbers, in order, for who knows a root by its hash; none for who does not."""
        return self._engines.asked(root, after) or ()

    def status(self) -> dict[str, Any]:
        """The rotation that is under way, and those that are over."""
        now = self._following.now
        return {"current": _shown(now) if now is not None else None,
                "past": [_shown(one) for one in self._following.past], "statement": self._engines.newest,
                "late": list(self._keys.late())}

    async def answer(self, op: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the leader answers; None: that is no question about rotations. Raises Refused, NotLeading."""
        match op:
            case "rotate-plan":
                stranded, tokens = await self.driver.plan(_kind(fields["kind"]), str(fields["to"]))
                engines = await self._attached.look()
                return {"kind": fields["kind"], "stranded": dict(stranded), "sleeping": engines.away,
                        "silent": engines.silent, "tokens": list(tokens),
                        "controllers": len(self._mesh.directory.controllers()),
                        "engines": sum(node.role == "engine" for node in self._mesh.directory.nodes.values())}
            case "rotate-start":
                return _shown(await self.driver.start(
                    _kind(fields["kind"]), to=str(fields["to"]), by=str(fields["by"]),
                    starts_at=int(fields["starts_at"]), forced=[str(name) for name in fields["forced"]],
                    revoke_tokens=fields["revoke_tokens"] is True, patience_s=int(fields["patience_s"]),
                    name=str(fields["id"])))
            case "rotate-abort":
                return _shown(await self.driver.abort(str(fields["by"])))
            case _:
                return None


def _kind(text: Any) -> Kind:
    for kind in KINDS:
        if text == kind:
            return kind
    raise Refused("FL-ROTATE-KIND", f"nothing is called {str(text)[:32]!r}", f"use one of {', '.join(KINDS)}")


def _shown(rotation: Rotation) -> dict[str, Any]:
    return {"id": rotation.id, "kind": rotation.kind, "phase": rotation.phase, "outcome": rotation.outcome,
            "why": rotation.why, "to": rotation.to, "by": rotation.by, "asked_at": rfc3339(rotation.asked_at),
            "starts_at": rfc3339(rotation.starts_at), "since": rfc3339(rotation.since),
            "patience_s": rotation.patience_s, "behind": rotation.behind, "missing": rotation.missing,
            "tokens": rotation.tokens, "forced": list(rotation.forced), "statement": rotation.number,
            "steps": [{"phase": step.phase, "at": rfc3339(step.at)} for step in rotation.steps]}
