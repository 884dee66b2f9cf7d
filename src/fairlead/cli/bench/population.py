"""Many engines in the store of a Controller that does not run, as if each had joined; nobody has their private keys."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from uuid import uuid4

from fairlead.base.clock import SystemClock
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.nodes import records
from fairlead.nodes.address import candidates
from fairlead.nodes.node import Node
from fairlead.nodes.records import AddressEntry, KeyEntry, NameEntry
from fairlead.store.protocol import MOST_OPERATIONS, Put
from fairlead.store.sqlite import SQLiteStore

RECORDS_EACH = 5


async def settle(store_file: Path, engines: int) -> Sequence[Node]:
    """Write them, with names, addresses and keys of their own. Raises OperatorError."""
    store = SQLiteStore.open(store_file, SystemClock())
    try:
        now = await store.now()
        nodes = [_engine(number, address, now) for number, address in enumerate(islice(candidates("engine"), engines))]
        at_a_time = MOST_OPERATIONS // RECORDS_EACH
        for first in range(0, engines, at_a_time):
            await store.transact([], [put for node in nodes[first:first + at_a_time] for put in _written(node)])
        return nodes
    finally:
        await store.close()


def _engine(number: int, address: str, now: int) -> Node:
    return Node(id=str(uuid4()), name=f"engine-{number:04}", role="engine", state="up", internal_address=address,
                host_key=PrivateKey.generate().public.line, user_key=PrivateKey.generate().public.line, joined_at=now,
                labels={"site": f"site-{number % 20}"}, software="0.1.0", token_id=uuid4().hex)


def _written(node: Node) -> list[Put]:
    keys = KeyEntry(node.id, "host", "active", node.token_id, node.host_key), KeyEntry(
        node.id, "user", "active", node.token_id, node.user_key)
    return [Put(records.NODES + node.id, records.encode(node)),
            Put(records.NAMES + node.name, records.encode(NameEntry(node.id, "held"))),
            Put(records.ADDRESSES + node.internal_address, records.encode(AddressEntry(node.id, "held"))),
            *(Put(records.KEYS + PublicKey.from_line(key.line).fingerprint, records.encode(key)) for key in keys)]
