"""What a node was shown of the audit chains of others: the heads that it keeps, in a folder of its own.

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
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from fairlead.audit.head import SignedHead, check, decode, refused
from fairlead.base import files, strict
from fairlead.base.errors import Refused
from fairlead.keys.ssh import PublicKey

log = structlog.get_logger("fairlead.audit")

FOLDER = "witness"
ENGINES = "witness-engines"
"""Where a Controller keeps heads of its engines' journals."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
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
    """The heads that one node keeps, a file for each node that they are of, in a folder."""

    def __init__(self, folder: Path, cluster_uuid: str, *, most_nodes: int | None = MOST_NODES,
                 synced: bool = True) -> None:
        """Makes the *folder* where it is missing. Raises OperatorError.

        *most_nodes*: None where `retain` is the bound. Not *synced*: of thousands of nodes; a power cut may take the
        last ones.
        """
        files.make_private_folder(folder)
        self._folder = folder
        self._cluster_uuid = cluster_uuid
        self._most = most_nodes
        self._synced = synced
        self._turn = asyncio.Lock()

    async def take(self, text: str, node: str, *host_keys: PublicKey) -> News:
        """`keep`, one at a time and beside the loop: a disk that is slow just now holds up no stream."""
        async with self._turn:
            return await asyncio.to_thread(self.keep, text, node, *host_keys)

    def keep(self, text: str, node: str, *host_keys: PublicKey) -> News:
        """Take the head that *node*, known by its pinned *host_keys*, says is its own; on the disk afterwards.

        Raises Refused ``FL-AUDIT-HEAD``, OperatorError when the disk refuses: then it is forgotten.
        """
        head = decode(text)
        check(head, *host_keys, cluster_uuid=self._cluster_uuid, node=node)
        before = self.shown(node)
        after, news = learn(before, head)
        if after is not before:
            if before == Shown() and self._most is not None:
                self._make_room(self._most)
            files.write_private(self._path(node), json.dumps({
                "kept": [one.text() for one in after.kept], "evidence": [one.text() for one in after.evidence]},
                indent=1).encode(), synced=self._synced)
        return news

    def shown(self, node: str) -> Shown:
        """What it was shown of *node*. A file that does not read as that is set aside: its heads are lost, others not.

        Raises OperatorError FL-STATE-OPEN.
        """
        path = self._path(node)
        try:
            found = strict.loads(files.read_private(path))
            shown = Shown(*(tuple(map(decode, found[name])) for name in ("kept", "evidence")))
            if {head.node for head in shown.heads} - {node}:
                raise ValueError("heads of another node")
        except FileNotFoundError:
            return Shown()
        except (ValueError, TypeError, KeyError, AttributeError, Refused):
            aside = path.replace(path.with_suffix(".damaged"))
            log.error("audit.heads-damaged", path=str(aside), code="FL-STATE-DAMAGED", about=node)
            return Shown()
        if any(head.cluster_uuid != self._cluster_uuid for head in shown.heads):  # of an earlier life of the folder
            return Shown()
        return shown

    def told(self, node: str) -> list[str]:
        """The texts of the heads of *node*."""
        return [head.text() for head in self.shown(node).heads]

    def retain(self, nodes: Iterable[str]) -> None:
        """Forget all but these *nodes*."""
        kept = set(nodes)
        for path in self._files():
            if path.stem not in kept:
                path.unlink(missing_ok=True)

    @property
    def heads(self) -> Sequence[SignedHead]:
        """All that it was shown, of all nodes."""
        return [head for path in sorted(self._files()) for head in self.shown(path.stem).heads]

    def _path(self, node: str) -> Path:
        if not _NAME.fullmatch(node):  # it names a file
            raise refused("it is of no node")
        return self._folder / f"{node}.json"

    def _files(self) -> list[Path]:
        return [path for path in self._folder.glob("*.json") if not path.name.startswith(".")]

    def _make_room(self, most: int) -> None:
        """Those that were changed longest ago go."""
        found = sorted(self._files(), key=lambda path: path.stat().st_mtime_ns)
        for path in found[:max(0, len(found) + 1 - most)]:
            path.unlink(missing_ok=True)
