"""What the stories of the root CA share. They are in several files, for the time that they take: members of the store
are restarted in each, one after the other.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from tests.netns import rotations
from tests.netns.controllers import Town
from tests.netns.rotations import ALL, nothing_is_under_way, trust
from tests.processes import until

NAMES = ("se-1", "se-2")


@contextlib.contextmanager
def well(town: Town) -> Iterator[None]:
    """A story begins where all is well, and ends where all go by one root."""
    town.until_well(*ALL)
    yield
    town.until_well(*ALL)
    settled(town)


def root(town: Town, at: str = "ctl-1") -> str:
    """What is believed."""
    return str(town[at].get("/api/cluster/ca")["ca"])


def settled(town: Town, names: Sequence[str] = ALL) -> None:
    """Nothing is under way, and every node and every member believes the one root."""
    nothing_is_under_way(town, names)
    believed = root(town, names[0])
    assert believed.count("BEGIN") == 1
    nodes = [town[name] for name in (*names, *NAMES)]
    until(lambda: len({(one["statement"], *one["roots"]) for one in map(trust, nodes)}) == 1, "all believe the same")
    assert len(trust(nodes[0])["roots"]) == 1
    until(lambda: {(town[c].state / "etcd" / "ca.pem").read_text() for c in names} == {believed}, "members believe it")


def start(town: Town, at: str, **more: object) -> dict[str, Any]:
    """Begin one."""
    return rotations.start(town, at, "root-ca", **{"patience_s": 30} | more)
