"""The system portal: the secure key exchange, with the anchors and trust statements that belong to it; nothing else.

Rules, and the attack each stops:

1. Three routes; everything else is 404 before any body is read: what does not exist cannot be abused.
2. A request is judged in the order of what the answer costs us; strangers cause no write and learn nothing of tokens.
3. A signed call is believed only for the key that signed it, only if it names this Controller, only once.

Seed: *8443 (system portal specifically dedicated for secure key exchange)*. Join protocol, sections 5 and 11.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol
from uuid import UUID

import structlog

from fairlead.base import strict
from fairlead.base.clock import SECOND
from fairlead.base.errors import FairleadError, Refused
from fairlead.enrol import statements
from fairlead.enrol.exchange import MOST_REQUEST_BYTES, PATH, Core, Submission
from fairlead.keys import http
from fairlead.keys.replay import ReplayCache
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import KeyEntry
from fairlead.portal.limits import Patience
from fairlead.store.protocol import StoreUnavailable

ANCHOR_PATH = PATH + "/anchor/"
ASKED = re.compile(re.escape(statements.PATH) + "([0-9a-f]{64})/([0-9]{1,10})")
RETRY_AFTER_S = 2

log = structlog.get_logger("fairlead.portal")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Enrolling(Protocol):
    """The tokens."""

    async def exchange(self, submission: Submission, source: str, presented: Callable[[bytes], bool]) -> bytes:
        """The reply body. Raises Refused."""
        ...

    async def anchor(self, digest: bytes) -> bytes | None:
        """The bytes of an anchor."""
        ...

    def core_for(self, node: Node, now: int) -> Core:
        """What a joined node is told."""
        ...


class Known(Protocol):
    """Who signs calls."""

    @property
    def keys(self) -> dict[str, KeyEntry]:
        """By fingerprint."""
        ...

    @property
    def nodes(self) -> dict[str, Node]:
        """By id."""
        ...


class Changing(Protocol):
    """What a node may change about itself."""

    async def remove(self, name: str, by: str, event: str = "node.removed") -> Node:
        """Take it out of the cluster."""
        ...

    async def announce(self, node_id: str, endpoint: Endpoint, by: str) -> None:
        """A Controller's new address."""
        ...


Stating = Callable[[str, int], Sequence[str] | None]
"""The trust statements after a number, for who knows a root by its hash; None for who does not."""


class Portal:
    """The ASGI application behind 8443."""

    def __init__(self, *, enrolment: Enrolling, statements: Stating, directory: Known,
                 registry: Changing, replay: ReplayCache,
                 cluster_uuid: UUID, node_id: str, host_key: Callable[[], PrivateKey], started: int,
                 presented: Callable[[bytes], bool], now: Callable[[], Awaitable[int]]) -> None:
        self._enrolment = enrolment
        self._statements = statements
        self._directory = directory
        self._registry = registry
        self._replay = replay
        self._me = http.recipient(cluster_uuid, node_id)
        self._host_key = host_key
        self._started = started
        self._presented = presented
        self._now = now
        self._patience = Patience()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        if method == "GET" and path.startswith(ANCHOR_PATH) and not scope["query_string"]:
            await self._anchor(path.removeprefix(ANCHOR_PATH), send)
        elif method == "GET" and (asked := ASKED.fullmatch(path)) and not scope["query_string"]:
            await self._trust(asked[1], int(asked[2]), send)
        elif method == "POST" and path == PATH and not scope["query_string"]:
            await self._exchange(scope, receive, send)
        else:
            await _answer(send, 404, _error("FL-PORTAL-ROUTE", "the portal serves the secure key exchange only"))

    async def _anchor(self, text: str, send: Send) -> None:
        try:
            digest = bytes.fromhex(text) if len(text) == 64 else b""
        except ValueError:
            digest = b""
        try:
            found = await self._enrolment.anchor(digest) if digest else None
        except StoreUnavailable:
            await _unavailable(send)
            return
        if found is None:
            await _answer(send, 404, _error("FL-ANCHOR-UNKNOWN", "no token names this anchor",
                                            "the token has ended, or it is another cluster's: export a new one"))
        else:
            await _answer(send, 200, found, {"content-type": "application/octet-stream"})

    async def _trust(self, root: str, number: int, send: Send) -> None:
        texts = self._statements(root, number)
        if texts is None:
            await _answer(send, 404, _error("FL-TRUST-UNKNOWN", "no trust statement names this root",
                                            "it is another cluster's: join again with a new bundle"))
        else:
            await _answer(send, 200, statements.answer(texts))

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        source = scope["extensions"]["fairlead"]["source"]
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            await _answer(send, 415, _error("FL-JOIN-FORMAT", "the request must be application/json"))
            return
        body = await _body(receive)
        if body is None:
            await _answer(send, 413, _error("FL-JOIN-FORMAT", f"the request is larger than {MOST_REQUEST_BYTES} bytes"))
        elif "signature-input" in headers or "signature" in headers:
            await self._signed(scope, headers.get("host", ""), body, send)
        else:
            try:
                await asyncio.sleep(self._patience.wait(source, time.monotonic()))
                answer = await self._enrolment.exchange(Submission.parse(body), source, self._presented)
                scope["extensions"]["fairlead.served"]["say"]()
                await _answer(send, 200, answer)
            except Refused as refusal:
                if refusal.code == "FL-JOIN-REFUSED":
                    self._patience.failed(source, time.monotonic())
                else:
                    log.debug("join.refused", code=refusal.code, source=source)  # holders are on the audit record
                await _refuse(send, refusal)
            except StoreUnavailable as reason:
                log.warning("store.unavailable", reason=str(reason))
                await _unavailable(send)

    async def _signed(self, scope: Scope, host: str, body: bytes, send: Send) -> None:
        """A call of a node that has joined. Once its key is proven, refusals are signed too."""
        lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        request = http.Request("POST", f"https://{host}{PATH}", lines, body)
        try:
            signed = http.read_request(request)
            http.check_recipient(signed, self._me)
            entry, node = self._signer(signed.keyid)
            http.verify_request(request, PublicKey.from_line(entry.line))
        except Refused as refusal:
            await _refuse(send, refusal)
            return
        now = signed.created * SECOND  # the caller's, while the store knows none
        try:
            now = await self._now()
            http.check_fresh(signed.created, now, self._started)
            self._replay.insert(signed.keyid, signed.nonce, node.role if node else "engine", now)
            status, answer = 200, await self._act(body, entry, node, now)
        except StoreUnavailable:
            status, answer = 503, _error("FL-JOIN-UNAVAILABLE", "the store does not answer", "try again")
        except FairleadError as refusal:
            status, answer = _status(refusal.code), _error(refusal.code, refusal.message, refusal.remedy)
        signature = http.sign_response(status, answer, "application/json", request=request, key=self._host_key(),
                                       created=now // SECOND)
        await _answer(send, status, answer, signature)

    def _signer(self, fingerprint: str) -> tuple[KeyEntry, Node | None]:
        """The user key of a node, or of one that was removed: it may be told so. Raises Refused."""
        entry = self._directory.keys.get(fingerprint)
        if entry is None or entry.use != "user":
            raise Refused("FL-SIG-KEY", "no node has this key")
        return entry, self._directory.nodes.get(entry.node_id)

    async def _act(self, body: bytes, entry: KeyEntry, node: Node | None, now: int) -> bytes:
        if node is not None and entry.state == "revoked":
            raise Refused("FL-KEY-RETIRED", "this user key was retired, the node has another one",
                          "sign with the key that the node has now")
        if node is None:
            raise Refused("FL-NODE-REMOVED", "this node was removed from the cluster",
                          "join again with a new bundle, if it should come back")
        if node.state == "frozen":
            raise Refused("FL-NODE-FROZEN", "this node is frozen: somebody else has proved its bundle's token",
                          f"compare its keys, then `fairlead node release {node.name}`")
        if entry.state != "active":
            raise Refused("FL-SIG-KEY", "this key is not in use yet")
        try:
            fields = strict.loads(body)
            operation = fields["op"] if fields.get("v") == 1 else None
        except (ValueError, KeyError, AttributeError, TypeError):
            operation = None
        if operation == "read":
            return self._enrolment.core_for(node, now).encode()
        if operation == "leave" and node.role == "engine":
            await self._registry.remove(node.name, node.name, "node.left")
            return b'{"v":1,"result":"removed"}'
        if operation == "announce" and node.role == "controller":
            await self._registry.announce(node.id, endpoint_of(fields), node.name)
            return b'{"v":1,"result":"announced"}'
        raise Refused("FL-JOIN-FORMAT", "this node may not ask for that")


def endpoint_of(fields: dict[str, Any]) -> Endpoint:
    """What a Controller announces. Raises Refused FL-JOIN-FORMAT, FL-ADDRESS."""
    addresses: Any = fields.get("addresses")
    ports: list[Any] = [fields.get(f"{name}_port") for name in ("api", "portal", "ssh")]
    if not isinstance(addresses, list) or not all(type(port) is int and 0 < port < 65536 for port in ports):
        raise Refused("FL-JOIN-FORMAT", "the announcement is malformed")
    endpoint = Endpoint(tuple(str(address) for address in addresses), *ports)
    if not 1 <= len(endpoint.places) <= 4:
        raise Refused("FL-JOIN-FORMAT", "a Controller has one to four addresses")
    return endpoint


def _headers(scope: Scope) -> dict[str, str]:
    """Header fields by lower-case name; one that is repeated is joined, and so fails every comparison."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def _body(receive: Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if len(body) > MOST_REQUEST_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def _status(code: str) -> int:
    return {"FL-JOIN-FORMAT": 400, "FL-SIG-FORMAT": 400, "FL-JOIN-VERSION": 426, "FL-JOIN-BUSY": 429,
            "FL-SIG-BUSY": 429, "FL-SIG-FULL": 503, "FL-JOIN-UNAVAILABLE": 503}.get(code, 403)


def _error(code: str, message: str, remedy: str = "") -> bytes:
    return json.dumps({"error": message, "code": code, "remedy": remedy}).encode()


async def _refuse(send: Send, refusal: FairleadError) -> None:
    await _answer(send, _status(refusal.code), _error(refusal.code, refusal.message, refusal.remedy))


async def _unavailable(send: Send) -> None:
    await _answer(send, 503, _error("FL-JOIN-UNAVAILABLE", "the cluster cannot answer now", "it is tried again"))


async def _answer(send: Send, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    fields = {"content-type": "application/json", "cache-control": "no-store",
              "content-length": str(len(body))} | {k.lower(): v for k, v in (headers or {}).items()}
    if status in (429, 503):
        fields["retry-after"] = str(RETRY_AFTER_S)
    await send({"type": "http.response.start", "status": status,
                "headers": [(k.encode(), v.encode()) for k, v in fields.items()]})
    await send({"type": "http.response.body", "body": body})
