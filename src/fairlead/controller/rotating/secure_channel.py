"""Rotating what the portal presents: to a certificate of an organisation, to another one, or back to the cluster's own.

Nodes believe both before the cut, so the portals may change one after the other; a bundle made meanwhile knows both.
The cluster's own certificate issued anew under the same root has the same name, and nobody has to learn anything: it
takes the place of the old one at the cut, and the old one is kept, sealed, until it is retired.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fairlead.base.clock import MINUTE, rfc3339
from fairlead.base.errors import FairleadError
from fairlead.controller.rotating.named import NOT_READY, Named
from fairlead.controller.telling import Telling
from fairlead.fleet.attached import Whereabouts
from fairlead.pki.verify import validity
from fairlead.rotation.phases import Rotation
from fairlead.store.protocol import StoreUnavailable

SKEW = 5 * MINUTE
"""That is no reason to name a node: clocks are never quite right."""


@dataclass(frozen=True, slots=True)
class SecureChannel:
    """A kind of rotation."""

    telling: Telling
    named: Named
    attached: Callable[[], Awaitable[Whereabouts]]
    """The engines that are connected to any Controller."""
    now: Callable[[], Awaitable[int]]

    async def check(self, to: str) -> None:
        """Whether that certificate may be presented. Raises Refused, with the reason."""
        await self.named.check(to)

    async def stranded(self, to: str) -> Mapping[str, str]:
        """Who cannot follow, and whose clock makes him refuse the new certificate."""
        leaf = (await self.named.judged(to or self.named.default)).certificate_der
        first, last = validity(leaf)
        attached = await self.attached()
        now, found = await self.now(), dict(attached.too_old)
        for name, skew in attached.skews.items():
            if abs(skew) > SKEW and not first <= now + skew <= last:
                found[name] = (f"by its clock, {skew // 1_000_000} s off, the certificate is not valid: "
                               f"{rfc3339(first)} to {rfc3339(last)}")
        return found

    async def stage(self, rotation: Rotation) -> Mapping[str, str]:
        """See that the new one can be used, on this Controller; make it where it is the cluster's own anew."""
        found = await self.named.stage(rotation)
        if "new" in found:
            return found
        return {**found, "old": await self._old(found["from"]),
                "new": (await self.named.judged(found["to"])).certificate_hash.hex()}

    async def _old(self, uuid: str) -> str:
        """The hash of what goes, hex; empty when it can be presented no more, because it has expired, say."""
        try:
            return (await self.named.judged(uuid)).certificate_hash.hex()
        except StoreUnavailable:
            raise
        except FairleadError:
            return ""

    async def behind(self, rotation: Rotation) -> Mapping[str, str]:
        """The Controllers that are not there yet."""
        match rotation.phase:
            case "acknowledge":
                return self.telling.behind(self.named.ready(rotation), NOT_READY)
            case "cut-over" | "retire":
                return self.telling.behind({"channel": rotation.material["new"]}, "its portal presents the old one")
            case "cut-back" if rotation.material["old"]:
                return self.telling.behind({"channel": rotation.material["old"]}, "its portal presents the new one")
            case _:
                return {}

    async def cut_over(self, rotation: Rotation) -> None:
        """The configuration names the new one."""
        await self.named.change(rotation, "to", "new")

    async def cut_back(self, rotation: Rotation) -> None:
        """The configuration names the old one again."""
        await self.named.change(rotation, "from", "old")

    async def retire(self, rotation: Rotation) -> None:  # noqa: ARG002 - a kind's
        """The cluster's own old one is no more; an operator's stays among his objects, where nobody names it."""
        await self.named.own.forget()

    async def withdraw(self, rotation: Rotation) -> None:  # noqa: ARG002 - a kind's
        """What was made is no more."""
        await self.named.own.forget()
