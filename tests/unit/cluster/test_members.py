"""The members of a real etcd: they come as learners, vote when they have caught up, and go."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.errors import Refused
from fairlead.cluster import members as module
from fairlead.cluster.etcd import client_url, peer_url
from fairlead.cluster.members import Alarm, Members, status
from fairlead.store.gateway import RANGE, GatewayRefused, GatewayUnavailable
from fairlead.store.protocol import StoreUnavailable
from tests.conftest import need
from tests.unit.cluster.ring import DEADLINE_S, NOW, Ring, ctl_environment, ring, until


class Answers:
    """A gateway that says what it was told to say."""

    def __init__(self, said: dict[str, Any] | Exception) -> None:
        self.said = said
        self.calls: list[tuple[str, Mapping[str, Any]]] = []

    async def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        self.calls.append((path, body))
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


async def insist(change: Callable[[int], Awaitable[None]], member: int, code: str) -> int:
    """Change a member as an operator's command does: again for as long as *code* says "not yet"; how often it did."""
    for early in range(400):
        if not await refused_with(change(member), code):
            return early
        await asyncio.sleep(0.05)
    pytest.fail(f"it stays {code}")


async def promoted(members: Members, member: int) -> None:
    """Let a learner vote that catches up."""
    await insist(members.promote, member, "FL-MEMBER-BEHIND")


async def refused_with(change: Awaitable[None], code: str) -> bool:
    """Whether it is refused for that, and not done."""
    try:
        await change
    except Refused as refusal:
        if refusal.code != code:
            raise
        return True
    return False


async def etcdctl(cluster: Ring, folder: Path, *arguments: str) -> str:
    """What Debian's client prints, with a client's certificate."""
    need("etcdctl")
    who = cluster.root.issue_client(cluster.uuid, NOW)
    process = await asyncio.create_subprocess_exec(
        "etcdctl", "--endpoints", client_url(cluster.address(1)), *arguments,
        env=ctl_environment(folder, cluster.root, who),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    try:
        out, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out
    return out.decode()


async def test_a_member_comes_as_a_learner_votes_when_it_has_caught_up_and_goes(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        first = await cluster.site(1).start().ready()
        await first.own.call("kv/put", {"key": "a2V5", "value": "dmFsdWU="})
        members = Members(first.own)
        added = await members.add_learner(peer_url(cluster.address(2)))
        assert (added.learner, added.started, added.peer_urls) == (True, False, [peer_url(cluster.address(2))])
        with pytest.raises(Refused, match="has not caught up yet") as refused:
            await members.promote(added.id)
        assert refused.value.code == "FL-MEMBER-BEHIND"
        for number, code in ((2, "FL-MEMBER-EXISTS"), (3, "FL-MEMBER-CHANGE")):  # one learner at a time
            with pytest.raises(Refused) as refused:
                await members.add_learner(peer_url(cluster.address(number)))
            assert refused.value.code == code
        second = await cluster.site(2).start().ready()
        assert (await status(second.own)).learner
        await promoted(members, added.id)
        await members.promote(added.id)  # again: as it was
        found = await members.list()
        assert {(one.name, one.learner, *one.client_urls) for one in found} == {
            (site.name, False, client_url(site.address)) for site in (first, second)}
        one, two = await status(first.own), await status(second.own)
        assert one.leader == two.leader != 0
        assert (two.id, two.learner, two.healthy, two.version[:2]) == (added.id, False, True, "3.")
        assert 0 < two.in_use <= two.size
        assert two.revision == one.revision
        assert (await second.own.call("kv/range", {"key": "a2V5"}))["kvs"][0]["value"] == "dmFsdWU="
        assert (await etcdctl(cluster, tmp_path, "endpoint", "health", "--cluster")).count("is healthy") == 2
        assert (await etcdctl(cluster, tmp_path, "member", "list")).count(", started, ctl-") == 2

        # two members would be one at once: etcd lets go of the other only when it knows it for a while
        assert await insist(members.remove, added.id, "FL-MEMBER-UNSETTLED") > 0
        await until(lambda: second.problem("FL-ETCD-REMOVED"), "the removed one notices")
        await members.remove(added.id)  # again: as it was
        assert [one.name for one in await members.list()] == ["ctl-1"]
        with pytest.raises(Refused) as refused:
            await members.promote(added.id)
        assert refused.value.code == "FL-MEMBER-UNKNOWN"
        assert (await status(first.own)).healthy


async def test_no_leader_is_a_problem_and_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHANGE_S", 1.0)
    async with ring(tmp_path) as cluster:
        first = await cluster.site(1).start().ready()
        members = Members(first.own)
        added = await members.add_learner(peer_url(cluster.address(2)))
        second = await cluster.site(2).start().ready()
        await promoted(members, added.id)
        await second.stop()
        await until(lambda: first.problem("FL-ETCD-LEADER") or first.problem("FL-ETCD-SILENT"), "it is alone")
        with pytest.raises(StoreUnavailable):
            await members.remove(added.id)


@pytest.mark.parametrize("said", [GatewayUnavailable("no answer"), GatewayRefused(12, "unknown service"),
                                  {"members": {"a": 1}}, {"members": [1]}, {"members": [{"ID": "x"}]},
                                  {"members": [{"ID": []}]}])
async def test_what_is_no_clear_answer_is_none(said: dict[str, Any] | Exception) -> None:
    with pytest.raises(StoreUnavailable):
        await Members(Answers(said)).list()


@pytest.mark.parametrize("error", [GatewayUnavailable("no answer"), GatewayRefused(3, "what?")])
async def test_a_change_that_nobody_answered_for_is_not_known(error: Exception) -> None:
    members = Members(Answers(error))
    for change in (members.add_learner("https://127.0.0.1:2380"), members.promote(1), members.remove(1),
                   members.compact(5), members.disarm(Alarm(1, "NOSPACE"))):
        with pytest.raises(StoreUnavailable):
            await change
    with pytest.raises(StoreUnavailable):
        await Members(Answers({"member": []})).add_learner("https://127.0.0.1:2380")


async def test_what_was_forgotten_already_may_be_forgotten_again() -> None:
    said = "etcdserver: mvcc: required revision "
    await Members(Answers(GatewayRefused(RANGE, said + "has been compacted"))).compact(5)
    with pytest.raises(StoreUnavailable):
        await Members(Answers(GatewayRefused(RANGE, said + "is a future revision"))).compact(5)


async def test_alarms_and_errors_of_a_status_are_told_apart() -> None:
    found = await status(Answers({"header": {"member_id": "7", "revision": "9"}, "leader": "8", "raftTerm": "2",
                                  "errors": ["memberID:7 alarm:NOSPACE ", "etcdserver: no leader"]}))
    assert (found.id, found.leader, found.alarms, found.errors, found.healthy) == (
        7, 8, [Alarm(7, "NOSPACE")], ["etcdserver: no leader"], False)
