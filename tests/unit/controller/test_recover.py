"""Who may go on alone, and at what time the cluster goes on."""

from pathlib import Path
from uuid import UUID

import pytest

from fairlead.base import configuration
from fairlead.base.clock import DAY, LAST_INSTANT, SECOND
from fairlead.base.errors import OperatorError
from fairlead.cluster.etcd import folder
from fairlead.cluster.note import Note, Stage
from fairlead.controller import recover
from fairlead.controller.initialise import COPY
from fairlead.controller.settings import ControllerSettings
from fairlead.enrol.trust import Trust
from fairlead.store.protocol import MARK, mark_value
from tests.world import START

TRUST = Trust(cluster_uuid=UUID(int=1), node="ctl-3", node_id="id-3", role="controller", user="avictlruser",
              internal_address="127.64.0.3", ca_certificates=[], tls_name="portal", controllers=[])


@pytest.fixture
def state(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    configuration.save(tmp_path, ControllerSettings(addresses=["192.0.2.3"]))
    TRUST.save(tmp_path)
    (folder(tmp_path) / "data" / "member").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("stage", "code"), [("committed", "FL-CLUSTER-VOTER"), ("learning", "FL-CLUSTER-VOTER"),
                                             (None, "FL-CLUSTER-SINGLE")])
def test_who_never_voted_does_not_go_on_alone(state: Path, stage: Stage | None, code: str) -> None:
    if stage is not None:
        Note(stage=stage).save(state)
    assert refusal(state) == code


def test_who_was_removed_or_has_no_data_does_not(state: Path) -> None:
    Note(stage="member").save(state)
    assert recover.examine(state).others == []
    TRUST.but(removed=True).save(state)
    assert refusal(state) == "FL-NODE-REMOVED"
    TRUST.save(state)
    (folder(state) / "data" / "member").rmdir()
    assert refusal(state) == "FL-STATE-DAMAGED"


def test_a_damaged_copy_of_the_directory_is_no_obstacle(state: Path) -> None:
    Note(stage="recovering").save(state)
    for damaged in (b"", b"[]", b'{"nodes/1": "{}"}', b'{"nodes/1": 1}'):
        (state / COPY).write_bytes(damaged)
        (state / COPY).chmod(0o600)
        assert recover.examine(state).others == []


def test_time_goes_back_when_it_is_asked_for_only() -> None:
    def time(mark: int, *, reset_clock: bool = False) -> int:
        return recover._time({MARK: mark_value(mark)}, START, said.append, reset_clock=reset_clock)

    said: list[str] = []
    assert (time(START - DAY), time(START + SECOND), said) == (START, START + SECOND, [])
    assert (time(START + 2 * DAY), len(said)) == (START + 2 * DAY, 1)
    assert time(START + 2 * DAY, reset_clock=True) == START
    with pytest.raises(OperatorError) as caught:
        time(LAST_INSTANT)
    assert caught.value.code == "FL-CLUSTER-CLOCK"
    assert time(LAST_INSTANT, reset_clock=True) == START
    assert recover._time({MARK: b"noon"}, START, said.append, reset_clock=True) == START


def refusal(state: Path) -> str:
    with pytest.raises(OperatorError) as caught:
        recover.examine(state)
    return caught.value.code
