"""The engine's end of the link: takes plans, acknowledges them, says how it is, and does what it is told.

What a Controller says counts because its host key was pinned when it was dialled; no message is believed for anything
that it claims about its sender.
"""

import asyncio
import contextlib
import itertools
import random
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

import structlog

from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError, Refused
from fairlead.engine.commands import Commands
from fairlead.engine.documents import Documents
from fairlead.engine.upgrading import Upgrades
from fairlead.engine.user_keys import OwnKeys
from fairlead.engine.witnesses import Witnesses
from fairlead.link import frames, spoken
from fairlead.link.messages import (
    FOLLOWS_TRUST,
    KEEPS_HEADS,
    PINS_BOTH,
    REPORTS_METRICS,
    SHOWS_JOURNAL,
    SUBSYSTEM,
    TAKES_COMMANDS,
    TAKES_DOCUMENTS,
    TAKES_KEYS,
    UPGRADES,
    Acknowledge,
    AnyFromEngine,
    Assignment,
    AuditHead,
    Body,
    BodyWanted,
    Command,
    Draining,
    Frozen,
    Heads,
    HeadsWanted,
    Heartbeat,
    Held,
    Hello,
    Holding,
    JournalHead,
    JournalHeads,
    JournalHeadsWanted,
    JournalWanted,
    Metrics,
    MetricsWanted,
    NewPlan,
    NextKeyWanted,
    Plan,
    PlanController,
    Removed,
    StreamsWanted,
    Trusting,
    TrustOffered,
    TrustStatements,
    UpgradeRoot,
    UpgradeStanding,
    UpgradeWanted,
    UserKeys,
    Welcome,
    from_controller,
)
from fairlead.link.metrics import Name
from fairlead.link.spoken import Spoken
from fairlead.transport.channel import Channel
from fairlead.transport.tunnel import Tunnel

ABILITIES = (KEEPS_HEADS, TAKES_DOCUMENTS, TAKES_COMMANDS, SHOWS_JOURNAL, REPORTS_METRICS, FOLLOWS_TRUST, TAKES_KEYS,
             PINS_BOTH, UPGRADES)
SILENT_HEARTBEATS = 4
"""A Controller that answers no heartbeat for this long is not there, whatever its TCP connection says."""

log = structlog.get_logger("fairlead.engine")


class Following(Protocol):
    """Who does what the link says."""

    @property
    def plan(self) -> Plan | None:
        """The plan in force."""
        ...

    @property
    def problems(self) -> list[str]:
        """What is not as planned."""
        ...

    async def follow(self, plan: Plan) -> None:
        """Put *plan* in force."""
        ...

    def open_streams(self, controller: PlanController) -> None:
        """Open the stream connection to *controller*."""
        ...

    def removed(self) -> None:
        """This node is no longer in the cluster."""
        ...

    def frozen(self) -> None:
        """This node is frozen."""
        ...

    def heard(self, server_time: int) -> None:
        """Store time, microseconds, as a Controller just said."""
        ...

    def witness(self, controller: PlanController, head: str) -> None:
        """Keep where *controller* says that its audit log ends."""
        ...

    @property
    def witnessed(self) -> list[str]:
        """The heads that were kept, of all Controllers."""
        ...

    @property
    def documents(self) -> Documents:
        """The configuration that Controllers assign."""
        ...

    @property
    def witnesses(self) -> Witnesses:
        """Who is shown where this node's journal ends."""
        ...

    @property
    def commands(self) -> Commands:
        """What Controllers may ask for."""
        ...

    @property
    def trusting(self) -> int:
        """The number of the trust statement that is followed."""
        ...

    def trust_in(self, texts: Sequence[str]) -> None:
        """Follow trust statements. Raises FairleadError: then nothing has changed."""
        ...

    @property
    def user_keys(self) -> OwnKeys:
        """The user keys that it holds."""
        ...

    @property
    def upgrades(self) -> Upgrades:
        """The version that it runs, and is to run."""
        ...

    def measure(self) -> Mapping[Name, float]:
        """How this node is, in numbers."""
        ...


class Link:
    """One node's links to its Controllers."""

    def __init__(self, engine: Following, clock: Clock, software: str) -> None:
        self._engine = engine
        self._clock = clock
        self._software = software
        self._instance = secrets.token_hex(8)

    async def talk(self, controller: PlanController, tunnel: Tunnel) -> None:
        """Speak with *controller* until the link ends. Raises FairleadError."""
        channel = await tunnel.subsystem(SUBSYSTEM)
        plan = self._engine.plan
        software = " ".join((self._software, *ABILITIES, spoken.OURS.ability))
        await _say(channel, Hello(v=spoken.OURS.lowest, software=software, instance=self._instance,
                                  generation=plan.generation if plan else "",
                                  plan_revision=plan.revision if plan else 0))
        conversation = _Conversation(self._engine, self._clock, controller, tunnel, channel)
        beating = asyncio.get_running_loop().create_task(conversation.beat())
        try:
            await conversation.listen()
        finally:
            beating.cancel()
            conversation.ended()


class _Conversation:
    def __init__(self, engine: Following, clock: Clock, controller: PlanController, tunnel: Tunnel,
                 channel: Channel) -> None:
        self._engine = engine
        self._clock = clock
        self._controller = controller
        self._tunnel = tunnel
        self._channel = channel
        self._every = asyncio.get_running_loop().create_future()
        self._unanswered = 0
        self._metrics: MetricsWanted | None = None
        self._metrics_due = 0.0
        self._fetching: dict[str, asyncio.Future[str]] = {}
        self._asked: dict[int, asyncio.Future[list[str]]] = {}
        self._numbers = itertools.count(1)
        self._running: set[asyncio.Task[None]] = set()
        self._keys: UserKeys | None = None
        """What was said last of this node's keys, while it is followed."""

    def ended(self) -> None:
        """Nothing more comes."""
        self._engine.documents.left(self)
        self._engine.witnesses.left(self)
        self._engine.upgrades.left(self)
        waiting: list[asyncio.Future[Any]] = [*self._fetching.values(), *self._asked.values()]
        for one in waiting:
            one.cancel()
        for task in list(self._running):
            task.cancel()

    def hang_up(self, why: str) -> None:
        """End it; see `engine.telling.Told`."""
        self._tunnel.close(why)

    async def _run(self, command: Command) -> None:
        outcome = await self._engine.commands.run(command, self._controller.name)
        with contextlib.suppress(FairleadError):  # the link has ended
            await _say(self._channel, outcome)

    async def _follow_keys(self) -> None:
        """What was said last of this node's keys; until nothing more was said meanwhile."""
        done = None
        while self._keys is not None and self._keys is not done:
            done = self._keys
            await self._answer(self._engine.user_keys.follow(done, self._controller.name))
        self._keys = None

    async def _answer(self, work: Coroutine[Any, Any, AnyFromEngine]) -> None:
        answer = await work
        with contextlib.suppress(FairleadError):  # the link has ended
            await _say(self._channel, answer)

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside the conversation, and no longer than it."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    @property
    def name(self) -> str:
        """The Controller's."""
        return self._controller.name

    async def show(self, head: str) -> None:
        """Give it a head to keep; see `engine.witnesses.Controller`."""
        await _say(self._channel, JournalHead(head=head))

    async def report_upgrade(self, standing: UpgradeStanding) -> None:
        """Say how this engine stands with its version; see `engine.upgrading.Asking`."""
        await _say(self._channel, standing)

    async def shown(self) -> list[str]:
        """What it was shown."""
        number = next(self._numbers)
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            await _say(self._channel, JournalHeadsWanted(number=number))
            return await answer
        finally:
            del self._asked[number]

    async def fetch(self, wanted: str) -> str:
        """The body of a document's digest; see `engine.documents.Source`."""
        if wanted not in self._fetching:
            self._fetching[wanted] = asyncio.get_running_loop().create_future()
            await _say(self._channel, BodyWanted(digest=wanted))
        try:
            return await asyncio.shield(self._fetching[wanted])
        except asyncio.CancelledError:
            if self._fetching[wanted].cancelled():
                raise Refused("FL-DOCUMENT-BODY", "the Controller went away") from None
            raise
        finally:
            self._fetching.pop(wanted, None)

    async def report(self, held: Sequence[Held]) -> None:
        """Say what this engine holds."""
        await _say(self._channel, Holding(documents=list(held)))

    async def listen(self) -> None:
        decoder = frames.Decoder()
        while chunk := await self._channel.receive():
            for fields in decoder.feed(chunk):
                await self._heed(fields)

    async def beat(self) -> None:
        """Say how we are, with jitter, so that a fleet does not beat in step; hang up on silence."""
        every: float = await self._every
        sequence, draw = 0, random.SystemRandom()
        while True:
            await asyncio.sleep(every * draw.uniform(0.8, 1.2))
            self._unanswered += 1
            if self._unanswered > SILENT_HEARTBEATS:
                self._tunnel.close("the Controller does not answer")
                return
            sequence += 1
            await _say(self._channel, Heartbeat(sequence=sequence, time=self._clock.now(),
                                                problems=_shown(self._engine.problems)))
            if self._metrics is not None and (now := self._clock.monotonic()) >= self._metrics_due:
                self._metrics_due = now + self._metrics.every_s * draw.uniform(0.8, 1.2)
                measured = self._engine.measure()
                await _say(self._channel, Metrics(values={
                    name: value for name, value in measured.items() if name in self._metrics.names}))

    def _trusted(self, texts: Sequence[str]) -> Trusting:
        try:
            self._engine.trust_in(texts)
        except FairleadError as error:
            log.warning("trust.refused", controller=self.name, code=error.code, reason=error.message)
            return Trusting(number=self._engine.trusting, code=error.code, words=error.message[:1000])
        return Trusting(number=self._engine.trusting)

    async def _heed(self, fields: dict[str, Any]) -> None:
        match from_controller(fields):
            case Welcome() as welcome:
                spoken.both(Spoken(welcome.v, welcome.v), self.name)
                self._engine.heard(welcome.server_time)
                if not self._every.done():
                    self._every.set_result(welcome.heartbeat_s)
            case NewPlan(plan=plan):
                await self._engine.follow(plan)
                await _say(self._channel, Acknowledge(revision=plan.revision, problems=_shown(self._engine.problems)))
            case Heartbeat() as beat:
                self._unanswered = 0
                self._engine.heard(beat.time)
            case AuditHead(head=head):
                self._engine.witness(self._controller, head)
            case HeadsWanted(number=number):
                await _say(self._channel, Heads(number=number, heads=self._engine.witnessed))
            case Assignment() as assignment:
                self._engine.documents.follow(self, assignment)
            case Body(digest=digest, body=body):
                waiting = self._fetching.get(digest)
                if waiting is None:
                    self._engine.documents.brought(digest, body)
                elif not waiting.done():
                    waiting.set_result(body)
            case JournalWanted():
                self._engine.witnesses.come(self)
            case JournalHeads(number=number, heads=heads):
                if (answer := self._asked.get(number)) is not None and not answer.done():
                    answer.set_result(heads)
            case Command() as command:
                self._work(self._run(command))
            case MetricsWanted() as measured:
                self._metrics = measured
            case TrustOffered():
                await _say(self._channel, Trusting(number=self._engine.trusting))
            case TrustStatements(texts=texts):
                await _say(self._channel, self._trusted(texts))
            case NextKeyWanted() as wanted:
                self._work(self._answer(self._engine.user_keys.next(wanted)))
            case UserKeys() as told:
                if self._keys is None:
                    self._work(self._follow_keys())
                else:
                    told = told.model_copy(update={"revoked": sorted({*self._keys.revoked, *told.revoked})})
                self._keys = told
            case UpgradeWanted() as upgrade:
                self._engine.upgrades.asked(self, upgrade)
            case UpgradeRoot(root=root):
                self._engine.upgrades.own.pin(root.encode())
            case StreamsWanted():
                self._engine.open_streams(self._controller)
            case Removed():
                self._tunnel.close("removed")
                self._engine.removed()
            case Frozen():
                self._tunnel.close("frozen")
                self._engine.frozen()
            case Draining():
                log.info("controller.draining", controller=self._controller.name)


def _shown(problems: list[str]) -> list[str]:
    """As many problems, and as much of each, as a message takes."""
    return [problem[:500] for problem in problems[:100]]


async def _say(channel: Channel, message: AnyFromEngine) -> None:
    await channel.send(frames.encode(message.model_dump()))
