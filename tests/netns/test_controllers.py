"""Controllers become a cluster, over links with the delay of a country, and each knows what each has done."""

from collections.abc import Iterator

import pytest

from tests.netns.controllers import Town, cluster
from tests.processes import until


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=2) as made:
        yield made


def test_1_two_controllers_have_one_leader_and_one_store(town: Town) -> None:
    for name in ("ctl-1", "ctl-2"):
        seen = town.until_well("ctl-1", "ctl-2", at=name)
        assert (seen["leader"], seen["term"], seen["store"]) == ("ctl-1", 1, "etcd")
        assert {m["name"]: m["role"] for m in seen["members"]} == {"ctl-1": "leader", "ctl-2": "follower"}
    assert not (town["ctl-1"].state / "store.db").exists()
    events = [record["event"] for record in town["ctl-2"].listed("audit")]
    assert [event for event in events if event in ("cluster.founded", "controller.admitted")] == [
        "cluster.founded", "controller.admitted"]
    town["ctl-2"].cli("audit", "verify").done()
    for writing, reading in (("ctl-1", "ctl-2"), ("ctl-2", "ctl-1")):
        town.write(writing, f"by-{writing}").done()
        until(lambda writing=writing, reading=reading: f"by-{writing}" in town.written(reading), "it is seen there")  # type: ignore[misc]


def test_2_a_token_of_one_is_known_at_the_other(town: Town) -> None:
    town.export("engine", "se-9", "ctl-2")
    (token,) = town["ctl-1"].listed("token")[:1]
    assert (token["node"], token["state"], token["issued_by"]) == ("se-9", "open", "root")
    town["ctl-2"].cli("token", "revoke", token["id"]).done()
    assert town["ctl-1"].listed("token")[0]["state"] == "revoked"
