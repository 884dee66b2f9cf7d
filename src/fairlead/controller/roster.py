"""Who is a member of the store, and how each is: what `fairlead cluster status` shows."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.base.errors import FairleadError
from fairlead.cluster import clocks
from fairlead.cluster.members import Member, Status, status
from fairlead.controller.cluster import Cluster
from fairlead.nodes.node import Node

HEALTH_S = 1.0
"""A member that does not answer for so long is down."""


@dataclass(frozen=True, slots=True)
class Roster:
    """Asks the members."""

    cluster: Cluster

    async def describe(self) -> dict[str, Any]:
        """The object of `fairlead cluster status`."""
        controllers = self.cluster.mesh.directory.controllers()
        learning = [n for n in self.cluster.mesh.directory.nodes.values() if n.learning]
        shown: dict[str, Any] = {
            "cluster_uuid": str(self.cluster.trust.cluster_uuid), "node": self.cluster.trust.node,
            "leader": self.cluster.leader,
            "term": self.cluster.leadership.term if self.cluster.leadership is not None else 0,
            "store": "etcd" if self.cluster.clustered else "sqlite", "quorum": True, "tolerates": 0, "alarms": [],
            "members": []}
        if not self.cluster.clustered:
            shown["members"] = [_shown(self.cluster.mesh.me, "leader", "up", None, 0)]
            return shown
        shown["alarms"] += clocks.alarms(self.cluster.clocks)
        members: Sequence[Member] = ()
        with contextlib.suppress(FairleadError):
            members = await self.cluster.members().list()
        of = {node.id: member for member in members if (node := self.cluster.node_of(member)) is not None}
        found = await asyncio.gather(*(self._health(of.get(n.id)) for n in [*controllers, *learning]))
        newest = max((one.raft_index for one in found if one is not None), default=0)
        for node, health in zip([*controllers, *learning], found, strict=True):
            member = of.get(node.id)
            voter = "leader" if node.name == self.cluster.leader else "follower"
            role = voter if member is not None and not member.learner else "learner"
            state = "down" if health is None else "up" if health.healthy else "no leader"
            shown["members"].append(_shown(node, role, state, health, newest))
            if health is not None:
                shown["alarms"] = list(dict.fromkeys([*shown["alarms"], *(alarm.kind for alarm in health.alarms)]))
        voters = sum(m["role"] != "learner" for m in shown["members"])
        well = sum(m["role"] != "learner" and m["state"] == "up" for m in shown["members"])
        shown["quorum"] = well > voters // 2
        shown["tolerates"] = max(0, well - (voters // 2 + 1))
        return shown

    async def _health(self, member: Member | None) -> Status | None:
        if member is None:
            return None
        try:
            async with asyncio.timeout(HEALTH_S):
                return await status(self.cluster.endpoint(member))
        except (FairleadError, TimeoutError):
            return None


def _shown(node: Node, role: str, state: str, health: Status | None, newest: int) -> dict[str, Any]:
    return {"name": node.name, "role": role, "state": state, "internal_address": node.internal_address,
            "address": ", ".join(node.endpoint.addresses) if node.endpoint else "",
            "lag": newest - health.applied_index if health is not None else None,
            "size": health.size if health is not None else None,
            "version": f"etcd {health.version}" if health is not None else None}
