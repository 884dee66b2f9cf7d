"""By what upgrade bundles are verified in this cluster: the root that was pinned, and what was seen of bundles so far.

Rules, and the attack each stops:

1. A root is pinned once, by an admin. After that only a chain of roots leads to another one, each signed by the one
   before (`upgrade.verify`); nobody pins over it: whoever takes an admin's session makes no software ours.
2. This Controller has both on its own disk, too, and believes that before the store. A store that was changed, or
   restored from an old backup, leads it to no other root and lowers nothing.
3. What was seen only ever rises: the transaction compares what it was made from. After a restore what other nodes have
   seen is merged in, and is on record with the name of the node that said it.

Keys: ``upgrade/root`` holds TUF root metadata, ``upgrade/seen`` a `Seen`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from fairlead.audit.record import Entry
from fairlead.base import strict
from fairlead.base.errors import OperatorError, Refused
from fairlead.keys.wire import sha256
from fairlead.store.protocol import Absent, Compare, Operation, Outcome, Put, Record, StoreUnavailable, Unchanged
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.verify import read_root

ROOT = "upgrade/root"
SEEN = "upgrade/seen"
TRIES = 5


class Records(Protocol):
    """What is needed of the store."""

    async def get(self, key: str) -> Record | None:
        """The record of a key."""
        ...


class Journal(Protocol):
    """A transaction with its audit record."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do all of *then*, and record *entries*, if all of *compare* hold."""
        ...


class Own(Protocol):
    """What this node has on its disk (`upgrade.versions`)."""

    def root(self) -> bytes | None:
        """The root that it has pinned."""
        ...

    def pin(self, root: bytes, *, replace: bool = False) -> None:
        """Pin that one. Raises Refused, OperatorError."""
        ...

    def seen(self) -> Seen:
        """What it has seen."""
        ...

    def remember(self, seen: Seen) -> None:
        """That, too. Raises OperatorError."""
        ...


class UpgradeTrust:
    """The cluster's, as this Controller believes it. Every method raises StoreUnavailable."""

    def __init__(self, store: Records, audit: Journal, own: Own, me: str) -> None:
        self._store = store
        self._audit = audit
        self._own = own
        self._me = me

    async def root(self) -> bytes | None:
        """The root that counts here; None: none was pinned. Raises OperatorError FL-DISK."""
        own = await asyncio.to_thread(self._own.root)
        if own is not None:
            return own
        kept = await self._store.get(ROOT)
        if kept is not None:
            await asyncio.to_thread(self._own.pin, kept.value)
        return kept.value if kept is not None else None

    async def seen(self) -> Seen:
        """What was seen, by the cluster or by this Controller."""
        kept = await self._store.get(SEEN)
        return (await asyncio.to_thread(self._own.seen)).merged(_seen(kept))

    async def trusted(self) -> tuple[bytes, Seen]:
        """Both. Raises Refused FL-UPGRADE-UNTRUSTED where no root was pinned."""
        root = await self.root()
        if root is None:
            raise Refused("FL-UPGRADE-UNTRUSTED", "this cluster does not know yet whose upgrade bundles are good",
                          "`fairlead upgrade trust ROOT.json` pins the root of those who sign them, once")
        return root, await self.seen()

    async def standing(self) -> dict[str, object]:
        """Both, for the API."""
        root = await self.root()
        return {"pinned": root is not None, "sha256": sha256(root).hex() if root is not None else "",
                "root": root.decode(errors="replace") if root is not None else "", "seen": asdict(await self.seen())}

    async def pin(self, root: bytes, by: str) -> str:
        """From now on bundles are verified by *root*; its SHA-256, hex. The same one may be pinned again.

        Raises Refused FL-UPGRADE-ROOT, FL-UPGRADE-PINNED, OperatorError.
        """
        digest = read_root(root)
        if (known := await self.root()) is not None and known != root:
            raise _pinned(known)
        kept = await self._store.get(ROOT)
        if kept is None:
            outcome = await self._audit.append_with([Absent(ROOT)], [Put(ROOT, root)], [
                Entry("upgrade.root-pinned", digest, by, {"sha256": digest})])
            if not outcome.succeeded:
                return await self.pin(root, by)  # somebody was faster
        elif kept.value != root:
            raise _pinned(kept.value)
        await asyncio.to_thread(self._own.pin, root)
        return digest

    async def remember(self, root: bytes, seen: Seen) -> None:
        """What a verification has shown counts from now on: first here, then for all. Raises OperatorError."""
        def here() -> None:
            self._own.pin(root, replace=True)
            self._own.remember(seen)

        await asyncio.to_thread(here)
        await self._raise(seen, self._me, root)

    async def merge(self, seen: Seen, by: str = "") -> Seen:
        """What another node, *by* name, has seen counts, too; what counts then."""
        return await self._raise(seen, by or self._me, None)

    async def _raise(self, seen: Seen, by: str, root: bytes | None) -> Seen:
        """Both in one transaction: a root of a higher version comes with what was seen of it."""
        for _ in range(TRIES):
            kept, pinned = await self._store.get(SEEN), await self._store.get(ROOT)
            before = _seen(kept)
            merged = before.merged(seen)
            written = merged.encode(kept.value if kept is not None else b"{}")
            then: list[Operation] = [Put(SEEN, written)] if merged != before else []
            entries = [Entry("upgrade.seen-raised", "bundles", by, dict(asdict(merged)))] if then else []
            if root is not None and (pinned is None or _version(root) > _version(pinned.value)):
                then.append(Put(ROOT, root))
                digest = sha256(root).hex()
                entries.append(Entry("upgrade.root-followed", digest, by, {"version": _version(root)}))
            if not then:
                return merged
            outcome = await self._audit.append_with([_as(SEEN, kept), _as(ROOT, pinned)], then, entries)
            if outcome.succeeded:
                return merged
        raise StoreUnavailable(f"what was seen of bundles changed {TRIES} times meanwhile")


def _as(key: str, kept: Record | None) -> Compare:
    return Absent(key) if kept is None else Unchanged(key, kept.revision)


def _seen(kept: Record | None) -> Seen:
    try:
        return Seen.decode(kept.value) if kept is not None else Seen()
    except ValueError:
        raise OperatorError("FL-STATE-DAMAGED", "the record of what was seen of upgrade bundles is damaged",
                            "restore the cluster from a backup") from None


def _version(root: bytes) -> int:
    """Of root metadata that was verified before."""
    try:
        return int(strict.loads(root)["signed"]["version"])
    except (ValueError, KeyError, TypeError):
        return 0


def _pinned(known: bytes) -> Refused:
    return Refused("FL-UPGRADE-PINNED", f"another root is pinned: {sha256(known).hex()}",
                   "a new root comes with a bundle, signed by the one that is pinned; nobody pins over it")
