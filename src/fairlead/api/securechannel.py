"""The secure channel in the public model: who has one, the tokens that lead to one, and the addresses inside.

Nothing here is a copy: a mapping is a node of the cluster, a token is one of `enrol`, and what is deleted is revoked.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.asking import EVERY_TENANT, Asking
from fairlead.api.documented import answer
from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused, printable
from fairlead.enrol.state import TokenRecord
from fairlead.enrol.token import Token
from fairlead.keys.ssh import PublicKey
from fairlead.nodes.address import FIRST_ENGINE, LAST
from fairlead.nodes.node import Node
from fairlead.objects.catalogue import Catalogue
from fairlead.objects.model import Item, Kind, Model
from fairlead.objects.shelf import Built, Shelved

NO_CHANGE: frozenset[Any] = frozenset()
MOST_FOREIGN = 1000
MOST_FREE = 256
FOREIGN = "FL-TOKEN-FOREIGN"
_LISTED = ("open", "reserved", "redeemed")
"""What has expired, or was revoked, is gone for clients; `fairlead token list` shows it for a while."""


class Metadata(Model):
    """One thing more."""

    key: str = Field(default="", max_length=128)
    val: str = Field(default="", max_length=1024)


class SecureChannelMapping(Model):
    """A node's secure channel."""

    name: str
    ip: str | None = None
    is_controller: bool = False
    local_ip: str | None = None
    marked_for_delete: bool = False
    auth_token: str | None = None
    metadata: list[Metadata] = Field(default_factory=list)
    pub_key: str | None = None
    pub_key_pem: str | None = None
    status: str = "SECURE_CHANNEL_NONE"


class SecureChannelToken(Model):
    """A one-time token. Its name is its id, but for whoever asks with the token itself."""

    name: str = Field(min_length=1, max_length=512)
    expiry_time: float | None = Field(default=None, ge=0, le=253_402_300_799)
    in_use: bool = False
    metadata: list[Metadata] = Field(default_factory=list, max_length=64)


class SecureChannelAvailableLocalIPs(Model):
    """Internal addresses of engines; as numbers."""

    name: str
    start: int
    end: int
    free_ips: list[int]
    """The lowest free ones."""


MAPPING = Kind("securechannelmapping", "SecureChannelMapping", SecureChannelMapping, "channel",
               methods=frozenset(("PUT", "PATCH", "DELETE")), also=("securechannel",))
TOKEN = Kind("securechanneltoken", "SecureChannelToken", SecureChannelToken, "token",
             methods=frozenset(("POST", "DELETE")))
LOCAL_IPS = Kind("securechannelavailablelocalips", "SecureChannelAvailableLocalIPs", SecureChannelAvailableLocalIPs,
                 "channel", methods=NO_CHANGE)
BUILT = (Built(TOKEN),)


@dataclass(frozen=True, slots=True)
class Member:
    """A node and how it is."""

    node: Node
    state: str
    """As `fairlead node list` says it."""
    address: str
    """From where it is connected, or where it is found."""


class Fleet(Protocol):
    """Who knows the nodes, and takes them out."""

    def members(self) -> Sequence[Member]:
        """All of them."""
        ...

    def member(self, node_id: str) -> Member | None:
        """The one with that id."""
        ...

    def free_addresses(self, most: int) -> Sequence[str]:
        """The lowest free internal addresses of engines."""
        ...

    async def remove_node(self, name: str, by: str) -> None:
        """Out of the cluster. Raises Refused."""
        ...


class Tokens(Protocol):
    """The tokens of `enrol`."""

    async def mint(self, *, lifetime_s: int, cloud: str, tenant: str, by: str) -> Token:
        """A new token for an engine. Raises Refused."""
        ...

    async def tokens(self) -> list[tuple[TokenRecord, int]]:
        """All tokens, newest first."""
        ...

    async def recognise(self, token: Token) -> TokenRecord | None:
        """The record of *token*, if it is one of ours, secret and all."""
        ...

    async def revoke(self, token_id: str, by: str) -> TokenRecord:
        """Make it worthless. Raises Refused."""
        ...


_STATUS = {"up": "SECURE_CHANNEL_CONNECTED", "late": "SECURE_CHANNEL_CONNECTED",
           "joining": "SECURE_CHANNEL_AUTH_TOKEN_SUCCESS", "frozen": "SECURE_CHANNEL_AUTH_ERRORS",
           "removed": "SECURE_CHANNEL_AUTH_IGNORED"}


def uuid_of(node: Node) -> str:
    """The uuid of a node in the public model."""
    return f"{'serviceengine' if node.role == 'engine' else 'controller'}-{node.id}"


def member_of(fleet: Fleet, uuid: str) -> Member | None:
    """The node with that uuid of the public model."""
    member = fleet.member(uuid.partition("-")[2])
    return member if member is not None and uuid_of(member.node) == uuid else None


@dataclass(frozen=True, slots=True)
class Mappings:
    """The nodes as secure channels."""

    fleet: Fleet

    @property
    def kind(self) -> Kind:
        """Their kind."""
        return MAPPING

    async def items(self) -> Sequence[Item]:
        """All of them, by name of the node."""
        return [_mapping(member) for member in self.fleet.members()]

    async def item(self, uuid: str) -> Item | None:
        """The one of a node."""
        member = member_of(self.fleet, uuid)
        return _mapping(member) if member is not None else None

    async def change(self, old: Item, value: Model, by: str) -> Item:
        """Only the mark for deletion can be set, and it revokes at once. Raises Refused FL-OBJECT-FIXED."""
        assert isinstance(value, SecureChannelMapping)
        if value.model_copy(update={"marked_for_delete": False}) != old.value:
            raise Refused("FL-OBJECT-FIXED", "a mapping says how a node is; only marked_for_delete can be set",
                          "leave the other fields as they are")
        if value.marked_for_delete:
            await self.remove(old, by)
        return Item(old.uuid, value, old.modified)

    async def remove(self, old: Item, by: str) -> None:
        """Revoke the node. Raises Refused."""
        if (member := member_of(self.fleet, old.uuid)) is not None:
            await self.fleet.remove_node(member.node.name, by)


@dataclass(frozen=True, slots=True)
class ChannelTokens:
    """The tokens of engines, and what clients have called tokens, which join nothing."""

    tokens: Tokens
    foreign: Shelved

    @property
    def kind(self) -> Kind:
        """Their kind."""
        return TOKEN

    async def items(self) -> Sequence[Item]:
        """All that are open or were used, newest first; then the clients' own."""
        ours = [_token(record) for record, _ in await self.tokens.tokens()
                if record.role == "engine" and record.state in _LISTED]
        return [*ours, *await self.foreign.items()]

    async def item(self, uuid: str) -> Item | None:
        """The one with that id; or the one whose text it is."""
        if found := await self.recognise(uuid):
            return found
        return next((item for item in await self.items() if item.uuid == uuid), None)

    async def recognise(self, text: str) -> Item | None:
        """The token whose text that is. It is named so in this answer only."""
        try:
            record = await self.tokens.recognise(Token.decode(text))
        except Refused:
            record = None
        ours = record is not None and record.state in _LISTED
        found = _token(record) if ours and record is not None else await self.foreign.item(_foreign_uuid(text))
        return Item(found.uuid, found.value.model_copy(update={"name": text}), found.modified) if found else None

    async def make(self, value: Model, by: str, *, tenant: str, uuid: str | None) -> Item:  # noqa: ARG002
        """Keep a client's own token, by its hash: it is listed and deleted as others, and joins nothing."""
        assert isinstance(value, SecureChannelToken)
        if await self.recognise(value.name) is not None:
            raise Refused("FL-OBJECT-EXISTS", "SecureChannelToken already exists", "it may be used as it is")
        if len(await self.foreign.items()) >= MOST_FOREIGN:
            raise Refused("FL-TOKEN-MANY", f"{MOST_FOREIGN} tokens of clients are kept", "delete some")
        name, own = value.name, _foreign_uuid(value.name)
        said = Metadata(key="code", val=FOREIGN)
        kept = value.model_copy(update={"name": own, "metadata": [m for m in value.metadata if m != said] + [said]})
        made = await self.foreign.make(kept, by, tenant=tenant, uuid=own)
        return Item(made.uuid, made.value.model_copy(update={"name": name}), made.modified)

    async def remove(self, old: Item, by: str) -> None:
        """Revoke it. Raises Refused FL-TOKEN-REDEEMED."""
        if (kept := await self.foreign.item(old.uuid)) is not None:
            await self.foreign.remove(kept, by)
        else:
            await self.tokens.revoke(old.uuid, by)


@dataclass(frozen=True, slots=True)
class LocalIPs:
    """The pool of engines' internal addresses."""

    fleet: Fleet

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return LOCAL_IPS

    async def items(self) -> Sequence[Item]:
        """The one pool."""
        free = [int(IPv4Address(address)) for address in self.fleet.free_addresses(MOST_FREE)]
        return [Item(f"{LOCAL_IPS.path}-default", SecureChannelAvailableLocalIPs(
            name="default", start=int(FIRST_ENGINE), end=int(LAST), free_ips=free))]

    async def item(self, uuid: str) -> Item | None:
        """The one pool."""
        return next((item for item in await self.items() if item.uuid == uuid), None)


class Lifetimes(Protocol):
    """The setting that says how long a token lives."""

    @property
    def se_token_timeout(self) -> int:
        """Minutes."""
        ...


def generating(tokens: Tokens, catalogue: Catalogue, lifetimes: Lifetimes) -> APIRouter:
    """GET securetoken-generate: a token for an engine."""
    router = APIRouter(tags=["SecureChannelToken"])

    @router.get("/api/securetoken-generate", summary="Generate a token for an engine",
                responses=answer(answers.GeneratedToken))
    async def generate(request: Request, cloud_uuid: str = "", caller: str = needs("bundle:write")) -> Response:
        asked = Asking(request, catalogue, TOKEN)
        cloud = await catalogue.find("cloud", cloud_uuid) if cloud_uuid else None
        if cloud_uuid and cloud is None:
            raise Refused("FL-OBJECT-UNKNOWN", f"Cloud object not found: {printable(cloud_uuid, 80)}",
                          "see GET /api/cloud")
        tenant = await asked.tenant()
        token = await tokens.mint(lifetime_s=lifetimes.se_token_timeout * 60, cloud=cloud_uuid,
                                  tenant="" if tenant == EVERY_TENANT else tenant, by=caller)
        return JSONResponse({"auth_token": token.encode()},
                            headers=asked.headers | {"cache-control": "no-store"})

    return router


def _mapping(member: Member) -> Item:
    node = member.node
    state = [Metadata(key="node", val=node.name), Metadata(key="state", val=member.state)]
    return Item(uuid_of(node), SecureChannelMapping(
        name=uuid_of(node), ip=member.address.rpartition(":")[0] or member.address or None,
        is_controller=node.role == "controller", local_ip=node.internal_address, auth_token=node.token_id or None,
        metadata=state, pub_key=node.user_key, pub_key_pem=_pem(node.user_key),
        status=_STATUS.get(member.state, "SECURE_CHANNEL_NONE")), node.joined_at)


def _pem(line: str) -> str:
    body = base64.b64encode(_SPKI_ED25519 + PublicKey.from_line(line).raw).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"


_SPKI_ED25519 = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of the key (RFC 8410)."""


def _token(record: TokenRecord) -> Item:
    metadata = [Metadata(key="state", val=record.state), Metadata(key="issued_by", val=record.issued_by)]
    metadata += [Metadata(key=key, val=val) for key, val in (("cloud_uuid", record.cloud), ("node", record.node or ""))
                 if val]
    return Item(record.id, SecureChannelToken(
        name=record.id, expiry_time=record.expires_at / SECOND, in_use=record.state in ("reserved", "redeemed"),
        metadata=metadata), max(record.issued_at, record.used_at))


def _foreign_uuid(text: str) -> str:
    """By the hash alone: who reads the list learns of no token."""
    return f"{TOKEN.path}-{hashlib.sha256(text.encode()).hexdigest()}"
