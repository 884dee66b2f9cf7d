"""Three Controllers of which one is killed, frozen, cut off; nothing that was acknowledged is lost, and one leads.

A writer, somebody who redeems tokens and a stream go on all the while, and are judged at the end of each (`life`).
"""

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.pki.certificate import der_of
from fairlead.pki.verify import client_context
from fairlead.store.etcd import EtcdStore
from fairlead.store.gateway import Gateway
from fairlead.store.protocol import Equal, Put, Record, StoreUnavailable
from tests.netns.controllers import Town, cluster
from tests.netns.history import Call, not_linearizable
from tests.netns.life import life
from tests.processes import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

ALL = ("ctl-1", "ctl-2", "ctl-3")
REGISTER = "a-register-of-the-tests"
CALLS = 15
"""Of each client."""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=3, engines=1) as made:
        yield made


@pytest.fixture(autouse=True)
def _well(town: Town) -> None:
    """Each story begins where all is well."""
    town.until_well(*ALL)
    until(lambda: all(town[c].node("se-1").get("state") == "up" for c in ALL), "the engine has a link to each")


def others(town: Town) -> tuple[str, tuple[str, str]]:
    """Who leads, and who does not."""
    leader = town.until_led("ctl-1")
    one, two = (name for name in ALL if name != leader)
    return leader, (one, two)


def test_1_the_leader_is_killed(town: Town) -> None:
    leader, rest = others(town)
    term = town.status(rest[0])["term"]
    with life(town, "killed", at=rest, stream_to=rest[0]):
        town[leader].signal(signal.SIGKILL)
        town[leader].ended()
        assert town.until_led(rest[0], but=leader) in rest
        assert town.status(rest[0])["term"] > term
        assert all(town[name].node("se-1")["state"] == "up" for name in rest)
        token = town.export("engine", "se-x", rest[1])
        assert json.loads(token.read_text())["node"] == "se-x"
        town[leader].start()
        seen = town.until_well(*ALL)
        assert seen["leader"] != leader, "who comes back follows"


def test_2_the_leader_is_frozen_and_wakes_to_no_power(town: Town) -> None:
    leader, rest = others(town)
    with life(town, "frozen", at=rest, stream_to=rest[0]):
        town[leader].signal(signal.SIGSTOP)
        try:
            new = town.until_led(rest[0], but=leader)
            assert new in rest
        finally:
            town[leader].signal(signal.SIGCONT)
        until(lambda: town.status(leader)["leader"] == new, "it learns who leads")


@pytest.mark.parametrize("ways", ["both ways", "what it says", "what it hears"])
def test_3_the_leader_is_cut_off_from_both(town: Town, ways: str) -> None:
    """Also where it is cut one way only; what it accepts meanwhile must last, and it soon accepts nothing."""
    leader, rest = others(town)
    mark = f"cut-{ways.replace(' ', '-')}"
    cut = [way for other in rest for way in ((town.net.ways[leader, other], town.net.ways[other, leader])
           if ways == "both ways" else (town.net.ways[leader, other],) if ways == "what it says"
           else (town.net.ways[other, leader],))]
    with life(town, mark, at=rest, stream_to=rest[0]):
        for way in cut:
            way.cut()
        try:
            assert town.until_led(rest[0], but=leader) in rest
            alone = town.write(leader, f"alone-{mark}")
            assert alone.code == 1, "it has no majority"
            alone.refused("FL-STORE")
        finally:
            for way in cut:
                way.heal()
        town.until_well(*ALL)


def test_4_a_follower_is_cut_off_from_the_leader_only(town: Town) -> None:
    """It is reached through the third: etcd's leader may change, and nothing is lost."""
    leader, rest = others(town)
    with life(town, "one-link", at=ALL, stream_to=rest[1]):
        town.net.links[leader, rest[0]].cut()
        try:
            until(lambda: town.write(rest[1], "meanwhile").code == 0, "a write")
        finally:
            town.net.links[leader, rest[0]].heal()
        town.until_well(*ALL)


def test_5_all_are_switched_off_at_once_and_come_back_in_any_order(town: Town) -> None:
    with life(town, "all-off", at=ALL):
        for name in ALL:
            town[name].signal(signal.SIGKILL)
        for name in ALL:
            town[name].ended()
        for name in ("ctl-3", "ctl-1", "ctl-2"):
            town[name].start()
        town.until_well(*ALL)
        until(lambda: all(town[c].node("se-1").get("state") == "up" for c in ALL), "the engine is back at each")


def test_6_a_store_that_is_killed_alone_comes_back(town: Town) -> None:
    leader, rest = others(town)
    with life(town, "etcd", at=ALL, stream_to=rest[0]):
        pid = next(int(record["pid"]) for record in reversed(town[leader].events("etcd.started")))
        os.kill(pid, signal.SIGKILL)
        until(lambda: len({r["pid"] for r in town[leader].events("etcd.started")} - {pid}) and
              town[leader].events("etcd.started")[-1]["pid"] != pid, "it is started again")
        town.until_well(*ALL)


def test_7_a_register_in_the_store_is_one_register_while_the_leader_dies(town: Town, tmp_path: Path) -> None:
    """Three clients of the store, each at a Controller of its own, read and write the same key all the while."""
    leader, _rest = others(town)
    town[leader].cli("cluster", "client-certificate", "--output", tmp_path / "client").done()
    calls, enough = list[Call](), threading.Event()

    async def use(name: str) -> None:
        draw = random.Random(name)
        context = client_context([der_of((tmp_path / "client" / "ca.pem").read_bytes())])
        context.load_cert_chain(tmp_path / "client" / "client.pem", tmp_path / "client" / "client.key")
        addresses = [town[name].node(n)["internal_address"] for n in (name, *(n for n in ALL if n != name))]
        gateway = Gateway([f"https://{address}:2379" for address in addresses], context)
        store = EtcdStore(gateway, deadline_s=3.0)
        seen: Record | None = None
        for number in range(CALLS):
            value, began = f"{name}-{number}", time.monotonic()
            kind = draw.choice(("read", "write", "compare"))
            compare = [Equal(REGISTER, seen.value)] if kind == "compare" and seen is not None else []
            expected = compare[0].value.decode() if compare else None
            try:
                if kind == "read":
                    seen = await store.get(REGISTER)
                    calls.append(Call("read", began, time.monotonic(), seen.value.decode() if seen else None))
                else:
                    done = (await store.transact(compare, [Put(REGISTER, value.encode())])).succeeded
                    calls.append(Call("write", began, time.monotonic(), value, expected, done))
            except StoreUnavailable:
                if kind != "read":
                    calls.append(Call("write", began, None, value, expected))
            if len(calls) > CALLS:
                enough.set()
            await asyncio.sleep(draw.uniform(0, 0.2))
        await store.close()
        await gateway.close()

    def client(name: str) -> None:
        with town.net.hosts[name].inside():
            asyncio.run(use(name))

    clients = [threading.Thread(target=client, args=(name,)) for name in ALL]
    for one in clients:
        one.start()
    enough.wait(60)
    town[leader].signal(signal.SIGKILL)
    for one in clients:
        one.join()
    assert not not_linearizable(calls), calls
    assert sum(call.ended is not None for call in calls) > 2 * CALLS, "most of them were answered"
    town[leader].ended()
    town[leader].start()
    town.until_well(*ALL)


def test_last_attack_a_controller_that_was_removed_has_no_way_back(town: Town) -> None:
    """The leader, removed from a follower: another leads, the removed one is told and ends, and does not run again."""
    leader, rest = others(town)
    with life(town, "removal", at=rest, stream_to=rest[0]):
        town[rest[0]].cli("node", "remove", leader).done()
        assert town[leader].ended() == 0
    town.until_well(*rest)
    assert town[rest[0]].node(leader) == {}
    town[leader].cli("controller", "run").refused("FL-NODE-REMOVED", alone=False)
    assert [m["name"] for m in town.status(rest[0])["members"]] == sorted(rest)
    until(lambda: not any(c["name"] == leader for c in town["se-1"].get("/api/status")["controllers"]),
          "the engine knows it no more")
