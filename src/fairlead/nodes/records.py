"""How nodes, names, addresses, keys and services stand in the store. Pure: JSON in, domain out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from fairlead.nodes.node import Node
from fairlead.nodes.service import Service

NODES = "nodes/"
NAMES = "names/"
ADDRESSES = "addresses/"
KEYS = "keys/"
SERVICES = "services/"
EPOCHS = "epochs/"
CLUSTER_KEYS = "cluster/key/"
"""The cluster key as each Controller's own key opens it."""
API_CERTIFICATES = "pki/certificate/System-Default-Portal-Cert/"
"""What each Controller's API presents, once the first one's certificate does not name its addresses; sealed."""
EXPIRY = "expiry/"
"""Of which certificates it is on record that they come near their end; below a node's id: of its own."""
TOLD = "told/"
"""What each Controller says of itself, by its id (`controller.telling`)."""
SERVICES_CHANGED = "services-changed"
"""Rewritten with every change of a service, so that of two declarations at once one sees the other."""
MENTIONS = "mentions/"
"""By a name: rewritten with every service that mentions it, so that a join can compare that no policy began to."""


def secrets_of(node_id: str) -> Sequence[str]:
    """Keys of what is in the store for one Controller alone, and goes with it."""
    return CLUSTER_KEYS + node_id, API_CERTIFICATES + node_id, TOLD + node_id, *(
        f"{EXPIRY}{node_id}/{name}" for name in ("api", "store"))


@dataclass(frozen=True, slots=True)
class NameEntry:
    """Who has, or had, a name. A tombstone keeps a removed node's rights from a new one."""

    node_id: str
    state: Literal["held", "tombstone"]


@dataclass(frozen=True, slots=True)
class AddressEntry:
    """Who has, or had, an internal address; *until* (microseconds) it rests."""

    node_id: str
    state: Literal["held", "quarantined"]
    until: int = 0


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """What a key may do. ``revoked`` stays for ever: those keys never join again."""

    node_id: str
    use: Literal["host", "user"]
    state: Literal["pending", "active", "revoked"]
    token_id: str
    """The token that brought it, or the rotation."""
    line: str
    """``ssh-ed25519 <base64>``: a removed node's signature can still be told from a stranger's."""
    commit_by: int = 0
    """Until when a pending key may log in, microseconds."""


Entry = Node | NameEntry | AddressEntry | KeyEntry | Service

_NODE: TypeAdapter[Node] = TypeAdapter(Node)
_NAME: TypeAdapter[NameEntry] = TypeAdapter(NameEntry)
_ADDRESS: TypeAdapter[AddressEntry] = TypeAdapter(AddressEntry)
_KEY: TypeAdapter[KeyEntry] = TypeAdapter(KeyEntry)
_SERVICE: TypeAdapter[Service] = TypeAdapter(Service)


def node_from(value: bytes) -> Node:
    """The node of a stored value."""
    return _NODE.validate_json(value)


def name_from(value: bytes) -> NameEntry:
    """The name's entry of a stored value."""
    return _NAME.validate_json(value)


def address_from(value: bytes) -> AddressEntry:
    """The address's entry of a stored value."""
    return _ADDRESS.validate_json(value)


def key_from(value: bytes) -> KeyEntry:
    """The key's entry of a stored value."""
    return _KEY.validate_json(value)


def service_from(value: bytes) -> Service:
    """The service of a stored value."""
    return _SERVICE.validate_json(value)


def encode(entry: Entry) -> bytes:
    """The stored value of *entry*."""
    match entry:
        case Node():
            return _NODE.dump_json(entry)
        case NameEntry():
            return _NAME.dump_json(entry)
        case AddressEntry():
            return _ADDRESS.dump_json(entry)
        case KeyEntry():
            return _KEY.dump_json(entry)
        case Service():
            return _SERVICE.dump_json(entry)
