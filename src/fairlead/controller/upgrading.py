"""Upgrades on a Controller, put together: its own version, how all nodes stand, what operators ask for.

Whose turn it is stands in the store (`upgrade.stages`), and every Controller follows it for itself, as it follows the
directory: nobody tells another Controller to change. What each says of itself stands in the store, too
(`controller.telling`); how engines stand is asked of the Controllers that they are linked to.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from fairlead.api import answers
from fairlead.api.images import Image as BroughtUp
from fairlead.audit.log import AuditLog
from fairlead.base.clock import rfc3339
from fairlead.base.errors import FairleadError, Refused, printable
from fairlead.cluster.etcd import peer_url
from fairlead.cluster.members import status as status_of
from fairlead.controller.cluster import Cluster
from fairlead.controller.desk import Desk
from fairlead.controller.mesh import Mesh
from fairlead.controller.telling import Telling
from fairlead.fleet.others import Others
from fairlead.fleet.upgrading import EngineUpgrades, gathered
from fairlead.link.report import Report
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.objects.model import Item
from fairlead.store.fence import NotLeading
from fairlead.upgrade import stages
from fairlead.upgrade.driver import KIND, Driver, Image, Wish
from fairlead.upgrade.own import OwnUpgrade
from fairlead.upgrade.stages import Member, Upgrade

FACT = "upgrade"
"""Under which a Controller says how it stands (`controller.telling`)."""


@dataclass(slots=True)
class Following:
    """What of upgrades stands in the store, as the directory follows it."""

    directory: Directory
    records: dict[str, Upgrade] = field(init=False)

    def __post_init__(self) -> None:
        self.records = self.directory.keep(KIND, stages.decode)

    @property
    def now(self) -> Upgrade | None:
        """The upgrade that is under way."""
        return self.records.get("now")

    def uses(self, image: str) -> bool:
        """Whether the upgrade that is under way leads to the image of that uuid."""
        return self.now is not None and self.now.image == image

    @property
    def past(self) -> Sequence[Upgrade]:
        """Those that are over, the newest first."""
        return [one for key, one in sorted(self.records.items(), reverse=True) if key.startswith("past/")]

    def listen(self, changed: Callable[[], None]) -> None:
        """Have *changed* called when one has come another step."""
        self.directory.listen_to(KIND, changed)


Kept = Callable[[], Sequence[tuple[Item, BroughtUp]]]
"""The cluster's record of images; those that stand in it are verified."""


class Upgrading:
    """See the module."""

    def __init__(self, *, following: Following, audit: AuditLog, cluster: Cluster, mesh: Mesh, desk: Desk,
                 engines: EngineUpgrades, others: Others, telling: Telling, own: OwnUpgrade, images: Kept) -> None:
        self._following = following
        self._cluster = cluster
        self._mesh = mesh
        self._desk = desk
        self._engines = engines
        self._others = others
        self._telling = telling
        self._own = own
        self._images = images
        self._me = cluster.trust.node_id
        self._ways_back: dict[str, str] = {}
        telling.facts.append(self.facts)
        own.changed = self._changed
        own.still = lambda order: (now := following.now) is not None and now.id == order.id
        self.driver = Driver(cluster.store, audit, cluster.fence, lambda: cluster.leading, cluster.trust.node, self._me,
                             fleet=self, images=self, hand_over=self._hand_over)

    @property
    def problems(self) -> list[str]:
        """What is wrong, one line each."""
        return [line for line in (self.driver.problem, self._own.problem) if line]

    # -- this Controller's own version --------------------------------------------------------------------------------

    def facts(self) -> Mapping[str, str]:
        """How this Controller stands, for the others."""
        return {FACT: self._own.report(moving=False).model_dump_json()}

    def _changed(self) -> None:
        self._telling.changed.set()
        self.driver.nudge()

    async def follow(self) -> None:
        """Do what the record says that this Controller does, at every change; until cancelled."""
        changed = asyncio.Event()
        self._following.listen(changed.set)
        changed.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0 if self._following.now is not None else None):
                    await changed.wait()
            changed.clear()
            self.heed()
            self.driver.nudge()

    def heed(self) -> None:
        """See once what there is to do."""
        now = self._following.now
        if now is None:
            return
        if now.phase == "distribute":
            self._own.have(now.order)
        elif stages.told(now, self._me, "controller"):
            self._own.want(now.order)

    async def watch(self) -> None:
        """Nudge the driver when engines say something, until cancelled."""
        while True:
            await self._engines.moved.wait()
            self._engines.moved.clear()
            if self._following.now is not None:
                self.driver.nudge()
            await asyncio.sleep(0.1)

    async def _hand_over(self) -> None:
        with contextlib.suppress(NotLeading):
            await self._cluster.step_down()

    # -- how all stand: what the driver asks --------------------------------------------------------------------------

    async def seen(self, upgrade: Upgrade | None) -> Mapping[str, Member]:
        """By id. Raises StoreUnavailable."""
        reports, old = await self._engine_reports()
        unwell = await self._unwell() if upgrade is None or upgrade.phase in ("controllers", "distribute") else set()
        there = {self._cluster.trust.node, *self._mesh.peers.connected}
        found: dict[str, Member] = {}
        for node in list(self._mesh.directory.nodes.values()):
            if node.role == "controller" and node.state == "up":
                report = self._said(node)
                found[node.id] = _member(node, report, upgrade, online=node.name in there, able=report is not None,
                                         well=node.id not in unwell)
            elif node.role == "engine" and node.state == "up":
                report = reports.get(node.id)
                found[node.id] = _member(node, report, upgrade, online=report is not None or node.id in old,
                                         able=node.id not in old)
        return found

    def way_back(self, node_id: str) -> str:
        """Where that node says that its way back leads."""
        return self._ways_back.get(node_id, "")

    async def _engine_reports(self) -> tuple[Mapping[str, Report], frozenset[str]]:
        standing = await gathered(self._engines, self._others)
        self._ways_back = {node_id: report.previous for node_id, report in standing.reports.items()}
        for node in self._mesh.directory.controllers():
            if (report := self._said(node)) is not None:
                self._ways_back[node.id] = report.previous
        return standing.reports, frozenset(standing.old)

    def _said(self, node: Node) -> Report | None:
        try:
            return Report.model_validate_json(self._telling.of(node.id).get(FACT, ""))
        except ValidationError:
            return None

    async def _unwell(self) -> set[str]:
        """Ids of the Controllers whose member of the store follows nobody, or does not answer."""
        if not self._cluster.clustered:
            return set()
        members = {url: member for member in await self._cluster.members().list() for url in member.peer_urls}

        async def well(node: Node) -> bool:
            member = members.get(peer_url(node.internal_address))
            if member is None:
                return False
            try:
                async with asyncio.timeout(2.0):
                    return (await status_of(self._cluster.endpoint(member))).healthy
            except (FairleadError, TimeoutError):
                return False

        nodes = self._mesh.directory.controllers()
        return {node.id for node, fine in zip(nodes, await asyncio.gather(*map(well, nodes)), strict=True) if not fine}

    async def find(self, name: str) -> Image:
        """The image of that uuid, hash or version. Raises Refused FL-UPGRADE-IMAGE."""
        found = [Image(item.uuid, image.version or "", image.minimum or "", tuple(image.roles or ()),
                       image.sha256 or "", image.size or 0, image.counter or 0, image.number or 0)
                 for item, image in self._images()
                 if name and name in (item.uuid, image.sha256, image.version)]
        if len(found) != 1:
            raise Refused("FL-UPGRADE-IMAGE", f"{'no' if not found else 'more than one'} verified image is called "
                          f"{printable(name, 80)}", "`fairlead upgrade apply FILE` brings one up; name one by its uuid")
        return found[0]

    # -- what operators ask -------------------------------------------------------------------------------------------

    async def start(self, image: str, wish: Wish, by: str) -> dict[str, Any]:
        """Begin: an `answers.Upgrade`. Raises Refused."""
        return await self._desk.handed("upgrade-start", id=uuid4().hex[:12], image=image, by=by, **_fields(wish))

    async def back(self, wish: Wish, by: str) -> dict[str, Any]:
        """Go back: an `answers.Upgrade`. Raises Refused."""
        return await self._desk.handed("upgrade-back", id=uuid4().hex[:12], by=by, **_fields(wish))

    async def abort(self, by: str) -> dict[str, Any]:
        """Have nobody new begin: an `answers.Upgrade`. Raises Refused."""
        return await self._desk.handed("upgrade-abort", by=by)

    async def answer(self, op: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the leader answers; None: that is no question about upgrades. Raises Refused, NotLeading."""
        match op:
            case "upgrade-start":
                return shown(await self.driver.start(str(fields["image"]), _wish(fields), str(fields["by"]),
                                                     name=str(fields["id"])))
            case "upgrade-back":
                return shown(await self.driver.back(_wish(fields), str(fields["by"]), name=str(fields["id"])))
            case "upgrade-abort":
                return shown(await self.driver.abort(str(fields["by"])))
            case _:
                return None

    def version_of(self, node: Node) -> str:
        """That it runs, as far as this Controller has heard; empty: it has not."""
        if node.role == "engine":
            return self._mesh.sessions.version_of(node.id)
        report = self._said(node)
        return report.version if report is not None else ""

    def history(self) -> Sequence[dict[str, Any]]:
        """The upgrade that is under way, and those that are over, the newest first: each an `answers.Upgrade`."""
        now = self._following.now
        return [shown(one) for one in (*([now] if now is not None else []), *self._following.past)]

    async def status(self) -> dict[str, Any]:
        """An `answers.UpgradeStatus`."""
        now, past = self._following.now, self._following.past
        last = now or (past[0] if past else None)
        reports, old = await self._engine_reports()
        there = {self._cluster.trust.node, *self._mesh.peers.connected}
        rows = []
        for node in sorted(self._mesh.directory.nodes.values(), key=lambda node: (node.role, node.name)):
            if node.state != "up":
                continue
            here = node.role == "controller"
            report = self._said(node) if here else reports.get(node.id)
            online = node.name in there if here else report is not None or node.id in old
            role = "engine" if not here else "leader" if node.name == self._cluster.leader else "follower"
            rows.append(_row(node, role, report, last, under_way=now is not None, online=online,
                             able=report is not None or node.id not in old))
        return {"current": shown(now) if now is not None else None, "past": [shown(one) for one in past],
                "nodes": rows}


def _member(node: Node, report: Report | None, upgrade: Upgrade | None, *, online: bool, able: bool,
            well: bool = True) -> Member:
    state, why = "", ""
    if report is not None and (report.state in ("switching", "trial") or (
            upgrade is not None and report.id == upgrade.id)):
        state, why = report.state, report.why
    return Member(node.id, node.name, node.role, report.version if report is not None else "", state, why, online,
                  able, well, frozenset(f"{key}={value}" for key, value in node.labels.items()),
                  report.counter if report is not None else 0, report.number if report is not None else 0)


def _row(node: Node, role: str, report: Report | None, last: Upgrade | None, *, under_way: bool, online: bool,
         able: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"node": node.name, "role": role, "version": report.version if report else None,
                           "state": "", "why": "", "since": None, "seconds": 0.0, "bytes": 0}
    if report is not None:
        row |= {"seconds": report.seconds, "bytes": report.bytes, "why": report.why,
                "since": rfc3339(report.since) if report.since else None}
    if last is None:
        return row | {"state": "" if online else "offline"}
    mine = report is not None and report.id == last.id
    failed = last.failed.get(node.id, "") or (f"no way back to {last.version}" if node.id in last.left else "")
    if mine and report is not None and report.state:
        row["state"] = report.state
    elif failed:
        row["state"], row["why"] = "failed", failed
    elif not online:
        row["state"] = "offline"
    elif not able:
        row["state"], row["why"] = "failed", "its software takes no upgrades"
    elif report is not None and report.version == last.version:
        row["state"] = "done" if report.state in ("", "done") else report.state
    else:
        row["state"] = "waiting" if under_way else ""
    if not mine:
        row |= {"seconds": 0.0, "bytes": 0, "since": None, "why": row["why"] if failed or not able else ""}
    return row


def shown(upgrade: Upgrade) -> dict[str, Any]:
    """An `answers.Upgrade`."""
    return answers.Upgrade(
        id=upgrade.id, version=upgrade.version, before=upgrade.before, back=upgrade.back, image=upgrade.image,
        phase=upgrade.phase, outcome=upgrade.outcome, why=upgrade.why, by=upgrade.by,
        asked_at=rfc3339(upgrade.asked_at), since=rfc3339(upgrade.since), labels=list(upgrade.labels),
        batch=upgrade.batch, budget=upgrade.budget, pause_s=upgrade.pause_s, patience_s=upgrade.patience_s,
        batches=upgrade.batches, failed={upgrade.names[one]: why for one, why in upgrade.failed.items()},
        away=list(upgrade.away), missing=upgrade.missing,
        steps=[answers.UpgradeStep(phase=step.phase, at=rfc3339(step.at)) for step in upgrade.steps]).model_dump()


def _fields(wish: Wish) -> dict[str, Any]:
    return {"labels": list(wish.labels), "batch": wish.batch, "budget": wish.budget, "pause_s": wish.pause_s,
            "patience_s": wish.patience_s}


def _wish(fields: Mapping[str, Any]) -> Wish:
    return Wish(tuple(str(label) for label in fields["labels"]), str(fields["batch"]), str(fields["budget"]),
                int(fields["pause_s"]), int(fields["patience_s"]))
