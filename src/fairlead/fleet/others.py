"""The other Controllers, as far as engines go: each has links of its own, and a part of the logs.

Nobody waits for one that is gone: a question has a deadline, and whoever does not answer it is named in what comes of
it. None passes a question on: an answer tells of the Controller that gave it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from fairlead.base.errors import FairleadError
from fairlead.link.engines import Fields, parse
from fairlead.nodes.node import Node

LOOK_S = 3.0
"""What all are asked at once is known by then, or they are silent."""

F = TypeVar("F", bound=Fields)


class Known(Protocol):
    """The directory."""

    def controllers(self) -> list[Node]:
        """The Controllers that are up."""
        ...


class Asking(Protocol):
    """The connections to other Controllers."""

    async def ask(self, name: str, op: str, /, *, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """What the Controller *name* answers. Raises its refusal, or StoreUnavailable when it does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Heard(Generic[F]):
    """What came of a question to all of them."""

    answers: Mapping[str, F] = field(default_factory=dict)
    """By name."""
    silent: tuple[str, ...] = ()
    """Those who did not answer, or not so that it is understood."""


@dataclass(frozen=True, slots=True)
class Others:
    """All Controllers of the cluster but this one, whose id is *me*."""

    directory: Known
    peers: Asking
    me: str

    async def all(self, op: str, asked: Fields, form: type[F]) -> Heard[F]:
        """Ask each of them the same, at once, within `LOOK_S`."""
        names = [node.name for node in self.directory.controllers() if node.id != self.me]
        answers = await asyncio.gather(*(self._one(name, op, asked, form) for name in names))
        return Heard({name: answer for name, answer in zip(names, answers, strict=True) if answer is not None},
                     tuple(name for name, answer in zip(names, answers, strict=True) if answer is None))

    async def _one(self, name: str, op: str, asked: Fields, form: type[F]) -> F | None:
        try:
            return await self.ask(name, op, asked, form, LOOK_S)
        except FairleadError:
            return None

    async def ask(self, name: str, op: str, asked: Fields, form: type[F], within_s: float) -> F:
        """What that one answers. Raises its refusal, or StoreUnavailable when it does not answer."""
        return parse(form, await self.peers.ask(name, op, timeout_s=within_s, **asked.model_dump()))
