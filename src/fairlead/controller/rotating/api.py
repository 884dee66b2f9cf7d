"""Rotating what the API presents on 443: to a certificate that an operator brings, or the cluster's own issued anew.

No node knows the API's certificate; people know the root that issued it, or their organisation's. So nobody has to
acknowledge anything but the Controllers, which have to be able to present it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fairlead.controller.rotating.named import NOT_READY, Named
from fairlead.controller.telling import Telling
from fairlead.rotation.phases import Rotation


@dataclass(frozen=True, slots=True)
class ApiCertificate:
    """A kind of rotation."""

    telling: Telling
    named: Named

    async def check(self, to: str) -> None:
        """Whether that certificate may be presented. Raises Refused, with the reason."""
        await self.named.check(to)

    async def stranded(self, to: str) -> Mapping[str, str]:  # noqa: ARG002 - a kind's
        """Nobody: no node knows the API's certificate."""
        return {}

    async def stage(self, rotation: Rotation) -> Mapping[str, str]:
        """Make the new one, where it is the cluster's own anew; see that it can be used where it is another."""
        found = await self.named.stage(rotation)
        if "new" not in found:
            await self.named.judged(found["to"])
        return found

    async def behind(self, rotation: Rotation) -> Mapping[str, str]:
        """The Controllers that are not there yet."""
        match rotation.phase:
            case "acknowledge":
                return self.telling.behind(self.named.ready(rotation), NOT_READY)
            case "cut-over" | "retire":
                return self._showing(rotation, "to", "new", "its API presents the old one")
            case "cut-back":
                return self._showing(rotation, "from", "old", "its API presents the new one")
            case _:
                return {}

    def _showing(self, rotation: Rotation, uuid: str, certificate: str, why: str) -> Mapping[str, str]:
        material = rotation.material
        if certificate in material:
            return self.telling.behind({"api": material[certificate]}, why)
        return self.telling.behind({"api-uuid": material[uuid]}, why)

    async def cut_over(self, rotation: Rotation) -> None:
        """The new one is presented."""
        await self.named.change(rotation, "to", "new")

    async def cut_back(self, rotation: Rotation) -> None:
        """The old one is presented again."""
        await self.named.change(rotation, "from", "old")

    async def retire(self, rotation: Rotation) -> None:  # noqa: ARG002 - a kind's
        """The cluster's own old one is no more."""
        await self.named.own.forget()

    async def withdraw(self, rotation: Rotation) -> None:  # noqa: ARG002 - a kind's
        """What was made is no more."""
        await self.named.own.forget()
