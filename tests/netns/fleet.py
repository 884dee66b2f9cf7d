"""A fleet's configuration as its stories see it: documents that are put, and what is on the engines' own disks."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairlead.client.control import ControlClient
from tests.netns.controllers import Town
from tests.processes import Daemon

LOSS = 0.01


def far(town: Town, engines: Sequence[str]) -> None:
    """A packet in a hundred is lost on the way to those *engines*, and on the way back."""
    for pair, link in town.net.links.items():
        if any(name in pair for name in engines):
            link.set(loss=LOSS)


def folder(engine: Daemon) -> Path:
    """Where an engine's destination ``web`` is."""
    return engine.state.parent / f"{engine.name}-etc"


def declare(engine: Daemon, check: str = "", reload: str = "") -> None:
    """Have a running *engine* declare ``web``; what a shell does in its folder checks and reloads."""
    where = folder(engine)
    where.mkdir(exist_ok=True)
    programs = {name: ["sh", "-c", f"cd {where}; {text}"]
                for name, text in (("check", check), ("reload", reload)) if text}
    engine.configure(destinations={"web": {"folder": str(where), **programs}})
    engine.signal(signal.SIGHUP)


def put(at: Daemon, content: object, name: str = "page", **more: Any) -> int:
    """A document for all engines; its revision. Raises FairleadError."""
    body = {"destination": "web", "files": [{"path": name, "content": str(content)}]}
    found = ControlClient(at.state, 30.0).put(f"/api/config/files/{name}", {"target": "engines", "body": body, **more})
    return int(found["revision"])


def has(engine: Daemon, name: str = "page") -> str:
    """What stands in that document's file."""
    file = folder(engine) / name
    return file.read_text() if file.exists() else ""


def applied(engine: Daemon, name: str = "page") -> list[int]:
    """The revisions that it has on its own record, in order."""
    whole, _, _ = (engine.state / "audit.jsonl").read_text().rpartition("\n")  # one may just be written
    lines = whole.splitlines()
    return [int(record["details"]["revision"]) for record in map(json.loads, lines)
            if record["event"] == "document.applied" and record["details"]["document"] == f"files/{name}"]


def status(at: Daemon, name: str = "page") -> dict[str, Any]:
    """What that Controller knows of who has the document."""
    found: dict[str, Any] = at.get(f"/api/config/files/{name}/status")
    return found


def ask(at: Daemon, engine: str, word: str = "status", timeout_s: float = 30.0) -> dict[str, Any]:
    """What *engine* answers to a command of the catalogue. Raises FairleadError."""
    found: dict[str, Any] = ControlClient(at.state, timeout_s + 5).post(
        f"/api/node/{engine}/command", {"command": word, "deadline_s": timeout_s})
    return found
