"""Three Controllers and an engine, 70 ms away: what the API presents changes to an organisation's certificate and back,
while the leader is killed, a follower is cut off, and somebody calls it off.

A writer, somebody who redeems tokens and a stream go on all the while and are judged at the end of each (`life`).
"""

import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns import rotations
from tests.netns.controllers import Town, cluster
from tests.netns.life import life
from tests.netns.rotations import (
    ALL,
    BROUGHT,
    OWN,
    PHASES,
    bring,
    called_off,
    led_on,
    nothing_is_under_way,
    over,
    patience,
    went_on_without,
)
from tests.netns.trusted import presented
from tests.processes import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

KIND = "api"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("cluster")
    with cluster(folder, controllers=3, engines=1) as made:
        bring(made, folder / "pki")
        yield made


@pytest.fixture(autouse=True)
def _well(town: Town) -> Iterator[None]:
    """Each story begins where all is well, and ends where every Controller presents what the configuration names."""
    town.until_well(*ALL)
    town.until_up(["se-1"], ALL)
    yield
    nothing_is_under_way(town)
    until(lambda: len({rotations.used(town, KIND, name) for name in ALL}) == 1, "all say the same")
    wanted = {used(town) == BROUGHT[KIND]}
    until(lambda: {presented(town, name) == brought(town) for name in ALL} == wanted, "all present what is named")


def used(town: Town) -> str:
    return rotations.used(town, KIND)


def brought(town: Town) -> str:
    """The organisation's certificate, PEM. The cluster's own are each Controller's."""
    found = town["ctl-1"].get("/api/sslkeyandcertificate")["results"]
    text = next(str(one["certificate"]["certificate"]) for one in found if one["name"] == BROUGHT[KIND])
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(text)).strip()


def start(town: Town, at: str, **more: object) -> dict[str, Any]:
    return rotations.start(town, at, KIND, **{"patience_s": 20} | more)


def test_1_there_and_back_with_everybody(town: Town) -> None:
    for _ in range(2):
        before, shown = used(town), {presented(town, name) for name in ALL}
        with life(town, f"from-{'own' if before == OWN[KIND] else 'corporate'}", at=ALL, stream_to="ctl-2"):
            done = over(town, "ctl-1", start(town, "ctl-2"))
        assert done["outcome"] == "done", done
        assert used(town) != before
        assert not {presented(town, name) for name in ALL} & shown


@pytest.mark.parametrize("phase", PHASES)
def test_2_the_leader_is_killed_in_each_phase(town: Town, phase: str) -> None:
    before = used(town)
    done = led_on(town, phase, lambda at: start(town, at, patience_s=60))
    assert (used(town) != before) == (done["outcome"] == "done")


@pytest.mark.parametrize("phase", ["scheduled", *PHASES])
def test_3_a_follower_is_cut_off(town: Town, phase: str) -> None:
    before = used(town)
    done = went_on_without(town, phase, lambda at: start(town, at, patience_s=patience(phase)))
    assert (used(town) != before) == (done["outcome"] == "done")


@pytest.mark.parametrize("phase", PHASES)
def test_4_it_is_called_off_in_each_phase(town: Town, phase: str) -> None:
    before = used(town)
    done = called_off(town, phase, lambda at: start(town, at))
    assert (used(town) != before) == (done["outcome"] == "done")
