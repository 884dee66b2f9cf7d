"""Rotating the SSH host keys of the Controllers, all of them, each its own.

Each Controller makes its next key itself and tells the public one, signed by the key in use and by the new one; the
leader writes it into the Controller's record, from which plans, bundles and trust statements take both. Once everybody
has said that he pins both, all show the new one; and when all do, the old ones are revoked and deleted.

Rules, and what each stops:

1. A next key counts with two signatures over this rotation, this Controller and both keys: nobody gives a Controller
   another's key, nor one of his own because he can write into the store.
2. A private host key is on no other machine and in no record.
3. It needs every Controller: one that slept through it would show a key that nobody accepts any more. So it does not
   begin without one, nor go on.
4. A connection that stands goes on with the key that it began with; whoever has stolen a retired key is refused by
   everybody who dials anew.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from fairlead.audit.record import Entry
from fairlead.base.errors import Refused
from fairlead.cluster.undertaking import Journal, Records
from fairlead.controller.telling import Telling
from fairlead.fleet.attached import Whereabouts
from fairlead.keys.ssh import KeyRefused, PrivateKey, PublicKey
from fairlead.keys.wire import b64, from_b64, string
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.records import KEYS, NODES, KeyEntry, encode, key_from, node_from
from fairlead.rotation.phases import Rotation
from fairlead.store.fence import Fence, NotLeading
from fairlead.store.protocol import Absent, Compare, Operation, Put, Unchanged

KIND = "host-keys"
IN_USE_NAMESPACE, NEXT_NAMESPACE = "fairlead-host-key-in-use-v1", "fairlead-host-key-next-v1"
SHOWN, NEXT, PROOF, KEPT, PINS, PROBLEM = (f"host-key-{name}" for name in (
    "shown", "next", "proof", "kept", "pins", "problem"))
"""What a Controller says of its keys: fingerprints, but for *next*, a line, and *proof*."""


def statement(cluster_uuid: UUID, rotation: str, node_id: str, present: PublicKey, following: PublicKey) -> bytes:
    """What both keys sign."""
    return b"".join((string("fairlead-host-key-v1"), string(cluster_uuid.bytes), string(rotation), string(node_id),
                     string(present.blob), string(following.blob)))


def proof(cluster_uuid: UUID, rotation: str, node_id: str, present: PrivateKey, following: PrivateKey) -> str:
    """That the Controller with the key *present* has the key *following* as well."""
    said = statement(cluster_uuid, rotation, node_id, present.public, following.public)
    return f"{b64(present.sign(IN_USE_NAMESPACE, said))} {b64(following.sign(NEXT_NAMESPACE, said))}"


def proven(cluster_uuid: UUID, rotation: str, node: Node, told: Mapping[str, str]) -> PublicKey | None:
    """The next key of *node* by what it has *told*, if both signatures are right."""
    try:
        present, following = PublicKey.from_line(node.host_key), PublicKey.from_line(told.get(NEXT, ""))
        first, second = map(from_b64, told.get(PROOF, "").split(" "))
    except (KeyRefused, ValueError):
        return None
    said = statement(cluster_uuid, rotation, node.id, present, following)
    if present == following or not present.verifies(IN_USE_NAMESPACE, said, first) or not following.verifies(
            NEXT_NAMESPACE, said, second):
        return None
    return following


@dataclass(frozen=True, slots=True)
class HostKeyRotation:
    """A kind of rotation."""

    cluster_uuid: UUID
    store: Records
    audit: Journal
    directory: Directory
    fence: Fence
    telling: Telling
    here: Callable[[], Sequence[str]]
    """The Controllers that are connected, this one among them, by name."""
    attached: Callable[[], Awaitable[Whereabouts]]
    """The engines that are connected to any Controller."""

    async def check(self, to: str) -> None:
        """Whether every Controller is there. Raises Refused FL-ROTATE-CONTROLLER, FL-ROTATE-KIND."""
        if to:
            raise Refused("FL-ROTATE-KIND", "host keys are made by their Controllers: no certificate is named",
                          "leave --to out")
        missing = sorted({node.name for node in self.directory.controllers()} - set(self.here()))
        if missing:
            raise Refused("FL-ROTATE-CONTROLLER", f"{', '.join(missing)} cannot be asked, and every Controller makes "
                          "its next host key itself", "start it, or `fairlead node remove` it")

    async def stranded(self, to: str) -> Mapping[str, str]:  # noqa: ARG002 - a kind's
        """Engines that pin one key only and follow no statements."""
        return (await self.attached()).too_old

    async def stage(self, rotation: Rotation) -> Mapping[str, str]:
        """Write down the next keys that Controllers have told; by id, those that are known now."""
        known: dict[str, str] = {}
        for node in self.directory.controllers():
            told = self.telling.of(node.id)
            following = proven(self.cluster_uuid, rotation.id, node, told)
            if following is None:
                continue
            if node.next_host_key != following.line:
                if following.fingerprint in self.directory.keys:  # somebody has it, or had it
                    continue
                await self._follow(node, following, rotation)
            known[node.id] = following.line
        return known

    async def behind(self, rotation: Rotation) -> Mapping[str, str]:
        """The Controllers that have not done what the phase asks for."""
        why = self._why(rotation)
        return {node.name: self.telling.of(node.id).get(PROBLEM) or reason for node in self.directory.controllers()
                if (reason := why(node))}

    def _why(self, rotation: Rotation) -> Callable[[Node], str]:
        following = {node_id: PublicKey.from_line(line).fingerprint for node_id, line in rotation.material.items()}

        def said(node: Node, fact: str) -> str:
            return self.telling.of(node.id).get(fact, "")

        def made(node: Node) -> str:
            return "" if node.id in rotation.material else "it has not made its next host key"

        def pins(node: Node) -> str:
            others = {key for node_id, key in following.items() if node_id != node.id and node_id in self._ids}
            return "" if others <= set(said(node, PINS).split()) else "it does not pin the next host keys yet"

        def shows(node: Node) -> str:
            wanted = following.get(node.id, said(node, SHOWN))
            return "" if said(node, SHOWN) == wanted else "it shows its old host key"

        def shows_again(node: Node) -> str:
            wanted = PublicKey.from_line(node.host_key).fingerprint
            return "" if said(node, SHOWN) == wanted else "it shows its new host key"

        def has_one(node: Node) -> str:
            return "it has kept a host key that is worth nothing" if said(node, KEPT) else ""

        return {"stage": made, "acknowledge": pins, "cut-over": shows, "cut-back": shows_again,
                "retire": lambda node: shows(node) or has_one(node), "withdraw": has_one}.get(
                    rotation.phase, lambda _: "")

    @property
    def _ids(self) -> set[str]:
        return {node.id for node in self.directory.controllers()}

    async def cut_over(self, rotation: Rotation) -> None:
        """Each Controller does it by itself, when it sees the phase."""

    async def cut_back(self, rotation: Rotation) -> None:
        """Likewise."""

    async def retire(self, rotation: Rotation) -> None:
        """The next keys are the only ones; those before are revoked."""
        for node in self.directory.controllers():
            if node.next_host_key and rotation.material.get(node.id) == node.next_host_key:
                await self._end(node, replace(node, host_key=node.next_host_key, next_host_key=""), node.host_key,
                                "host-key.retired", rotation)

    async def withdraw(self, rotation: Rotation) -> None:
        """The keys that are shown are the only ones; those that were to follow are revoked.

        A Controller that did not come back from the cut, because it is off or has lost its old key, keeps the new one:
        everybody pins it, and would refuse the Controller otherwise.
        """
        for node in self.directory.controllers():
            if not node.next_host_key:
                continue
            if self.telling.of(node.id).get(SHOWN) == PublicKey.from_line(node.next_host_key).fingerprint:
                await self._end(node, replace(node, host_key=node.next_host_key, next_host_key=""), node.host_key,
                                "host-key.retired", rotation)
            else:
                await self._end(node, replace(node, next_host_key=""), node.next_host_key, "host-key.withdrawn",
                                rotation)

    async def _follow(self, node: Node, following: PublicKey, rotation: Rotation) -> None:
        key = KEYS + following.fingerprint
        then: list[Operation] = [Put(key, encode(KeyEntry(node.id, "host", "active", "", following.line)))]
        compare: list[Compare] = [Absent(key)]
        if node.next_host_key:  # of a Controller that has lost it
            await self._revoke(PublicKey.from_line(node.next_host_key), compare, then)
        await self._write(node, replace(node, next_host_key=following.line), compare, then,
                          Entry("host-key.next", node.name, rotation.by, {"fingerprint": following.fingerprint}))

    async def _end(self, before: Node, after: Node, ended: str, event: str, rotation: Rotation) -> None:
        public = PublicKey.from_line(ended)
        compare, then = list[Compare](), list[Operation]()
        await self._revoke(public, compare, then)
        await self._write(before, after, compare, then,
                          Entry(event, before.name, rotation.by, {"fingerprint": public.fingerprint}))

    async def _revoke(self, public: PublicKey, compare: list[Compare], then: list[Operation]) -> None:
        stored = await self.store.get(KEYS + public.fingerprint)
        if stored is not None:
            compare.append(Unchanged(stored.key, stored.revision))
            then.append(Put(stored.key, encode(replace(key_from(stored.value), state="revoked"))))

    async def _write(self, before: Node, after: Node, compare: Sequence[Compare], then: Sequence[Operation],
                     entry: Entry) -> None:
        """Raises NotLeading when somebody else has changed the record: it is looked at again."""
        stored = await self.store.get(NODES + before.id)
        if stored is None or node_from(stored.value) != before:
            raise NotLeading(None)
        outcome = await self.audit.append_with(
            [*self.fence(), Unchanged(stored.key, stored.revision), *compare], [Put(stored.key, encode(after)), *then],
            [entry])
        if not outcome.succeeded:
            raise NotLeading(None)
        await self.directory.reached(outcome.revision)
