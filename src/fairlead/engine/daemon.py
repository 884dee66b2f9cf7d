"""The engine: it dials, nobody dials it; it follows its plan, also when no Controller is there to repeat it.

Everything that it is made of is put together here, in one task group.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from fairlead.api import audit as audit_api
from fairlead.api import mesh as mesh_api
from fairlead.api import nodes as nodes_api
from fairlead.api import services as services_api
from fairlead.api import system as system_api
from fairlead.api.application import build
from fairlead.audit.journal import Journal
from fairlead.audit.record import Entry
from fairlead.audit.witness import FOLDER as WITNESS
from fairlead.audit.witness import Witness
from fairlead.base import configuration, descriptors, files, logs
from fairlead.base.clock import SECOND, Clock, spoken
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.base.service import notify, on_signals, restarting
from fairlead.engine import metrics
from fairlead.engine.asking import Asking
from fairlead.engine.commands import Commands, machine
from fairlead.engine.documents import Documents
from fairlead.engine.drivers.files import FilesDriver
from fairlead.engine.drivers.haproxy import HaproxyDriver
from fairlead.engine.images import bringing
from fairlead.engine.link import Link
from fairlead.engine.operations import Operations
from fairlead.engine.settings import EngineSettings
from fairlead.engine.spool import FOLDER as SPOOL
from fairlead.engine.spool import Spool
from fairlead.engine.upgrading import Upgrades, upgrades
from fairlead.engine.upload import Upload
from fairlead.engine.user_keys import OwnKeys
from fairlead.engine.witnesses import Witnesses
from fairlead.enrol import signed, statements
from fairlead.enrol.exchange import Core, CoreController
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.trust import HOST_KEY, Trust, load_key
from fairlead.enrol.trust import load as load_trust
from fairlead.keys.ssh import PrivateKey
from fairlead.link.messages import MOST_HEADS, Plan, PlanController
from fairlead.link.metrics import Name
from fairlead.mesh import plan as plans
from fairlead.mesh.dialling import dialling
from fairlead.mesh.listeners import Listeners
from fairlead.mesh.supervisor import Supervisor
from fairlead.portal.listener import Limits, bind_unix, serve
from fairlead.transport.options import check_asyncssh
from fairlead.transport.peer import Target
from fairlead.transport.traffic import Traffic
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import Way, choose
from fairlead.upgrade import launch
from fairlead.upgrade.bringing import Bringing
from fairlead.upgrade.trial import Facts, Proving
from fairlead.upgrade.versions import Versions

DRAIN_S = 3.0
SOCKET = "control.sock"
HOSTS = "hosts"
PLAN = "plan.json"
AUDIT = "audit.jsonl"
OFFER_S = 15.0
"""For all answers to this node's offers on one connection."""

log = structlog.get_logger("fairlead.engine")


async def run(state: Path, version: str, clock: Clock) -> bool:
    """Run the engine in *state* until it is told to stop, or removed; True: it is to be started anew.

    Raises FairleadError when it cannot start.
    """
    descriptors.take_all()
    files.check_private_folder(state)
    trust = load_trust(state)
    if trust.removed:
        raise OperatorError("FL-NODE-REMOVED", f"{trust.node} was removed from the cluster",
                            "join again: `fairlead engine join BUNDLE --name NAME`, with a new bundle")
    if trust.role != "engine":
        raise OperatorError("FL-ROLE", f"the node in {state} is a {trust.role}", "`fairlead controller run` runs it")
    settings, keyring = load_settings(state), Keyring(state)
    host_key = load_key(state, HOST_KEY)
    check_asyncssh()
    control = bind_unix(state, SOCKET)
    try:
        journal = Journal.open(state / AUDIT, trust.node, clock)
        way = choose(os.environ)
        spool = Spool(state / SPOOL, most_bytes=settings.spool_mib * 1024 * 1024)
        logs.start(trust.node, settings.log_level, also=spool.append)
        engine = Engine(state, version, clock, settings, trust, keyring, host_key, journal, way, spool)
        listener = await serve(engine.application(), [control], presented=None,
                               limits=Limits(keep_alive=True, body_bytes=1024 * 1024), admission=None)
        on_signals(engine.stopping, engine.hung_up)
        try:
            await engine.run(notify)
            return engine.again
        finally:
            await listener.close(0.5)
            way.close()
            journal.close()
            spool.close()
    finally:
        control.close()
        files.remove(state / SOCKET)


def load_settings(state: Path) -> EngineSettings:
    """The settings in *state*. Raises OperatorError."""
    try:
        return configuration.load(state, EngineSettings)
    except FileNotFoundError:
        return EngineSettings()


@dataclass(slots=True)
class Engine:
    """One engine at work."""

    state: Path
    version: str
    clock: Clock
    settings: EngineSettings
    trust: Trust
    keyring: Keyring
    host_key: PrivateKey
    journal: Journal
    way: Way
    spool: Spool
    plan: Plan | None = None
    standing: str = "up"
    supervisor: Supervisor = field(init=False)
    listeners: Listeners = field(init=False)
    witness_of: Witness = field(init=False)
    documents: Documents = field(init=False)
    commands: Commands = field(init=False)
    upload: Upload = field(init=False)
    witnesses: Witnesses = field(init=False)
    user_keys: OwnKeys = field(init=False)
    bundles: Bringing = field(init=False)
    upgrades: Upgrades = field(init=False)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set it to have it end."""
    again: bool = False
    """Whether it is to be started anew then, as what stands in `versions` says."""
    versions: Versions = field(init=False)
    _offset: int = 0
    """Store time minus this machine's clock, microseconds."""
    _asking: Asking = field(default_factory=Asking)
    _applying: asyncio.Lock = field(default_factory=asyncio.Lock)
    _offering: asyncio.Lock = field(default_factory=asyncio.Lock)
    _work: set[asyncio.Task[Any]] = field(default_factory=set)
    _plan_problem: str = ""
    _unsaved: str = ""
    """Why the plan in force is not on the disk."""
    _reverses: dict[Tunnel, set[int]] = field(default_factory=dict)
    _traffic: Traffic = field(default_factory=Traffic)
    _started: float = 0.0

    def __post_init__(self) -> None:
        self._started = self.clock.monotonic()
        self.versions = launch.versions_of(self.state)
        link = Link(self, self.clock, f"fairlead/{self.version}")
        dial = dialling(self.trust.user, lambda: self.keyring.held, self.settings.keepalive_s, self.clock, self.way)
        self.supervisor = Supervisor(dial, link.talk, self._serve_on, self._failed)
        self.listeners = Listeners(self.supervisor)
        self.witness_of = Witness(self.state / WITNESS, str(self.trust.cluster_uuid))
        self.documents = Documents(self.state, {
            "files": FilesDriver(self.state, lambda: self.settings.destinations),
            "haproxy": HaproxyDriver(self.state, lambda: self.settings.haproxy, self._place_of)},
            now=self.store_time, record=self._record)
        self.commands = Commands({"status": self._status, "reload": self._reloaded, "diagnostics": self._diagnostics,
                                  "rotate-logs": self._rotated}, self._record)
        self.upload = Upload(self.spool, self.supervisor)
        self.witnesses = Witnesses(self.journal, self.trust.node, str(self.trust.cluster_uuid), self.host_key,
                                   self.clock)
        self.user_keys = OwnKeys(self.keyring, self.trust.cluster_uuid, self.trust.node_id, self.host_key,
                                 self.supervisor.tunnels_to, self._record)
        self.bundles = bringing(self.state, self.supervisor, self.versions, self.clock, self.store_time, self._record)
        self.upgrades = upgrades(self.state, self.versions, self.bundles, self.store_time, self.restart, self._record)

    def application(self) -> Any:
        """What the control socket serves."""
        operations = Operations(self)
        return build([
            system_api.routes(operations, self.version), system_api.stopping(self.stopping.set),
            nodes_api.reading(operations), services_api.reading(operations), mesh_api.routes(operations),
            audit_api.reading(self.witnesses),
        ], version=self.version, public=system_api.PUBLIC)

    async def run(self, tell: Callable[[str], None]) -> None:
        """Follow the plan until stopped. *tell*: systemd, say, of ``READY=1`` and ``STOPPING=1``."""
        self.plan = self._stored_plan()
        await self.documents.restore()
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(self.listeners.repair(), name="repair"),
                          group.create_task(self.supervisor.watch(), name="links"),
                          group.create_task(self.documents.work(), name="documents"),
                          group.create_task(self.upload.run(), name="logs"),
                          group.create_task(self.witnesses.show(), name="journal"),
                          group.create_task(self.upgrades.own.run(), name="upgrade"),
                          group.create_task(self.upgrades.tell(), name="upgrade-standing"),
                          group.create_task(Proving(self.versions, self.version, self.facts, self.clock).run(),
                                            name="trial")]
            if self.plan is not None:
                await self._apply(self.plan)
            self.supervisor.want(self._controllers())
            tell("READY=1")
            log.info("engine.ready", version=self.version, plan=self.plan.revision if self.plan else 0)
            await self.stopping.wait()
            tell(restarting() if self.again else "STOPPING=1")
            log.info("engine.stopping")
            drain_s = 0.0 if self.standing == "removed" else DRAIN_S
            await asyncio.gather(self.listeners.close(drain_s), self.supervisor.drain(drain_s))
            await self.supervisor.close()
            for task in list(self._work):
                task.cancel()
            for task in background:
                task.cancel()
        self.bundles.close()
        await self.documents.close()

    def facts(self) -> Facts:
        """How this node stands, for a version on trial."""
        routes = self.supervisor.routes
        silent = sum(error is not None and error.code == "FL-SSH-UNREACHABLE" and state != "up"
                     for _, state, _, _, error in routes)
        return Facts(len(routes), sum(state == "up" for _, state, *_ in routes), len(routes) - silent, 1,
                     tuple(self.listeners.problems))

    def restart(self) -> None:
        """Drain, end, and be started anew: a switch of versions takes effect."""
        with contextlib.suppress(FairleadError):  # the trial is the stricter for it
            self.versions.note(self.facts().noted())
        self.again = True
        self.stopping.set()

    @property
    def problems(self) -> list[str]:
        """What is not as planned, one line each."""
        return [*filter(None, (self._plan_problem, self._unsaved)), *descriptors.problems(),
                *self.listeners.problems, *self.documents.problems, *self.user_keys.problems,
                *self.upgrades.problems]

    # -- what the link says -------------------------------------------------------------------------------------------

    async def follow(self, plan: Plan) -> None:
        """Put a Controller's plan in force, unless a newer one of the same store is."""
        known = self.plan
        if known is not None and known.generation == plan.generation and plan.revision < known.revision:
            return
        self.standing = "up"
        self.plan = plan
        if known is None or known.reach != plan.reach:
            self.documents.again()  # a document may name a service
        self._unsaved = ""
        try:
            files.write_private(self.state / PLAN, plan.model_dump_json().encode())
            self._remember_controllers(plan)
        except FairleadError as error:  # a full disk: the plan is in force all the same
            self._unsaved = error.line()
            log.error("plan.unsaved", code=error.code, reason=error.message)
        await self._apply(plan)
        self.supervisor.want(self._controllers())
        log.info("plan.applied", revision=plan.revision, reach=len(plan.reach), serve=len(plan.serve),
                 problems=len(self.problems))

    def open_streams(self, controller: PlanController) -> None:
        """A stream waits at *controller*."""
        self._later(self._open_streams(controller.name))

    def removed(self) -> None:
        """Close everything and end: this node is no longer in the cluster."""
        if self.standing != "removed":
            self.standing = "removed"
            with contextlib.suppress(FairleadError):
                self.trust = self.trust.but(removed=True)
                self.trust.save(self.state)
            self._record("node.removed")
            log.warning("node.removed", code="FL-NODE-REMOVED")
            self.stopping.set()

    def frozen(self) -> None:
        """Wait for an operator."""
        if self.standing != "frozen":
            self.standing = "frozen"
            self._record("node.frozen")
            log.warning("node.frozen", code="FL-NODE-FROZEN", fingerprint=self.host_key.public.fingerprint)

    def heard(self, server_time: int) -> None:
        """Learn the offset to store time."""
        self._offset = server_time - self.clock.now()
        self._asking.reset()

    def store_time(self) -> int:
        """Store time as a Controller said it, microseconds; never one that cannot be written down, whatever it said."""
        return spoken(self.clock.now() + self._offset)

    def witness(self, controller: PlanController, head: str) -> None:
        """Keep a Controller's head, if it is its own; say so aloud when it contradicts what it said before."""
        self._later(self._witness(controller, head))

    async def _witness(self, controller: PlanController, head: str) -> None:
        keys = next((c.host_keys for c in self._controllers() if c.node_id == controller.node_id), ())
        try:  # by the keys of now: the link may have begun with those of before
            news = await self.witness_of.take(head, controller.name, *keys)
        except FairleadError as error:
            log.warning("audit.head-refused", controller=controller.name, code=error.code, reason=error.message)
            return
        if news == "contradiction":
            self._record("audit.contradiction", controller=controller.name)
            log.warning("alarm", alarm="audit.contradiction", about=controller.name)
        elif news == "generation":
            self._record("audit.generation", controller=controller.name)
            log.warning("audit.generation", controller=controller.name)

    @property
    def witnessed(self) -> list[str]:
        """The heads that this node was shown."""
        return [head.text() for head in self.witness_of.heads][:MOST_HEADS]

    @property
    def trusting(self) -> int:
        """The number of the trust statement that is followed."""
        return self.trust.statement

    def trust_in(self, texts: Sequence[str]) -> None:
        """Follow trust statements that a Controller brings. Raises FairleadError: then nothing has changed."""
        self._believe(self.trust.after(texts))
        self._pin()

    def _pin(self) -> None:
        """Dial by the host keys of the statement, whether or not a plan has brought them yet."""
        if self.plan is None:
            return
        stated = {c.node_id: c for c in self.trust.controllers}
        controllers = [c if (s := stated.get(c.node_id)) is None else c.model_copy(update={
            "host_key": s.host_key, "next_host_key": s.next_host_key}) for c in self.plan.controllers]
        if controllers != self.plan.controllers:
            self.plan = self.plan.model_copy(update={"controllers": controllers})
            self.supervisor.want(self._controllers())

    def _believe(self, trust: Trust) -> None:
        if trust is not self.trust:
            trust.save(self.state)
            self.trust = trust
            self._record("trust.followed", statement=str(trust.statement))
            log.info("trust.followed", statement=trust.statement)

    def measure(self) -> Mapping[Name, float]:
        """How this node is, in numbers."""
        links = sum(state == "up" for _, state, *_ in self.supervisor.routes)
        return {**metrics.of_process(self.clock.monotonic() - self._started), "links": links,
                **metrics.of_streams(self._traffic, self._reverses), **metrics.of_documents(self.documents),
                **metrics.of_spool(self.spool), "problems": len(self.problems)}

    @property
    def skew_s(self) -> float:
        """This machine's clock minus store time, seconds."""
        return -self._offset / SECOND

    # -- the mesh -----------------------------------------------------------------------------------------------------

    async def _serve_on(self, controller: PlanController, tunnel: Tunnel) -> None:
        """Offer this node's own services on a new stream connection."""
        log.info("streams.up", controller=controller.name, address=tunnel.address)
        self._reverses[tunnel] = set()
        self._later(self._forget(tunnel))
        await self._offer(tunnel)

    async def _offer(self, tunnel: Tunnel) -> None:
        """Make the reverse listeners on *tunnel* those of the plan."""
        async with self._offering:
            plan, offered = self.plan, self._reverses.get(tunnel)
            if plan is None or offered is None:
                return
            try:
                async with asyncio.timeout(OFFER_S):
                    await self._offer_of(plan, tunnel, offered)
            except TimeoutError:
                tunnel.close("the Controller does not answer an offer")  # the next stream opens another

    async def _offer_of(self, plan: Plan, tunnel: Tunnel, offered: set[int]) -> None:
        wanted = {serve.port for serve in plan.serve}
        for port in offered - wanted:
            offered.discard(port)
            with contextlib.suppress(FairleadError):
                await tunnel.cancel_reverse(plan.internal_address, port)
        for port in wanted - offered:
            try:
                await tunnel.request_reverse(plan.internal_address, port, lambda port=port: self._target(port))  # type: ignore[misc]
                offered.add(port)
            except FairleadError as error:
                log.warning("reverse.refused", port=port, code=error.code, reason=error.message)

    def _target(self, port: int) -> Target | None:
        """Where this node's own service on *port* is by the plan as it is now; None: it is no longer declared."""
        if self.stopping.is_set():
            return None
        serve = next((s for s in self.plan.serve if s.port == port), None) if self.plan else None
        return Target(serve.host, serve.target_port, serve.service) if serve else None

    def _place_of(self, service: str, owner: str | None) -> tuple[str, int] | None:
        """Where this node reaches *service*, as it sees addresses."""
        reach = next((one for one in self.plan.reach if one.service == service and owner in (None, one.owner)),
                     None) if self.plan else None
        return (self.settings.see().see(reach.address), reach.port) if reach else None

    async def _forget(self, tunnel: Tunnel) -> None:
        await tunnel.wait_closed()
        self._reverses.pop(tunnel, None)
        self._traffic.ended(tunnel)

    async def _open_streams(self, name: str) -> None:
        with contextlib.suppress(FairleadError):
            tunnel = await self.supervisor.stream_to(name)
            await self._offer(tunnel)

    async def _apply(self, plan: Plan) -> None:
        async with self._applying:
            try:
                await self.listeners.apply(plans.listeners(plan, self.settings.see()))
                files.write_private(self.state / HOSTS, plans.hosts(plan, self.settings.see()).encode())
                self._plan_problem = ""
            except FairleadError as error:
                self._plan_problem = error.line()
                log.error("plan.problem", code=error.code, reason=error.message)
            for tunnel in list(self._reverses):
                await self._offer(tunnel)

    # -- trust --------------------------------------------------------------------------------------------------------

    async def _failed(self, controller: PlanController, error: FairleadError) -> None:
        """Nobody lets us in, or nobody answers: ask the portal what it knows of us, now and then."""
        if error.code not in ("FL-SSH-REFUSED", "FL-SSH-UNREACHABLE", "FL-SSH-HOSTKEY"):
            return
        if not self._asking.is_due(self.clock.monotonic(), refused=error.code != "FL-SSH-UNREACHABLE"):
            return
        await self._catch_up()
        self._pin()  # this node may have ended between keeping a statement and keeping the plan that goes with it
        try:
            core = await self._reread()
        except FairleadError as answer:
            if answer.code == "FL-NODE-REMOVED":
                self.removed()
            elif answer.code == "FL-NODE-FROZEN":
                self.frozen()
            else:
                log.info("trust.unread", code=answer.code, reason=answer.message, controller=controller.name)
            return
        self._learn(core)

    async def _catch_up(self) -> None:
        """While this node slept the Controllers may have changed their keys and certificates."""
        if not self.trust.roots:
            return
        try:
            trust = await statements.caught_up(lambda: self.trust)
        except FairleadError as error:
            log.warning("trust.refused", code=error.code, reason=error.message)
            return
        if trust is self.trust:
            return
        with contextlib.suppress(FairleadError):  # a full disk: it is fetched again after the next start
            self._believe(trust)
        self.trust = trust
        controllers = _plan_of(trust.controllers)
        self.plan = None if self.plan is None else self.plan.model_copy(update={"controllers": controllers})
        self.supervisor.want(self._controllers())

    async def _reread(self) -> Core:
        """What the cluster knows of this node, asked with the first of its keys that is known there. Raises Refused."""
        *others, last = self.keyring.held
        for key in others:
            try:
                return await signed.reread(self.trust, key, self.store_time())
            except Refused as refusal:
                if refusal.code not in ("FL-KEY-RETIRED", "FL-SIG-KEY"):
                    raise
        return await signed.reread(self.trust, last, self.store_time())

    def _learn(self, core: Core) -> None:
        """Take new addresses of Controllers that we know; their host keys stay pinned."""
        known = {c.name: {c.host_key, c.next_host_key} for c in self.trust.controllers}
        fresh = [c for c in core.controllers if c.host_key in known.get(c.name, (c.host_key,))]
        if fresh and fresh != self.trust.controllers:
            self.trust = self.trust.but(controllers=[c.model_dump() for c in fresh])
            with contextlib.suppress(FairleadError):
                self.trust.save(self.state)
            self._record("trust.read", controllers=", ".join(f"{c.name} at {c.address}" for c in fresh))
            self.plan = None if self.plan is None else self.plan.model_copy(update={"controllers": _plan_of(fresh)})
            self.supervisor.want(self._controllers())

    def _remember_controllers(self, plan: Plan) -> None:
        """What the portal and a restart need is kept with the trust."""
        fresh = [CoreController(name=c.name, address=address, portal_port=c.portal_port, ssh_port=c.ssh_port,
                                internal_address=c.internal_address, host_key=c.host_key, user_key=c.user_key,
                                node_id=c.node_id, next_host_key=c.next_host_key)
                 for c in plan.controllers for address in c.addresses]
        if fresh and fresh != self.trust.controllers:
            self.trust = self.trust.but(controllers=[c.model_dump() for c in fresh])
            self.trust.save(self.state)
            self._record("trust.planned", controllers=", ".join(f"{c.name} at {c.address}" for c in fresh))

    def _controllers(self) -> list[PlanController]:
        if self.plan is not None and self.plan.controllers:
            return list(self.plan.controllers)
        return _plan_of(self.trust.controllers)

    def _stored_plan(self) -> Plan | None:
        try:
            plan = Plan.model_validate(json.loads(files.read_private(self.state / PLAN)))
        except FileNotFoundError:
            return None
        except ValueError:
            log.warning("plan.damaged", path=str(self.state / PLAN))
            return None
        # a plan of an earlier life of this folder, in another cluster, is nobody's
        return plan if (plan.node, plan.internal_address) == (self.trust.node, self.trust.internal_address) else None

    async def _status(self) -> dict[str, Any]:
        return Operations(self).status()

    async def _reloaded(self) -> None:
        self._reload()

    async def _rotated(self) -> dict[str, Any]:
        self.spool.roll()
        offset = await self.upload.flush()
        return {"spool": self.spool.id, "offset": offset}

    async def _diagnostics(self) -> dict[str, Any]:
        operations = Operations(self)
        return {"status": operations.status(), "tunnels": operations.tunnels(), "services": operations.services(),
                "hosts": operations.hosts(), "documents": [held.model_dump() for held in self.documents.held],
                "machine": machine()}

    def hung_up(self) -> None:
        """SIGHUP: settings anew, and every document and Controller again; another version, if one is to run."""
        try:
            self._reload()
            if launch.due(self.versions):
                self.restart()
        except FairleadError as error:
            log.error("reload.refused", code=error.code, reason=error.message)

    def _reload(self) -> None:
        """Take the drivers' settings anew, try every document and every Controller again at once. Raises OperatorError:
        then nothing has changed.
        """
        settings = load_settings(self.state)
        logs.start(self.trust.node, settings.log_level, also=self.spool.append)
        self.settings = self.settings.model_copy(update={"destinations": settings.destinations,
                                                         "haproxy": settings.haproxy})
        self.documents.again()
        self.supervisor.want(self._controllers())
        log.info("reload.done")

    def _record(self, event: str, **details: str) -> None:
        """Put what changed this node's trust on its own record; a full disk does not stop it."""
        with contextlib.suppress(FairleadError):
            self.journal.append(Entry(event, self.trust.node, "controller", details))

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


def _plan_of(controllers: list[CoreController]) -> list[PlanController]:
    """Controllers of a core, one entry each, with all their addresses."""
    found: dict[str, PlanController] = {}
    for c in controllers:
        before = found.get(c.name)
        found[c.name] = PlanController(
            node_id=c.node_id, name=c.name, addresses=[*(before.addresses if before else []), c.address],
            ssh_port=c.ssh_port, portal_port=c.portal_port, internal_address=c.internal_address, host_key=c.host_key,
            user_key=c.user_key, next_host_key=c.next_host_key)
    return list(found.values())
