"""The bundles of one node, from the fetched file to the unpacked version."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from fairlead.base import files
from fairlead.base.errors import OperatorError, Refused
from fairlead.upgrade import manifest as manifests
from fairlead.upgrade.manifest import Manifest
from fairlead.upgrade.unpack import unpack
from fairlead.upgrade.verify import Verified, fits, verify
from fairlead.upgrade.versions import Versions


class Bringing(Protocol):
    """Who fetches and verifies (`upgrade.bringing`)."""

    async def bring(self, sha256: str, size: int) -> Verified:
        """Have it here, verified. Raises FairleadError."""
        ...

    def came(self, sha256: str) -> int:
        """How many bytes of it have been fetched since this process was started."""
        ...

    def open(self, sha256: str) -> int:
        """A descriptor of the file that was verified; the caller closes it. Raises Refused."""
        ...

    def forget_others(self, sha256: str) -> None:
        """Nothing but that file is kept. It blocks."""
        ...


class Bundles:
    """See `upgrade.own.Taking`."""

    def __init__(self, bringing: Bringing, versions: Versions, role: str, *, now: Callable[[], Awaitable[int]],
                 unpacked: Callable[[str], None] = lambda _: None) -> None:
        """*now*: store time, microseconds. *unpacked*: called with the hash of what has been unpacked; it may block."""
        self._bringing = bringing
        self._versions = versions
        self._role = role
        self._now = now
        self._unpacked = unpacked
        self._at: int | None = None
        """Store time when the newest one was brought: by which it is verified again."""

    async def bring(self, sha256: str, size: int) -> Verified:
        """Have it here, verified. Raises FairleadError."""
        verified = await self._bringing.bring(sha256, size)
        self._at = await self._now()
        return verified

    def came(self, sha256: str) -> int:
        """How many bytes of it have come to this process, whoever asked for them."""
        return self._bringing.came(sha256)

    def fits(self, manifest: Manifest) -> None:
        """Whether it is for this node, as it is now. Raises Refused."""
        fits(manifest, self._role, self._versions.standing().current, self._versions.seen())

    def unpack(self, sha256: str, into: Path) -> Verified:
        """Verify the file and unpack it, by one descriptor: who rewrote it since it was fetched is found out.

        Raises FairleadError. It blocks.
        """
        root = self._versions.root()
        if root is None:
            raise Refused("FL-UPGRADE-UNTRUSTED", "this node has pinned no root for upgrades",
                          "`fairlead upgrade trust ROOT.json` pins it")
        if self._at is None:
            raise Refused("FL-IMAGE-UNKNOWN", f"the image {sha256} was not brought here", "have it brought first")
        fd = self._bringing.open(sha256)
        try:
            verified = verify(fd, root, self._versions.seen(), self._at)
            unpack(fd, verified, into)
        finally:
            os.close(fd)
        try:
            if not (into / manifests.NAME).exists():
                files.write_private(into / manifests.NAME, manifests.encode(verified.manifest))
        except OSError as error:
            raise OperatorError("FL-DISK", f"{into} cannot be written: {error.strerror}", "free some space") from error
        self._unpacked(sha256)
        return verified


