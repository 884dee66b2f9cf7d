"""Model and product side by side: the same requests, the same interleavings, the same answers and the same records.

Hypothesis chooses who asks for what, when each transaction takes effect, when the clock moves, when a Controller dies,
when a backup comes back. Requests come twice, late, in any order and from a thief who has the bundle. What fails is
printed as it was found; with ``SHRINK=1`` in the environment it is made small first, which takes minutes.

Beside it, every story of two requests is told once, because chance seldom tells them: one waits before its transaction
while something happens and the other is served.
"""

import asyncio
import itertools
import os
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.contract.backends import BACKENDS, MakeBackend
from tests.model.ground import Desk, Ground
from tests.model.redemption import FINAL, Answer, Held, KeyPair, Live, Model, Node, Request, Token
from tests.world import Machine

T = TypeVar("T")
MACHINES = {f"k{number}": Machine() for number in range(3)}
NAMES = st.sampled_from(("se-0", "se-1"))
KEYS = st.sampled_from(sorted(MACHINES))
TOKENS = ("t0", "t1", "t2")
PICK = st.integers(0, 2)
SOMETIMES_NAMED = st.sampled_from((None, None, "se-0", "se-1"))
SOMETIMES_BOUND = st.sampled_from((None, None, None, None, "k0", "k1"))
LIFETIME_S = 100


def may_ask(machine: "Redemption") -> bool:
    """Whether there is a token, and a desk for one more request."""
    return bool(machine.ground.bundles and machine.idle())


class Redemption(RuleBasedStateMachine):
    """Both worlds."""

    make_backend: MakeBackend

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.ground = Ground(self.make_backend(Path(self.folder.name)), machines=MACHINES)
        self.run(self.ground.found())
        self.model = Model()
        self.requests: dict[str, Request] = {}
        self.pending: dict[str, Any] = {}
        self.backup: tuple[Any, Any] | None = None
        self.disturbed: set[str] = set()
        self.asked: dict[str, str] = {}
        self.states: dict[str, str] = {}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self.ground.stop())
        self.runner.close()
        self.folder.cleanup()

    @initialize(lengthens=st.booleans(), name=SOMETIMES_NAMED, bound=SOMETIMES_BOUND)
    def begin(self, lengthens: bool, name: str | None, bound: str | None) -> None:
        self.model.lengthens = lengthens
        self.issue(LIFETIME_S, name, bound)

    # -- what anybody may ask -----------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.ground.bundles) < len(TOKENS))
    @rule(lifetime=st.sampled_from((LIFETIME_S, 2 * LIFETIME_S)), name=SOMETIMES_NAMED, bound=SOMETIMES_BOUND)
    def issue(self, lifetime: int, name: str | None, bound: str | None) -> None:
        token = TOKENS[len(self.ground.bundles)]
        expected = self.model.issue(token, lifetime, name, bound)
        found = self.run(self.ground.issue(token, lifetime, name, bound, lengthen=self.model.lengthens))
        assert found == expected

    @precondition(may_ask)
    @rule(which=PICK, keys=KEYS, name=NAMES)
    def exchange(self, which: int, keys: str, name: str) -> None:
        token = self.token(which)
        self.ask(self.model.exchange(token, keys, name), lambda at: self.ground.exchange(at, token, keys, name), token)

    @precondition(may_ask)
    @rule(which=PICK, keys=KEYS, name=NAMES)
    def exchange_too(self, which: int, keys: str, name: str) -> None:
        """The same, for the same reason."""
        self.exchange(which, keys, name)

    @precondition(may_ask)
    @rule(which=PICK)
    def go_on(self, which: int) -> None:
        """What an honest joiner does next: whoever holds the reservation asks again, or commits it."""
        token = self.token(which)
        known = self.model.token(token)
        if known is not None and known.keys is not None:
            self.commit(which, known.keys, known.keys)

    @precondition(may_ask)
    @rule(which=PICK, keys=KEYS, claimed=KEYS)
    def commit(self, which: int, keys: str, claimed: str) -> None:
        token = self.token(which)
        self.ask(self.model.commit(keys, token, claimed), lambda at: self.ground.commit(at, keys, token, claimed))

    @precondition(lambda self: self.model.nodes() and may_ask(self))
    @rule(what=st.sampled_from(("revoke", "remove", "release", "release", "label")), which=PICK, name=NAMES)
    def operate(self, what: str, which: int, name: str) -> None:
        """What an operator does."""
        token, node = self.token(which), next((n for n in self.model.nodes().values() if n.name == name), None)
        match what:
            case "revoke":
                self.disturbed.add(token)
                self.ask(self.model.revoke(token), lambda at: self.ground.revoke(at, token))
            case "remove":
                self.disturbed |= {node.token} if node else set()
                self.ask(self.model.remove(name), lambda at: self.ground.remove(at, name))
            case "release":
                keys = node.keys if node and which else f"k{which}"
                self.ask(self.model.release(name, keys), lambda at: self.ground.release(at, name, keys))
            case _:
                self.model.label(name)
                self.run(self.ground.label(name))

    @precondition(lambda self: self.model.due() and may_ask(self))
    @rule()
    def sweep(self) -> None:
        due, desk = self.model.due(), self.idle()[0]
        order = [t for t in self.ground.deadlines(self.ground.desks[desk]) if t in due]
        assert set(order) == due
        self.ask(self.model.sweep(order), self.ground.sweep)

    def ask(self, request: Request, work: Callable[[Desk], Coroutine[Any, Any, Answer]], token: str = "") -> None:
        """Begin a request at an idle desk, up to its first transaction."""
        desk = self.idle()[0]
        at = self.ground.desks[desk]
        self.requests[desk], self.asked[desk] = request, token
        try:
            self.pending[desk], expected = next(request), None
        except StopIteration as end:
            expected = end.value
        self.compare(at, self.run(at.start(work(at))), expected)

    def idle(self) -> list[str]:
        """The desks without a request."""
        return [desk for desk in self.ground.desks if desk not in self.requests]

    def token(self, which: int) -> str:
        """One of those that were issued."""
        issued = list(self.ground.bundles)
        return issued[which % len(issued)]

    # -- what happens to it -------------------------------------------------------------------------------------------

    @precondition(lambda self: self.requests)
    @rule(which=PICK)
    def take_effect(self, which: int) -> None:
        """A transaction that waits reaches the store."""
        desk = sorted(self.requests)[which % len(self.requests)]
        at = self.ground.desks[desk]
        try:
            self.pending[desk] = self.requests[desk].send(self.model.take_effect(self.pending[desk]))
            expected = None
        except StopIteration as end:
            expected = end.value
        self.compare(at, self.run(at.step()), expected)

    @precondition(lambda self: self.requests)
    @rule(which=PICK)
    def take_effect_too(self, which: int) -> None:
        """The same; what everything else waits for is drawn twice as often."""
        self.take_effect(which)

    @precondition(lambda self: self.requests)
    @rule(which=PICK)
    def die(self, which: int) -> None:
        """A request is lost between reading and writing; whoever asked hears nothing."""
        desk = sorted(self.requests)[which % len(self.requests)]
        self.forget(desk)
        self.run(self.ground.desks[desk].end())

    @rule(what=st.sampled_from(("crash", "back up", "restore")))
    def misfortune(self, what: str) -> None:
        """All processes end, and start again on what the store holds; or a backup comes back."""
        if what == "crash":
            for desk in list(self.requests):
                self.forget(desk)
            self.run(self.ground.crash())
        elif what == "back up" or self.backup is None:
            self.backup = self.model.backup(), self.run(self.ground.backup())
        else:
            self.model.restore(self.backup[0])
            self.run(self.ground.restore(self.backup[1]))
            self.disturbed |= set(self.ground.bundles)
            self.states.clear()

    @rule(seconds=st.sampled_from((1, 30, 59, 61, 100, 600)), which=st.none() | PICK, after=st.booleans())
    def pass_time(self, seconds: int, which: int | None, after: bool) -> None:
        """So many seconds; or up to the last one before a token's deadline, or onto it."""
        known = None if which is None or not self.ground.bundles else self.model.token(self.token(which))
        if known is not None and known.deadline is not None:
            seconds = max(0, known.deadline - self.model.now - (not after))
        self.model.pass_time(seconds)
        self.run(self.ground.backend.pass_time(seconds))

    def forget(self, desk: str) -> None:
        self.requests.pop(desk).close()
        self.pending.pop(desk, None)

    def compare(self, at: Desk, found: Answer | None, expected: Answer | None) -> None:
        """The same answer, or both wait for the store again."""
        assert found == expected
        if expected is None:
            return
        self.forget(at.name)
        token = self.model.token(self.asked[at.name])
        # C7, C8: who is alone with his bundle, in time, is never told that it is spent; who is not, has raised an alarm
        if token is not None and str(expected) in {f"FL-JOIN-{state.upper()}" for state in FINAL} | {
                "FL-JOIN-CONFLICT", "FL-JOIN-USED"} and self.asked[at.name] not in self.disturbed:
            assert self.model.alarms[self.asked[at.name]] or self.model.now >= token.expires_at

    # -- after every step ---------------------------------------------------------------------------------------------

    @invariant()
    def the_records_are_the_same(self) -> None:
        self.run(self.ground.caught_up())
        found = self.run(self.ground.seen())
        assert found == self.described()
        self.nothing_final_moves({name: str(value[0]) for (kind, name), value in found.items()
                                  if kind == "token" and isinstance(value, tuple)})

    @invariant()
    def the_clock_is_the_same(self) -> None:
        assert self.run(self.ground.store.now()) == self.ground.began + self.model.now * 1_000_000

    def nothing_final_moves(self, states: dict[str, str]) -> None:
        """Seen in the store itself: what was committed, frozen, expired or revoked stays so."""
        for name, state in self.states.items():
            assert state not in (*FINAL, "redeemed") or states[name] == state
        self.states = states

    def described(self) -> dict[tuple[str, str], object]:
        """The model, as `Ground.seen` describes the store."""
        described: dict[tuple[str, str], object] = {}
        for (kind, name), entry in self.model.records.items():
            match entry:
                case Token():
                    there = self.model.node(entry.node) is not None
                    described[kind, name] = (entry.state, entry.keys, there, entry.conflict)
                case Node():
                    described[kind, entry.name] = (entry.state, entry.keys, entry.address, entry.token)
                case Held() if kind == "name":
                    described[kind, name] = entry.state
                case Held():
                    described[kind, name] = ("held" if entry.state == "held" else "quarantined", entry.until)
                case KeyPair():
                    described[kind, name] = (entry.state, entry.token)
                case Live():
                    described[kind, name] = True
        return described


@pytest.fixture(params=BACKENDS, ids=lambda make: make.__name__)
def machine(request: pytest.FixtureRequest) -> type[Redemption]:
    made: type[Redemption] = type("Here", (Redemption,), {"make_backend": request.param})
    return made


# What hypothesis comes by too seldom: two requests, the one parked before its transaction while the other is served.
BEFORE = ("open", "reserved", "redeemed")
ASKED: dict[str, Callable[[Redemption], None]] = {
    "exchange": lambda at: at.exchange(0, "k0", "se-0"),
    "exchange with other keys": lambda at: at.exchange(0, "k1", "se-0"),
    "exchange of another token": lambda at: at.exchange(1, "k1", "se-1"),
    "exchange of another token with these keys": lambda at: at.exchange(1, "k0", "se-0"),
    "commit": lambda at: at.commit(0, "k0", "k0"),
    "commit of other keys": lambda at: at.commit(0, "k0", "k1"),
    "revoke": lambda at: at.operate("revoke", 0, "se-0"),
    "remove": lambda at: at.operate("remove", 0, "se-0"),
    "release": lambda at: at.operate("release", 1, "se-0"),
    "sweep": lambda at: at.sweep(),
}
MEANWHILE: dict[str, Callable[[Redemption], None]] = {
    "nothing": lambda _: None,
    "the last second": lambda at: at.pass_time(0, 0, False),
    "the deadline": lambda at: at.pass_time(0, 0, True),
    "the end of the token": lambda at: at.pass_time(600, None, True),
    "a restored backup": lambda at: at.misfortune("restore"),
}
STORIES = list(itertools.product(BEFORE, (False, True), ASKED, MEANWHILE, ASKED))


def tell(at: Redemption, before: str, meanwhile_first: bool, parked: str, meanwhile: str, served: str) -> None:
    """One story, compared after each step; leases last for ever in it, so that no defence stands behind another."""
    def look() -> None:
        at.the_records_are_the_same()
        at.the_clock_is_the_same()

    def ask(what: str) -> str:
        desk = at.idle()[0]
        ASKED[what](at)
        look()
        return desk

    def finish(desk: str) -> None:
        while desk in at.requests:
            at.take_effect(sorted(at.requests).index(desk))
            look()

    at.begin(True, None, None)
    at.issue(LIFETIME_S, None, None)
    for step in {"open": (), "reserved": ("exchange",), "redeemed": ("exchange", "commit")}[before]:
        finish(ask(step))
    at.misfortune("back up")
    if meanwhile_first:
        MEANWHILE[meanwhile](at)
    waits = ask(parked)
    if not meanwhile_first:
        MEANWHILE[meanwhile](at)
    finish(ask(served))
    finish(waits)


@pytest.mark.timeout(900)  # hundreds of stories, on a machine that is busy with others
@pytest.mark.parametrize("told", [STORIES[::23], *(
    pytest.param([story for story in STORIES if story[0] == before], marks=pytest.mark.whole) for before in BEFORE)],
    ids=["some", *BEFORE])
def test_two_requests_in_every_order(machine: type[Redemption], told: list[tuple[str, bool, str, str, str]]) -> None:
    for story in told[::machine.make_backend.every]:
        at = machine()
        try:
            tell(at, *story)
        except AssertionError as error:
            error.add_note(str(story))
            raise
        finally:
            at.teardown()


@pytest.mark.parametrize(("examples", "steps"), [(40, 40), pytest.param(200, 50, marks=pytest.mark.whole)])
def test_model_and_product_agree(machine: type[Redemption], examples: int, steps: int) -> None:
    run_state_machine_as_test(machine, settings=settings(
        max_examples=-(-examples // machine.make_backend.every), stateful_step_count=steps, deadline=None,
        derandomize=True, database=None, print_blob=True, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if "SHRINK" in os.environ else [Phase.generate]))
