"""Collections that clients read and that are empty in this version."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from fairlead.objects.model import Item, Kind, Open


class Image(Open):
    """A version of the software."""

    name: str = Field(max_length=256)


class UpgradeStatusInfo(Open):
    """How an upgrade goes."""

    name: str = Field(max_length=256)


IMAGE = Kind("image", "Image", Image, "status", methods=frozenset())
UPGRADE_STATUS = Kind("upgradestatusinfo", "UpgradeStatusInfo", UpgradeStatusInfo, "status", methods=frozenset())


@dataclass(frozen=True, slots=True)
class Nothing:
    """A kind of which there is no object."""

    kind: Kind

    async def items(self) -> Sequence[Item]:
        """None."""
        return ()

    async def item(self, uuid: str) -> Item | None:  # noqa: ARG002
        """None."""
        return None
