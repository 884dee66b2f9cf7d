"""Keeps this node's connections to the Controllers: one for control, kept alive, one for streams, opened by the first.

Control and bulk never share a connection: a heartbeat does not wait behind a gigabyte. What is lost is dialled again
after a full-jitter delay; a changed plan means an immediate try.

The first connection of this process to a Controller is a link. By it the Controller learns that the process was started
anew, and closes what is older, which it takes for the ghosts of the process of before: a stream of this one, too, if it
had come first.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from fairlead.base.backoff import FullJitter
from fairlead.base.errors import FairleadError
from fairlead.link.messages import PlanController
from fairlead.mesh.listeners import no_carrier
from fairlead.transport.dialler import Busy
from fairlead.transport.tunnel import Tunnel

FIRST_DELAY_S = 0.5
MOST_DELAY_S, MOST_UNANSWERED_S = 15.0, 4.0
"""Where nobody answers, asking costs nothing: a fleet is not to sleep when its Controller has started again."""
STEADY_S = 5.0
"""A connection that lived this long was a success: the next delay begins small again."""
CARRIER_WAIT_S = 10.0

log = structlog.get_logger("fairlead.mesh")

Dial = Callable[[PlanController, str], Awaitable[Tunnel]]
"""A tunnel to a Controller at one of its addresses. Raises FairleadError."""
Talk = Callable[[PlanController, Tunnel], Awaitable[None]]
"""What is said on a control connection; returns when it ends."""


@dataclass(slots=True)
class _Route:
    controller: PlanController
    nudge: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    link: Tunnel | None = None
    stream: Tunnel | None = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """The link has been tried, and not begun to be tried again."""
    state: str = "connecting"
    error: FairleadError | None = None


def _pause(delay: FullJitter, error: FairleadError | None) -> float:
    """Seconds until the next try: a moment within the time that a Controller without a place named, or the delay."""
    if isinstance(error, Busy):
        return random.SystemRandom().uniform(0.0, error.after_s)
    return delay.next(MOST_UNANSWERED_S if error is not None and error.code == "FL-SSH-UNREACHABLE" else MOST_DELAY_S)


def _keys(controller: PlanController) -> Sequence[str]:
    """One of them outlasts each change that is planned: whoever is connected stays so."""
    return [line for line in (controller.host_key, controller.next_host_key) if line]


class Supervisor:
    """The connections of one node to all Controllers."""

    def __init__(self, dial: Dial, talk: Talk, opened: Callable[[PlanController, Tunnel], Awaitable[None]],
                 failed: Callable[[PlanController, FairleadError], Awaitable[None]]) -> None:
        self._dial = dial
        self._talk = talk
        self._opened = opened
        self._failed = failed
        self._routes: dict[str, _Route] = {}
        self._crashes: asyncio.Queue[BaseException] = asyncio.Queue()

    async def watch(self) -> None:
        """Raise what ended a connection's keeper: a bug ends the daemon, it does not leave it deaf."""
        raise await self._crashes.get()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crashes.put_nowait(error)

    def want(self, controllers: Sequence[PlanController]) -> None:
        """Keep connections to exactly these Controllers."""
        wanted = {c.name: c for c in controllers}
        for name in [n for n in self._routes if n not in wanted]:
            self._drop(self._routes.pop(name), "no longer a Controller")
        for name, controller in wanted.items():
            route = self._routes.get(name)
            if route is None:
                route = self._routes[name] = _Route(controller)
                route.task = asyncio.get_running_loop().create_task(self._keep(route), name=f"link to {name}")
                route.task.add_done_callback(self._ended)
            elif route.controller != controller:
                moved = not {*_keys(route.controller)} & {*_keys(controller)}
                route.controller = controller
                if moved:
                    self._hang_up(route, "the Controller's key is another one")
                route.nudge.set()

    def wanted(self) -> Sequence[PlanController]:
        """The Controllers that are dialled, as they are known."""
        return [route.controller for route in self._routes.values()]

    @property
    def routes(self) -> list[tuple[PlanController, str, Tunnel | None, Tunnel | None, FairleadError | None]]:
        """Per Controller: the state of its link (connecting, up), the link, the stream connection, the last error."""
        return [(r.controller, r.state, r.link, r.stream, r.error) for _, r in sorted(self._routes.items())]

    @property
    def connected(self) -> bool:
        """Whether any Controller has a link with us."""
        return any(r.state == "up" for r in self._routes.values())

    def streams(self) -> list[str]:
        """The Controllers to which a stream connection is open, by name."""
        return [name for name, r in sorted(self._routes.items()) if r.stream and not r.stream.closed.is_set()]

    def controllers(self) -> list[str]:
        """Those to which there is a link."""
        return [name for name, r in sorted(self._routes.items()) if r.state == "up"]

    def ready(self, owner: str, address: str, port: int) -> Tunnel | None:  # noqa: ARG002 - Carriers
        """The stream connection to the Controller *owner*, if it is open."""
        route = self._routes.get(owner)
        return route.stream if route and route.stream and not route.stream.closed.is_set() else None

    async def carrier(self, owner: str, address: str, port: int) -> Tunnel:  # noqa: ARG002 - Carriers
        """The stream connection to the Controller *owner*, opened now if need be. Raises Refused FL-STREAM-DOWN."""
        try:
            async with asyncio.timeout(CARRIER_WAIT_S):
                return await self.stream_to(owner)
        except (TimeoutError, FairleadError):
            raise no_carrier(owner) from None

    async def stream_to(self, name: str) -> Tunnel:
        """The stream connection to a Controller; one is opened at most. Raises FairleadError."""
        route = self._routes.get(name)
        if route is None:
            raise no_carrier(name)
        async with route.opening:
            if self._routes.get(name) is not route:  # the Controller has left meanwhile
                raise no_carrier(name)
            if route.stream is None or route.stream.closed.is_set():
                await self._met(route)
                route.stream = await self._reach(route.controller)
                await self._opened(route.controller, route.stream)
                if route.state != "up":
                    route.nudge.set()  # it is there again: the link need not wait for its delay
            return route.stream

    async def _met(self, route: _Route) -> None:
        """See that there has been a link. Raises FairleadError: what stood against it."""
        if route.link is None and route.tried.is_set():
            route.tried.clear()
            route.nudge.set()
        if route.link is None:
            await route.tried.wait()
        if route.link is None:
            raise route.error or no_carrier(route.controller.name)

    def nudge(self, name: str) -> None:
        """A Controller has shown that it is there: if it is not connected, it is dialled at once."""
        route = self._routes.get(name)
        if route is not None and route.state != "up":
            route.nudge.set()

    def link_to(self, name: str) -> Tunnel:
        """The control connection to a Controller, for what is part of control. Raises Refused FL-STREAM-DOWN."""
        route = self._routes.get(name)
        if route is None or route.state != "up" or route.link is None or route.link.closed.is_set():
            raise no_carrier(name)
        return route.link

    def tunnels(self) -> list[Tunnel]:
        """Every connection that lives."""
        return [tunnel for name in self._routes for tunnel in self.tunnels_to(name)]

    def tunnels_to(self, name: str) -> list[Tunnel]:
        """Every connection to that Controller that lives."""
        route = self._routes.get(name)
        return [tunnel for tunnel in ((route.link, route.stream) if route else ())
                if tunnel is not None and not tunnel.closed.is_set()]

    async def drain(self, within_s: float) -> None:
        """Let the streams that are open end, for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(r.stream.idle() for r in self._routes.values() if r.stream is not None))

    async def close(self) -> None:
        """Close every connection for good."""
        routes = list(self._routes.values())
        self._routes.clear()
        for route in routes:
            self._drop(route, "shutting down")
        for route in routes:
            if route.task is not None:
                await asyncio.wait([route.task])

    def _drop(self, route: _Route, reason: str) -> None:
        if route.task is not None:
            route.task.cancel()
        route.tried.set()
        self._hang_up(route, reason)

    def _hang_up(self, route: _Route, reason: str) -> None:
        for tunnel in (route.link, route.stream):
            if tunnel is not None:
                tunnel.close(reason)

    async def _keep(self, route: _Route) -> None:
        delay = FullJitter(FIRST_DELAY_S, MOST_DELAY_S)
        loop = asyncio.get_running_loop()
        while True:
            route.nudge.clear()
            route.tried.clear()
            began = loop.time()
            try:
                route.link = await self._reach(route.controller)
                route.tried.set()
                route.state, route.error, began = "up", None, loop.time()
                log.info("link.up", controller=route.controller.name, address=route.link.address)
                await self._talk(route.controller, route.link)
                log.info("link.down", controller=route.controller.name)
            except FairleadError as error:
                if route.error is None or route.error.code != error.code:
                    log.warning("link.failed", controller=route.controller.name, code=error.code, reason=error.message)
                route.error = error
                route.tried.set()
                await self._failed(route.controller, error)
            finally:
                route.state = "connecting"
                if route.link is not None:
                    route.link.close("the link ended")
            if loop.time() - began > STEADY_S:
                delay.reset()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_pause(delay, route.error)):
                    await route.nudge.wait()

    async def _reach(self, controller: PlanController) -> Tunnel:
        """A tunnel to the first of the Controller's addresses that answers as it must."""
        last: FairleadError = no_carrier(controller.name)
        for address in controller.addresses:
            try:
                return await self._dial(controller, address)
            except FairleadError as error:
                last = error
        raise last
