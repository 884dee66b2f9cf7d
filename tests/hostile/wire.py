"""A Controller in this process behind real TLS and real SSH on loopback, and somebody between it and whoever joins.

Store, enrolment, portal and sessions are those of `tests.world`, whose clock stands still; the certificates are of the
machine's own time, by which TLS judges them.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fairlead.base.clock import SECOND, Clock, SystemClock
from fairlead.client import https
from fairlead.enrol import join as joining
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.join import Joiner
from fairlead.enrol.redeem import Enrolment, Office
from fairlead.enrol.trust import HOST_KEY, USER_KEY, Trust, load_key
from fairlead.fleet import commit
from fairlead.fleet.sessions import Sessions
from fairlead.keys.replay import ReplayCache
from fairlead.nodes.node import Endpoint, Node
from fairlead.pki.authority import Authority, Issued
from fairlead.pki.certificate import der_of, portal_name
from fairlead.portal.application import Portal
from fairlead.portal.listener import Limits, Presented, serve, server_identity
from fairlead.transport import dialler
from fairlead.transport.admission import Admission
from fairlead.transport.options import Keepalive
from fairlead.transport.server import listen
from fairlead.transport.way import choose
from tests.hostile.between import Between
from tests.unit.transport.world import bound
from tests.world import World, open_world

PATIENCE_S = 2.0
"""For one attempt of a joining node: a change that makes an end wait for more costs that long and is tried again."""


@dataclass(eq=False)
class Wire:
    """The Controller, what it presents, and who stands before its two ports."""

    world: World
    folder: Path
    root: Authority
    presented: Presented
    portal: Between
    ssh: Between
    sessions: Sessions

    def present(self, issued: Issued) -> None:
        """Show another certificate from now on."""
        self.presented.swap(server_identity(issued.certificate_pem, issued.key_pem), time.monotonic())

    def portal_certificate(self, years: int = 0) -> Issued:
        """A new one of the cluster's root, made *years* from now."""
        return self.root.issue_portal(self.world.cluster_uuid, ["127.0.0.1"], years_from_now(years))

    async def join(self, name: str, bundle: Bundle, clock: Clock | None = None) -> Trust:
        """An engine joins. Raises FairleadError."""
        return await Joiner(self.folder / name, "engine", name, clock or SystemClock()).join(bundle, lambda: None)

    def joined(self, name: str) -> Node:
        """The engine, which is known by its own keys and nobody else's, and knows the Controller by its."""
        state = self.folder / name
        node, trust = self.world.directory.named(name), Trust.model_validate_json((state / "trust.json").read_bytes())
        assert node is not None
        assert node.state == "up"
        assert [load_key(state, key).public.line for key in (HOST_KEY, USER_KEY)] == [node.host_key, node.user_key]
        assert (trust.node_id, trust.internal_address) == (node.id, node.internal_address)
        assert [c.host_key for c in trust.controllers] == [self.world.host_key.public.line]
        return node


def years_from_now(years: int) -> int:
    """Microseconds."""
    return time.time_ns() // 1000 + years * 365 * 86_400 * SECOND


@contextlib.asynccontextmanager
async def open_wire(folder: Path, patch: pytest.MonkeyPatch, *, root_made: int = 0) -> AsyncIterator[Wire]:
    """A new cluster whose root, and portal certificate, were made *root_made* years from now. Joins are impatient."""
    patch.setattr(joining, "FIRST_DELAY_S", 0.01)
    patch.setattr(joining, "COMMIT_S", PATIENCE_S)
    patch.setattr(joining, "request", partial(https.request, timeout=PATIENCE_S))
    patch.setattr(joining, "dial", partial(dialler.dial, timeout=PATIENCE_S))
    async with open_world(folder) as founded, contextlib.AsyncExitStack() as stack:
        root = Authority.create(founded.cluster_uuid, years_from_now(root_made))
        issued = root.issue_portal(founded.cluster_uuid, ["127.0.0.1"], years_from_now(root_made))
        presented = Presented(server_identity(issued.certificate_pem, issued.key_pem))
        doors = {"portal": bound(), "ssh": bound()}
        portal, ssh = (Between(door.getsockname()) for door in doors.values())
        for one in (portal, ssh):
            stack.enter_context(one.listening())
        world = replace(founded, leaf=der_of(issued.certificate_pem), root=der_of(root.certificate_pem))
        world.enrolment = _enrolment(world)
        world.portal = restarted(world, presented)
        await world.registry.announce(world.controller.id, Endpoint(("127.0.0.1",), 443, portal.port, ssh.port), "test")
        sessions = Sessions(world.directory, world.clock, me=world.controller.id, generation="g", first_epoch=1,
                            commit=lambda peer, reply: commit.answer(world.enrolment, peer, reply), cloned=_nobody)
        doors["portal"].listen()

        async def portal_now(scope: Any, receive: Any, send: Any) -> None:
            await world.portal(scope, receive, send)

        listener = await serve(portal_now, [doors["portal"]], presented=presented,
                               limits=Limits(body_bytes=16 * 1024), admission=None)
        stack.push_async_callback(listener.close, 0.0)
        door = await listen([doors["ssh"]], host_keys=lambda: (world.host_key,), door=sessions,
                            admission=Admission(512, 512), keepalive=Keepalive(), clock=world.clock,
                            way=stack.enter_context(closing(choose({}))))
        stack.push_async_callback(door.close)
        stack.push_async_callback(sessions.close)
        yield Wire(world, folder, root, presented, portal, ssh, sessions)


def _enrolment(world: World) -> Enrolment:
    def anchor() -> Anchor:
        return Anchor(world.cluster_uuid, (1,), (world.root,), tuple(
            AnchorController(c.name, address, port, portal_name(world.cluster_uuid), world.host_key.public)
            for c in world.directory.controllers() if c.endpoint for address, port in c.endpoint.places)).checked()

    return Enrolment(world.store, world.audit, world.directory, world.refusals,
                     Office(world.cluster_uuid, "ctl-1", lambda: world.host_key, anchor))


def restarted(world: World, presented: Presented | None = None, *, node_id: str = "",
              started: int | None = None) -> Portal:
    """The portal of a new process, at *started* (store time; else the world's): it remembers no call.

    *node_id*: of another Controller on the same store.
    """
    shown: Callable[[bytes], bool] = world.presents if presented is None else (
        lambda digest: presented.recognises(digest, time.monotonic()))
    return Portal(enrolment=world.enrolment, statements=lambda *_: None, directory=world.directory,
                  registry=world.registry,
                  replay=ReplayCache(), cluster_uuid=world.cluster_uuid, node_id=node_id or world.controller.id,
                  host_key=lambda: world.host_key,
                  started=world.clock.now() - SECOND if started is None else started,
                  presented=shown, now=world.store.now)


async def _nobody(_: Node) -> None: ...


def another_id() -> str:
    """Of a Controller that is somewhere else."""
    return str(uuid4())
