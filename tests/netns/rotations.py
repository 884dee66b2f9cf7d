"""What stories of rotations with three Controllers share: how one begins, what is done to it, and how it ends."""

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fairlead.base.errors import FairleadError
from fairlead.client.control import ControlClient
from tests.netns.controllers import Town
from tests.netns.life import life
from tests.pki import Organisation
from tests.processes import Daemon, until

ALL = ("ctl-1", "ctl-2", "ctl-3")
PHASES = ("stage", "distribute", "acknowledge", "cut-over", "retire")
OWN = {"secure-channel": "System-Default-Secure-Channel-Cert", "api": "System-Default-Portal-Cert"}
"""By kind, the cluster's own certificate."""
BROUGHT = {kind: f"corporate-{kind}" for kind in OWN}
"""By kind, an organisation's."""
OVER_S = 120.0
CUT_S = 5
"""The patience with a Controller that is cut off before it has acknowledged anything."""

Begin = Callable[[str], dict[str, Any]]
"""Begins one at a Controller."""


def trust(node: Daemon) -> Any:
    """What it believes, as its disk has it."""
    return json.loads((node.state / "trust.json").read_text())


def bring(town: Town, folder: Path) -> None:
    """An organisation's certificates for the secure channel and for the API; its PKI is in that new *folder*."""
    controller, organisation = town["ctl-1"], Organisation(folder)
    portal = f"portal.{trust(controller)['cluster_uuid']}.fairlead.internal"
    for kind, host in (("secure-channel", portal), ("api", "controllers.example.com")):
        request = controller.cli("cert", "csr", "--name", BROUGHT[kind], "--common-name", kind, "--san", host).done()
        controller.cli("cert", "import", "--name", BROUGHT[kind], "--certificate", organisation.signed(request.out),
                       "--chain", organisation.chain).done()


def used(town: Town, kind: str, at: str = "ctl-1") -> str:
    """Which of the two certificates is in use there."""
    found = town[at].get("/api/sslkeyandcertificate")["results"]
    return BROUGHT[kind] if any(one["in_use_by"] for one in found if one["name"] == BROUGHT[kind]) else OWN[kind]


def start(town: Town, at: str, kind: str, **more: object) -> dict[str, Any]:
    """Begin one at a Controller; of a certificate that was brought to the one that is not in use."""
    asking = ControlClient(town[at].state, 60.0)
    if kind in OWN:
        to = OWN[kind] if used(town, kind, at) == BROUGHT[kind] else BROUGHT[kind]
        more["to"] = next(one["uuid"] for one in asking.get("/api/sslkeyandcertificate")["results"]
                          if one["name"] == to)
    begun: dict[str, Any] = asking.post("/api/rotation", {"kind": kind, "revoke_tokens": True} | more)
    return begun


def over(town: Town, at: str, begun: dict[str, Any]) -> dict[str, Any]:
    """It, once it is over."""
    def look() -> dict[str, Any] | None:
        return next((one for one in town[at].get("/api/rotation")["past"] if one["id"] == begun["id"]), None)

    found = until(look, "the rotation is over", OVER_S)
    assert found is not None
    return found


def stepped(town: Town, phase: str) -> int:
    """How often a leader has come to that phase."""
    return sum(json.loads(line)["phase"] == phase for name in ALL for line in town[name].log.splitlines()
               if '"rotation.step"' in line)


def comes_to(town: Town, phase: str, before: int) -> None:
    """Wait until a leader has come to that phase once more than *before*."""
    until(lambda: stepped(town, phase) > before, phase)


def nothing_is_under_way(town: Town, at: Sequence[str] = ALL) -> None:
    """Wait until no Controller knows of a rotation that is not over."""
    until(lambda: all(town[name].get("/api/rotation")["current"] is None for name in at), "no rotation is under way")


def recorded(town: Town, done: dict[str, Any]) -> None:
    """Every step of it is in the audit log."""
    asking = ControlClient(town["ctl-1"].state, 60.0)
    found = {(one["event"], one["details"].get("id")) for one in asking.get("/api/audit", limit=3000)["results"]}
    missing = {(f"rotation.{step['phase']}", done["id"]) for step in done["steps"]} - found
    assert not missing


# -- what is done to it -----------------------------------------------------------------------------------------------


def led_on(town: Town, phase: str, begin: Begin) -> dict[str, Any]:
    """How one ends that *begin* has begun, and whose leader is killed in that phase and started again.

    A writer, somebody who redeems tokens and a stream go on at the two others meanwhile (`life`).
    """
    leader = town.until_led("ctl-1")
    rest = [name for name in ALL if name != leader]
    seen = stepped(town, phase)
    with life(town, f"killed-{phase}", at=rest, stream_to=rest[0]):
        begun = begin(rest[0])
        comes_to(town, phase, seen)
        town[leader].signal(signal.SIGKILL)
        town[leader].ended()
        town.until_led(rest[0], but=leader)
        town[leader].start()
        done = over(town, rest[0], begun)
        town.until_well(*ALL)
    assert done["outcome"] in ("done", "rolled-back"), done
    recorded(town, done)
    return done


def patience(phase: str) -> int:
    """In a story in which somebody is cut off in that phase: until then all are there, and the machine may be busy."""
    return {"cut-over": 20, "retire": 30}.get(phase, CUT_S)


def went_on_without(town: Town, phase: str, begin: Begin) -> dict[str, Any]:
    """How one ends that *begin* has begun, and in which a follower is cut off from that phase on until it is over;
    in the phase *scheduled*: since before it begins.

    The others work meanwhile, as in `led_on`. Nothing is done that cannot be turned back while it is away, so it turns
    back, unless it was too late for that or the follower had done all that was asked of it.
    """
    leader = town.until_led("ctl-1")
    away, other = (name for name in ALL if name != leader)
    seen = stepped(town, phase)
    with life(town, f"cut-{phase}", at=[leader, other], stream_to=other), contextlib.ExitStack() as cut:
        if phase == "scheduled":
            cut.enter_context(cut_off(town, away))
        begun = begin(other)
        if phase != "scheduled":
            comes_to(town, phase, seen)
            cut.enter_context(cut_off(town, away))
        done = over(town, other, begun)
        cut.close()
        town.until_well(*ALL)
    assert done["outcome"] in ("done", "rolled-back"), done
    assert done["outcome"] == "done" or away in done["why"], done
    assert phase != "scheduled" or done["outcome"] == "rolled-back", done
    recorded(town, done)
    return done


def called_off(town: Town, phase: str, begin: Begin) -> dict[str, Any]:
    """How one ends that *begin* has begun, and that is called off in that phase."""
    seen = stepped(town, phase)
    begun = begin("ctl-2")
    comes_to(town, phase, seen)
    refused = ""
    try:
        ControlClient(town["ctl-3"].state, 30.0).post("/api/rotation/abort")
    except FairleadError as refusal:  # too late
        refused = refusal.code
    done = over(town, "ctl-1", begun)
    assert (done["outcome"], refused) in (("aborted", ""), ("done", "FL-ROTATE-LATE"), ("done", "FL-ROTATE-NONE")), done
    assert phase != "retire" or done["outcome"] == "done"
    recorded(town, done)
    return done


def _all(town: Town) -> list[dict[str, Any]]:
    shown = town["ctl-1"].get("/api/rotation")
    return [*([shown["current"]] if shown["current"] else []), *shown["past"]]


def one_of(town: Town, *begin: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The one that begins of those that are asked for at the same moment. The answer may be lost with a busy store."""
    before = {one["id"] for one in _all(town)}
    found, refused = list[dict[str, Any]](), list[str]()

    def ask(one: Callable[[], dict[str, Any]]) -> None:
        try:
            found.append(one())
        except FairleadError as refusal:
            refused.append(refusal.code)

    threads = [threading.Thread(target=ask, args=(one,)) for one in begin]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) <= {"FL-ROTATE-BUSY", "FL-ROOT-BUSY", "FL-STORE"}, refused
    if not found and "FL-STORE" in refused:
        found = until(lambda: [one for one in _all(town) if one["id"] not in before], "it has begun")
    [begun] = found
    return begun


@contextlib.contextmanager
def cut_off(town: Town, name: str) -> Iterator[None]:
    """That Controller reaches no other one while the block runs."""
    links = [town.net.links[one, two] for one, two in town.net.links if name in (one, two) and {one, two} <= set(ALL)]
    try:
        for link in links:
            link.cut()
        yield
    finally:
        for link in links:
            link.heal()
