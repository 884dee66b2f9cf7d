"""What the engine's daemon measures of itself, for Controllers that ask for it."""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairlead.engine.documents import Documents
from fairlead.link.metrics import Name
from fairlead.transport.traffic import Traffic
from fairlead.transport.tunnel import Tunnel

_PAGE = os.sysconf("SC_PAGE_SIZE")


def of_process(uptime_s: float) -> Mapping[Name, float]:
    """Of this process and its machine."""
    return {"cpu_seconds": time.process_time(), "uptime_seconds": uptime_s, "load1": os.getloadavg()[0],
            "resident_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
            "open_descriptors": len(os.listdir("/proc/self/fd"))}  # noqa: PTH208 - a tenth of the time


def of_streams(traffic: Traffic, live: Iterable[Tunnel]) -> Mapping[Name, float]:
    """Of the connections that carry streams."""
    tunnels = list(live)
    brought, taken = traffic.total(tunnels)
    return {"streams": sum(tunnel.streams for tunnel in tunnels), "stream_bytes_in": brought,
            "stream_bytes_out": taken}


def of_documents(documents: Documents) -> Mapping[Name, float]:
    """Of the configuration."""
    return {"documents_refused": sum(bool(one.tried) for one in documents.held)}
