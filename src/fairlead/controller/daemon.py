"""The Controller: everything that it is made of, put together in one place, in one task group.

Seed: *the Avi Controller exposes port 443 (API server), 22 (SSH), and 8443 (system portal specifically dedicated for
secure key exchange). All services running inside the Controller listen to the local host.*
"""

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path

import structlog

from fairlead.api import audit as audit_api
from fairlead.api import enrolment as enrolment_api
from fairlead.api import mesh as mesh_api
from fairlead.api import nodes as nodes_api
from fairlead.api import services as services_api
from fairlead.api import system as system_api
from fairlead.api.application import build
from fairlead.audit.log import AuditLog, RefusalCounter
from fairlead.audit.record import Entry
from fairlead.base import configuration, descriptors, files, logs
from fairlead.base.clock import MINUTE, SECOND, Clock
from fairlead.base.errors import FairleadError, OperatorError
from fairlead.base.service import notify, on_signals
from fairlead.controller import secrets
from fairlead.controller.initialise import MIN_VERSION, STORE
from fairlead.controller.mesh import Mesh
from fairlead.controller.operations import Operations
from fairlead.controller.settings import ControllerSettings
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.exchange import VERSION as JOIN_VERSION
from fairlead.enrol.redeem import GENERATION, Enrolment, Office
from fairlead.enrol.trust import HOST_KEY, USER_KEY, Trust, load_key
from fairlead.enrol.trust import load as load_trust
from fairlead.fleet import commit
from fairlead.keys.replay import ReplayCache
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import from_b64
from fairlead.nodes.node import Node
from fairlead.nodes.registry import Registry
from fairlead.portal.application import Portal
from fairlead.portal.listener import Limits, Presented, bind_tcp, bind_unix, serve, server_identity
from fairlead.store.protocol import StoreUnavailable
from fairlead.store.sqlite import SQLiteStore
from fairlead.transport.admission import Admission
from fairlead.transport.options import Keepalive
from fairlead.transport.server import listen

DRAIN_S = 3.0
SOCKET = "control.sock"
EPOCH_BLOCK = 1 << 32
"""Epochs that one run of the daemon may hand out: the store numbers the runs, so every epoch is higher than before."""
TICK_S = 1.0
FLUSH_TICKS = 60
PORTAL_LIMITS = Limits(connections=512, body_bytes=16 * 1024)
API_LIMITS = Limits(connections=512, body_bytes=1024 * 1024, keep_alive=True)

log = structlog.get_logger("fairlead.controller")


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


async def run(state: Path, version: str, clock: Clock) -> None:
    """Run the Controller in *state* until it is told to stop. Raises FairleadError when it cannot start."""
    descriptors.take_all()
    files.check_private_folder(state)
    settings, trust, host_key = load_settings(state), load_trust(state), load_key(state, HOST_KEY)
    user_key = load_key(state, USER_KEY)
    doors = Doors.bind(state, settings)
    try:
        store = SQLiteStore.open(state / STORE, clock)
        try:
            await _Controller(state, version, clock, settings, trust, host_key, user_key, store).run(doors)
        finally:
            await store.close()
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
    store: SQLiteStore

    async def run(self, doors: Doors) -> None:
        store, trust, clock = self.store, self.trust, self.clock
        cluster_key = await secrets.open_cluster_key(store, self.state, trust.node_id)
        channel = await secrets.open_certified(store, cluster_key, secrets.CERTIFICATES + secrets.SECURE_CHANNEL)
        api = await secrets.open_certified(store, cluster_key, secrets.CERTIFICATES + secrets.API)
        presented = Presented(server_identity(channel.certificate_pem, channel.key_pem))
        generation = await self._generation()
        await self._check_join_version()

        async def cloned(node: Node) -> None:
            log.warning("alarm", alarm="node.cloned", about=node.name)
            await audit.append_with([], [], [Entry("node.cloned", node.name, trust.node, {"node_id": node.id})])

        mesh = Mesh(state=self.state, clock=clock, settings=self.settings, trust=trust, user_key=self.user_key,
                    store=store, clustered=False, cloned=cloned,
                    commit=lambda peer, channel: commit.answer(enrolment, peer, channel))
        directory, sessions = mesh.directory, mesh.sessions
        audit = AuditLog(store, trust.node)
        registry = Registry(store, audit, directory)
        await mesh.load(generation, await registry.next_epoch(trust.node_id) * EPOCH_BLOCK)
        refusals = RefusalCounter()

        def anchor() -> Anchor:
            return Anchor(trust.cluster_uuid, (JOIN_VERSION,), tuple(from_b64(c) for c in trust.ca_certificates), tuple(
                AnchorController(c.name, address, port, trust.tls_name, PublicKey.from_line(c.host_key))
                for c in directory.controllers() if c.endpoint for address, port in c.endpoint.places)).checked()

        enrolment = Enrolment(store, audit, directory, refusals,
                              Office(trust.cluster_uuid, trust.node, self.host_key, anchor))

        problems: dict[str, str] = {}
        operations = Operations(
            me=trust.node_id, cluster_uuid=trust.cluster_uuid, version=self.version, view=self.settings.see(),
            plan=mesh.plan, directory=directory, registry=registry, sessions=sessions, audit=audit,
            problems=lambda: [*problems.values(), *descriptors.problems(), *mesh.problems])
        stop = asyncio.Event()
        application = build([
            system_api.routes(operations, self.version), system_api.stopping(stop.set),
            enrolment_api.routes(enrolment, operations), nodes_api.reading(operations),
            nodes_api.writing(operations, operations), services_api.reading(operations),
            services_api.writing(operations), mesh_api.routes(operations), audit_api.routes(operations),
        ], version=self.version, public=system_api.PUBLIC)
        portal = Portal(enrolment=enrolment, directory=directory, registry=registry, replay=ReplayCache(),
                        cluster_uuid=trust.cluster_uuid, node_id=trust.node_id, host_key=self.host_key,
                        started=await store.now(),
                        presented=lambda digest: presented.recognises(digest, clock.monotonic()), now=store.now)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work, name=name) for name, work in (
                ("directory", directory.follow()), ("tokens", enrolment.follow()), ("plans", sessions.push()),
                ("own plan", mesh.follow_plan()), ("links", mesh.supervisor.watch()),
                ("repair", mesh.listeners.repair()), ("clock", self._tick(enrolment, refusals, audit, problems)))]
            try:
                await registry.announce(trust.node_id, self.settings.endpoint, trust.node)
                await audit.append_with([], [], [Entry("controller.started", trust.node, trust.node,
                                                       {"version": self.version})])
                ssh = await listen(doors.ssh, host_key=self.host_key, door=sessions, clock=clock,
                                   admission=Admission(512, 128, patience_s=5.0),
                                   keepalive=Keepalive(self.settings.keepalive_s))
                https = [
                    await serve(portal, doors.portal, presented=presented, limits=PORTAL_LIMITS,
                                admission=Admission(512, 32, patience_s=1.0)),
                    await serve(application, doors.api, presented=Presented(server_identity(
                        api.certificate_pem, api.key_pem)), limits=API_LIMITS,
                                admission=Admission(512, 64, patience_s=5.0)),
                    await serve(application, [doors.control], presented=None, limits=API_LIMITS,
                                admission=Admission(512, 512))]
                on_signals(stop, lambda: self._reload(registry, group))
                notify("READY=1")
                log.info("controller.ready", version=self.version, api_port=self.settings.api_port,
                         portal_port=self.settings.portal_port, ssh_port=self.settings.ssh_port)
                await stop.wait()
                notify("STOPPING=1")
                log.info("controller.stopping")
                await ssh.close()
                await mesh.drain(DRAIN_S)
                await mesh.close()
                await asyncio.gather(*(server.close(0.5) for server in https))
                for entry in refusals.flush(await store.now() + MINUTE):
                    await audit.append_with([], [], [entry])
            finally:
                for task in tasks:
                    task.cancel()

    async def _generation(self) -> str:
        record = await self.store.get(GENERATION)
        if record is None:
            raise OperatorError("FL-STATE-DAMAGED", "the store has no generation", "restore the state folder")
        return record.value.hex()

    async def _check_join_version(self) -> None:
        """A cluster that has left a version of the join protocol behind never goes back to it."""
        record = await self.store.get(MIN_VERSION)
        if record is not None and int(record.value) > JOIN_VERSION:
            raise OperatorError("FL-JOIN-VERSION", f"this fairlead speaks version {JOIN_VERSION} of the join protocol, "
                                f"the cluster needs {int(record.value)}", "upgrade fairlead on this machine")

    async def _tick(self, enrolment: Enrolment, refusals: RefusalCounter, audit: AuditLog,
                    problems: dict[str, str]) -> None:
        """Each second: end what has ended. Each minute: write the strangers' refusals, in sums."""
        ticks = 0
        step = 0
        while True:
            await asyncio.sleep(TICK_S)
            ticks += 1
            try:
                await self.store.sweep()
                await enrolment.expire_due()
                if ticks % FLUSH_TICKS == 0:
                    await enrolment.tidy()
                    for entry in refusals.flush(await self.store.now()):
                        await audit.append_with([], [], [entry])
                problems.pop("store", None)
            except StoreUnavailable as reason:
                log.warning("store.unavailable", reason=str(reason))
                problems["store"] = reason.line()
            if self.store.time_step != step:
                step = self.store.time_step
                log.warning("clock.step", code="FL-TIME-STEP", back_s=step / SECOND)

    def _reload(self, registry: Registry, group: asyncio.TaskGroup) -> None:
        """SIGHUP: what may change while running is the addresses and the log level; ports and view need a restart."""
        try:
            settings = load_settings(self.state)
        except FairleadError as error:
            log.error("reload.refused", code=error.code, reason=error.message)
            return
        fixed = ("listen", "api_port", "portal_port", "ssh_port", "view", "keepalive_s")
        if any(getattr(settings, name) != getattr(self.settings, name) for name in fixed):
            log.warning("reload.restart-needed", settings=", ".join(fixed))
        self.settings = self.settings.model_copy(update={"addresses": settings.addresses})
        group.create_task(self._announce(registry))
        logs.start(self.trust.node, settings.log_level)
        log.info("reload.done")

    async def _announce(self, registry: Registry) -> None:
        try:
            await registry.announce(self.trust.node_id, self.settings.endpoint, self.trust.node)
        except FairleadError as error:
            log.error("reload.refused", code=error.code, reason=error.message)
