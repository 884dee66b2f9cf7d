"""Who may come into the cluster, before anything is done for him."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fairlead.base.errors import OperatorError
from fairlead.cluster.etcd import folder
from fairlead.cluster.note import Note
from fairlead.controller import cluster
from fairlead.controller.admission import Admittance
from fairlead.controller.cluster import Cluster
from fairlead.controller.settings import ControllerSettings
from fairlead.nodes.node import Node
from fairlead.transport.peer import Peer
from tests.unit.enrol.test_trust import TRUST
from tests.unit.nodes.test_policy import CTL_2, SE_1
from tests.world import ManualClock, refusal

LEARNING = replace(CTL_2, state="joining", joined_at=1)
PEER = Peer(CTL_2.id, "ctl-2", "controller", "avictlruser", "active", "")


def leader(tmp_path: Path, node: Node = LEARNING, *, connected: bool = True, apart: float = 0.0) -> Cluster:
    """A single Controller, at which *node* is known."""
    mesh = SimpleNamespace(
        directory=SimpleNamespace(nodes={node.id: node}), supervisor=SimpleNamespace(routes=[]),
        peers=SimpleNamespace(connected=["ctl-2"] if connected else [], offsets={"ctl-2": apart}))
    return Cluster(tmp_path, ManualClock(), ControllerSettings(addresses=["192.0.2.10"], view="127.66.0.0/16"), TRUST,
                   cast("Any", mesh), cast("Any", None), cast("Any", object()), None, cast("Any", None))


def asking(made: Cluster, version: str = "1.0") -> Any:
    """ctl-2 asks to come in."""
    door = Admittance(made, cast("Any", None), cast("Any", None), "1.0")
    return door.admit(PEER, {"version": version, "request": ""})


ADMISSIONS: dict[str, tuple[Callable[[Path], Cluster], str, str]] = {
    "not committed": (lambda at: leader(at, replace(LEARNING, joined_at=0)), "1.0", "FL-NODE-STATE"),
    "frozen": (lambda at: leader(at, replace(CTL_2, state="frozen")), "1.0", "FL-NODE-STATE"),
    "an engine's id": (lambda at: leader(at, replace(SE_1, id=CTL_2.id)), "1.0", "FL-NODE-STATE"),
    "another version": (leader, "1.1", "FL-CLUSTER-VERSION"),
    "not reached": (lambda at: leader(at, connected=False), "1.0", "FL-CLUSTER-REACH"),
    "a clock that is fast": (lambda at: leader(at, apart=31), "1.0", "FL-CLUSTER-CLOCK"),
    "a clock that is slow": (lambda at: leader(at, apart=-3600), "1.0", "FL-CLUSTER-CLOCK"),
    "all is well, but the leader has a view": (lambda at: leader(at, apart=29), "1.0", "FL-CLUSTER-VIEW"),
}


@pytest.mark.parametrize("what", ADMISSIONS)
async def test_what_is_in_the_way_of_an_admission_is_named(tmp_path: Path, what: str) -> None:
    make, version, code = ADMISSIONS[what]
    assert await refusal(asking(make(tmp_path), version)) == code


async def test_a_controller_of_one_leads_without_a_fence(tmp_path: Path) -> None:
    made = leader(tmp_path)
    assert (made.leading, made.leader, made.margin, list(made.fence())) == (True, TRUST.node, 0, [])
    made.sqlite = None
    assert (made.leading, made.leader) == (False, None)
    assert made.margin > 0
    assert await refusal(asking(made)) == "FL-NOT-LEADER"


async def test_a_member_whose_certificate_is_over_gets_another_before_it_starts(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = leader(tmp_path)
    (folder(tmp_path) / "data" / "member").mkdir(parents=True)

    async def reissued(state: Path, *_: object) -> bool:
        raise OperatorError("FL-ETCD-IDENTITY", str(state))

    monkeypatch.setattr(cluster, "reissue", reissued)
    made.note = Note(stage="member", base=0, members={})
    assert await refusal(made.open()) == "FL-ETCD-IDENTITY"
