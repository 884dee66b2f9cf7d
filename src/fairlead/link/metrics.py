"""The numbers that an engine tells of itself: these, and no others. Pure.

A Controller names those that it wants, an engine sends the ones of them that it has: so either may be the older one.
What comes under another name, or is no number of this world, is no message at all.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import Field

Name = Literal[
    "cpu_seconds", "resident_bytes", "open_descriptors", "uptime_seconds", "load1", "links", "streams",
    "stream_bytes_in", "stream_bytes_out", "documents_refused", "problems",
    "spool_bytes", "spool_most_bytes", "spool_dropped_bytes"]
Value = Annotated[float, Field(ge=0, lt=2**63, allow_inf_nan=False)]
NAMES: tuple[Name, ...] = get_args(Name)


class Metric(NamedTuple):
    """What a number means."""

    text: str
    counter: bool = False
    """It only grows, until the daemon starts anew."""


METRICS: Mapping[Name, Metric] = {
    "cpu_seconds": Metric("CPU time of the engine's daemon, user and system, seconds", counter=True),
    "resident_bytes": Metric("Memory of the engine's daemon, bytes"),
    "open_descriptors": Metric("File descriptors that the engine's daemon has open"),
    "uptime_seconds": Metric("Seconds since the engine's daemon started"),
    "load1": Metric("Load average of the engine's machine over one minute"),
    "links": Metric("Controllers to which the engine is connected"),
    "streams": Metric("Streams through the engine that are open"),
    "stream_bytes_in": Metric("Bytes that streams brought to the engine", counter=True),
    "stream_bytes_out": Metric("Bytes that streams took from the engine", counter=True),
    "documents_refused": Metric("Documents of which the engine refused the last revision"),
    "problems": Metric("What is not as planned on the engine, lines of its status"),
    "spool_bytes": Metric("Bytes of logs on the engine that no Controller has yet"),
    "spool_most_bytes": Metric("Bytes of logs that the engine keeps at most"),
    "spool_dropped_bytes": Metric("Bytes of logs that the engine dropped because no Controller took them in time",
                                  counter=True)}
