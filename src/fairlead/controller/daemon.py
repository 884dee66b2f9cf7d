"""The Controller: everything that it is made of, put together in one place, in one task group.

Seed: *the Avi Controller exposes port 443 (API server), 22 (SSH), and 8443 (system portal specifically dedicated for
secure key exchange). All services running inside the Controller listen to the local host.*
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from fairlead.api.counting import Answered
from fairlead.audit.log import AuditLog, RefusalCounter
from fairlead.audit.record import Entry
from fairlead.audit.witness import ENGINES, Witness
from fairlead.audit.witness import FOLDER as WITNESS
from fairlead.base import configuration, descriptors, files, logs
from fairlead.base.clock import MINUTE, SECOND, Clock
from fairlead.base.errors import FairleadError, OperatorError
from fairlead.base.service import notify, on_signals
from fairlead.cluster import clocks
from fairlead.cluster import note as notes
from fairlead.cluster.move import MovableStore
from fairlead.cluster.note import Note
from fairlead.controller import secrets
from fairlead.controller.admission import Admittance
from fairlead.controller.application import Parts, Settings, application, certificates_of, shelf_for
from fairlead.controller.arrival import Arrival
from fairlead.controller.backup import Backups
from fairlead.controller.cluster import Cluster
from fairlead.controller.commands import Commands
from fairlead.controller.desk import Desk
from fairlead.controller.initialise import MIN_VERSION, STORE
from fairlead.controller.mesh import Mesh
from fairlead.controller.metrics import Numbers
from fairlead.controller.operations import Operations
from fairlead.controller.presentation import Presentation
from fairlead.controller.settings import ControllerSettings
from fairlead.controller.stalls import Stalls
from fairlead.controller.witnessing import Witnessing
from fairlead.enrol import signed
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.exchange import VERSION as JOIN_VERSION
from fairlead.enrol.exchange import CoreController
from fairlead.enrol.redeem import GENERATION, Enrolment, Office
from fairlead.enrol.trust import HOST_KEY, USER_KEY, Trust, load_key
from fairlead.enrol.trust import load as load_trust
from fairlead.fleet import commit
from fairlead.fleet.changes import Changes
from fairlead.fleet.commands import Commands as EngineCommands
from fairlead.fleet.configuration import Configuration
from fairlead.fleet.journals import Journals
from fairlead.fleet.logs import Logs
from fairlead.fleet.metrics import EngineMetrics
from fairlead.keys.replay import ReplayCache
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import from_b64
from fairlead.link.logs import SUBSYSTEM as LOGS
from fairlead.link.messages import PlanController
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.registry import Registry
from fairlead.objects.catalogue import Catalogue
from fairlead.portal.application import Portal
from fairlead.portal.listener import Limits, Listener, Presented, bind_tcp, bind_unix, serve
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import StoreUnavailable
from fairlead.store.sqlite import SQLiteStore
from fairlead.transport.admission import Admission
from fairlead.transport.options import Keepalive, check_asyncssh
from fairlead.transport.peer import Peer
from fairlead.transport.server import listen
from fairlead.transport.way import Way, choose
from fairlead.users.keys import UserKeys
from fairlead.users.passwords import Passwords
from fairlead.users.people import People
from fairlead.users.reception import Reception
from fairlead.users.sessions import Sessions

DRAIN_S = 3.0
FAREWELL_S = 0.5
SOCKET = "control.sock"
EPOCH_BLOCK = 1 << 32
"""Epochs that one run of the daemon may hand out: the store numbers the runs, so every epoch is higher than before."""
TICK_S = 1.0
ASK_AGAIN_S = 5.0
"""Between two questions to the portals why nobody lets us in."""
FLUSH_TICKS = 60
PORTAL_LIMITS = Limits(connections=512, body_bytes=16 * 1024)
API_LIMITS = Limits(connections=512, body_bytes=1024 * 1024, keep_alive=True)

log = structlog.get_logger("fairlead.controller")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Doors:
    """The bound sockets: what can fail for the person who starts the daemon fails before anything else happens."""

    control: socket.socket
    api: list[socket.socket]
    portal: list[socket.socket]
    ssh: list[socket.socket]

    @classmethod
    def bind(cls, state: Path, settings: ControllerSettings) -> "Doors":
        """Raises OperatorError: which port, why, and the flag that changes it."""
        opened: list[socket.socket] = []
        try:
            control = bind_unix(state, SOCKET)
            opened.append(control)
            found = []
            for port, flag in ((settings.api_port, "--api-port"), (settings.portal_port, "--portal-port"),
                               (settings.ssh_port, "--ssh-port")):
                found.append(bind_tcp(settings.listen, port, flag))
                opened += found[-1]
            return cls(control, *found)
        except BaseException:
            for sock in opened:
                sock.close()
            if opened:
                files.remove(state / SOCKET)
            raise

    def close(self) -> None:
        """Close what nobody has taken over."""
        for sock in (self.control, *self.api, *self.portal, *self.ssh):
            sock.close()


async def run(state: Path, version: str, clock: Clock, visitor: Sequence[str]) -> None:
    """Run the Controller in *state* until it is told to stop. Raises FairleadError when it cannot start.

    *visitor*: the program that does what people ask for over SSH (`controller.commands`).
    """
    descriptors.take_all()
    files.check_private_folder(state)
    settings, trust, note = load_settings(state), load_trust(state), notes.load(state)
    if trust.removed:
        raise OperatorError("FL-NODE-REMOVED", f"{trust.node} was removed from the cluster",
                            "`fairlead controller destroy`, then join again with a new bundle")
    if note is not None and note.stage == "recovering":
        raise OperatorError("FL-CLUSTER-RECOVER", "`fairlead cluster recover` was stopped halfway here", "repeat it")
    keys = load_key(state, HOST_KEY), load_key(state, USER_KEY)
    check_asyncssh()
    doors = Doors.bind(state, settings)
    try:
        sqlite = SQLiteStore.open(state / STORE, clock) if note is None else None
        try:
            with contextlib.closing(choose(os.environ)) as way:
                await _Controller(state, version, clock, settings, trust, *keys, note, sqlite, way, visitor).run(doors)
        finally:
            if sqlite is not None:
                await sqlite.close()
    finally:
        doors.close()
        files.remove(state / SOCKET)


def load_settings(state: Path) -> ControllerSettings:
    """The settings in *state*. Raises OperatorError."""
    try:
        return configuration.load(state, ControllerSettings)
    except FileNotFoundError:
        raise OperatorError("FL-STATE-MISSING", f"there is no Controller in {state}",
                            "`fairlead controller init --name NAME --address ADDRESS` makes one") from None


@dataclass(slots=True)
class _Controller:
    state: Path
    version: str
    clock: Clock
    settings: ControllerSettings
    trust: Trust
    host_key: PrivateKey
    user_key: PrivateKey
    note: Note | None
    sqlite: SQLiteStore | None
    way: Way
    visitor: Sequence[str]
    problems: dict[str, str] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """The addresses may have changed."""
    https: list[Listener] = field(default_factory=list)
    refusals: RefusalCounter = field(default_factory=RefusalCounter)
    answered: Answered = field(default_factory=Answered)
    presentation: Presentation | None = None
    """Once it is put together."""
    _asked: float = float("-inf")

    async def run(self, doors: Doors) -> None:
        trust, clock = self.trust, self.clock
        with contextlib.closing(Passwords()) as passwords:
            await self._serve(doors, trust, clock, passwords)

    async def _serve(self, doors: Doors, trust: Trust, clock: Clock, passwords: Passwords) -> None:
        async with asyncio.TaskGroup() as group:
            store = MovableStore(self.sqlite)
            audit = AuditLog(store, trust.node)

            async def cloned(node: Node) -> None:
                log.warning("alarm", alarm="node.cloned", about=node.name)
                await audit.append_with([], [], [Entry("node.cloned", node.name, trust.node, {"node_id": node.id})])

            async def answer(peer: Peer, op: str, fields: dict[str, Any]) -> dict[str, Any]:
                return await desk.answer(peer, op, fields)

            mesh = Mesh(state=self.state, clock=clock, settings=self.settings, trust=trust, user_key=self.user_key,
                        way=self.way, store=store, clustered=self.sqlite is None, cloned=cloned, removed=self._removed,
                        commit=lambda peer, channel: commit.answer(desk, peer, channel),
                        answer=answer, refused=self._refused)
            cluster = Cluster(self.state, clock, self.settings, trust, mesh, store, self.sqlite, self.note, group,
                              founded=lambda: self._take_office(enrolment, cluster))
            registry = Registry(store, audit, mesh.directory, fence=cluster.fence)
            enrolment = Enrolment(store, audit, mesh.directory, self.refusals, Office(
                trust.cluster_uuid, trust.node, self.host_key, self._anchor(mesh.directory)))
            self._take_office(enrolment, cluster)
            admittance = Admittance(cluster, enrolment, audit, self.version)
            witnessing = Witnessing(audit, mesh, trust, self.host_key,
                                    Witness(self.state / WITNESS, str(trust.cluster_uuid)), clock)
            desk = Desk(enrolment, registry, store, mesh, cluster, admittance, clock, witnessing)

            def problems() -> list[str]:
                return [*self.problems.values(), *self._presenting_problems(), *descriptors.problems(),
                        *mesh.problems, *cluster.problems]

            operations = Operations(
                me=trust.node_id, cluster_uuid=trust.cluster_uuid, version=self.version, view=self.settings.see(),
                mesh=mesh, cluster=cluster, registry=registry, desk=desk, audit=audit,
                witnessing=witnessing, problems=problems)
            fleet = Configuration(store, audit, mesh.directory, mesh.sessions, generation=lambda: mesh.generation,
                                  leading=lambda: cluster.leading, fence=cluster.fence)
            commands = EngineCommands(audit, mesh.directory, mesh.sessions)
            journals = Witness(self.state / ENGINES, str(trust.cluster_uuid), most_nodes=None, synced=False)
            told = EngineMetrics(mesh.sessions)
            for subject in (fleet, commands, told,
                            Journals(journals, audit, mesh.directory, mesh.sessions, trust.node)):
                mesh.sessions.add(subject)
            logs_of_engines = Logs(self.state, mesh.directory)
            mesh.sessions.offer(LOGS, logs_of_engines.serve)
            changes = Changes(mesh.directory, mesh.sessions, clock)
            stalls = Stalls()
            numbers = Numbers(version=self.version, view=self.settings.see(), mesh=mesh, cluster=cluster, tokens=desk,
                              configuration=fleet, told=told, answered=self.answered.counts, problems=problems,
                              stalled=lambda: stalls.worst_s)
            shelf = shelf_for(store, audit, str(trust.cluster_uuid))
            settings = Settings(shelf)
            people = People(store, audit, passwords, Sessions(store, settings.rules), self.refusals, settings.rules)
            keys = UserKeys(store, audit)
            reception = Reception(people, keys, settings.ssh_rules, Commands(self.visitor, self.state).serve)
            catalogue = Catalogue()
            certificates = certificates_of(shelf, cluster.signing, catalogue)
            presentation = Presentation(self.state, trust, lambda: self.settings.endpoint, clock, cluster.signing,
                                        settings, mesh.directory, desk, certificates, self.settings.api_tls)
            self.presentation = presentation
            shelf.listen(self.moved.set)
            app = self.answered.at("api", application(Parts(
                self.version, shelf, catalogue, certificates, cluster.signing, operations, desk, people,
                people.tokens, keys, presentation,
                Backups(store, shelf, cluster.signing, trust, self.host_key, self.user_key), fleet, commands,
                logs_of_engines, changes, numbers, self.stop.set)))

            tasks: list[asyncio.Task[None]] = []

            def begin(**work: Coroutine[Any, Any, None]) -> None:
                tasks.extend(group.create_task(doing, name=name) for name, doing in work.items())

            async def arrive() -> None:
                """Until the store is there; then be open to everybody."""
                await self._find_store(cluster, desk, store)
                await self._insist(lambda: self._read(store, mesh, registry))
                await self._insist(shelf.load)
                await logs_of_engines.forget()
                await asyncio.to_thread(journals.retain, [node.name for node in mesh.directory.nodes.values()])
                begin(objects=shelf.follow(), directory=mesh.directory.follow(), tokens=enrolment.follow(),
                      plans=mesh.sessions.push(), documents=fleet.push(), rollouts=fleet.drive(),
                      states=changes.watch(), heads=witnessing.show(), witness=witnessing.ask(),
                      clock=self._tick(store, enrolment, audit, cluster))
                if cluster.clustered:
                    cluster.lead()  # who has not read who is removed decides nothing
                await self._insist(lambda: registry.announce(trust.node_id, self.settings.endpoint, trust.node))
                channel, api = await self._insist(presentation.load)
                await self._insist(lambda: self._open(doors, app, desk, cluster, channel, api))
                begin(addresses=self._be_found(registry, presentation))
                await self._insist(lambda: audit.append(Entry("controller.started", trust.node, trust.node,
                                                              {"version": self.version})))

            try:
                if self.sqlite is None:
                    mesh.remember(self.host_key.public, self.user_key.public)
                begin(plan=mesh.follow_plan(), members=admittance.keep_house(), room=admittance.make_room(),
                      links=mesh.supervisor.watch(), repair=mesh.listeners.repair(), stalls=stalls.watch())
                if self.sqlite is not None:
                    await arrive()  # first: engines that are not let in yet would ask the portal why
                ssh = await listen(doors.ssh, host_key=self.host_key, door=mesh.sessions, clock=clock,
                                   admission=Admission(1024, 128, patience_s=5.0, least=128),
                                   keepalive=Keepalive(self.settings.keepalive_s), way=self.way, reception=reception,
                                   waiting=lambda: mesh.sessions.waiting)
                self.https.append(await serve(app, [doors.control], presented=None, limits=API_LIMITS,
                                              admission=Admission(512, 512)))
                on_signals(self.stop, self._reload)
                notify("READY=1")
                log.info("controller.ready", version=self.version, api_port=self.settings.api_port,
                         portal_port=self.settings.portal_port, ssh_port=self.settings.ssh_port)
                if self.sqlite is None:
                    begin(arrival=arrive())
                await self.stop.wait()
                notify("STOPPING=1")
                log.info("controller.stopping")
                await ssh.close()
                await reception.close()
                await self._write_down(store, audit)
                for task in tasks:
                    task.cancel()
                await cluster.resign()  # for which mesh and store are needed
                await asyncio.gather(cluster.close(), mesh.drain(DRAIN_S))
                await asyncio.gather(mesh.close(), *(server.close(0.5) for server in self.https))
            finally:
                for task in tasks:
                    task.cancel()

    def _presenting_problems(self) -> list[str]:
        if self.presentation is None:
            return []
        problem = [self.presentation.problem] if self.presentation.problem else []
        return [*problem, *self.presentation.settings.shelf.problems]

    async def _write_down(self, store: MovableStore, audit: AuditLog) -> None:
        """The sums of strangers' refusals, unless the store takes too long for somebody who was told to end."""
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                for entry in self.refusals.flush(await store.now() + MINUTE):
                    await audit.append_with([], [], [entry])

    def _anchor(self, directory: Directory) -> Callable[[], Anchor]:
        trust = self.trust

        def anchor() -> Anchor:
            known = self.presentation.known if self.presentation is not None else None
            certificates = known.certificates if known else tuple(from_b64(c) for c in trust.ca_certificates)
            return Anchor(trust.cluster_uuid, (JOIN_VERSION,), certificates, tuple(
                AnchorController(c.name, address, port, known.tls_name if known else trust.tls_name,
                                 PublicKey.from_line(c.host_key))
                for c in directory.controllers() if c.endpoint for address, port in c.endpoint.places)).checked()

        return anchor

    def _take_office(self, enrolment: Enrolment, cluster: Cluster) -> None:
        """Of several Controllers the leader is fenced by its term, and keeps away from deadlines."""
        enrolment.office = replace(enrolment.office, fence=cluster.fence, margin=cluster.margin)

    async def _find_store(self, cluster: Cluster, desk: Desk, store: MovableStore) -> None:
        """Come as far as the store being there, and be able to open what is sealed in it."""
        if self.sqlite is None:
            note = self.note
            assert note is not None
            if note.stage != "committed":
                await cluster.open()
            if note.stage != "member":
                await Arrival(cluster, desk.ask_leader, lambda: desk.look_around(self.settings.endpoint),
                              self.version).come_in()
        while not cluster.signing.cluster_key:
            try:
                cluster.signing.cluster_key = await secrets.open_cluster_key(store, self.state, self.trust.node_id)
            except StoreUnavailable as reason:
                if self.sqlite is not None:
                    raise
                self.problems["store"] = reason.line()
                await asyncio.sleep(TICK_S / 2)

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do it; in a cluster, again and again: the store may be electing a leader just now."""
        while True:
            try:
                return await step()
            except StoreUnavailable as reason:
                if self.sqlite is not None:
                    raise
                self.problems["store"] = reason.line()
            await asyncio.sleep(TICK_S / 2)

    async def _read(self, store: MovableStore, mesh: Mesh, registry: Registry) -> None:
        await self._check_join_version(store)
        await mesh.load(await self._generation(store), await registry.next_epoch(self.trust.node_id) * EPOCH_BLOCK)

    async def _open(self, doors: Doors, application: Any, desk: Desk, cluster: Cluster, presented: Presented,
                    api: Presented) -> None:
        """The store is there: let everybody in."""
        store, trust = cluster.store, self.trust
        portal = Portal(enrolment=desk, directory=cluster.mesh.directory, registry=desk, replay=ReplayCache(),
                        cluster_uuid=trust.cluster_uuid, node_id=trust.node_id, host_key=self.host_key,
                        started=await store.now(),
                        presented=lambda digest: presented.recognises(digest, self.clock.monotonic()), now=store.now)
        self.https += [
            await serve(self.answered.at("portal", portal), doors.portal, presented=presented, limits=PORTAL_LIMITS,
                        admission=Admission(512, 32, patience_s=1.0, least=64)),
            await serve(application, doors.api, presented=api, limits=API_LIMITS,
                        admission=Admission(512, 64, patience_s=5.0))]
        self.problems.pop("store", None)
        log.info("controller.open", portal_port=self.settings.portal_port)

    async def _refused(self, controller: PlanController) -> None:
        """Another Controller lets us in no longer: ask its portal why."""
        if self.clock.monotonic() - self._asked < ASK_AGAIN_S:
            return
        self._asked = self.clock.monotonic()
        try:
            await signed.reread((self.presentation.trust if self.presentation else self.trust).but(controllers=[
                CoreController(
                    name=controller.name, address=address, portal_port=controller.portal_port,
                    ssh_port=controller.ssh_port, internal_address=controller.internal_address,
                    host_key=controller.host_key, user_key=controller.user_key, node_id=controller.node_id).model_dump()
                for address in controller.addresses]), self.user_key, self.clock.now())
        except signed.Answer as answer:
            if answer.code == "FL-NODE-REMOVED":
                self._removed()
        except FairleadError as error:
            log.info("trust.unread", code=error.code, reason=error.message)

    def _removed(self) -> None:
        """This Controller is no longer in the cluster: it says so, and ends."""
        if not self.stop.is_set():
            with contextlib.suppress(FairleadError):
                self.trust.but(removed=True).save(self.state)
            log.warning("node.removed", code="FL-NODE-REMOVED")
            self.stop.set()

    async def _generation(self, store: MovableStore) -> str:
        record = await store.get(GENERATION)
        if record is None:
            raise OperatorError("FL-STATE-DAMAGED", "the store has no generation", "restore the state folder")
        return record.value.hex()

    async def _check_join_version(self, store: MovableStore) -> None:
        """A cluster that has left a version of the join protocol behind never goes back to it."""
        record = await store.get(MIN_VERSION)
        if record is not None and int(record.value) > JOIN_VERSION:
            raise OperatorError("FL-JOIN-VERSION", f"this fairlead speaks version {JOIN_VERSION} of the join protocol, "
                                f"the cluster needs {int(record.value)}", "upgrade fairlead on this machine")

    async def _tick(self, store: MovableStore, enrolment: Enrolment, audit: AuditLog, cluster: Cluster) -> None:
        """Each second: end what has ended, as the leader. Each minute: write the strangers' refusals, in sums."""
        ticks = 0
        step = 0
        astray = set[str]()
        while True:
            await asyncio.sleep(TICK_S)
            ticks += 1
            try:
                if cluster.leading:
                    await store.sweep()
                    await enrolment.expire_due()
                if ticks % FLUSH_TICKS == 0:
                    await enrolment.tidy()
                    for entry in self.refusals.flush(await store.now()):
                        await audit.append_with([], [], [entry])
                self.problems.pop("store", None)
            except NotLeading:
                continue
            except StoreUnavailable as reason:
                log.warning("store.unavailable", reason=str(reason))
                self.problems["store"] = reason.line()
            if cluster.time_step != step:
                step = cluster.time_step
                log.warning("clock.step", code="FL-TIME-STEP", back_s=step / SECOND)
            if (off := clocks.astray(cluster.clocks)).keys() != astray:
                astray = set(off)
                for line in clocks.alarms(cluster.clocks):
                    log.warning("clock.off", code="FL-TIME-OFF", reason=line)

    def _reload(self) -> None:
        """SIGHUP: what may change while running is the addresses and the log level; ports and view need a restart."""
        try:
            settings = load_settings(self.state)
        except FairleadError as error:
            log.error("reload.refused", code=error.code, reason=error.message)
            return
        fixed = ("listen", "api_port", "portal_port", "ssh_port", "view", "keepalive_s", "store_quota_mib",
                 "api_tls_minimum", "heartbeat_s")
        if any(getattr(settings, name) != getattr(self.settings, name) for name in fixed):
            log.warning("reload.restart-needed", settings=", ".join(fixed))
        self.settings = self.settings.model_copy(update={"addresses": settings.addresses})
        self.moved.set()
        logs.start(self.trust.node, settings.log_level)
        log.info("reload.done")

    async def _be_found(self, registry: Registry, presentation: Presentation) -> None:
        """At each reload and each change of the configuration: present the certificates that it names, for the
        addresses of now, then tell everybody where we are.

        Before the store is there, the addresses are told to whoever is asked to let us in.
        """
        while True:
            await self.moved.wait()
            self.moved.clear()
            try:
                await self._insist(presentation.follow)
                await self._insist(lambda: registry.announce(self.trust.node_id, self.settings.endpoint,
                                                             self.trust.node))
            except FairleadError as error:
                log.error("reload.refused", code=error.code, reason=error.message)
