"""How many streams are still open at an engine and from it, at all Controllers: whether it can be switched off."""

from typing import Any, Protocol

from fairlead.fleet.others import Others
from fairlead.link import engines as questions
from fairlead.link.engines import OfEngine, Streams
from fairlead.nodes.node import Node, engine_named
from fairlead.transport.tunnel import Tunnel


class Nodes(Protocol):
    """The directory."""

    def named(self, name: str) -> Node | None:
        """The node of that name."""
        ...


class Connected(Protocol):
    """Who is logged in here."""

    @property
    def tunnels(self) -> list[Tunnel]:
        """Every live connection."""
        ...


class Draining:
    """Counts them."""

    def __init__(self, nodes: Nodes, engines: Connected, others: Others) -> None:
        self._nodes = nodes
        self._engines = engines
        self._others = others

    async def streams(self, name: str) -> dict[str, Any]:
        """How many there are of the engine *name*, and which Controllers did not say theirs. Raises Refused."""
        node = engine_named(self._nodes.named(name), name)
        heard = await self._others.all(questions.STREAMS, OfEngine(engine=node.id), Streams)
        return {"streams": self.here(node).streams + sum(one.streams for one in heard.answers.values()),
                "unheard": list(heard.silent)}

    def here(self, node: Node) -> Streams:
        """Those on connections of that engine to this Controller."""
        return Streams(streams=sum(tunnel.streams for tunnel in self._engines.tunnels
                                   if tunnel.peer.node_id == node.id))
