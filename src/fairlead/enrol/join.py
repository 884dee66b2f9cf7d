"""The joining node: from a bundle to a committed identity, whatever is lost or crashes on the way.

Rules, and the attack each stops:

1. Keys and token are on disk, synced, before the first request, and stay until the node has joined or is finally
   refused: a repeat uses the same keys, so a lost reply costs nothing and looks like nobody else.
2. Only the bundle's anchor is trusted: its CA certificates for TLS, its host keys for the reply and for SSH. The
   system's trust store, proxies and the environment have no say.
3. The one unverified connection fetches the anchor for a token string: it sends no secret, and what it brings counts
   only if its hash is the token's pin.
4. The node dials SSH only after the signed answer is on disk, and is joined only when SSH says ``committed``.

Join protocol, sections 3, 5, 6 (joiner) and 7.
"""

import asyncio
import contextlib
import json
import random
import re
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base import files, strict
from fairlead.base.backoff import FullJitter
from fairlead.base.clock import Clock, rfc3339
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.client.https import Incoming, Outgoing, authority, request
from fairlead.enrol import anchor as anchors
from fairlead.enrol import bundle as bundles
from fairlead.enrol import exchange
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.bundle import Bundle, Role
from fairlead.enrol.request import JoinRequest
from fairlead.enrol.token import Token
from fairlead.enrol.trust import FILE as TRUST_FILE
from fairlead.enrol.trust import HOST_KEY, KEYS, USER_KEY, Trust, load, save_key
from fairlead.keys.seal import new_recipient, recipient_public
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64, from_b64, sha256
from fairlead.link import frames
from fairlead.nodes.node import USERS, Endpoint
from fairlead.pki.verify import PortalTrust, diagnosis_context, unverified_context, validity
from fairlead.transport.dialler import dial
from fairlead.transport.options import Keepalive
from fairlead.transport.peer import Peer
from fairlead.transport.way import Stock

PENDING = "pending"
JOURNAL = "join.json"
SUBSYSTEM = "fairlead-join"
SOFTWARE = "fairlead/0.1"
GRACE_S = 60
FIRST_DELAY_S = 0.5
MOST_DELAY_S = 15.0
COMMIT_S = 15.0
"""For one connection that may only commit: the Controller cuts it then."""
DEFAULT_LIFETIME_S = 600
_FINAL = frozenset(("FL-JOIN-EXPIRED", "FL-JOIN-REVOKED", "FL-JOIN-FROZEN", "FL-JOIN-CONFLICT", "FL-JOIN-USED"))
"""The token is spent for this machine: its secret and the bundle are wiped."""
_AGAIN = frozenset(("FL-JOIN-BUSY", "FL-JOIN-UNAVAILABLE"))
_NOT_YET, _EXPIRED = 9, 10  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED

Progress = Callable[[str], None]


class _Pending(BaseModel):
    """``pending/join.json``: everything that a restarted join goes on from. Holds secrets."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    fairlead_join: Literal[1] = 1
    role: Role
    node: str
    host_key: str = Field(repr=False)
    user_key: str = Field(repr=False)
    recipient: str = Field(default="", repr=False)
    token: str = Field(default="", repr=False)
    core: str = Field(default="", repr=False)


@dataclass(slots=True)
class Joiner:
    """One attempt to bring the node in *state* into a cluster; may be made again after any crash."""

    state: Path
    role: Role
    name: str
    clock: Clock
    endpoint: Endpoint | None = None
    progress: Progress = field(default=lambda _: None)
    _dial_order: tuple[AnchorController, ...] = ()
    """Where to dial when the environment says so; whom to believe there stays the anchor's word."""

    def request(self) -> JoinRequest:
        """Make the keys first, and ask for a bundle that only they can use. Raises OperatorError."""
        files.make_private_folder(self.state)
        self._refuse_joined()
        with files.alone(self.state):
            known = self._load()
            if known is not None and known.token:
                raise OperatorError("FL-STATE-BUSY", f"a join is under way in {self.state}",
                                    "finish it with its bundle, or delete its pending folder")
            if known is not None and (known.role, known.node) == (self.role, self.name) and known.recipient:
                return self._request_of(known)
            pending = self._new_pending()
            pending.recipient = b64(new_recipient())
            self._save(pending)
            return self._request_of(pending)

    async def join(self, bundle: Bundle, forget: Callable[[], None],
                   settle: Callable[[], None] = lambda: None) -> Trust:
        """Exchange keys, commit, and write the node's trust.

        *forget* deletes the bundle, once it is spent. *settle* writes what else the node needs, once it is committed
        and before its trust says so: a crash in between is a join that is repeated.

        Raises FairleadError: what happened, why, what to do.
        """
        files.make_private_folder(self.state)
        if not (ended := self._ended(bundle)):
            self._refuse_joined()
        with files.alone(self.state):
            if not ended:
                return await self._join(bundle, forget, settle)
            self._wipe()
            forget()
            return load(self.state)

    async def _join(self, bundle: Bundle, forget: Callable[[], None], settle: Callable[[], None]) -> Trust:
        if bundle.role != self.role:
            raise Refused("FL-BUNDLE-ROLE", f"this bundle is for the role {bundle.role}, not {self.role}",
                          f"export one with --role {self.role}")
        if bundle.node is not None and bundle.node != self.name:
            raise Refused("FL-BUNDLE-NODE", f"this bundle is for the node {bundle.node}, not {self.name}",
                          f"join with --name {bundle.node}")
        if exchange.VERSION not in bundle.anchor.join_versions:
            raise Refused("FL-BUNDLE-JOIN-VERSION", "the cluster speaks no version of the join protocol that this "
                          "fairlead knows", "upgrade fairlead on this machine")
        pending = self._pending_for(bundle)
        self._save(pending)
        try:
            trust = await self._until_joined(bundle, pending)
        except FairleadError as error:
            if error.code in _FINAL:
                self._wipe()
                forget()
            raise
        settle()
        self._settle(trust, pending)
        forget()
        return trust

    async def find(self, token: Token, controllers: list[tuple[str, int]], cluster_uuid: str) -> Bundle:
        """The bundle that a token string stands for, from any of *controllers* (address, portal port).

        Raises Refused, or OperatorError FL-PEER-UNREACHABLE when none answers.
        """
        failure: FairleadError = OperatorError("FL-ENV", "no Controller is named", "set AVICNTRL to HOST[:PORT]")
        for address, port in controllers:
            try:
                anchor = anchors.decode(await _fetch_anchor(address, port, token.pin), token.pin)
            except FairleadError as error:
                self.progress(f"{address}:{port}: {error.message}")
                failure = error
                continue
            if str(anchor.cluster_uuid) != cluster_uuid.lower().removeprefix("cluster-"):  # as the API says it
                raise Refused("FL-ENV-CLUSTER", f"the token is for the cluster {anchor.cluster_uuid}, "
                              "AVICNTRL_CLUSTERUUID names another", "set all three variables from one bundle")
            # the environment says where to dial; the anchor says whom to believe there
            keys = {(c.name, c.host_key, c.tls_name) for c in anchor.controllers}
            dialled = tuple(AnchorController(name, a, p, tls_name, key)
                            for a, p in controllers for name, key, tls_name in sorted(keys, key=lambda k: k[0]))
            self._dial_order = dialled
            return Bundle(self.role, None, anchor, token, "", DEFAULT_LIFETIME_S)
        raise failure

    def unseal(self, data: bytes) -> Bundle:
        """The bundle in a sealed file, with the keys that `request` made here. Raises FairleadError."""
        pending = self._load()
        if pending is None or not pending.recipient:
            raise Refused("FL-BUNDLE-SEALED", "this bundle is sealed to a machine that requested it, and there is no "
                          f"request in {self.state}", "import it where `fairlead bundle request` ran, with its --state")
        return bundles.unseal(data, self._request_of(pending).encoded(), from_b64(pending.recipient))

    # -- the way in ---------------------------------------------------------------------------------------------------

    async def _until_joined(self, bundle: Bundle, pending: _Pending) -> Trust:
        deadline = self.clock.monotonic() + bundle.lifetime_s + GRACE_S
        host, user = _keys(pending)
        asked_again = False
        while True:
            if not pending.core:
                pending.core, within = await self._exchange(bundle, host, user, deadline)
                deadline = min(deadline, self.clock.monotonic() + within)
                self._save(pending)
            core = exchange.Core.model_validate_json(from_b64(pending.core))
            self.progress(f"reserved {core.internal_address} for {core.node}")
            try:
                await self._commit(bundle.token, core, user, deadline, ask=not asked_again)
                break
            except FairleadError as error:
                if error.code != "FL-SSH-REFUSED" or asked_again:
                    raise
                pending.core, asked_again = "", True  # the portal says why: frozen, expired, revoked, or all is well
        trust = Trust(
            cluster_uuid=bundle.anchor.cluster_uuid, node=core.node, node_id=core.node_id, role=core.role,
            user=core.user, internal_address=core.internal_address,
            ca_certificates=[b64(der) for der in bundle.anchor.ca_certificates],
            tls_name=bundle.anchor.controllers[0].tls_name, controllers=core.controllers)
        with contextlib.suppress(Refused):  # of a cluster that is newer than this software: the link brings it
            trust = trust.after(core.trust)
        return trust

    async def _exchange(self, bundle: Bundle, host: PrivateKey, user: PrivateKey,
                        deadline: float) -> tuple[str, int]:
        """The core that a pinned Controller signed for us, base64, and for how many seconds it holds."""
        delay = FullJitter(FIRST_DELAY_S, MOST_DELAY_S)
        token_key = bundle.token.key(bundle.anchor.cluster_uuid)
        trust = PortalTrust(bundle.anchor.ca_certificates)
        context = trust.context()
        order = self._dial_order or bundle.anchor.controllers
        while True:
            distrusted: list[FairleadError] = []
            told_when: list[_Later] = []
            for controller in order:
                where = f"{controller.name} at {controller.address}:{controller.portal_port}"
                self.progress(f"exchanging keys with {where}")
                claims: list[exchange.Claim] = []

                def build(certificate: bytes, claims: list[exchange.Claim] = claims,
                          tls_name: str = controller.tls_name) -> Outgoing:
                    trust.check(certificate, tls_name)
                    claim = exchange.Claim(
                        bundle.anchor.cluster_uuid, bundle.anchor.hash, bundle.token.id, sha256(certificate), self.role,
                        self.name, host.public, user.public, secrets.token_bytes(32), self.endpoint, SOFTWARE)
                    claims.append(claim)
                    body = exchange.prove(claim, token=token_key, host=host, user=user)
                    return Outgoing("POST", exchange.PATH,
                                    {"host": authority(tls_name), "content-type": "application/json"}, body)

                try:
                    answer = await request(controller.address, controller.portal_port, context,
                                           controller.tls_name, build, most=exchange.MOST_REPLY_BYTES)
                    core, core_bytes = self._believe(answer, claims[-1], bundle.anchor)
                except FairleadError as error:
                    await self._weigh(error, controller, trust, distrusted, where)
                    if isinstance(error, _Later):
                        told_when.append(error)
                    continue
                return b64(core_bytes), core.commit_within_s
            if distrusted and len(distrusted) == len(order):
                raise distrusted[0]
            if self.clock.monotonic() >= deadline:
                raise OperatorError("FL-JOIN-UNREACHABLE", "no Controller answered in the life of the bundle",
                                    "check the addresses that `fairlead bundle show` prints and port 8443 on the way")
            pause = max([delay.next(), *(random.SystemRandom().uniform(1.0, 1.5) * told.after_s for told in told_when)])
            await asyncio.sleep(max(0.05, min(pause, deadline - self.clock.monotonic())))

    def _believe(self, answer: Incoming, claim: exchange.Claim, anchor: Anchor) -> tuple[exchange.Core, bytes]:
        if answer.status == 200:
            return exchange.believe(answer.body, claim, anchor)
        raise _refusal(answer)

    async def _weigh(self, error: FairleadError, controller: AnchorController, trust: PortalTrust,
                     distrusted: list[FairleadError], where: str) -> None:
        """Go on to the next Controller, or give up: by what the protocol says of *error*."""
        verify_code = getattr(error, "verify_code", None)
        if verify_code in (_NOT_YET, _EXPIRED):
            await self._blame_the_clock(controller, trust)
        if error.code == "FL-PEER-CERTIFICATE":
            error = Refused("FL-JOIN-PEER", f"{where} is not the Controller that the bundle names: {error.message}",
                            "somebody may be in between; check the address, export the bundle again")
        if error.code == "FL-JOIN-PEER":
            distrusted.append(error)
        elif error.code not in _AGAIN and error.code not in ("FL-PEER-UNREACHABLE", "FL-PEER-PROTOCOL"):
            raise error
        self.progress(f"{where}: {error.message}")

    async def _blame_the_clock(self, controller: AnchorController, trust: PortalTrust) -> NoReturn:
        """The portal's certificate is the right one, but not at this machine's time."""
        seen: list[bytes] = []

        def look(certificate: bytes) -> Outgoing:
            seen.append(certificate)
            raise Refused("FL-TIME-SKEW", "nothing is sent over a connection whose time was not checked")

        with contextlib.suppress(FairleadError):
            await request(controller.address, controller.portal_port, diagnosis_context(trust.certificates),
                          controller.tls_name, look, most=1024)
        when = ""
        if seen:
            first, last = validity(seen[0])
            when = f", the Controller's certificate holds from {rfc3339(first)} to {rfc3339(last)}"
        raise Refused("FL-TIME-SKEW", f"this machine's clock says {rfc3339(self.clock.now())}{when}",
                      "set the clock right on both machines, then join again; the bundle is not spent")

    async def _commit(self, token: Token, core: exchange.Core, user: PrivateKey, deadline: float, *,
                      ask: bool) -> None:
        """Raises FL-SSH-REFUSED when no Controller lets us in; if *ask*, when one does not: its portal may say why."""
        delay = FullJitter(FIRST_DELAY_S, MOST_DELAY_S)
        message = {"v": 1, "op": "commit", "token_id": token.id.hex(), "node_id": core.node_id,
                   "keys_hash": core.keys_hash}
        while True:
            last: FairleadError | None = None
            refused: list[FairleadError] = []
            for controller in core.controllers:
                self.progress(f"committing with {controller.name} at {controller.address}:{controller.ssh_port}")
                try:
                    return await self._commit_with(controller, message, core.role, user)
                except FairleadError as error:
                    if error.code in _FINAL or error.code == "FL-JOIN-REFUSED":
                        raise
                    last = error
                    if error.code == "FL-SSH-REFUSED":
                        refused.append(error)
                    self.progress(error.message)
            if refused and (ask or len(refused) == len(core.controllers)):
                raise refused[-1]
            if self.clock.monotonic() >= deadline:
                why = f": {last.message}" if last else ""
                ports = ", ".join(f"{c.address}:{c.ssh_port}" for c in core.controllers)
                raise OperatorError("FL-JOIN-SSH", f"the join could not be committed over SSH{why}",
                                    f"open the way to {ports}, then join again with a new bundle")
            await asyncio.sleep(max(0.05, min(delay.next(), deadline - self.clock.monotonic())))

    async def _commit_with(self, controller: exchange.CoreController, message: dict[str, object], role: Role,
                           user: PrivateKey) -> None:
        host_keys = controller.host_keys
        peer = Peer(node_id="", node=controller.name, role="controller", user=USERS[role], standing="active",
                    fingerprint=host_keys[0].fingerprint)
        tunnel = await dial(controller.address, controller.ssh_port, peer=peer, key=user, host_keys=host_keys,
                            keepalive=Keepalive(), clock=self.clock, way=Stock())
        try:
            async with asyncio.timeout(COMMIT_S):
                channel = await tunnel.subsystem(SUBSYSTEM)
                await channel.send(frames.encode(message))
                decoder = frames.Decoder(frames.MOST_COMMIT_BYTES)
                while chunk := await channel.receive():
                    for reply in decoder.feed(chunk):
                        if (reply.get("v"), reply.get("result")) == (exchange.VERSION, "committed"):
                            return
                        raise Refused(str(reply.get("error", "FL-JOIN-REFUSED")),
                                      str(reply.get("message", "the join was refused")), str(reply.get("remedy", "")))
        except TimeoutError:
            pass
        finally:
            tunnel.close("the join is over")
        raise OperatorError("FL-JOIN-SSH", f"{controller.name} did not answer the commit in time", "it is tried again")

    # -- what is on disk ----------------------------------------------------------------------------------------------

    def _refuse_joined(self) -> None:
        if self._joined():
            raise OperatorError("FL-ALREADY-JOINED", f"the node in {self.state} has joined a cluster already",
                                f"`fairlead {self.role} {'leave' if self.role == 'engine' else 'destroy'}` first, or "
                                "use another --state")

    def _joined(self) -> bool:
        return (self.state / TRUST_FILE).exists() and not self._removed()

    def _removed(self) -> bool:
        with contextlib.suppress(ValueError, OSError):
            return bool(json.loads((self.state / TRUST_FILE).read_bytes()).get("removed"))
        return False

    def _ended(self, bundle: Bundle) -> bool:
        """Whether the node has joined with this very bundle, and was stopped before that was wiped."""
        known = self._load() if self._joined() else None
        return known is not None and known.token == bundle.token.encode()

    def _pending_for(self, bundle: Bundle) -> _Pending:
        """The keys to go on with: those of this bundle's earlier attempt, or of the request that it answers."""
        known = self._load()
        if known is not None and (known.role, known.node) == (self.role, self.name):
            if known.token == bundle.token.encode() or (known.recipient and not known.token):
                known.token = bundle.token.encode()
                return known
        elif known is not None and known.token == bundle.token.encode():
            known.node, known.core = self.name, ""  # refused by its name, tried again under another: the same keys
            return known
        fresh = self._new_pending()
        fresh.token = bundle.token.encode()
        return fresh

    def _new_pending(self) -> _Pending:
        return _Pending(role=self.role, node=self.name, host_key=PrivateKey.generate().openssh().decode(),
                        user_key=PrivateKey.generate().openssh().decode())

    def _request_of(self, pending: _Pending) -> JoinRequest:
        host, user = _keys(pending)
        return JoinRequest(pending.role, pending.node, host.public, user.public,
                           recipient_public(from_b64(pending.recipient)))

    def _load(self) -> _Pending | None:
        try:
            return _Pending.model_validate_json(files.read_private(self.state / PENDING / JOURNAL))
        except FileNotFoundError:
            return None
        except ValidationError:
            raise OperatorError("FL-STATE-DAMAGED", f"{self.state / PENDING / JOURNAL} is damaged",
                                "delete it and join with a new bundle") from None

    def _save(self, pending: _Pending) -> None:
        files.make_private_folder(self.state)
        files.make_private_folder(self.state / PENDING)
        files.write_private(self.state / PENDING / JOURNAL, pending.model_dump_json().encode())

    def _settle(self, trust: Trust, pending: _Pending) -> None:
        host, user = _keys(pending)
        files.make_private_folder(self.state / KEYS)
        save_key(self.state, HOST_KEY, host)
        save_key(self.state, USER_KEY, user)
        trust.save(self.state)
        self._wipe()

    def _wipe(self) -> None:
        """Remove the secret, and what a crash left half written of it; the journal last, so that this is repeated."""
        for file in sorted((self.state / PENDING).iterdir(), key=lambda file: file.name == JOURNAL):
            files.remove(file)
        with contextlib.suppress(OSError):
            (self.state / PENDING).rmdir()


def _keys(pending: _Pending) -> tuple[PrivateKey, PrivateKey]:
    return PrivateKey.from_openssh(pending.host_key.encode()), PrivateKey.from_openssh(pending.user_key.encode())


class _Later(Refused):
    """The portal is busy; when to ask again."""

    after_s = 0.0


def _refusal(answer: Incoming) -> FairleadError:
    """The refusal in a portal's answer. A stranger's answer was read over a verified connection."""
    try:
        body = strict.loads(answer.body)
        if not re.fullmatch("FL(-[A-Z0-9]{1,20}){1,4}", body["code"]):
            raise ValueError("not a code")
        code, message, remedy = body["code"], str(body["error"])[:1000], str(body.get("remedy", ""))[:1000]
    except (ValueError, KeyError, TypeError):
        return Refused("FL-PEER-PROTOCOL", f"the portal answered {answer.status} without a reason")
    after = next((value for name, value in answer.headers if name.lower() == "retry-after"), "")
    if answer.status not in (429, 503) or not re.fullmatch("[0-9]{1,4}", after):
        return Refused(code, message, remedy)
    later = _Later(code, message, remedy)
    later.after_s = min(float(after), MOST_DELAY_S)
    return later


async def _fetch_anchor(address: str, port: int, pin: bytes) -> bytes:
    """The anchor with the hash *pin*, over a connection that proves nothing: the caller checks the hash."""
    context: ssl.SSLContext = unverified_context()
    answer = await request(address, port, context, "", lambda _: Outgoing(
        "GET", f"{exchange.PATH}/anchor/{pin.hex()}", {"host": authority(address)}, b""), most=anchors.MOST_BYTES)
    if answer.status != 200:
        raise _refusal(answer)
    return answer.body
