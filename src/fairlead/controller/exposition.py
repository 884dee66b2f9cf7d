"""Numbers in Prometheus's text format. Pure, but for those of this process, which the library reads.

The registry is made for each text: nothing is global, and nothing is kept of who has gone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Values = Mapping[tuple[str, ...], float]


class Series(NamedTuple):
    """One number, or one for each combination of labels."""

    name: str
    text: str
    values: Values
    labels: Sequence[str] = ()
    counter: bool = False


def exposition(series: Iterable[Series]) -> str:
    """*series*, and the numbers of this process, as text."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Families(series))
    return generate_latest(registry).decode()


class _Families:
    """A collector of the library's."""

    def __init__(self, series: Iterable[Series]) -> None:
        self._series = list(series)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for one in self._series:
            family = CounterMetricFamily if one.counter else GaugeMetricFamily
            made = family(f"fairlead_{one.name}", one.text, labels=list(one.labels))
            for labels, value in one.values.items():
                made.add_metric(labels, float(value))
            yield made
