"""Upgrades of all nodes: begin, go back, have nobody new begin, how it goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import NAMESPACE_OID, uuid5

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.documented import answer
from fairlead.objects.model import Item, Kind, Open
from fairlead.upgrade.driver import Wish
from fairlead.upgrade.stages import PATIENCE_S

MOST_LABELS = 50


class Upgrading(Protocol):
    """Who upgrades."""

    async def start(self, image: str, wish: Wish, by: str) -> dict[str, Any]:
        """An `answers.Upgrade`. Raises Refused."""
        ...

    async def back(self, wish: Wish, by: str) -> dict[str, Any]:
        """An `answers.Upgrade`. Raises Refused."""
        ...

    async def abort(self, by: str) -> dict[str, Any]:
        """An `answers.Upgrade`. Raises Refused."""
        ...

    async def status(self) -> dict[str, Any]:
        """An `answers.UpgradeStatus`."""
        ...

    def history(self) -> Sequence[dict[str, Any]]:
        """Each an `answers.Upgrade`, the newest first."""
        ...


class Going(BaseModel):
    """The body of POST /api/upgrade/rollback: how it is to go."""

    model_config = ConfigDict(extra="forbid", strict=True)
    labels: list[str] = Field(default_factory=list, max_length=MOST_LABELS)
    """KEY=VALUE: engines that have the first go first, then those with the second, then all others."""
    batch: str = Field(default="10%", max_length=8)
    """Engines at once, after the first: N or P%."""
    budget: str = Field(default="0", max_length=8)
    """Engines that may fail, after the first: N or P%."""
    pause_s: int = Field(default=0)
    """Between two batches, seconds."""
    patience_s: int = Field(default=PATIENCE_S)
    """For one node, or batch, seconds."""

    @property
    def wish(self) -> Wish:
        """The same, for who upgrades."""
        return Wish(tuple(self.labels), self.batch, self.budget, self.pause_s, self.patience_s)


class Wanted(Going):
    """The body of POST /api/upgrade."""

    image: str = Field(max_length=64)
    """Its uuid, version or SHA-256."""


def routes(upgrading: Upgrading) -> APIRouter:
    """GET, POST upgrade; POST upgrade/rollback, upgrade/abort."""
    router = APIRouter(tags=["Upgrade"])

    @router.get("/api/upgrade", summary="How the upgrade goes, each node, and past ones",
                responses=answer(answers.UpgradeStatus))
    async def status(caller: str = needs("image:read")) -> dict[str, Any]:  # noqa: ARG001
        return await upgrading.status()

    @router.post("/api/upgrade", summary="Have all nodes run the version of an image", responses=answer(
        answers.Upgrade))
    async def start(body: Wanted, caller: str = needs("image:write")) -> dict[str, Any]:
        return await upgrading.start(body.image, body.wish, caller)

    @router.post("/api/upgrade/rollback", summary="Have all nodes go back to the version of before",
                 responses=answer(answers.Upgrade))
    async def back(body: Going, caller: str = needs("image:write")) -> dict[str, Any]:
        return await upgrading.back(body.wish, caller)

    @router.post("/api/upgrade/abort", summary="Have nobody new begin", responses=answer(answers.Upgrade))
    async def abort(caller: str = needs("image:write")) -> dict[str, Any]:
        return await upgrading.abort(caller)

    return router


# -- the same in the public model -------------------------------------------------------------------------------------


class UpgradeStatusInfo(Open):
    """How an upgrade goes, or went. From ``version`` on, the fields are fairlead's own."""

    name: str = Field(max_length=256)
    upgrade_in_progress: bool | None = None
    system: bool | None = None
    rollback: bool | None = Field(default=None, description="It leads back.")
    start_time: str | None = None
    version: str | None = Field(default=None, description="That it leads to.")
    phase: str | None = None
    outcome: str | None = Field(default=None, description="done, halted, aborted; empty: it is under way.")
    reason: str | None = Field(default=None, description="Why it halted.")


KIND = Kind("upgradestatusinfo", "UpgradeStatusInfo", UpgradeStatusInfo, "status", methods=frozenset())


@dataclass(frozen=True, slots=True)
class StatusInfos:
    """``upgradestatusinfo``: one for each upgrade."""

    upgrading: Upgrading
    kind: Kind = KIND

    async def items(self) -> Sequence[Item]:
        """All, the newest first."""
        return [_item(one) for one in self.upgrading.history()]

    async def item(self, uuid: str) -> Item | None:
        """The one of that uuid."""
        return next((one for one in await self.items() if one.uuid == uuid), None)


def _item(one: dict[str, Any]) -> Item:
    value = UpgradeStatusInfo(
        name=f"upgrade-{one['id']}", upgrade_in_progress=one["phase"] != "over", system=True, rollback=one["back"],
        start_time=one["asked_at"], version=one["version"], phase=one["phase"], outcome=one["outcome"],
        reason=one["why"])
    return Item(f"{KIND.path}-{uuid5(NAMESPACE_OID, str(one['id']))}", value)
