"""What the engine's daemon measures of itself, for Controllers that ask for it."""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairlead.engine.documents import Documents
from fairlead.engine.spool import Spool
from fairlead.link.metrics import Name
from fairlead.transport.traffic import Traffic
from fairlead.transport.tunnel import Tunnel

_PAGE = os.sysconf("SC_PAGE_SIZE")
_FOLDER = "/proc/self/fd"


def of_process(uptime_s: float) -> Mapping[Name, float]:
    """Of this process and its machine."""
    return {"cpu_seconds": time.process_time(), "uptime_seconds": uptime_s, "load1": os.getloadavg()[0],
            "resident_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
            "open_descriptors": _descriptors()}


def _descriptors() -> int:
    """How many are open; a kernel before 6.2 does not say, and they are counted."""
    return os.stat(_FOLDER).st_size or len(os.listdir(_FOLDER))  # noqa: PTH116, PTH208 - a tenth of the time


def of_streams(traffic: Traffic, live: Iterable[Tunnel]) -> Mapping[Name, float]:
    """Of the connections that carry streams."""
    tunnels = list(live)
    brought, taken = traffic.total(tunnels)
    return {"streams": sum(tunnel.streams for tunnel in tunnels), "stream_bytes_in": brought,
            "stream_bytes_out": taken}


def of_spool(spool: Spool) -> Mapping[Name, float]:
    """Of its logs."""
    return {"spool_bytes": spool.pending, "spool_most_bytes": spool.most, "spool_dropped_bytes": spool.dropped}


def of_documents(documents: Documents) -> Mapping[Name, float]:
    """Of the configuration."""
    return {"documents_refused": sum(bool(one.tried) for one in documents.held)}
