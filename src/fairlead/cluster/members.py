"""etcd's members, its alarms and its space, over the JSON gateway of any member.

Rules, and the fault that each stops:

1. A member joins as a learner and is promoted when it has caught up: one that votes before it has the data could leave
   the cluster without a majority.
2. "Not yet" is told apart from every other refusal: a learner that has not caught up (FL-MEMBER-BEHIND), members that
   have not all been connected for five seconds (FL-MEMBER-UNSETTLED). Who asked tries again.
3. Whatever is no clear no of etcd is StoreUnavailable: whether it happened is not known. List, then decide.
4. What an answer says is read strictly: an answer of another shape is none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from fairlead.base.errors import Refused
from fairlead.store.gateway import FORBIDDEN, NOT_FOUND, PRECONDITION, RANGE, GatewayRefused, GatewayUnavailable
from fairlead.store.protocol import StoreUnavailable

DEFRAGMENT_S = 120.0
"""A member rewrites its whole database meanwhile, and answers nobody."""
COMPACT_S = 60.0
"""Until what was forgotten is free space in the files."""
CHANGE_S = 10.0
"""A change of members waits until a majority has it."""

_NO_KEY = "AA=="  # base64 of a nought, with which no key of ours begins
_UNSETTLED = "etcdserver: unhealthy cluster"
_ALARM = re.compile(r"memberID:(\d+) alarm:([A-Z]+)")


class Calls(Protocol):
    """What we need of the JSON gateway."""

    async def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Raises GatewayRefused, GatewayUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A member, as the one that was asked knows it."""

    id: int
    name: str
    """Empty until it has started once."""
    peer_urls: Sequence[str]
    client_urls: Sequence[str]
    learner: bool

    @property
    def started(self) -> bool:
        """Whether it has ever come up and said its name."""
        return self.name != ""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A member's complaint; all of etcd takes no more writes (NOSPACE), or nothing at all (CORRUPT)."""

    member: int
    kind: str


@dataclass(frozen=True, slots=True)
class Status:
    """How one member is, as it says itself."""

    id: int
    version: str
    leader: int
    """Member id, 0 when it knows none."""
    term: int
    raft_index: int
    applied_index: int
    revision: int
    size: int
    """Bytes of its database file, with what is free in it."""
    in_use: int
    learner: bool
    alarms: Sequence[Alarm]
    errors: Sequence[str]
    """Other than alarms."""

    @property
    def healthy(self) -> bool:
        """Whether it follows a leader and complains of nothing but alarms."""
        return self.leader != 0 and not self.errors


class Members:
    """The members of one etcd, through *calls* to any of them."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def list(self) -> Sequence[Member]:
        """All members, by id. Raises StoreUnavailable."""
        answer = await _call(self._calls, "cluster/member/list", {})
        return sorted((_member(one) for one in _dicts(answer, "members")), key=lambda member: member.id)

    async def add_learner(self, peer_url: str) -> Member:
        """Add a member that does not vote yet.

        Raises Refused FL-MEMBER-EXISTS, FL-MEMBER-UNSETTLED, FL-MEMBER-CHANGE; StoreUnavailable.
        """
        try:
            answer = await self._change("cluster/member/add", {"peerURLs": [peer_url], "isLearner": True})
        except GatewayRefused as refusal:
            if "exist" in refusal.message:
                raise Refused("FL-MEMBER-EXISTS", f"etcd has a member at {peer_url} already",
                              "remove it first, if its data is gone") from refusal
            _refuse(refusal)
        match answer:
            case {"member": dict(one)}:
                return _member(one)
            case _:
                raise StoreUnavailable("an answer about a new member that is none")

    async def promote(self, member: int) -> None:
        """Let a learner vote; one that votes already is left as it is.

        Raises Refused FL-MEMBER-BEHIND: it has not caught up, try again; FL-MEMBER-UNSETTLED, FL-MEMBER-UNKNOWN,
        FL-MEMBER-CHANGE; StoreUnavailable.
        """
        try:
            await self._change("cluster/member/promote", {"ID": str(member)})
        except GatewayRefused as refusal:
            if "in sync" in refusal.message:
                raise Refused("FL-MEMBER-BEHIND", f"member {member:x} of etcd has not caught up yet",
                              "try again in a moment") from refusal
            if "can only promote a learner" not in refusal.message:
                _refuse(refusal)

    async def remove(self, member: int) -> None:
        """Remove a member for good; one that is no member is left so.

        Raises Refused FL-MEMBER-UNSETTLED when the others would have no majority, FL-MEMBER-CHANGE; StoreUnavailable.
        """
        try:
            await self._change("cluster/member/remove", {"ID": str(member)})
        except GatewayRefused as refusal:
            if refusal.code != NOT_FOUND:
                _refuse(refusal)

    async def compact(self, revision: int) -> None:
        """Forget what was before *revision*. Forgotten already is well. Raises StoreUnavailable."""
        try:
            await self._calls.call("kv/compaction", {"revision": str(revision), "physical": True}, timeout_s=COMPACT_S)
        except GatewayUnavailable as error:
            raise StoreUnavailable(str(error)) from error
        except GatewayRefused as refusal:
            if refusal.code != RANGE or "compacted" not in refusal.message:
                raise StoreUnavailable(str(refusal)) from refusal

    async def alarms(self) -> Sequence[Alarm]:
        """The alarms that a majority knows of. Raises StoreUnavailable."""
        answer = await _call(self._calls, "maintenance/alarm", {"action": "GET"})
        return [Alarm(_number(one, "memberID"), str(one.get("alarm", ""))) for one in _dicts(answer, "alarms")]

    async def disarm(self, alarm: Alarm) -> None:
        """Take an alarm back; etcd raises it anew when its cause is still there. Raises StoreUnavailable."""
        await _call(self._calls, "maintenance/alarm",
                    {"action": "DEACTIVATE", "memberID": str(alarm.member), "alarm": alarm.kind})

    async def _change(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._calls.call(path, body, timeout_s=CHANGE_S)
        except GatewayUnavailable as error:
            if _UNSETTLED in str(error):  # etcd's code says "unavailable", but this is a no, before anything was done
                raise Refused("FL-MEMBER-UNSETTLED", "etcd changes its members only when enough of them have been "
                              "connected for five seconds", "see that all members are up, and try again in a moment"
                              ) from error
            raise StoreUnavailable(str(error)) from error


async def status(calls: Calls) -> Status:
    """How the one member behind *calls* is; it asks nobody else. Raises StoreUnavailable."""
    answer = await _call(calls, "maintenance/status", {})
    header = answer.get("header")
    if not isinstance(header, dict):
        raise StoreUnavailable("a status without a header")
    said = [str(error) for error in answer.get("errors") or ()]
    found = {error: _ALARM.search(error) for error in said}
    return Status(
        id=_number(header, "member_id"), version=str(answer.get("version", "")), leader=_number(answer, "leader"),
        term=_number(answer, "raftTerm"), raft_index=_number(answer, "raftIndex"),
        applied_index=_number(answer, "raftAppliedIndex"), revision=_number(header, "revision"),
        size=_number(answer, "dbSize"), in_use=_number(answer, "dbSizeInUse"),
        learner=answer.get("isLearner") is True,
        alarms=[Alarm(int(match[1]), match[2]) for match in found.values() if match],
        errors=[error for error, match in found.items() if not match])


async def abreast(calls: Calls) -> None:
    """Return when the one member behind *calls* has all that was decided before. Raises StoreUnavailable."""
    await _call(calls, "kv/range", {"key": _NO_KEY, "keys_only": True})  # it asks the leader how far it has to be


async def defragment(calls: Calls) -> None:
    """Give the free space of the one member behind *calls* back to its disk; it is deaf meanwhile.

    Raises StoreUnavailable.
    """
    await _call(calls, "maintenance/defragment", {}, DEFRAGMENT_S)


async def hand_over(leader: Calls, to: int) -> None:
    """Have the member behind *leader*, which leads, give the lead to another. Raises StoreUnavailable."""
    await _call(leader, "maintenance/transfer-leadership", {"targetID": str(to)}, CHANGE_S)


async def _call(calls: Calls, path: str, body: Mapping[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
    """What no operator can cause: a refusal, too, means that the store cannot be used as it should."""
    try:
        return await calls.call(path, body, timeout_s=timeout_s)
    except (GatewayRefused, GatewayUnavailable) as error:
        raise StoreUnavailable(str(error)) from error


def _refuse(refusal: GatewayRefused) -> NoReturn:
    if refusal.code == NOT_FOUND:
        raise Refused("FL-MEMBER-UNKNOWN", "etcd has no such member", "list the members") from refusal
    if refusal.code in (PRECONDITION, FORBIDDEN):
        raise Refused("FL-MEMBER-CHANGE", f"etcd does not change its members: {refusal.message}",
                      "see that all members are up, then try again") from refusal
    raise StoreUnavailable(str(refusal)) from refusal


def _member(one: Mapping[str, Any]) -> Member:
    return Member(_number(one, "ID"), str(one.get("name", "")), [str(url) for url in one.get("peerURLs") or ()],
                  [str(url) for url in one.get("clientURLs") or ()], one.get("isLearner") is True)


def _dicts(answer: Mapping[str, Any], name: str) -> Sequence[dict[str, Any]]:
    found = answer.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise StoreUnavailable(f"an answer whose {name} are none")
    return found


def _number(fields: Mapping[str, Any], name: str) -> int:
    """64-bit numbers are texts in etcd's JSON, and a nought is left out."""
    try:
        return int(fields.get(name, 0))
    except (TypeError, ValueError):
        raise StoreUnavailable(f"an answer whose {name} is no number") from None
