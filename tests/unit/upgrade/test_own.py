"""A node changes its own version: to what it has verified and what fits, once, and back only where it came from."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.base import files
from fairlead.base.clock import LAST_INSTANT
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.upgrade import own as module
from fairlead.upgrade.keys import at, demo
from fairlead.upgrade.manifest import File, Manifest, encode
from fairlead.upgrade.own import OwnUpgrade
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.stages import Order
from fairlead.upgrade.versions import Standing, Versions
from tests.world import ManualClock

ORDER = Order("a1", "1.1.0", "b" * 64, 1000)


@dataclass
class Bundle:
    manifest: Manifest
    seen: Seen = field(default_factory=lambda: Seen(1, 2, 3, 4, 5))


def manifest(version: str = "1.1.0", minimum: str = "0.1.0") -> Manifest:
    return Manifest(version, minimum, ("controller", "engine"), 0, (File("a.whl", 1, "0" * 64),))


class Taking:
    """Bundles of any kind."""

    def __init__(self) -> None:
        self.bundle = Bundle(manifest())
        self.fails: Exception | None = None
        self.unfit: FairleadError | None = None
        self.swapped: Bundle | None = None
        self.brought = 0
        self.bytes = 1000
        self.gate = asyncio.Event()
        self.gate.set()

    async def bring(self, sha256: str, size: int) -> Bundle:
        assert (sha256, size) == (ORDER.sha256, ORDER.size)
        self.brought += 1
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return self.bundle

    def came(self, sha256: str) -> int:
        return self.bytes

    def fits(self, manifest: Manifest) -> None:
        if self.unfit is not None:
            raise self.unfit

    def unpack(self, sha256: str, into: Path) -> Bundle:
        (into / "lib").mkdir(mode=0o700)
        files.write_private(into / "manifest.json", encode(self.bundle.manifest))
        return self.swapped or self.bundle


class Node:
    """A node, as often as it is started."""

    def __init__(self, state: Path, clock: ManualClock) -> None:
        self.state, self.clock, self.taking = state, clock, Taking()
        self.versions = Versions(state, "1.0.0")
        self.restarts = 0
        self.events: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.start()

    def start(self) -> OwnUpgrade:
        for task in self.tasks:
            task.cancel()
        self.own = OwnUpgrade(self.state, self.versions, self.taking, now=self.clock.now, restart=self.restart,
                              record=lambda event, **details: self.events.append(event))
        self.tasks.append(asyncio.get_running_loop().create_task(self.own.run()))
        return self.own

    def restart(self) -> None:
        self.restarts += 1

    @property
    def state_now(self) -> str:
        self.own.look()
        return self.own.report().state

    async def until(self, *states: str) -> None:
        async with asyncio.timeout(5):
            while self.own.report().state not in states:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@pytest.fixture
async def node(tmp_path: Path) -> Any:
    made = Node(tmp_path, ManualClock())
    yield made
    for task in made.tasks:
        task.cancel()


async def test_it_goes_over_and_says_so_at_each_step(node: Node) -> None:
    assert (node.own.report().version, node.own.report().state) == ("1.0.0", "")
    node.own.want(ORDER)
    await node.until("switching")
    report = node.own.report()
    assert (report.version, report.id, report.bytes, node.restarts) == ("1.0.0", "a1", 1000, 1)
    node.clock.set(3)
    node.start()
    assert node.state_now == "trial"
    node.versions.confirm(node.clock.now())
    node.clock.set(5)
    await node.until("done")
    node.own.look()
    report = node.own.report()
    assert (report.version, report.previous, report.seconds) == ("1.1.0", "1.0.0", 5.0)
    assert node.start().report().state == "done", "also after another start"
    assert node.events == ["upgrade.asked", "upgrade.switching", "upgrade.done"]


async def test_a_lost_or_repeated_wish_changes_nothing(node: Node) -> None:
    node.taking.gate.clear()
    for _ in range(5):
        node.own.want(ORDER)
        await asyncio.sleep(0)
    await node.until("fetching")
    node.own.want(ORDER)
    node.taking.gate.set()
    await node.until("switching")
    node.own.want(ORDER)
    await asyncio.sleep(0.02)
    assert (node.taking.brought, node.restarts) == (1, 1)


async def test_what_failed_its_trial_is_not_tried_again_but_by_another_upgrade(node: Node) -> None:
    node.own.want(ORDER)
    await node.until("switching")
    node.versions.back("its tunnels do not come up\x1b[2J", node.clock.now())
    node.start()
    await node.until("back")
    report = node.own.report()
    assert (report.version, report.state) == ("1.0.0", "back")
    assert report.why.startswith("its tunnels do not come up")
    assert report.why.isprintable()
    for _ in range(2):
        node.own.want(ORDER)
        await asyncio.sleep(0.02)
        assert (node.own.report().state, node.restarts) == ("back", 1)
        node.start()
    node.own.want(replace(ORDER, id="a2"))
    await node.until("switching")
    assert node.restarts == 2


@pytest.mark.parametrize("code", ["FL-UPGRADE-SIGNATURE", "FL-UPGRADE-COUNTER", "FL-DISK"], ids=str)
async def test_what_is_refused_is_said_and_not_tried_again(node: Node, code: str) -> None:
    node.taking.fails = (OperatorError if code == "FL-DISK" else Refused)(code, "no " * 200)
    node.own.want(ORDER)
    await node.until("failed")
    assert len(node.own.report().why) <= 400
    assert node.versions.standing() == Standing("1.0.0")
    node.start().want(ORDER)
    await asyncio.sleep(0.02)
    assert (node.taking.brought, node.restarts, node.own.report().state) == (1, 0, "failed")


@pytest.mark.parametrize("code", ["FL-IMAGE-AWAY", "FL-UPGRADE-UNTRUSTED"], ids=str)
async def test_what_passes_is_tried_again_when_it_is_asked_again(node: Node, code: str) -> None:
    """No Controller has it at the moment, or the root is still on its way: an engine that has just joined."""
    node.taking.fails = Refused(code, "not now")
    node.own.want(ORDER)
    await node.until("waiting")
    node.taking.fails = None
    async with asyncio.timeout(5):
        while node.own.report().state != "switching":
            node.own.want(ORDER)
            await asyncio.sleep(0.005)


async def test_attack_words_that_become_longer_when_they_are_escaped_end_no_node(node: Node) -> None:
    """Of a Controller, say. They are on disk then, and have to be said after every start."""
    node.taking.fails = Refused("FL-X", "\x01" * 1000)
    node.own.want(ORDER)
    await node.until("failed")
    said = node.own.report().why
    assert said.startswith("\\x01")
    assert node.start().report().why == said
    file = node.state / module.FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"why": "x" * 3003}))
    assert node.start().report().why == "x" * module.MOST_WORDS, "as it was once written"


async def test_attack_a_bundle_over_which_this_software_stumbles_ends_that_upgrade_and_not_the_node(node: Node) -> None:
    node.taking.fails = ValueError("negative count")
    node.own.want(ORDER)
    await node.until("failed")
    assert "ValueError: the log says more [FL-INTERNAL]" in node.own.report().why
    node.own.want(ORDER)
    await asyncio.sleep(0.02)
    assert (node.taking.brought, node.restarts, node.tasks[-1].done()) == (1, 0, False)
    node.taking.fails = None
    node.own.want(replace(ORDER, id="a2"))
    await node.until("switching")


async def test_another_order_waits_for_the_end_of_a_trial(node: Node) -> None:
    node.own.want(ORDER)
    await node.until("switching")
    node.start()
    node.taking.bundle = Bundle(manifest("1.2.0"))
    other = replace(ORDER, id="a2", version="1.2.0")
    node.own.want(other)
    await node.until("waiting")
    assert "on trial" in node.own.report().why
    node.versions.confirm(node.clock.now())
    node.own.want(other)
    await node.until("switching")
    assert node.restarts == 2


async def test_a_controller_in_wrong_hands_brings_nothing_that_does_not_fit(node: Node) -> None:
    """It may say what it likes: an older version is refused by this node's own judgement."""
    node.taking.unfit = Refused("FL-UPGRADE-OLDER", "this node runs a newer one")
    node.own.want(ORDER)
    await node.until("failed")
    assert "this node runs a newer one [FL-UPGRADE-OLDER]" in node.own.report().why
    assert (node.restarts, node.versions.complete("1.1.0")) == (0, False)


async def test_an_older_version_is_refused_whoever_has_signed_it(node: Node) -> None:
    node.taking.bundle = Bundle(manifest("0.9.9"))
    node.own.want(replace(ORDER, version="0.9.9"))
    await node.until("failed")
    assert "0.9.9 is older than 1.0.0, which runs here" in node.own.report().why
    assert (node.restarts, node.versions.complete("0.9.9")) == (0, False)


async def test_a_bundle_of_another_version_than_was_said_is_refused(node: Node) -> None:
    node.taking.bundle = Bundle(manifest("9.0.0"))
    node.own.want(ORDER)
    await node.until("failed")
    assert "[FL-UPGRADE-OTHER]" in node.own.report().why


async def test_a_bundle_that_is_exchanged_before_it_is_unpacked_is_refused(node: Node) -> None:
    node.taking.swapped = Bundle(manifest("9.0.0"))
    node.own.want(ORDER)
    await node.until("failed")
    assert (node.restarts, node.versions.complete("1.1.0"), node.versions.standing().current) == (0, False, "1.0.0")


async def confirmed(node: Node) -> None:
    node.own.want(ORDER)
    await node.until("switching")
    node.versions.confirm(node.clock.now())
    node.start()
    await node.until("done")


async def test_back_leads_only_to_the_version_that_this_node_ran_before(node: Node) -> None:
    await confirmed(node)
    node.own.want(Order("b1", "0.9.0", "", 0, back=True))
    await node.until("failed")
    assert "did not run 0.9.0 before, but 1.0.0 [FL-UPGRADE-BACK]" in node.own.report().why
    assert node.versions.standing().current == "1.1.0"
    node.own.want(Order("b2", "1.0.0", "", 0, back=True))
    await node.until("switching")
    assert node.own.report().version == "1.1.0"
    node.start()
    await node.until("done")
    assert node.own.report().version == "1.0.0"


async def test_back_is_refused_where_the_security_counter_forbids_it(node: Node) -> None:
    await confirmed(node)
    node.versions.remember(Seen(counter=7))
    node.own.want(Order("b1", "1.0.0", "", 0, back=True))
    await node.until("failed")
    assert "FL-UPGRADE-COUNTER" in node.own.report().why
    assert (node.versions.standing().current, node.restarts) == ("1.1.0", 1)


async def test_to_have_it_is_not_to_run_it(node: Node) -> None:
    node.own.have(ORDER)
    await node.until("verified")
    node.own.have(ORDER)
    await asyncio.sleep(0.02)
    assert (node.restarts, node.taking.brought) == (0, 1)
    node.own.want(ORDER)
    await node.until("switching")


async def test_what_is_called_back_while_it_is_unpacked_is_not_switched_to(node: Node) -> None:
    asked: list[Order] = []

    def still(order: Order) -> bool:
        asked.append(order)
        return len(asked) > 1

    node.own.still = still
    node.own.want(ORDER)
    async with asyncio.timeout(5):
        while not asked:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert node.own.report().state == ""
    assert (node.versions.complete("1.1.0"), node.versions.standing().current, node.restarts) == (True, "1.0.0", 0)
    node.own.want(ORDER)
    await node.until("switching")
    assert asked == [ORDER] * 2


async def test_a_power_cut_before_the_switch_has_it_done_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(node.versions, "switch", dies)
        node.own.want(ORDER)
        await asyncio.wait([node.tasks[-1]], timeout=5)
    node.start()
    assert node.state_now == ""
    node.own.want(ORDER)
    await node.until("switching")
    assert node.versions.standing().current == "1.1.0"


async def test_a_power_cut_before_the_switch_is_not_taken_for_an_earlier_failure(
        node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.own.want(ORDER)
    await node.until("switching")
    node.versions.back("it did not start", node.clock.now())
    node.start()
    await node.until("back")

    def dies(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    another = replace(ORDER, id="a2", version="1.2.0")
    node.taking.bundle = Bundle(manifest("1.2.0"))
    with monkeypatch.context() as patch:
        patch.setattr(node.versions, "switch", dies)
        node.own.want(another)
        await asyncio.wait([node.tasks[-1]], timeout=5)
    node.start()
    assert node.state_now == "", "1.2.0 was never tried"
    node.own.want(another)
    await node.until("switching")
    assert node.versions.standing().current == "1.2.0"


async def test_a_power_cut_before_the_switch_of_a_second_try_is_not_taken_for_the_failure_of_the_first(
        node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.own.want(ORDER)
    await node.until("switching")
    node.versions.back("it did not start", node.clock.now())
    node.start()
    await node.until("back")

    def dies(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    again = replace(ORDER, id="a2")
    with monkeypatch.context() as patch:
        patch.setattr(node.versions, "switch", dies)
        node.own.want(again)
        await asyncio.wait([node.tasks[-1]], timeout=5)
    node.start()
    assert node.state_now == "", "it was not tried a second time"
    node.own.want(again)
    await node.until("switching")
    node.versions.back("nor the second time", node.clock.now())
    node.start()
    await node.until("back")
    assert node.own.report().why == "nor the second time"


@pytest.mark.parametrize("counter", [0, 3], ids=["the-base-is-next", "nothing-is-next"])
async def test_attack_a_damaged_standing_is_a_problem_and_does_not_end_what_runs(node: Node, counter: int) -> None:
    await confirmed(node)
    assert node.own.problem == ""
    standing = node.state / "versions" / "standing.json"
    good = standing.read_bytes()
    node.versions.remember(Seen(counter=counter))
    standing.write_bytes(b"{")
    assert "standing.json is damaged" in node.own.problem
    assert ("FL-UPGRADE-STANDING" in node.own.problem) is (counter > 0)
    node.taking.bundle = Bundle(replace(manifest("1.2.0"), counter=counter))
    if counter:
        node.own.want(replace(ORDER, id="a2", version="1.2.0"))
        await node.until("failed")
        await asyncio.sleep(0.02)
    assert not node.tasks[-1].done()
    standing.write_bytes(good)
    assert node.own.problem == ""
    node.own.want(replace(ORDER, id="a3", version="1.2.0"))
    await node.until("switching")
    node.start()
    standing.write_bytes(b"{")
    node.own.look()
    await asyncio.sleep(0.02)
    assert not node.tasks[-1].done()


async def test_what_it_has_fetched_is_said_while_it_fetches(node: Node) -> None:
    node.taking.gate.clear()
    node.own.want(ORDER)
    await node.until("fetching")
    node.taking.bytes = 400
    assert node.own.report().bytes == 400
    node.taking.gate.set()
    await node.until("switching")


async def test_a_counter_counts_only_once_its_version_has_proven_itself(node: Node) -> None:
    node.own.want(ORDER)
    await node.until("switching")
    assert node.versions.seen() == Seen(1, 2, 3, 4, 0)


async def test_a_damaged_record_of_the_last_one_is_none(node: Node) -> None:
    (node.state / module.FILE).write_bytes(b"{")
    (node.state / module.FILE).chmod(0o600)
    assert node.start().report().state == ""




async def test_the_first_root_counts_and_no_controller_changes_it(node: Node, tmp_path: Path) -> None:
    node.own.pin(b"{}")
    assert node.versions.root() is None, "that is no root"
    first, second = (make_root(tmp_path / name) for name in ("a", "b"))
    node.own.pin(first)
    assert node.own.report().pinned
    node.own.pin(second)
    assert node.versions.root() == first


def make_root(where: Path) -> bytes:
    demo(where, at(1_700_000_000))
    return (where / "root.json").read_bytes()


@pytest.mark.parametrize(("began", "ends"), [(0, LAST_INSTANT // 2), (-1, LAST_INSTANT)],
                         ids=["centuries", "no-time"])
async def test_attack_a_controller_that_lies_about_the_time_ends_no_engine(node: Node, began: int, ends: int) -> None:
    """Between two heartbeats centuries pass: that is on disk then, and has to be said after every start."""
    node.clock.instant = began
    node.taking.fails = Refused("FL-UPGRADE-SIGNATURE", "no")
    node.taking.gate.clear()
    node.own.want(ORDER)
    await node.until("fetching")
    node.clock.instant = ends
    assert node.own.report().state == "fetching"
    node.taking.gate.set()
    await node.until("failed")
    report = node.start().report()
    assert (report.state, 0 <= report.since < LAST_INSTANT, 0 <= report.seconds < 1e9) == ("failed", True, True)


async def test_what_it_has_seen_is_said(node: Node) -> None:
    """After the restore of an old backup nobody else may know it."""
    node.versions.remember(Seen(1, 12, 3, 4, 5))
    assert (node.own.report().number, node.own.report().counter) == (12, 5)
    node.own.have(ORDER)
    await node.until("verified")
    assert (node.own.report().number, node.own.report().counter) == (12, 5)
