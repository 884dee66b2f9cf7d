"""What Controllers ask one another: questions on the connections that this one dialled, answers on those of the others.

Rules, and what each stops:

1. Who asks is the key that the connection proved. The one who answers looks the node up as it is now.
2. A question has a deadline, and fails when its connection does: nobody waits for a Controller that is gone. Whether
   it was done is not known then (`StoreUnavailable` says so); every operation may be repeated.
3. A refusal travels with its code, and is raised where it was asked for, as if it had been decided there. A fault of
   the other side's own does not travel: it is that side's log that has it.
4. Who speaks no version of the link that this one speaks is asked nothing, and named with what each speaks.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from fairlead.base.clock import LAST_INSTANT, SECOND, Clock
from fairlead.base.errors import FairleadError, Refused
from fairlead.link import frames, spoken
from fairlead.link.controllers import SUBSYSTEM, Question, Reply, question_from, reply_from
from fairlead.link.messages import PlanController
from fairlead.link.spoken import Spoken
from fairlead.store.protocol import StoreUnavailable
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer
from fairlead.transport.tunnel import Tunnel

ASK_S = 5.0
BEAT_S = 1.0
SILENT_S = 4.0
"""A Controller that does not answer for so long is not there, whatever its TCP connection says."""
KEPT_S = 3600.0
"""For how long the time that another one told is gone on from after its connection has ended: clocks that nobody
disciplines part by less than a second meanwhile."""
MOST_AT_ONCE = 256
"""Questions of one peer that are being answered; further ones are not read."""

log = structlog.get_logger("fairlead.cluster")

Answer = Callable[[Peer, str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Does what *peer* asks for, an operation with its fields. Raises FairleadError."""


@dataclass(slots=True)
class _Line:
    channel: Channel
    waiting: dict[int, asyncio.Future[Reply]] = field(default_factory=dict)


class Peers:
    """The other Controllers, as far as this one has a connection to them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._numbers = itertools.count()
        self._refused: dict[str, str] = {}
        """By name: why it is not spoken with."""
        self._readings: dict[str, tuple[float, int]] = {}
        """By name: when it was last asked, and how far ahead of this machine's monotonic time its clock is then,
        seconds and microseconds."""

    @property
    def connected(self) -> list[str]:
        """Names of those who can be asked."""
        return sorted(self._lines)

    @property
    def offsets(self) -> dict[str, float]:
        """By name: how far ahead of this machine's clock the other's is, seconds. Right at once when it is set here.

        Also of those who were there lately: of two that are left, they tell whose clock is wrong.
        """
        now = self._clock.monotonic()
        behind = round(now * SECOND) - self._clock.now()
        return {name: (reading + behind) / SECOND for name, (at, reading) in self._readings.items()
                if now - at < KEPT_S}

    @property
    def problems(self) -> list[str]:
        """Controllers that speak no version of the link that this one does, one line each."""
        return [words for _, words in sorted(self._refused.items())]

    async def talk(self, controller: PlanController, tunnel: Tunnel) -> None:
        """Be able to ask *controller* until the connection ends. Raises FairleadError."""
        channel = await tunnel.subsystem(SUBSYSTEM)
        line = self._lines[controller.name] = _Line(channel)
        beating = asyncio.get_running_loop().create_task(self._beat(controller.name, tunnel))
        decoder = frames.Decoder()
        try:
            while chunk := await channel.receive():
                for fields in decoder.feed(chunk):
                    reply = reply_from(fields)
                    waiting = line.waiting.pop(reply.id, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(reply)
        finally:
            beating.cancel()
            if self._lines.get(controller.name) is line:
                del self._lines[controller.name]
            for waiting in line.waiting.values():
                if not waiting.done():
                    waiting.set_exception(StoreUnavailable(f"the connection to {controller.name} ended"))

    async def ask(self, name: str, op: str, /, *, timeout_s: float = ASK_S, **fields: Any) -> dict[str, Any]:
        """What the Controller *name* answers. Raises its refusal, or StoreUnavailable when it does not answer."""
        line = self._lines.get(name)
        if line is None:
            raise StoreUnavailable(f"there is no connection to {name}")
        number = next(self._numbers)
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        line.waiting[number] = waiting
        try:
            async with asyncio.timeout(timeout_s):
                await line.channel.send(frames.encode(Question(id=number, op=op, fields=fields).model_dump()))
                reply = await waiting
        except TimeoutError:
            raise StoreUnavailable(f"{name} does not answer") from None
        except Refused:
            raise StoreUnavailable(f"the connection to {name} ended") from None
        finally:
            line.waiting.pop(number, None)
        if reply.result is not None:
            return reply.result
        if reply.code in ("FL-STORE", "FL-ETCD-SPACE"):
            raise StoreUnavailable(f"{name} says: {reply.message}")
        raise Refused(reply.code or "FL-LINK-MESSAGE", reply.message, reply.remedy)

    async def _beat(self, name: str, tunnel: Tunnel) -> None:
        """Ask for the time, each second: it tells how far the clocks are apart, and whether anybody is there."""
        while True:
            began = self._clock.monotonic()
            try:
                answer = await self.ask(name, "time", timeout_s=SILENT_S)
            except FairleadError:
                tunnel.close("the Controller does not answer")
                return
            try:
                spoken.both(spoken.told(answer.get("speaks")), name)
            except Refused as refusal:
                if self._refused.get(name) != (words := refusal.line()):
                    self._refused[name] = words
                    log.error("peer.version", peer=name, code=refusal.code, reason=refusal.message)
                tunnel.close(refusal.message)
                return
            self._refused.pop(name, None)
            now = answer.get("now")
            if type(now) is not int or not 0 <= now < LAST_INSTANT:
                tunnel.close("the Controller does not know the time")
                return
            ended = self._clock.monotonic()
            if ended - began < SILENT_S:  # else this process has slept meanwhile, and nobody knows when that was said
                self._readings[name] = (ended, now - round((began + ended) / 2 * SECOND))
            await asyncio.sleep(BEAT_S)


async def converse(answer: Answer, clock: Clock, peer: Peer, channel: Channel) -> None:
    """Answer *peer*'s questions until it hangs up; several at once."""
    room = asyncio.Semaphore(MOST_AT_ONCE)
    decoder = frames.Decoder()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(question: Question) -> None:
        try:
            spoken.both(Spoken(question.v, question.v), peer.node)
            result = ({"now": clock.now(), "speaks": [spoken.OURS.lowest, spoken.OURS.highest]}
                      if question.op == "time" else await answer(peer, question.op, question.fields))
            reply = Reply(id=question.id, result=result)
        except FairleadError as refusal:
            reply = Reply.refusing(question.id, refusal)
        except Exception:  # the other side is told at once; the log here says why
            await channel.send(frames.encode(Reply.refusing(question.id, StoreUnavailable(
                "the Controller that was asked has a fault")).model_dump()))
            raise
        finally:
            room.release()
        await channel.send(frames.encode(reply.model_dump()))

    try:
        while chunk := await channel.receive():
            for fields in decoder.feed(chunk):
                question = question_from(fields)
                await room.acquire()
                task = asyncio.get_running_loop().create_task(serve(question))
                tasks.add(task)
                task.add_done_callback(lambda done: _served(done, tasks))
    except FairleadError as refusal:
        log.warning("peer.refused", peer=peer.node, code=refusal.code, reason=refusal.message)
    finally:
        for task in list(tasks):
            task.cancel()


def _served(task: asyncio.Task[None], tasks: set[asyncio.Task[None]]) -> None:
    tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, FairleadError):
        task.get_loop().call_exception_handler({"message": "a question failed", "exception": error, "task": task})
