"""The last numbers that each connected engine told of itself. In memory, a few hundred bytes each.

What an engine says counts under its own name: no message carries one. When its link ends, its numbers go with it:
nobody knows them any more.
"""

from array import array
from collections.abc import Mapping, Sequence
from math import nan
from typing import Protocol

from fairlead.link.messages import REPORTS_METRICS, AnyFromController, AnyFromEngine, Metrics, MetricsWanted
from fairlead.link.metrics import NAMES

EVERY_S = 15.0


class Engines(Protocol):
    """Those that are connected here."""

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        """Say it to one, if it is there."""
        ...


class EngineMetrics:
    """A subject of the link."""

    ability = REPORTS_METRICS

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._last: dict[str, array[float]] = {}

    def last(self) -> Mapping[str, Sequence[float]]:
        """By the id of an engine, in the order of `NAMES`; NaN is what it has not said."""
        return dict(self._last)

    async def greeted(self, node_id: str) -> None:
        """An engine has come: it is asked."""
        await self._engines.tell(node_id, MetricsWanted(every_s=EVERY_S, names=list(NAMES)))

    async def heard(self, node_id: str, message: AnyFromEngine) -> None:
        """It answers."""
        if isinstance(message, Metrics):
            self._last[node_id] = array("d", [message.values.get(name, nan) for name in NAMES])

    def left(self, node_id: str) -> None:
        """It has gone."""
        self._last.pop(node_id, None)
