"""Rotating the root CA: everything that it signs is signed anew, with every node attached.

While both roots are believed, nodes know both from trust statements that both have signed, portals with a certificate
of our own are known by both, and the members of the store trust both. So the new root may sign before any leaf of the
old one is gone, and the other way round. When the old one is retired its key is deleted, and no member, node or client
of ours believes a leaf of it.

What nobody can exchange from here ends with the old root: certificates that operators have for the store, and files of
it that they gave to other programs.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fairlead.base.errors import Refused
from fairlead.controller.rooted import in_words
from fairlead.controller.roots import Roots
from fairlead.controller.rotating.secure_channel import SKEW
from fairlead.controller.telling import Telling
from fairlead.fleet.attached import Whereabouts
from fairlead.pki.certificate import BACK_DATED
from fairlead.rotation.phases import Rotation


@dataclass(frozen=True, slots=True)
class RootCA:
    """A kind of rotation."""

    telling: Telling
    roots: Roots
    absent: Callable[[], Mapping[str, str]]
    """The Controllers that are not there, by name."""
    attached: Callable[[], Awaitable[Whereabouts]]
    """The engines that are connected to any Controller."""
    believed: Callable[[], Awaitable[int]]
    """How many roots are believed now."""

    async def check(self, to: str) -> None:
        """Whether it may begin. Raises Refused."""
        if to:
            raise Refused("FL-ROTATE-KIND", "the root CA is always one that the cluster makes",
                          "leave --to away; for a certificate of your organisation: secure-channel and api")
        if await self.believed() != 1:
            raise Refused("FL-ROOT-BUSY", "another root is still believed beside the one that signs",
                          "`fairlead rotate status` shows which rotation is not over")

    async def stranded(self, to: str) -> Mapping[str, str]:  # noqa: ARG002 - a kind's
        """Who cannot follow, and by whose clock what the new root signs would not be valid yet."""
        attached = await self.attached()
        found = {**attached.too_old, **self.absent()}
        for name, skew in attached.skews.items():
            if skew < SKEW - BACK_DATED:
                found[name] = f"by its clock, {skew // 1_000_000} s off, the new root is not valid yet"
        return found

    async def stage(self, rotation: Rotation) -> Mapping[str, str]:  # noqa: ARG002 - a kind's
        """Make the new root, and keep it beside the other."""
        old, new = await self.roots.stage()
        return {"old": old, "new": new}

    async def behind(self, rotation: Rotation) -> Mapping[str, str]:
        """The Controllers that do not go by the roots yet."""
        old, new = rotation.material.get("old", ""), rotation.material.get("new", "")
        match rotation.phase:
            case "acknowledge":
                return self._telling(old, new, why="its portal or its member of the store does not trust both roots")
            case "cut-over":
                return self._telling(new, old, why="it presents certificates of the old root")
            case "retire":
                return self._telling(new, why="its member of the store still trusts the old root")
            case "cut-back":
                return self._telling(old, new, why="it presents certificates of the new root")
            case "withdraw" if old:
                return self._telling(old, why="its member of the store still trusts the new root")
            case _:
                return {}

    def _telling(self, *roots: str, why: str) -> Mapping[str, str]:
        return self.telling.behind({"roots": in_words(roots), "problem": ""}, why)

    async def cut_over(self, rotation: Rotation) -> None:
        """The new root signs, and has signed what the cluster keeps."""
        await self.roots.cut_over(rotation.material["new"])

    async def cut_back(self, rotation: Rotation) -> None:
        """The old one signs again."""
        await self.roots.cut_back(rotation.material["new"])

    async def retire(self, rotation: Rotation) -> None:
        """The old one is no more."""
        await self.roots.retire(rotation.material["new"])

    async def withdraw(self, rotation: Rotation) -> None:
        """What was made is no more."""
        await self.roots.withdraw(rotation.material.get("new", ""))
