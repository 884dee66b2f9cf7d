"""The Controller: everything that it is made of, put together in one place, in one task group.

Seed: *the Avi Controller exposes port 443 (API server), 22 (SSH), and 8443 (system portal specifically dedicated for
secure key exchange). All services running inside the Controller listen to the local host.*
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from fairlead.api.configuration import SYSTEM
from fairlead.api.counting import Answered
from fairlead.audit.log import AuditLog, RefusalCounter
from fairlead.audit.record import Entry
from fairlead.audit.witness import ENGINES, Witness
from fairlead.audit.witness import FOLDER as WITNESS
from fairlead.base import configuration, descriptors, files, logs
from fairlead.base.clock import MINUTE, SECOND, Clock
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.base.service import notify, on_signals, restarting
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
from fairlead.controller.desk import Desk, Questions
from fairlead.controller.expiring import Expiring
from fairlead.controller.hostkeys import HostKeys
from fairlead.controller.initialise import MIN_VERSION, STORE
from fairlead.controller.mesh import Mesh
from fairlead.controller.metrics import Numbers
from fairlead.controller.operations import Operations
from fairlead.controller.presentation import Presentation
from fairlead.controller.renewal import Renewal
from fairlead.controller.rooted import Rooted
from fairlead.controller.rotating.own_host_key import OwnHostKey
from fairlead.controller.rotations import Following, Rotations
from fairlead.controller.settings import ControllerSettings
from fairlead.controller.software import software
from fairlead.controller.stalls import Stalls
from fairlead.controller.upgrading import Following as UpgradesKnown
from fairlead.controller.upgrading import Upgrading
from fairlead.controller.user_keys import NodeKeys, OwnKeys
from fairlead.controller.witnessing import Witnessing
from fairlead.enrol import signed
from fairlead.enrol.anchor import MOST_CONTROLLERS, Anchor, AnchorController
from fairlead.enrol.exchange import VERSION as JOIN_VERSION
from fairlead.enrol.exchange import CoreController
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.next_key import Offer
from fairlead.enrol.redeem import GENERATION, Enrolment, Office
from fairlead.enrol.succession import Succession
from fairlead.enrol.trust import Trust
from fairlead.enrol.trust import load as load_trust
from fairlead.fleet import commit
from fairlead.fleet.answering import Answering
from fairlead.fleet.attached import Attached
from fairlead.fleet.changes import Changes
from fairlead.fleet.commands import Commands as EngineCommands
from fairlead.fleet.configuration import Configuration
from fairlead.fleet.draining import Draining
from fairlead.fleet.journals import Journals
from fairlead.fleet.logs import Logs
from fairlead.fleet.metrics import EngineMetrics
from fairlead.fleet.others import Others
from fairlead.fleet.reading import Reading
from fairlead.fleet.rekeying import Rekeying
from fairlead.fleet.trusting import EngineTrust
from fairlead.fleet.upgrading import EngineUpgrades
from fairlead.fleet.user_keys import EngineKeys
from fairlead.keys.replay import ReplayCache
from fairlead.keys.wire import from_b64, sha256
from fairlead.link.logs import SUBSYSTEM as LOGS
from fairlead.link.messages import PlanController
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.registry import Registry
from fairlead.objects.catalogue import Catalogue
from fairlead.objects.shelf import Shelved
from fairlead.portal.application import Portal, Stating
from fairlead.portal.listener import Limits, Listener, Presented, bind_tcp, bind_unix, serve
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import StoreUnavailable
from fairlead.store.sqlite import SQLiteStore
from fairlead.transport.admission import Admission
from fairlead.transport.options import Keepalive, check_asyncssh
from fairlead.transport.peer import Peer
from fairlead.transport.server import listen
from fairlead.transport.way import Way, choose
from fairlead.upgrade import launch
from fairlead.upgrade.driver import newer
from fairlead.upgrade.own import OwnUpgrade
from fairlead.upgrade.taking import Bundles
from fairlead.upgrade.trial import Facts, Proving
from fairlead.upgrade.versions import Versions
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


async def run(state: Path, version: str, clock: Clock, visitor: Sequence[str]) -> bool:
    """Run the Controller in *state* until it is told to stop; True: it is to be started anew.

    Raises FairleadError when it cannot start.

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
    keys = HostKeys.load(state), Keyring(state)
    check_asyncssh()
    doors = Doors.bind(state, settings)
    try:
        sqlite = SQLiteStore.open(state / STORE, clock) if note is None else None
        try:
            with contextlib.closing(choose(os.environ)) as way:
                made = _Controller(state, version, clock, settings, trust, *keys, note, sqlite, way, visitor)
                await made.run(doors)
                return made.again
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


def _noted(event: str, **details: object) -> None:
    """A step of this Controller's own: the leader has its turn on record."""
    log.info(event, **details)


@dataclass(slots=True)
class _Controller:
    state: Path
    version: str
    clock: Clock
    settings: ControllerSettings
    trust: Trust
    host_keys: HostKeys
    keyring: Keyring
    note: Note | None
    sqlite: SQLiteStore | None
    way: Way
    visitor: Sequence[str]
    problems: dict[str, str] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    again: bool = False
    """Whether it is to be started anew once it has stopped, as what stands in `versions` says."""
    opened: bool = False
    """Whether everybody is let in."""
    versions: Versions = field(init=False)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """The addresses may have changed."""
    https: list[Listener] = field(default_factory=list)
    refusals: RefusalCounter = field(default_factory=RefusalCounter)
    answered: Answered = field(default_factory=Answered)
    presentation: Presentation | None = None
    """Once it is put together."""
    expiring: Expiring | None = None
    """The same."""
    _asked: float = float("-inf")

    def __post_init__(self) -> None:
        self.versions = launch.versions_of(self.state)

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

            async def rotate(op: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
                return await rotations.answer(op, fields) or await upgrading.answer(op, fields)

            async def answer(peer: Peer, op: str, fields: dict[str, Any]) -> dict[str, Any]:
                return await desk.answer(peer, op, fields)

            mesh = Mesh(state=self.state, clock=clock, settings=self.settings, trust=trust, keyring=self.keyring,
                        way=self.way, store=store, clustered=self.sqlite is None, cloned=cloned, removed=self._removed,
                        commit=lambda peer, channel: commit.answer(desk, peer, channel),
                        answer=answer, refused=self._refused)
            cluster = Cluster(self.state, clock, self.settings, trust, mesh, store, self.sqlite, self.note, group,
                              founded=lambda: self._take_office(enrolment, cluster))
            registry = Registry(store, audit, mesh.directory, fence=cluster.fence)
            following, upgrades_known = Following(mesh.directory), UpgradesKnown(mesh.directory)
            host_key = OwnHostKey(self.host_keys, mesh.directory, trust.node_id, trust.cluster_uuid,
                                  lambda: following.now, mesh.supervisor.wanted)
            enrolment = Enrolment(store, audit, mesh.directory, self.refusals, Office(
                trust.cluster_uuid, trust.node, host_key.signing, self._anchor(mesh.directory),
                trust=following.newest))
            self._take_office(enrolment, cluster)
            admittance = Admittance(cluster, enrolment, audit, self.version)
            witnessing = Witnessing(audit, mesh, trust, host_key.signing,
                                    Witness(self.state / WITNESS, str(trust.cluster_uuid)), clock)
            others = Others(mesh.directory, mesh.peers, trust.node_id)
            commands = EngineCommands(audit, mesh.directory, mesh.sessions, others)
            logs_of_engines = Logs(self.state, mesh.directory)
            reading = Reading(mesh.directory, logs_of_engines, others)
            draining = Draining(mesh.directory, mesh.sessions, others)

            async def register(node: Node, rotation: str, offer: Offer) -> None:
                await node_keys.register(node, rotation, offer)

            engine_keys = EngineKeys(trust.node_id, mesh.directory, mesh.sessions, register)
            succession = Succession(store, audit, mesh.directory, trust.cluster_uuid, fence=cluster.fence)

            async def root_of_bundles() -> bytes | None:
                return await upgrades.trust.root()

            def has_bundle(sha256: str) -> bool:
                return upgrades.records.size_of(sha256) is not None

            engine_upgrades = EngineUpgrades(upgrades_known.records, mesh.sessions, mesh.directory, newer,
                                             root_of_bundles, has_bundle)
            trusting = EngineTrust(following.statements, mesh.sessions)
            attached = Attached(trusting, mesh.sessions, mesh.directory, others)
            node_keys = NodeKeys(trust.node, mesh.directory, engine_keys, succession, others, cluster, clock)
            own_keys = OwnKeys(trust.node_id, trust.cluster_uuid, host_key.signing, self.keyring, mesh.directory,
                               engine_keys, register, mesh.supervisor.tunnels)
            mesh.sessions.rekey(Rekeying(mesh.directory, trust.cluster_uuid, trust.node_id).serve)
            desk = Desk(enrolment, registry, store, mesh, cluster, admittance, clock, witnessing,
                        Questions(Answering(mesh.directory, commands, reading, draining), node_keys, engine_upgrades,
                                  attached), rotate)

            def problems() -> list[str]:
                return [*self.problems.values(), *self._presenting_problems(), *rotations.problems,
                        *upgrading.problems,
                        *([host_key.problem] if host_key.problem else []),
                        *descriptors.problems(), *mesh.problems, *cluster.problems,
                        *([own_keys.problem] if own_keys.problem else []),
                        *([upgrades.keeping.problem] if upgrades.keeping.problem else [])]

            def version_of(node: Node) -> str:
                return upgrading.version_of(node)

            operations = Operations(
                me=trust.node_id, cluster_uuid=trust.cluster_uuid, version=self.version, view=self.settings.see(),
                mesh=mesh, cluster=cluster, registry=registry, desk=desk, audit=audit,
                witnessing=witnessing, problems=problems,
                hints=lambda: self.expiring.hints if self.expiring else (),
                version_of=version_of)
            fleet = Configuration(store, audit, mesh.directory, mesh.sessions, generation=lambda: mesh.generation,
                                  leading=lambda: cluster.leading, fence=cluster.fence)
            journals = Witness(self.state / ENGINES, str(trust.cluster_uuid), most_nodes=None, synced=False)
            told = EngineMetrics(mesh.sessions)
            for subject in (fleet, commands, told, trusting, engine_keys, engine_upgrades,
                            Journals(journals, audit, mesh.directory, mesh.sessions, trust.node)):
                mesh.sessions.add(subject)
            mesh.sessions.offer(LOGS, logs_of_engines.serve)
            changes = Changes(mesh.directory, mesh.sessions, clock)
            stalls = Stalls()
            numbers = Numbers(version=self.version, view=self.settings.see(), mesh=mesh, cluster=cluster, tokens=desk,
                              configuration=fleet, told=told, answered=self.answered.counts, problems=problems,
                              stalled=lambda: stalls.worst_s,
                              ends=lambda: self.expiring.ends if self.expiring else {})
            shelf = shelf_for(store, audit, str(trust.cluster_uuid))
            settings = Settings(shelf)
            people = People(store, audit, passwords, Sessions(store, settings.rules), self.refusals, settings.rules)
            keys = UserKeys(store, audit)
            reception = Reception(people, keys, settings.ssh_rules, Commands(self.visitor, self.state).serve)
            catalogue = Catalogue()
            upgrades = software(self.state, self.versions, store, audit, shelf, mesh, clock,
                                trust.node, catalogue.referrers, upgrades_known.uses)
            certificates = certificates_of(shelf, cluster.signing, catalogue, lambda: following.now)
            renewal = Renewal(self.state, cluster.signing, audit, mesh.directory, lambda: self.settings.endpoint,
                              cluster, self.settings.renew_certificates)
            presentation = Presentation(self.state, trust, lambda: self.settings.endpoint, clock, cluster.signing,
                                        settings, mesh.directory, desk, certificates, self.settings.api_tls,
                                        rotating=lambda: following.now, mend=renewal.mend)
            self.presentation = presentation
            rooted = Rooted(cluster, presentation, desk.ask_leader)
            rotations = Rotations(following=following, audit=audit, cluster=cluster, mesh=mesh, desk=desk, trust=trust,
                                  presentation=presentation, engines=trusting, attached=attached, rooted=rooted,
                                  configured=Shelved(shelf, SYSTEM, catalogue.referrers), keys=node_keys,
                                  succession=succession, host_key=host_key)
            host_key.done = rotations.telling.changed.set

            def restart() -> None:
                self.restart(lambda: self._facts(mesh, cluster))

            own = OwnUpgrade(self.state, self.versions,
                             Bundles(upgrades.bringing, self.versions, "controller", now=store.now),
                             now=clock.now, restart=restart, record=_noted)
            upgrading = Upgrading(following=upgrades_known, audit=audit, cluster=cluster, mesh=mesh, desk=desk,
                                  engines=engine_upgrades, others=others, telling=rotations.telling, own=own,
                                  images=upgrades.records.all)
            self.expiring = expiring = Expiring(self.state, cluster.signing, audit, presentation,
                                                lambda: cluster.leading, cluster.fence, lambda: cluster.clustered,
                                                renewal.look)
            shelf.listen(self.moved.set)
            following.listen(self.moved.set)
            self._follow_certificates(mesh.directory)
            app = self.answered.at("api", application(Parts(
                self.version, shelf, catalogue, certificates, cluster.signing, operations, desk, people,
                people.tokens, keys, presentation,
                Backups(store, shelf, cluster.signing, trust, host_key.signing, self.keyring), fleet, commands,
                reading, draining, changes, numbers, rotations, upgrades.trust, upgrades.uploads, upgrading,
                self.stop.set)))

            tasks: list[asyncio.Task[None]] = []

            def begin(**work: Coroutine[Any, Any, None]) -> None:
                tasks.extend(group.create_task(doing, name=name) for name, doing in work.items())

            async def arrive() -> None:
                """Until the store is there; then be open to everybody."""
                await self._find_store(cluster, desk, store, rooted)
                await self._insist(lambda: self._read(store, mesh, registry))
                await self._insist(shelf.load)
                await logs_of_engines.forget()
                await asyncio.to_thread(journals.retain, [node.name for node in mesh.directory.nodes.values()])
                begin(objects=shelf.follow(), directory=mesh.directory.follow(), tokens=enrolment.follow(),
                      plans=mesh.sessions.push(), documents=fleet.push(), rollouts=fleet.drive(),
                      keys=engine_keys.push(), own_keys=own_keys.follow(), next_keys=node_keys.lead(),
                      states=changes.watch(), heads=witnessing.show(), witness=witnessing.ask(),
                      clock=self._tick(store, enrolment, audit, cluster))
                if cluster.clustered:
                    cluster.lead()  # who has not read who is removed decides nothing
                await self._insist(lambda: registry.announce(trust.node_id, self.settings.endpoint, trust.node))
                await self._insist(renewal.look)
                channel, api = await self._insist(presentation.load)
                await self._insist(lambda: self._open(doors, app, desk, cluster, trusting.asked, channel, api))
                begin(addresses=self._be_found(registry, presentation), rotation=rotations.driver.run(),
                      trust=rotations.follow(), telling=rotations.telling.run(), roots=rooted.follow(),
                      host_key=host_key.follow(), expiry=expiring.watch(), images=upgrades.keeping.follow(),
                      own_version=own.run(), upgrade=upgrading.driver.run(), turn=upgrading.follow(),
                      engines_turn=engine_upgrades.push(), engines_word=upgrading.watch())
                self.moved.set()
                await self._insist(lambda: audit.append(Entry("controller.started", trust.node, trust.node,
                                                              {"version": self.version})))

            try:
                if self.sqlite is None:
                    mesh.remember(self.host_keys.shown.public, self.keyring.in_use.public)
                begin(plan=mesh.follow_plan(), members=admittance.keep_house(), room=admittance.make_room(),
                      links=mesh.supervisor.watch(), repair=mesh.listeners.repair(), stalls=stalls.watch())
                if self.sqlite is not None:
                    await arrive()  # first: engines that are not let in yet would ask the portal why
                ssh = await listen(doors.ssh, host_keys=host_key.shown, door=mesh.sessions, clock=clock,
                                   admission=Admission(1024, 128, patience_s=5.0, least=128),
                                   keepalive=Keepalive(self.settings.keepalive_s), way=self.way, reception=reception,
                                   waiting=lambda: mesh.sessions.waiting)
                self.https.append(await serve(app, [doors.control], presented=None, limits=API_LIMITS,
                                              admission=Admission(512, 512)))

                def facts() -> Facts:
                    return self._facts(mesh, cluster)

                def hung_up() -> None:
                    self._reload()
                    self._start_anew_if_due(facts)

                begin(trial=Proving(self.versions, self.version, facts, clock).run())
                on_signals(self.stop, hung_up)
                notify("READY=1")
                log.info("controller.ready", version=self.version, api_port=self.settings.api_port,
                         portal_port=self.settings.portal_port, ssh_port=self.settings.ssh_port)
                if self.sqlite is None:
                    begin(arrival=arrive())
                await self.stop.wait()
                notify(restarting() if self.again else "STOPPING=1")
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
                upgrades.bringing.close()

    def _facts(self, mesh: Mesh, cluster: Cluster) -> Facts:
        """How this Controller stands, for a version on trial."""
        routes = mesh.supervisor.routes
        silent = sum(error is not None and error.code == "FL-SSH-UNREACHABLE" and state != "up"
                     for _, state, _, _, error in routes)
        lacking = [*([] if self.opened else ["its doors are not open"]),
                   *([f"the store does not answer: {self.problems['store']}"] if "store" in self.problems else []),
                   *([] if cluster.leader else ["no leader is known"])]
        return Facts(len(routes), sum(state == "up" for _, state, *_ in routes), len(routes) - silent,
                     (len(routes) + 1) // 2, tuple(mesh.listeners.problems), tuple(lacking))

    def restart(self, facts: Callable[[], Facts]) -> None:
        """Drain, end, and be started anew: a switch of versions takes effect."""
        with contextlib.suppress(FairleadError):  # the trial is the stricter for it
            self.versions.note(facts().noted())
        self.again = True
        self.stop.set()

    def _start_anew_if_due(self, facts: Callable[[], Facts]) -> None:
        try:
            if launch.due(self.versions):
                self.restart(facts)
        except FairleadError as error:
            log.error("reload.refused", code=error.code, reason=error.message)

    def _follow_certificates(self, directory: Directory) -> None:
        """Whichever Controller makes one anew: all present it."""
        seen = 0
        directory.keep("pki", sha256)

        def changed() -> None:
            nonlocal seen
            if seen != directory.changes["pki"]:
                seen = directory.changes["pki"]
                self.moved.set()

        directory.listen(changed)

    def _presenting_problems(self) -> list[str]:
        if self.presentation is None:
            return []
        over = self.expiring.problems if self.expiring is not None else ()
        return [*self.presentation.problems, *over, *self.presentation.settings.shelf.problems]

    async def _write_down(self, store: MovableStore, audit: AuditLog) -> None:
        """The sums of strangers' refusals, unless the store takes too long for somebody who was told to end."""
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                for entry in self.refusals.flush(await store.now() + MINUTE):
                    await audit.append_with([], [], [entry])

    def _anchor(self, directory: Directory) -> Callable[[], Anchor]:
        trust = self.trust

        def anchor() -> Anchor:
            known = self.presentation.believed if self.presentation is not None else None
            certificates = known.certificates if known else tuple(from_b64(c) for c in trust.ca_certificates)
            names = self.presentation.names if known and self.presentation else trust.portal_names
            controllers = directory.controllers()
            room = max(1, MOST_CONTROLLERS // max(1, len(names) * len(controllers)))  # while two names count, say
            ways = [(c, address, port, name) for name in names for c in controllers if c.endpoint
                    for address, port in c.endpoint.places[:room]]
            pinned = [AnchorController(c.name, address, port, name, key) for number in range(2)
                      for c, address, port, name in ways for key in c.host_keys[number:number + 1]]
            most = max(len(ways), MOST_CONTROLLERS)  # where not all of the next ones fit, the present ones do
            return Anchor(trust.cluster_uuid, (JOIN_VERSION,), certificates, tuple(pinned[:most])).checked()

        return anchor

    def _take_office(self, enrolment: Enrolment, cluster: Cluster) -> None:
        """Of several Controllers the leader is fenced by its term, and keeps away from deadlines."""
        enrolment.office = replace(enrolment.office, fence=cluster.fence, margin=cluster.margin)

    async def _find_store(self, cluster: Cluster, desk: Desk, store: MovableStore, rooted: Rooted) -> None:
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
                await rooted.tried()

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

    async def _open(self, doors: Doors, application: Any, desk: Desk, cluster: Cluster,
                    statements: Stating, presented: Presented, api: Presented) -> None:
        """The store is there: let everybody in."""
        store, trust = cluster.store, self.trust
        portal = Portal(enrolment=desk, statements=statements, directory=cluster.mesh.directory, registry=desk,
                        replay=ReplayCache(), cluster_uuid=trust.cluster_uuid, node_id=trust.node_id,
                        host_key=lambda: self.host_keys.shown, started=await store.now(),
                        presented=lambda digest: presented.recognises(digest, self.clock.monotonic()), now=store.now)
        self.https += [
            await serve(self.answered.at("portal", portal), doors.portal, presented=presented, limits=PORTAL_LIMITS,
                        admission=Admission(512, 32, patience_s=1.0, least=64)),
            await serve(application, doors.api, presented=api, limits=API_LIMITS,
                        admission=Admission(512, 64, patience_s=5.0))]
        self.problems.pop("store", None)
        self.opened = True
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
                    host_key=controller.host_key, user_key=controller.user_key, node_id=controller.node_id,
                    next_host_key=controller.next_host_key).model_dump()
                for address in controller.addresses]), self.keyring.in_use, self.clock.now())
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
            except Refused as reason:  # the anchor has no room for all addresses, say
                log.error("tick.refused", code=reason.code, reason=reason.message)
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
                 "api_tls_minimum", "heartbeat_s", "renew_certificates")
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
