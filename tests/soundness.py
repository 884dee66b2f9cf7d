"""What is true of a Controller's store at every moment, whatever was lost, crashed or refused before it.

Everything that is held is held by a node that is there, every node holds all that is its own, every token says what
became of it, and the audit log tells the same story. What the Controller has in memory is what the store has.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from fairlead.audit.log import RECORDS
from fairlead.audit.record import decode
from fairlead.enrol import state as states
from fairlead.enrol.redeem import ANCHORS, LIVE, REFUSALS, TOKENS
from fairlead.enrol.state import TokenRecord
from fairlead.keys.ssh import PublicKey
from fairlead.nodes import records
from fairlead.nodes.directory import REST
from fairlead.nodes.node import Node
from fairlead.nodes.records import AddressEntry, KeyEntry, NameEntry
from fairlead.store.protocol import Listing
from tests.world import World

T = TypeVar("T")
_ENDS = {"expired": {"token.expired", "join.expired"}, "revoked": {"token.revoked", "join.revoked"},
         "frozen": {"join.interception"}}
_REFUSED = {"join.refused", "join.bound", "token.late-use"}


async def sound(world: World) -> None:
    """Fail when anything in *world*'s store is lost, held twice, half done or unaccounted for."""
    listing = await world.store.list("")
    nodes = _table(listing, records.NODES, records.node_from)
    keys = _table(listing, records.KEYS, records.key_from)
    addresses = _table(listing, records.ADDRESSES, records.address_from)
    names = _table(listing, records.NAMES, records.name_from)
    tokens = _table(listing, TOKENS, states.decode)
    now = await world.store.now()

    for node_id, node in nodes.items():
        _whole(node_id, node, keys, addresses, names, tokens)
    for name, held in names.items():
        assert held.state == "tombstone" or nodes[held.node_id].name == name, f"{name} is held by nobody"
        assert held.state == "held" or held.node_id not in nodes
    for address, entry in addresses.items():
        if entry.state == "held":
            assert nodes[entry.node_id].internal_address == address, f"{address} is held by nobody"
        else:
            assert entry.node_id not in nodes
            assert entry.until <= now + REST
    for fingerprint, key in keys.items():
        if key.state == "revoked":
            assert key.node_id not in nodes
        else:
            assert fingerprint in _fingerprints(nodes[key.node_id]).values(), f"{fingerprint} is nobody's"

    live = _table(listing, LIVE, bytes)
    refusals = _table(listing, REFUSALS, int)
    assert live.keys() | refusals.keys() <= tokens.keys()
    await world.audit.verify()
    history: dict[str, Counter[str]] = {}
    for record in _table(listing, RECORDS, partial(decode, place="")).values():
        history.setdefault(record.subject, Counter())[record.event] += 1
    for token_id, token in tokens.items():
        assert token.id == token_id
        lives = token.deadline is not None
        assert not lives or now >= token.commit_by or token_id in live
        assert lives or token_id not in live
        assert not lives or token.anchor_hash in _table(listing, ANCHORS, bytes)
        _accounted(token, nodes, keys)
        _told(token, history[token_id], refusals.get(token_id, 0))

    await world.directory.reached(listing.revision)
    assert world.directory.nodes == nodes
    assert world.directory.keys == keys
    assert {a: entry for a, (entry, _) in world.directory.addresses.items()} == addresses


def _table(listing: Listing, prefix: str, read: Callable[[bytes], T]) -> dict[str, T]:
    return {r.key.removeprefix(prefix): read(r.value) for r in listing.records if r.key.startswith(prefix)}


def _fingerprints(node: Node) -> dict[str, str]:
    return {"host": PublicKey.from_line(node.host_key).fingerprint,
            "user": PublicKey.from_line(node.user_key).fingerprint}


def _whole(node_id: str, node: Node, keys: dict[str, KeyEntry], addresses: dict[str, AddressEntry],
           names: dict[str, NameEntry], tokens: dict[str, TokenRecord]) -> None:
    """A node holds its name, its address and its two keys, and came by a token that says so."""
    assert node.id == node_id
    assert names[node.name] == NameEntry(node_id, "held")
    assert addresses[node.internal_address] == AddressEntry(node_id, "held")
    for use, fingerprint in _fingerprints(node).items():
        key = keys[fingerprint]
        assert (key.node_id, key.use, key.token_id) == (node_id, use, node.token_id)
        assert key.state == ("active" if node.joined_at else "pending")
    if node.token_id in tokens or not node.joined_at:  # of who joined long ago the token is forgotten
        token = tokens[node.token_id]
        assert (token.node_id, token.state) == (node_id, "redeemed" if node.joined_at else "reserved")


def _accounted(token: TokenRecord, nodes: dict[str, Node], keys: dict[str, KeyEntry]) -> None:
    """A token has led to one node, or to nothing that is left."""
    its = Counter(key.state for key in keys.values() if key.token_id == token.id)
    there = token.node_id in nodes
    match token.state:
        case "open":
            assert (token.node_id, its) == (None, {})
        case "reserved":
            assert there
        case "redeemed":
            assert its == ({"active": 2} if there else {"revoked": 2})
        case "frozen":
            assert (there, its) == (False, {"revoked": 2})
        case _:
            assert (there, its) == (False, {})


def _told(token: TokenRecord, told: Counter[str], refused: int) -> None:
    """Each step of a token is on record, once."""
    assert told["token.issued"] == 1
    assert told["join.reserved"] == (token.node_id is not None)
    assert told["join.committed"] == (token.state == "redeemed")
    assert told["join.interception-late"] == (token.conflict is not None)
    for state, events in _ENDS.items():
        assert sum(told[event] for event in events) == (token.state == state)
    assert sum(told[event] for event in _REFUSED) == refused
