"""What a node was shown of the audit chains of others: the heads that it keeps, in a file of its own.

Rules, and what each stops:

1. A head is kept only when its node's host key, as this node has it pinned, has signed it: nobody makes a witness say
   what that node did not.
2. What is kept does not change because a later head says otherwise. A head that contradicts, and the one that it
   contradicts, are set aside as evidence, and both outlast everything that comes later.
3. There is a bound to all of it, whoever sends: the heads that lie close together go first, the oldest and the newest
   stay, so that a chain that was written anew is still told from the one before it.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fairlead.audit.head import SignedHead, check, decode
from fairlead.base import files, strict
from fairlead.base.errors import FairleadError, OperatorError
from fairlead.keys.ssh import PublicKey

FILE = "witness.json"
MOST_KEPT = 32
"""Heads of one node."""
MOST_EVIDENCE = 16
"""Of one node: the first ones. Two make a contradiction."""
MOST_NODES = 64
"""Nodes whose heads are kept; a cluster has fewer Controllers."""

News = Literal["kept", "nothing", "generation", "contradiction"]
"""What a head was to its witness: the next one; one that it had, or an older one; the first one of another generation
of the store; one that does not follow from those it had."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a witness was shown of one chain."""

    kept: tuple[SignedHead, ...] = ()
    """As they came; those of one generation rise."""
    evidence: tuple[SignedHead, ...] = ()
    """Heads that contradict one another."""

    @property
    def heads(self) -> Sequence[SignedHead]:
        """All of them, each once."""
        return list(dict.fromkeys((*self.evidence, *self.kept)))


def learn(shown: Shown, head: SignedHead) -> tuple[Shown, News]:
    """What a witness has after *head*, which is its node's, and what that head was. Pure."""
    if any((head.generation, head.head) == (one.generation, one.head) for one in shown.heads):
        return shown, "nothing"
    last = shown.kept[-1] if shown.kept else None
    if last is None or head.generation != last.generation:
        if any(one.generation == head.generation for one in shown.kept):  # the store went back to before a restore
            return _contradicted(shown, head)
        return replace(shown, kept=_thinned((*shown.kept, head))), "generation" if last else "kept"
    if head.seq > last.seq:
        return replace(shown, kept=_thinned((*shown.kept, head))), "kept"
    if head.seq < last.seq and head.time <= last.time:  # said before the last one, and late to arrive
        return shown, "nothing"
    return _contradicted(shown, head)


def _contradicted(shown: Shown, head: SignedHead) -> tuple[Shown, News]:
    """Set *head* aside, with the lowest one that it speaks against; nothing, when it only goes on from such a one."""
    if shown.evidence and (other := shown.evidence[-1]).generation == head.generation and (
            (other.seq < head.seq and other.time <= head.time) or len(shown.evidence) >= MOST_EVIDENCE):
        return shown, "nothing"
    against = next(one for one in shown.kept if (one.generation == head.generation and one.seq >= head.seq)
                   or one is shown.kept[-1])
    return replace(shown, evidence=(*shown.evidence, *(one for one in (against, head)
                                                       if one not in shown.evidence))[:MOST_EVIDENCE]), "contradiction"


def _thinned(kept: tuple[SignedHead, ...]) -> tuple[SignedHead, ...]:
    """*kept* within its bound: the one goes whose neighbours are closest to each other for their age."""
    if len(kept) <= MOST_KEPT:
        return kept

    def gap(at: int) -> float:
        return abs(kept[at + 1].time - kept[at - 1].time) / (abs(kept[-1].time - kept[at].time) + 1)

    least = min(range(1, len(kept) - 1), key=gap)
    return (*kept[:least], *kept[least + 1:])


class Witness:
    """The heads that one node keeps, at `path`."""

    def __init__(self, path: Path, cluster_uuid: str, shown: Mapping[str, Shown]) -> None:
        self._path = path
        self._cluster_uuid = cluster_uuid
        self._shown = dict(shown)
        self._turn = asyncio.Lock()

    @classmethod
    def open(cls, path: Path, cluster_uuid: str) -> "Witness":
        """The witness at *path*; one without heads where there is no file.

        Raises OperatorError ``FL-STATE-OPEN``, ``FL-STATE-DAMAGED``.
        """
        try:
            found = strict.loads(files.read_private(path))
            shown = {str(node): Shown(*(tuple(map(decode, each[name])) for name in ("kept", "evidence")))
                     for node, each in found.items()}
        except FileNotFoundError:
            shown = {}
        except (ValueError, TypeError, KeyError, AttributeError, FairleadError) as error:
            if isinstance(error, OperatorError):
                raise
            raise OperatorError("FL-STATE-DAMAGED", f"{path} does not read as heads of audit logs",
                                "keep a copy and move it away; the heads in it are lost") from None
        return cls(path, cluster_uuid, {node: each for node, each in shown.items()
                                        if all(head.cluster_uuid == cluster_uuid for head in each.heads)})

    async def take(self, text: str, node: str, host_key: PublicKey) -> News:
        """`keep`, one at a time and beside the loop: a disk that is slow just now holds up no stream."""
        async with self._turn:
            return await asyncio.to_thread(self.keep, text, node, host_key)

    def keep(self, text: str, node: str, host_key: PublicKey) -> News:
        """Take the head that *node*, known by its pinned *host_key*, says is its own; on the disk afterwards.

        Raises Refused ``FL-AUDIT-HEAD``, OperatorError when the disk refuses: then it is forgotten.
        """
        head = decode(text)
        check(head, host_key, cluster_uuid=self._cluster_uuid, node=node)
        before = self._shown.get(node, Shown())
        after, news = learn(before, head)
        if after is not before:
            changed = {**self._shown, node: after}
            while len(changed) > MOST_NODES:
                del changed[next(iter(changed))]
            files.write_private(self._path, _encoded(changed))
            self._shown = changed
        return news

    @property
    def heads(self) -> Sequence[SignedHead]:
        """All that it was shown."""
        return [head for each in self._shown.values() for head in each.heads]


def _encoded(shown: Mapping[str, Shown]) -> bytes:
    return json.dumps({node: {"kept": [head.text() for head in each.kept],
                              "evidence": [head.text() for head in each.evidence]}
                       for node, each in shown.items()}, indent=1).encode()
