"""What this Controller answers others about engines. That a Controller asks was decided before (`controller.desk`).

An engine is named by its id, and looked up as it is now: nothing of a question becomes a path or a name by itself.
"""

from typing import Any

from fairlead.base.errors import Refused
from fairlead.fleet.commands import Commands
from fairlead.fleet.draining import Draining
from fairlead.fleet.reading import Reading
from fairlead.link import engines as questions
from fairlead.link.engines import CommandAsked, Fields, Linked, LogsAsked, OfEngine, ReadAsked, parse
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node


class Answering:
    """Answers them."""

    def __init__(self, directory: Directory, commands: Commands, logs: Reading, draining: Draining) -> None:
        self._directory = directory
        self._commands = commands
        self._logs = logs
        self._draining = draining

    async def answer(self, asking: Node, op: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        """What *asking*, a Controller, is answered; None: that is no question about engines. Raises FairleadError."""
        found: Fields
        match op:
            case questions.LINKED:
                found = Linked(linked=self._commands.has(self._engine(parse(OfEngine, fields).engine)))
            case questions.STREAMS:
                found = self._draining.here(self._engine(parse(OfEngine, fields).engine))
            case questions.COMMAND:
                command = parse(CommandAsked, fields)
                found = await self._commands.answer(self._engine(command.engine), command, asking.name)
            case questions.LOGS:
                logs = parse(LogsAsked, fields)
                found = await self._logs.parts(self._engine(logs.engine), logs)
            case questions.READ:
                read = parse(ReadAsked, fields)
                found = await self._logs.read(self._engine(read.engine), read)
            case _:
                return None
        return found.model_dump()

    def _engine(self, node_id: str) -> Node:
        node = self._directory.nodes.get(node_id)
        if node is None or node.role != "engine":
            raise Refused("FL-NODE-UNKNOWN", "there is no such engine", "see `fairlead node list`")
        return node
