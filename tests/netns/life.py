"""What goes on in a cluster while a story hurts it: somebody writes, somebody redeems tokens, a stream runs.

    with life(town, "killed", at=rest, stream_to=rest[0]):
        town[leader].signal(signal.SIGKILL)

All of it goes on until the block ends, and once more before; then `history` judges what was seen, at every Controller
that runs. The *writer* changes the store at one Controller and at another, and notes what was acknowledged. The
*redeemer* has a bundle exported at one of them, and joins with it twice at about the same time, as two engines with
keys of their own: one at most may be told that it joined (that the other one is noticed, and the first frozen for it,
is how it should be). The *stream* is between an engine and a service of a Controller to which nothing happens: numbers,
a window of them under way, which come back whole and in order.
"""

import asyncio
import contextlib
import itertools
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.client.control import ControlClient
from fairlead.enrol import bundle as bundles
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.join import Joiner
from fairlead.store.protocol import StoreUnavailable
from tests.netns.controllers import Town
from tests.netns.history import lost, redeemed_twice, shared_addresses, two_leaders
from tests.processes import connect, echo, read_all, serving, until

ENGINE = "se-1"
"""Where the redeemer and the stream are."""
WRITE_S, REDEEM_S, LINE_S = 0.3, 1.0, 0.1
"""Pauses: the machine has other work, too."""
APART_S = 2.0
"""The second one to redeem a bundle comes at most so long after the first, while that one joins; or right after it."""
LIFETIME_S = 60
PATIENCE_S = 10.0
"""For what is asked of a Controller that may be frozen."""
WINDOW = 16
"""Lines under way."""


@dataclass
class Life:
    """What was seen. Names of writes and of engines begin with *mark*."""

    town: Town
    mark: str
    at: Sequence[str]
    """Whom they ask; may be changed."""
    acknowledged: list[str] = field(default_factory=list)
    """Writes."""
    moments: list[float] = field(default_factory=list)
    """When each was, monotonic seconds."""
    joined: dict[str, str] = field(default_factory=dict)
    """By engine that was told that it joined: its token."""
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    """Engine, token, code of those that were not."""
    redeemed: int = 0
    """Tokens that were tried twice."""
    lines: int = 0
    """That came back."""
    pictures: list[dict[str, str]] = field(default_factory=list)
    """The internal address of each node, as Controllers saw it."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _faults: list[BaseException] = field(default_factory=list)

    @property
    def controllers(self) -> list[str]:
        """Those that run."""
        return [name for name, node in self.town.nodes.items() if node.role == "controller" and node.runs]

    @property
    def longest_s(self) -> float:
        """The longest time without an acknowledged write."""
        return max((after - before for before, after in itertools.pairwise(self.moments)), default=0.0)

    def take_picture(self) -> None:
        """Note who has which address."""
        self.pictures += [{row["name"]: row["internal_address"] for row in self.town[name].listed("node")}
                          for name in self.controllers]

    def __str__(self) -> str:
        codes = Counter(code for _, _, code in self.refused)
        return (f"{self.mark}: {len(self.acknowledged)} writes, at most {self.longest_s:.1f} s apart; {self.redeemed} "
                f"tokens, {len(self.joined)} joined, refused: {dict(codes)}; {self.lines} lines")

    # -- who does what ------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """The writer."""
        for number in itertools.count(1):
            if self._stop.wait(WRITE_S):
                return
            name = f"{self.mark}-{number}"
            with contextlib.suppress(FairleadError):
                self.town.declare(self.at[number % len(self.at)], name, timeout_s=PATIENCE_S)
                self.acknowledged.append(name)
                self.moments.append(time.monotonic())

    def redeem(self) -> None:
        """The redeemer."""
        draw = random.Random(self.mark)
        with self.town.net.hosts[ENGINE].inside():
            for number in itertools.count(1):
                if self._stop.wait(REDEEM_S):
                    return
                asked = ControlClient(self.town[self.at[number % len(self.at)]].state, PATIENCE_S)
                try:
                    bundle = bundles.decode(json.dumps(asked.post(
                        "/api/bundle", {"role": "engine", "lifetime_s": LIFETIME_S})).encode())
                except FairleadError:
                    continue
                apart_s = None if number % 2 else draw.uniform(0, APART_S)
                asyncio.run(self._both(bundle, f"{self.mark}-se-{number}", apart_s))
                self.redeemed += 1

    async def _both(self, bundle: Bundle, name: str, apart_s: float | None) -> None:
        async def one(name: str) -> None:
            joiner = Joiner(self.town.site.folder / name, "engine", name, SystemClock())
            try:
                await joiner.join(bundle, lambda: None)
                self.joined[name] = bundle.token.id.hex()
            except FairleadError as refusal:
                self.refused.append((name, bundle.token.id.hex(), refusal.code))

        first = asyncio.ensure_future(one(f"{name}-a"))
        await asyncio.wait([first], timeout=apart_s)
        await one(f"{name}-b")
        await first

    def stream(self, sock: socket.socket) -> None:
        """Send numbers, and hear them come back."""
        awaited = bytearray()

        def heard(data: bytes) -> None:
            assert data, "the stream ended"
            assert awaited.startswith(data), f"{data[:40]!r} came back in place of {bytes(awaited[:40])!r}"
            del awaited[:len(data)]
            self.lines += data.count(b"\n")

        for number in itertools.count():
            line = b"%0250d\n" % number
            sock.sendall(line)
            awaited += line
            while len(awaited) > WINDOW * len(line):
                heard(sock.recv(65536))
            if self._stop.wait(LINE_S):
                break
        sock.shutdown(socket.SHUT_WR)
        heard(read_all(sock))
        assert not awaited, f"{bytes(awaited[:40])!r} did not come back"

    # -- what becomes of it -------------------------------------------------------------------------------------------

    def run(self, work: Callable[[], None]) -> threading.Thread:
        """*work* in a thread of its own; what it raises is raised by `judge`."""
        def doing() -> None:
            try:
                work()
            except BaseException as fault:  # noqa: BLE001 - raised where the test sees it
                self._faults.append(fault)

        thread = threading.Thread(target=doing)
        thread.start()
        return thread

    def check(self) -> None:
        """Raise what a thread has raised."""
        if self._faults:
            raise self._faults[0]

    def goes_on(self) -> None:
        """Wait for two more writes, and for one more that joins."""
        joined = len(self.joined)
        self.writes_on()
        self.until(lambda: len(self.joined) > joined, "engines join")

    def writes_on(self) -> None:
        """Wait for two more writes."""
        writes = len(self.acknowledged)
        self.until(lambda: len(self.acknowledged) > writes + 1, "writes go on")

    def until(self, look: Callable[[], bool], what: str) -> None:
        """Until *look* finds it, or a thread has raised something."""
        until(lambda: self._faults or look(), what)
        self.check()

    def end(self) -> None:
        """All of them stop."""
        self._stop.set()

    def judge(self) -> None:
        """Whether a cluster may have done what was seen."""
        self.check()
        assert not redeemed_twice(self.joined), self.joined
        for name in self.controllers:
            until(lambda name=name: not lost(self.acknowledged, self.town.written(name)),  # type: ignore[misc]
                  f"{name} has every write")
            until(lambda name=name: not lost(self.joined, self._nodes(name)), f"{name} has all that joined")  # type: ignore[misc]
            nodes = self._nodes(name)
            assert not redeemed_twice(nodes), name
            assert self.joined.items() <= nodes.items(), name
            losers = {engine for engine, token, _ in self.refused if token in self.joined.values()}
            assert not losers & nodes.keys(), f"{name} has one that was refused"
        self.take_picture()
        assert not shared_addresses(self.pictures)
        terms = [(record["term"], name) for name, node in self.town.nodes.items()
                 for record in node.events("leader.elected")]
        assert terms
        assert not two_leaders(terms)

    def _nodes(self, at: str) -> dict[str, str]:
        """Each node that joined with a token, as that Controller has it."""
        return {row["name"]: row["token"] for row in self.town[at].listed("node") if row["token"]}


@contextlib.contextmanager
def life(town: Town, mark: str, *, at: Sequence[str], stream_to: str | None = None) -> Iterator[Life]:
    """All that goes on, at these Controllers, while the block runs; judged at its end.

    *stream_to*: the Controller whose service the stream is with; nobody's when nobody is left alone.
    """
    town.idle(stream_to or at[0])
    seen = Life(town, mark, at)
    seen.take_picture()
    with contextlib.ExitStack() as after:
        sock = after.enter_context(_numbers(town, mark, stream_to)) if stream_to is not None else None
        work = [seen.write, seen.redeem, *([lambda: seen.stream(sock)] if sock is not None else [])]
        threads = [seen.run(one) for one in work]
        try:
            seen.until(lambda: len(seen.acknowledged) > 0, "the first write")
            yield seen
            seen.goes_on()
        finally:
            seen.end()
            for thread in threads:
                thread.join()
        sys.stderr.write(f"{seen}\n")
        seen.judge()
        assert sock is None or seen.lines > 0


def connected(address: str, port: int) -> socket.socket:
    """A connection. Raises StoreUnavailable while there is none."""
    try:
        return connect(address, port)
    except ConnectionRefusedError as error:  # the plan is there, and the listener a moment later
        raise StoreUnavailable("nobody listens yet") from error


@contextlib.contextmanager
def _numbers(town: Town, mark: str, owner: str) -> Iterator[socket.socket]:
    """A stream from the engine to a service of *owner*'s that gives back what it gets."""
    name, port = f"numbers-{mark}", town.port()
    with contextlib.ExitStack() as after:
        with town.net.hosts[owner].inside():
            target = after.enter_context(serving(echo))
        ask = ControlClient(town[owner].state, PATIENCE_S)
        ask.post("/api/service", {"name": name, "node": owner, "port": port, "target": f"127.0.0.1:{target}",
                                  "allow": ["engines"]})
        address = town[owner].node(owner)["internal_address"]
        until(lambda: any(row["name"] == name for row in town[ENGINE].listed("service")), "the engine has the plan")
        with town.net.hosts[ENGINE].inside():
            sock = until(lambda: connected(address, port), "a stream")
        with sock:
            yield sock
        with contextlib.suppress(FairleadError):
            ask.delete(f"/api/service/{name}")
