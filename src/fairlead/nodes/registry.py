"""Changes of nodes and services: removal, release, labels, declarations, epochs. Each is one transaction with its
audit record in the same step.

Removal revokes the keys for ever, leaves the name a tombstone and lets the address rest (seed: *internal loopback IP
addresses and node names are allocated*): a new node inherits nothing from an old one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from fairlead.audit.record import Entry
from fairlead.base.errors import Refused
from fairlead.keys.ssh import PublicKey
from fairlead.nodes.directory import REST, Directory
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.policy import clash
from fairlead.nodes.records import (
    ADDRESSES,
    EPOCHS,
    KEYS,
    MENTIONS,
    NAMES,
    NODES,
    SERVICES,
    SERVICES_CHANGED,
    AddressEntry,
    NameEntry,
    address_from,
    encode,
    key_from,
    node_from,
    secrets_of,
)
from fairlead.nodes.service import STORE_SERVICES, Service, check_label
from fairlead.store.fence import Fence, unfenced
from fairlead.store.protocol import (
    Absent,
    Compare,
    Delete,
    Operation,
    Outcome,
    Put,
    Record,
    StoreUnavailable,
    Unchanged,
)

TRIES = 3


class Records(Protocol):
    """What the registry needs of the store."""

    async def get(self, key: str) -> Record | None:
        """The record of a key."""
        ...

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """Do all of *then* if all of *compare* hold."""
        ...

    async def now(self) -> int:
        """Store time, microseconds."""
        ...


class Journal(Protocol):
    """A transaction with its audit record."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do all of *then*, and record *entries*, if all of *compare* hold."""
        ...


class Registry:
    """The writing side of `Directory`."""

    def __init__(self, store: Records, audit: Journal, directory: Directory, fence: Fence = unfenced) -> None:
        """*fence*: what removal and release compare besides, for they are the leader's; none with a single writer."""
        self._store = store
        self._audit = audit
        self._directory = directory
        self._fence = fence

    async def remove(self, name: str, by: str, event: str = "node.removed", *, voters: bool = False) -> Node:
        """Remove a node for good; its keys never log in again. Raises Refused, NotLeading.

        *voters*: a Controller, too; its member of the store has gone before.
        """
        self._fence()
        for _ in range(TRIES):
            node, stored = await self._read(name)
            if node.role == "controller" and node.state == "up" and not voters:
                raise Refused("FL-NODE-CONTROLLER", f"{name} is a Controller and the only one",
                              "`fairlead controller destroy` on that machine ends the cluster")
            if node.state == "joining" and not node.joined_at:
                raise Refused("FL-NODE-STATE", f"{name} is still joining",
                              f"`fairlead token revoke {node.token_id}` ends that")
            now = await self._store.now()
            compare: list[Compare] = [*self._fence(), Unchanged(stored.key, stored.revision)]
            then: list[Operation] = [Delete(stored.key),
                                     Put(NAMES + node.name, encode(NameEntry(node.id, "tombstone")))]
            address = await self._store.get(ADDRESSES + node.internal_address)
            if address is not None and address_from(address.value).node_id == node.id:
                compare.append(Unchanged(address.key, address.revision))
                then.append(Put(address.key, encode(AddressEntry(node.id, "quarantined", now + REST))))
            for line in filter(None, (node.host_key, node.next_host_key, *node.user_keys)):
                key = await self._store.get(KEYS + PublicKey.from_line(line).fingerprint)
                if key is not None:
                    compare.append(Unchanged(key.key, key.revision))
                    then.append(Put(key.key, encode(replace(key_from(key.value), state="revoked"))))
            if node.role == "controller":
                then += map(Delete, secrets_of(node.id))
            entry = Entry(event, node.name, by, {"node_id": node.id, "address": node.internal_address,
                                                 "host_key": PublicKey.from_line(node.host_key).fingerprint})
            if await self._do(compare, then, entry):
                return node
        raise _busy()

    async def release(self, name: str, fingerprint: str, by: str) -> Node:
        """Let a frozen node back in, when *fingerprint* is that of its host or user key. Raises Refused, NotLeading."""
        self._fence()
        for _ in range(TRIES):
            node, stored = await self._read(name)
            if node.state != "frozen":
                raise Refused("FL-NODE-STATE", f"{name} is {node.state}, not frozen", "there is nothing to release")
            if fingerprint not in (PublicKey.from_line(k).fingerprint for k in (node.host_key, *node.user_keys)):
                raise Refused("FL-NODE-FINGERPRINT", f"the keys of {name} have another fingerprint",
                              f"read it on the machine's console, compare it with `fairlead node show {name}`; if "
                              f"they differ, `fairlead node remove {name}`")
            entry = Entry("node.released", node.name, by, {"fingerprint": fingerprint})
            # a Controller freezes before its admission only, and that is still to come
            released = replace(node, state="up" if node.role == "engine" else "joining")
            compare = [*self._fence(), Unchanged(stored.key, stored.revision)]
            if await self._do(compare, [Put(stored.key, encode(released))], entry):
                return released
        raise _busy()

    async def label(self, name: str, labels: Sequence[str], by: str) -> Node:
        """Set labels ``key=value``; ``key-`` takes one away. Raises Refused."""
        for _ in range(TRIES):
            node, stored = await self._read(name)
            changed = dict(node.labels)
            for text in labels:
                if text.endswith("-") and "=" not in text:
                    changed.pop(text[:-1], None)
                else:
                    key, value = check_label(text)
                    changed[key] = value
            entry = Entry("node.labelled", node.name, by, {"labels": " ".join(labels)})
            new = replace(node, labels=dict(sorted(changed.items())))
            if await self._do([Unchanged(stored.key, stored.revision)], [Put(stored.key, encode(new))], entry):
                return new
        raise _busy()

    async def drain(self, name: str, by: str, *, drained: bool) -> Node:
        """Have nothing new begin at an engine or from it, or again. Raises Refused."""
        for _ in range(TRIES):
            node, stored = await self._read(name)
            if node.role != "engine":
                raise Refused("FL-NODE-CONTROLLER", f"{name} is a Controller", "stop its daemon: it drains by itself")
            if node.drained == drained:
                return node
            entry = Entry("node.drained" if drained else "node.undrained", node.name, by, {})
            new = replace(node, drained=drained)
            if await self._do([Unchanged(stored.key, stored.revision)], [Put(stored.key, encode(new))], entry):
                return new
        raise _busy()

    async def announce(self, node_id: str, endpoint: Endpoint, by: str) -> None:
        """A Controller is found at another address from now on. Raises Refused."""
        for _ in range(TRIES):
            stored = await self._store.get(NODES + node_id)
            if stored is None:
                raise Refused("FL-NODE-REMOVED", "this node is no longer in the cluster")
            node = node_from(stored.value)
            if node.endpoint == endpoint:
                return
            entry = Entry("node.address", node.name, by, {"addresses": " ".join(endpoint.addresses),
                                                          "ssh_port": endpoint.ssh_port,
                                                          "portal_port": endpoint.portal_port})
            if await self._do([Unchanged(stored.key, stored.revision)],
                              [Put(stored.key, encode(replace(node, endpoint=endpoint)))], entry):
                return
        raise _busy()

    async def next_epoch(self, node_id: str) -> int:
        """The epoch of a log-in that happens now: higher than that of every earlier one."""
        while True:
            stored = await self._store.get(EPOCHS + node_id)
            epoch = int(stored.value) + 1 if stored else 1
            compare: Compare = Unchanged(stored.key, stored.revision) if stored else Absent(EPOCHS + node_id)
            if (await self._store.transact([compare], [Put(EPOCHS + node_id, b"%d" % epoch)])).succeeded:
                return epoch

    async def add_service(self, service: Service, by: str) -> Service:
        """Declare a service. Raises Refused when its name, port or owner does not fit."""
        for _ in range(TRIES):
            changed = await self._store.get(SERVICES_CHANGED)
            if changed is not None:
                await self._directory.reached(changed.revision)  # what was declared a moment ago counts too
            nodes, services = self._directory.nodes.values(), self._directory.services.values()
            if service.name in self._directory.services:
                raise Refused("FL-SERVICE-EXISTS", f"a service {service.name} exists already",
                              f"`fairlead service remove {service.name}` first, or choose another name")
            owner = self._directory.named(service.owner)
            if owner is None and not service.owner.startswith("role:"):
                raise Refused("FL-NODE-UNKNOWN", f"there is no node {service.owner}", "see `fairlead node list`")
            other = clash(service, [*services, *STORE_SERVICES], nodes)
            if other is not None:
                raise Refused("FL-SERVICE-PORT", f"port {service.port} at {service.owner} belongs to {other.name}",
                              "choose another --port; the --target may stay")
            role = service.owner.removeprefix("role:") if owner is None else owner.role
            if role == "engine" and self._only_engines(service):
                raise Refused("FL-SERVICE-ENGINES", "engine to engine is not offered: nobody could reach the service",
                              "allow controllers, or a Controller by name")
            if role == "controller" and service.scrape:
                raise Refused("FL-SERVICE", "exporters that Prometheus is to find are engines'",
                              "leave --scrape out, and name a Controller's exporter in Prometheus's configuration")
            entry = Entry("service.added", service.name, by, {
                "owner": service.owner, "port": service.port, "target": service.target,
                "allow": " ".join(service.allow), **({"scrape": service.scrape} if service.scrape else {})})
            compare: list[Compare] = [Absent(SERVICES + service.name), _as_read(changed, SERVICES_CHANGED)]
            if await self._do(compare, [Put(SERVICES + service.name, encode(service)),
                                        Put(SERVICES_CHANGED, service.name.encode()),
                                        *(Put(MENTIONS + name, service.name.encode()) for name in service.mentions)],
                              entry):
                return service
        raise _busy()

    async def remove_service(self, name: str, by: str) -> None:
        """Take a declaration back. Raises Refused."""
        for _ in range(TRIES):
            stored = await self._store.get(SERVICES + name)
            if stored is None:
                raise Refused("FL-SERVICE-UNKNOWN", f"there is no service {name!r}", "see `fairlead service list`")
            if await self._do([Unchanged(stored.key, stored.revision)],
                              [Delete(stored.key), Put(SERVICES_CHANGED, name.encode())],
                              Entry("service.removed", name, by, {})):
                return
        raise _busy()

    def _only_engines(self, service: Service) -> bool:
        engines = {n.name for n in self._directory.nodes.values() if n.role == "engine"}
        return all(who == "engines" or who in engines for who in service.allow)

    async def _read(self, name: str) -> tuple[Node, Record]:
        node = self._directory.named(name)
        stored = await self._store.get(NODES + node.id) if node else None
        if stored is None:
            raise Refused("FL-NODE-UNKNOWN", f"there is no node {name!r}", "see `fairlead node list`")
        return node_from(stored.value), stored

    async def _do(self, compare: Sequence[Compare], then: Sequence[Operation], entry: Entry) -> bool:
        outcome = await self._audit.append_with(compare, then, [entry])
        if outcome.succeeded:
            await self._directory.reached(outcome.revision)
        return outcome.succeeded


def _as_read(record: Record | None, key: str) -> Compare:
    return Absent(key) if record is None else Unchanged(key, record.revision)


def _busy() -> StoreUnavailable:
    return StoreUnavailable("the record changed three times while it was being changed")
