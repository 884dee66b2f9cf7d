"""Rotating the SSH user keys of all nodes: each makes its next one itself, and nobody else ever has it.

Nodes that are off keep their key until they come back and change it: nobody is stranded by having been away. Who wants
such a node out removes it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fairlead.base.errors import Refused
from fairlead.controller.user_keys import NodeKeys
from fairlead.enrol.succession import Succession
from fairlead.fleet.attached import Whereabouts
from fairlead.nodes.user_keys import Step
from fairlead.rotation.phases import Rotation

TOO_OLD = "its software is too old to make another user key"


@dataclass(frozen=True, slots=True)
class UserKeysOfNodes:
    """A kind of rotation."""

    nodes: NodeKeys
    succession: Succession
    attached: Callable[[], Awaitable[Whereabouts]]
    """The engines that are connected: trust statements, in which the Controllers' own user keys stand, are for all."""

    async def check(self, to: str) -> None:
        """Keys are made, not brought. Raises Refused."""
        if to:
            raise Refused("FL-ROTATE-TO", "user keys are no certificate: each node makes its own",
                          "leave --to out")

    async def stranded(self, to: str) -> Mapping[str, str]:  # noqa: ARG002 - a kind's
        """Engines that are connected and make no keys: theirs stay as they are."""
        return {**(await self.attached()).too_old, **dict.fromkeys(await self.nodes.too_old(), TOO_OLD)}

    async def stage(self, rotation: Rotation) -> Mapping[str, str]:
        """Nodes are asked for their next key."""
        await self._bring(rotation, "next")
        return {}

    async def behind(self, rotation: Rotation) -> Mapping[str, str]:
        """The nodes that have not come as far."""
        if rotation.phase in ("scheduled", "stage", "over"):
            return {}
        return await self.nodes.behind(rotation.id, everywhere=rotation.phase == "withdraw")

    async def cut_over(self, rotation: Rotation) -> None:
        """Nodes use their next key; the last one is accepted still."""
        await self._bring(rotation, "use")

    async def cut_back(self, rotation: Rotation) -> None:
        """Nodes use their last key again."""
        await self._bring(rotation, "back")

    async def retire(self, rotation: Rotation) -> None:
        """The last key of each node that uses its new one is revoked."""
        await self._bring(rotation, "retire")

    async def withdraw(self, rotation: Rotation) -> None:
        """The next keys are revoked; nodes that slept through the rotation before this one go on with that."""
        wanted = await self.succession.wanted()
        if wanted is None or wanted.rotation != rotation.id:  # it was called off before anybody was asked
            return
        await self._bring(rotation, "drop")
        if not await self.nodes.behind(rotation.id, everywhere=True):
            await self.succession.forget(rotation.id, rotation.by)

    async def _bring(self, rotation: Rotation, step: Step) -> None:
        await self.succession.want(rotation.id, step, rotation.by)
        await self.nodes.turn()
