"""An engine without a way to one of three Controllers is asked for there all the same: commands and logs.

The tests run in this order, in one town; the last one is the attack.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fairlead.cli.netns.network import Link
from tests.netns.controllers import Town, cluster
from tests.processes import Result, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]
CONTROLLERS = ("ctl-1", "ctl-2", "ctl-3")
ENGINE = "se-1"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=3, engines=1) as made:
        yield made


def way(town: Town, one: str, other: str) -> Link:
    return town.net.links[one, other]


def only(town: Town, *connected: str) -> None:
    """Let the engine have links to these Controllers and to no others."""
    for name in CONTROLLERS:
        way(town, name, ENGINE).set(cut=name not in connected)
    for name in CONTROLLERS:
        state = "up" if name in connected else "down"
        until(lambda of=name, to=state: town[of].node(ENGINE)["state"] == to,  # type: ignore[misc]
              f"at {name} the engine is {state}")


def records(town: Town, at: str, event: str) -> list[dict[str, Any]]:
    """Of its own; a listing has those of all Controllers."""
    return [row for row in town[at].listed("audit") if row["event"] == event and row["node"] == at]




def lines_of(said: Result) -> list[str]:
    """Log lines, each of which is another one by its time."""
    lines = said.done().out.splitlines()
    assert all(json.loads(line) for line in lines)
    assert len(lines) == len(set(lines))
    return lines


def until_done(town: Town, at: str, *command: str) -> None:
    """The command, once a leader that was lost has a successor, or an engine has noticed that a way is gone."""
    until(lambda: town[at].cli(*command).code == 0, f"{' '.join(command)} is done at {at}")


def test_1_a_command_is_done_where_the_link_is(town: Town) -> None:
    only(town, "ctl-1", "ctl-2")
    found = json.loads(town["ctl-3"].cli("node", "command", ENGINE, "status").done().out)
    assert found["node"] == ENGINE
    assert town["ctl-3"].node(ENGINE)["state"] == "down", "it has no link itself"
    (passed,) = records(town, "ctl-3", "engine.command-passed")
    where = passed["details"]["controller"]
    (done,) = records(town, where, "engine.command")
    assert (done["by"], done["details"]["via"]) == (passed["by"], "ctl-3")
    assert records(town, "ctl-3", "engine.command") == []
    town["ctl-3"].cli("node", "drain", ENGINE, "--wait").done()
    town["ctl-3"].cli("node", "drain", ENGINE, "--undo").done()


def holders(town: Town) -> list[str]:
    """The Controllers that have a part of its logs."""
    return [name for name in CONTROLLERS if list((town[name].state / "logs").rglob("*.log"))]


def test_2_logs_are_put_together_wherever_they_came_up(town: Town) -> None:
    """It brings them to one, then, when that is out of its reach, to another one, then to the first two again."""
    begun = lines_of(town["ctl-3"].cli("logs", "pull", ENGINE, "--timeout", "60s"))
    assert len(holders(town)) == 1
    assert "ctl-3" not in holders(town), "nothing of it is where it was asked for"
    only(town, "ctl-3")
    until_done(town, "ctl-3", "node", "command", ENGINE, "rotate-logs")
    only(town, "ctl-1", "ctl-2")
    lines_of(town["ctl-3"].cli("logs", "pull", ENGINE, "--timeout", "60s"))
    assert "ctl-3" in holders(town)
    first, second, third = (lines_of(town[at].cli("logs", "pull", ENGINE, "--stored")) for at in CONTROLLERS)
    assert begun == first[:len(begun)]
    assert len(begun) < len(first)
    assert first == second[:len(first)], "the same everywhere, but for what came meanwhile"
    assert second == third[:len(second)]
    bytes_at: dict[tuple[str, int], int] = {}
    for name in CONTROLLERS:
        for path in (town[name].state / "logs").rglob("*.log"):
            spool, begin, _ = path.name.split(".")
            bytes_at |= {(spool, int(begin) + number): byte for number, byte in enumerate(path.read_bytes())}
    assert [offset for _, offset in sorted(bytes_at)] == list(range(len(bytes_at))), "nothing is missing"
    whole = bytes(bytes_at[place] for place in sorted(bytes_at)).decode().splitlines()
    assert third == whole[:len(third)]


def test_3_a_controller_that_is_away_leaves_no_silent_gap(town: Town) -> None:
    away = next(name for name in holders(town) if name != "ctl-3")
    others = [name for name in CONTROLLERS if name != away]
    whole = lines_of(town["ctl-3"].cli("logs", "pull", ENGINE, "--stored"))
    for other in others:
        way(town, away, other).set(cut=True)
    until(lambda: town["ctl-3"].cli("logs", "pull", ENGINE, "--stored").code != 0, f"ctl-3 has lost {away}")
    assert f"{away} does not answer" in town["ctl-3"].cli("logs", "pull", ENGINE, "--stored").refused("FL-LOGS-AWAY")
    some = town["ctl-3"].cli("logs", "pull", ENGINE, "--stored", "--partial").done()
    assert f"{away} does not answer" in some.err
    assert 0 < len(lines_of(some)) < len(whole)
    until_done(town, "ctl-3", "node", "command", ENGINE, "status")
    until_done(town, "ctl-3", "node", "drain", ENGINE)
    late = town["ctl-3"].cli("node", "drain", ENGINE, "--wait", "--timeout", "3s").refused("FL-DRAIN-LATE")
    assert f"{away} does not say" in late
    town["ctl-3"].cli("node", "drain", ENGINE, "--undo").done()
    for other in others:
        way(town, away, other).set(cut=False)
    until(lambda: town["ctl-3"].cli("logs", "pull", ENGINE, "--stored").code == 0, f"{away} is back")
    again = lines_of(town["ctl-3"].cli("logs", "pull", ENGINE, "--stored"))
    assert again[:len(whole)] == whole


THIEF = """
import asyncio, json, sys
from pathlib import Path
from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.enrol.trust import USER_KEY, load, load_key
from fairlead.keys.ssh import PublicKey
from fairlead.link import frames
from fairlead.link.controllers import SUBSYSTEM, Question
from fairlead.transport.dialler import dial
from fairlead.transport.options import Keepalive
from fairlead.transport.peer import Peer
from fairlead.transport.way import Stock

async def main(state, questions):
    trust, key, found = load(state), load_key(state, USER_KEY), {}
    for controller in trust.controllers:
        for user in ("aviseuser", "avictlruser"):
            place = f"{controller.name} {user}"
            try:
                async with asyncio.timeout(30):
                    tunnel = await dial(
                        controller.address, controller.ssh_port, key=key, keepalive=Keepalive(15.0),
                        clock=SystemClock(), way=Stock(), host_keys=[PublicKey.from_line(controller.host_key)],
                        peer=Peer(controller.node_id, controller.name, "controller", user, "active",
                                  controller.user_key))
                    found[place] = "logged in"
                    channel = await tunnel.subsystem(SUBSYSTEM)
                    for number, (op, fields) in enumerate(questions):
                        await channel.send(frames.encode(Question(id=number, op=op, fields=fields).model_dump()))
                    said = await channel.receive()
                    found[place] = "answered" if said else "hung up on"
            except FairleadError as error:
                found[place] = f"{found.get(place, '')} {error.code}".strip()
    print(json.dumps(found))

asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
"""


def test_4_attack_an_engine_asks_what_only_a_controller_may(town: Town) -> None:
    """It has an engine's genuine key and speaks the language of Controllers, under both names."""
    only(town, *CONTROLLERS)
    node = town[ENGINE].get("/api/status")
    engine = next(path.name for path in (town["ctl-1"].state / "logs").iterdir())
    before = {at: len(records(town, at, "engine.command")) for at in CONTROLLERS}
    questions = [("engine-command", {"engine": engine, "word": "diagnostics", "deadline_s": 5.0, "by": "root"}),
                 ("engine-logs", {"engine": engine, "spool": "", "offset": 0}), ("engine-linked", {"engine": engine}),
                 ("engine-streams", {"engine": engine})]
    found = json.loads(asyncio.run(_run([
        *town.net.hosts[ENGINE].within, sys.executable, "-c", THIEF, str(town[ENGINE].state), json.dumps(questions)])))
    assert {place for place, said in found.items() if "answered" in said} == set()
    for name in CONTROLLERS:
        assert found[f"{name} aviseuser"].startswith(("logged in FL-", "hung up on")), "an engine is refused that"
        assert found[f"{name} avictlruser"] == "FL-SSH-REFUSED", "and as a Controller it does not even get in"
    assert {at: len(records(town, at, "engine.command")) for at in CONTROLLERS} == before
    assert node["node"] == ENGINE


async def _run(command: list[str]) -> bytes:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(300):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out
