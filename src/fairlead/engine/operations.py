"""What an operator sees on an engine: the answers behind the API's ports."""

from typing import Any, Protocol

from fairlead.api.mesh import connecting, describe, describe_hosts, describe_known_hosts
from fairlead.engine.settings import EngineSettings
from fairlead.enrol.trust import Trust
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.link.messages import Plan
from fairlead.mesh import plan as plans
from fairlead.mesh.supervisor import Supervisor
from fairlead.nodes.address import View
from fairlead.transport.way import Way


class Running(Protocol):
    """The engine."""

    version: str
    settings: EngineSettings
    trust: Trust
    host_key: PrivateKey
    plan: Plan | None
    standing: str
    supervisor: Supervisor
    way: Way

    @property
    def problems(self) -> list[str]:
        """What is not as planned."""
        ...

    @property
    def skew_s(self) -> float:
        """This machine's clock minus store time."""
        ...


class Operations:
    """Reads one engine."""

    def __init__(self, engine: Running) -> None:
        self._engine = engine

    @property
    def healthy(self) -> bool:
        """Whether it is connected and everything that is planned is there."""
        return not self._engine.problems and self._engine.supervisor.connected

    def status(self) -> dict[str, Any]:
        """The object of `fairlead status`."""
        engine = self._engine
        tunnels = self.tunnels()
        return {
            "node": engine.trust.node, "role": "engine", "state": self._state(),
            "cluster_uuid": str(engine.trust.cluster_uuid), "leader": None, "version": engine.version,
            "internal_address": engine.trust.internal_address,
            "controllers": [{"name": c.name, "state": "up" if state == "up" else "down",
                             "internal_address": c.internal_address, "address": ", ".join(c.addresses),
                             "error": error.line() if error and state != "up" else None}
                            for c, state, _, _, error in engine.supervisor.routes],
            "engines": {"total": 1, self._state(): 1},
            "tunnels": {"total": len(tunnels), "up": sum(t["state"] == "up" for t in tunnels),
                        "streams": sum(t["streams"] for t in tunnels), "transport": engine.way.name},
            "view": str(self._view().network), "fingerprint": engine.host_key.public.fingerprint,
            "skew_s": round(engine.skew_s, 3), "plan_revision": engine.plan.revision if engine.plan else 0,
            "healthy": self.healthy, "problems": engine.problems}

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that this engine knows of."""
        plan = self._engine.plan
        if plan is None:
            return []
        keys = {c.name: PublicKey.from_line(c.host_key).fingerprint for c in plan.controllers}
        states = {c.name: "up" if state == "up" else "down" for c, state, *_ in self._engine.supervisor.routes}
        keys[plan.node], states[plan.node] = self._engine.host_key.public.fingerprint, self._state()
        addresses = {c.name: ", ".join(c.addresses) for c in plan.controllers}
        return [{"name": n.name, "role": n.role, "state": states.get(n.name, "up"),
                 "address": addresses.get(n.name, ""), "internal_address": n.internal_address,
                 "fingerprint": keys.get(n.name), "joined_at": None} for n in plan.nodes]

    def services(self) -> list[dict[str, Any]]:
        """What this engine serves, and what it may reach."""
        plan = self._engine.plan
        if plan is None:
            return []
        own = [{"name": s.service, "owner": plan.node, "port": s.port, "target": f"{s.host}:{s.target_port}",
                "allow": list(s.allow), "scrape": None} for s in plan.serve]
        return own + [{"name": r.service, "owner": r.owner, "port": r.port, "target": None, "allow": [plan.node],
                       "scrape": None}
                      for r in plan.reach]

    def tunnels(self) -> list[dict[str, Any]]:
        """Its connections to Controllers."""
        found = []
        for controller, state, link, stream, _ in self._engine.supervisor.routes:
            if link is not None and state == "up":
                found.append(describe(link, "control"))
            else:
                found.append(connecting(controller.name, self._engine.trust.user, ", ".join(controller.addresses)))
            if stream is not None and not stream.closed.is_set():
                found.append(describe(stream, "streams"))
        return found

    def hosts(self) -> list[dict[str, Any]]:
        """Where this engine finds whom."""
        return describe_hosts(plans.names(self._engine.plan, self._view())) if self._engine.plan else []

    def known_hosts(self) -> list[dict[str, Any]]:
        """By which SSH host keys the Controllers are known here."""
        return [row for c in (self._engine.plan.controllers if self._engine.plan else ())
                for row in describe_known_hosts(c.name, c.addresses, c.ssh_port, c.host_keys)]

    def _view(self) -> View:
        return self._engine.settings.see()

    def _state(self) -> str:
        if self._engine.standing != "up":
            return self._engine.standing
        return "up" if self._engine.supervisor.connected else "headless"
