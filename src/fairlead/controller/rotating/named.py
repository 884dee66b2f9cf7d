"""The certificate that the configuration names for the portal, or for the API: changed to another one, or back.

Another one is named; the cluster's own in place of itself is issued anew (`exchanged`), and the name stays.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fairlead.base.errors import Refused
from fairlead.controller.rotating.exchanged import Exchanged
from fairlead.portal.listener import Identity
from fairlead.rotation.phases import Rotation

NOT_READY = "it cannot present the new certificate, or has not said that it can"


@dataclass(frozen=True, slots=True)
class Named:
    """One of the two. In a rotation's material *from* and *to* are uuids, *old* and *new* hashes of certificates."""

    default: str
    """The uuid of the cluster's own."""
    own: Exchanged
    judged: Callable[[str], Awaitable[Identity]]
    """What would be presented with the certificate of that uuid. Raises Refused, with the reason."""
    used: Callable[[], str]
    """The uuid of the certificate that is in use."""
    use: Callable[[str, str], Awaitable[None]]
    """Have the configuration name another one, for somebody."""

    async def check(self, to: str) -> None:
        """Whether that certificate may be presented. Raises Refused, with the reason."""
        await self.judged(to or self.default)
        if to == self.used() != self.default:
            raise Refused("FL-ROTATE-SAME", "that certificate is in use already", "name another one")

    async def stage(self, rotation: Rotation) -> Mapping[str, str]:
        """Where it leads from and to; with the hashes where the cluster's own is issued anew, which is done then."""
        before, to = self.used(), rotation.to or self.default
        if to == before == self.default:
            old, new = await self.own.stage()
            return {"from": before, "to": to, "old": old, "new": new}
        return {"from": before, "to": to}

    async def change(self, rotation: Rotation, becomes: str, certificate: str) -> None:
        """Have in use what the material holds as *becomes*; its *certificate* where only that changes."""
        if rotation.material["from"] == rotation.material["to"]:
            await self.own.use(rotation.material[certificate])
        elif self.used() != rotation.material[becomes]:
            await self.use(rotation.material[becomes], rotation.by)

    def ready(self, rotation: Rotation) -> Mapping[str, str]:
        """What a Controller tells that can present the new one."""
        return {"rotation": rotation.id, "phase": rotation.phase, "problem": ""}
