"""The joining machine: whatever is lost or crashes, its keys come back; it believes whom the bundle names."""

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.client.https import CertificateRefused, Incoming, Outgoing
from fairlead.enrol import bundle as bundles
from fairlead.enrol import join as joining
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.exchange import Core
from fairlead.enrol.join import Joiner
from fairlead.enrol.request import decode as decode_request
from fairlead.enrol.trust import HOST_KEY, USER_KEY, Trust, load, load_key
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import b64, from_b64
from fairlead.link import frames
from tests.world import ManualClock, World, flipped, refusal, tampered


class Crash(Exception):
    """The machine loses its power."""


@dataclass
class Network:
    """What lies between a machine and the Controller: it may lose, change and crash things, in order."""

    world: World
    clock: ManualClock = field(default_factory=ManualClock)
    exchanges: list[Callable[[Incoming], Incoming]] = field(default_factory=list)
    """What becomes of the next answers of the portal."""
    commits: list[Exception] = field(default_factory=list)
    """What goes wrong with the next commits, before they reach the Controller."""
    lost_commit: Exception | None = None
    """What goes wrong after the next commit was done."""
    dialled: list[tuple[str, int, str, frozenset[PublicKey]]] = field(default_factory=list)
    posted: list[bytes] = field(default_factory=list)

    async def request(self, address: str, port: int, context: object, server_name: str,
                      build: Callable[[bytes], Outgoing], *, most: int) -> Incoming:
        self.clock.instant += 1_000_000
        wanted = build(self.world.leaf)
        if wanted.method == "POST":
            self.posted.append(wanted.body)
        answer = await self.world.call(wanted.method, wanted.path, [wanted.body],
                                       headers=[("content-type", "application/json")])
        incoming = Incoming(answer.status, answer.headers, answer.body, self.world.leaf)
        return self.exchanges.pop(0)(incoming) if self.exchanges else incoming

    async def dial(self, address: str, port: int, *, peer: Any, key: PrivateKey, host_keys: list[PublicKey],
                   **_: object) -> "FakeTunnel":
        self.clock.instant += 1_000_000
        self.dialled.append((address, port, peer.user, frozenset(host_keys)))
        if self.commits:
            raise self.commits.pop(0)
        return FakeTunnel(self, key)


@dataclass
class FakeTunnel:
    """The connection that may only commit."""

    network: Network
    key: PrivateKey
    answer: bytes = b""

    async def subsystem(self, name: str) -> "FakeTunnel":
        assert name == "fairlead-join"
        return self

    async def send(self, data: bytes) -> None:
        (message,) = frames.Decoder().feed(data)
        try:
            await self.network.world.enrolment.commit(self.key.public.fingerprint, message)
            self.answer = frames.encode({"v": 1, "result": "committed", "trust_revision": 1})
        except FairleadError as error:
            self.answer = frames.encode({"v": 1, "error": error.code, "message": error.message})
        if self.network.lost_commit is not None:
            lost, self.network.lost_commit = self.network.lost_commit, None
            raise lost

    async def receive(self) -> bytes:
        answer, self.answer = self.answer, b""
        return answer

    def close(self, reason: str) -> None:
        pass


@pytest.fixture
def network(world: World, monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network(world)

    async def at_once(_: float) -> None:
        made.clock.instant += 1_000_000

    monkeypatch.setattr(joining, "request", made.request)
    monkeypatch.setattr(joining, "dial", made.dial)
    monkeypatch.setattr("fairlead.enrol.join.asyncio.sleep", at_once)
    return made


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "se-1"


def joiner(network: Network, state: Path, name: str = "se-1") -> Joiner:
    return Joiner(state, "engine", name, network.clock)


async def join(network: Network, state: Path, bundle: Bundle, spent: list[str] | None = None,
               name: str = "se-1") -> Trust:
    made = [] if spent is None else spent
    return await joiner(network, state, name).join(bundle, lambda: made.append("bundle"))


def files(state: Path) -> list[str]:
    return sorted(str(p.relative_to(state)) for p in state.rglob("*") if p.is_file())


def modes(state: Path) -> set[tuple[bool, int]]:
    return {(p.is_dir(), stat.S_IMODE(p.stat().st_mode)) for p in (state, *state.rglob("*"))}


def content(state: Path) -> bytes:
    return b"".join((state / name).read_bytes() for name in files(state))


async def test_a_join(world: World, network: Network, state: Path) -> None:
    bundle, spent = await world.export(), list[str]()
    trust = await join(network, state, bundle, spent)
    assert spent == ["bundle"]
    assert files(state) == ["keys/host", "keys/host.pub", "keys/user", "keys/user.pub", "trust.json"]
    assert modes(state) == {(True, 0o700), (False, 0o600)}
    assert load(state) == trust
    node = world.directory.named("se-1")
    assert node is not None
    assert node.state == "up"
    assert [load_key(state, name).public.line for name in (HOST_KEY, USER_KEY)] == [node.host_key, node.user_key]
    assert network.dialled == [("192.0.2.10", 22, "aviseuser", frozenset((world.host_key.public,)))]
    assert bundle.token.encode().encode() not in content(state)
    assert await refusal(join(network, state, await world.export())) == "FL-ALREADY-JOINED"


def lose(_: Incoming) -> Incoming:
    raise OperatorError("FL-PEER-UNREACHABLE", "the connection was cut")


def crash(_: Incoming) -> Incoming:
    raise Crash


@pytest.mark.parametrize("losses", [1, 5])
async def test_lost_replies_cost_nothing(world: World, network: Network, state: Path, losses: int) -> None:
    network.exchanges = [lose] * losses
    network.commits = [OperatorError("FL-SSH-UNREACHABLE", "cut")] * losses
    network.lost_commit = OperatorError("FL-SSH-UNREACHABLE", "cut")
    bundle = await world.export()
    await join(network, state, bundle)
    assert [len((await world.store.list(p)).records) for p in ("nodes/", "names/")] == [2, 2]
    events = await world.events(bundle.token.id.hex())
    assert events == ["token.issued", "join.reserved", "join.committed"]
    assert len(set(network.posted)) == losses + 1  # each with a nonce of its own


@pytest.mark.parametrize("where", ["before the reply", "before the commit", "after the commit"])
async def test_a_crash_anywhere_goes_on_with_the_same_keys(
        world: World, network: Network, state: Path, where: str) -> None:
    bundle, spent = await world.export(), list[str]()
    match where:
        case "before the reply":
            network.exchanges = [crash]
        case "before the commit":
            network.commits = [Crash()]
        case _:
            network.lost_commit = Crash()
    with pytest.raises(Crash):
        await join(network, state, bundle, spent)
    assert (files(state), spent) == (["pending/join.json"], [])
    assert stat.S_IMODE((state / "pending/join.json").stat().st_mode) == 0o600
    await join(network, state, bundle, spent)
    assert spent == ["bundle"]
    assert "pending/join.json" not in files(state)
    assert await world.events(bundle.token.id.hex()) == ["token.issued", "join.reserved", "join.committed"]


async def test_keys_are_on_disk_before_the_first_request(world: World, network: Network, state: Path) -> None:
    seen: list[str] = []

    def look(answer: Incoming) -> Incoming:
        seen.append((state / "pending/join.json").read_text())
        return answer

    network.exchanges = [look]
    await join(network, state, await world.export())
    assert "OPENSSH PRIVATE KEY" in seen[0]
    assert '"core":""' in seen[0]


async def test_the_answer_is_on_disk_before_ssh_is_dialled(world: World, network: Network, state: Path) -> None:
    network.commits = [Crash()]
    with pytest.raises(Crash):
        await join(network, state, await world.export())
    assert '"core":""' not in (state / "pending/join.json").read_text()


async def test_new_keys_for_each_bundle_and_none_of_them_private_on_the_wire(
        world: World, network: Network, state: Path) -> None:
    bundles_ = [await world.export(), await world.export()]
    network.exchanges = [crash, crash]
    for bundle in bundles_:
        with pytest.raises(Crash):
            await join(network, state, bundle)
        world.clock.instant += 1
    sent = [json.loads(body) for body in network.posted]
    assert len({request[key] for request in sent for key in ("host_key", "user_key")}) == 4
    for bundle, body in zip(bundles_, network.posted, strict=True):
        for secret in (bundle.token.secret.hex(), b64(bundle.token.secret), bundle.token.encode(), "PRIVATE"):
            assert secret.encode() not in body


@pytest.mark.parametrize("code", ["FL-JOIN-EXPIRED", "FL-JOIN-REVOKED", "FL-JOIN-FROZEN", "FL-JOIN-CONFLICT",
                                  "FL-JOIN-USED"])
async def test_a_final_refusal_wipes_secret_and_bundle(world: World, network: Network, state: Path, code: str) -> None:
    spent: list[str] = []
    network.exchanges = [lambda a: Incoming(403, [], b'{"error":"x","code":"%s","remedy":""}' % code.encode(), b"")]
    assert await refusal(join(network, state, await world.export(), spent)) == code
    assert (files(state), spent) == ([], ["bundle"])


@pytest.mark.parametrize("code", ["FL-JOIN-NAME", "FL-JOIN-RELAY", "FL-JOIN-REFUSED", "FL-JOIN-SOURCE"])
async def test_a_refusal_that_can_be_mended_keeps_the_keys(
        world: World, network: Network, state: Path, code: str) -> None:
    bundle, spent = await world.export(), list[str]()
    network.exchanges = [lambda a: Incoming(403, [], b'{"error":"x","code":"%s"}' % code.encode(), b"")]
    assert await refusal(join(network, state, bundle, spent)) == code
    assert (files(state), spent) == (["pending/join.json"], [])
    await join(network, state, bundle, spent)


async def test_who_is_let_in_by_none_that_is_up_asks_why_though_another_is_down(
        world: World, network: Network, state: Path) -> None:
    """The token was frozen, say: that is not to be found out at the end of its life. Asked once, it goes on trying."""
    bundle = await world.export()
    network.commits = [Crash()]
    with pytest.raises(Crash):
        await join(network, state, bundle)
    pending = json.loads((state / "pending" / "join.json").read_bytes())
    core = Core.model_validate_json(from_b64(pending["core"]))
    both = core.model_copy(update={"controllers": [*core.controllers, *core.controllers]})
    user = PrivateKey.from_openssh(pending["user_key"].encode())

    async def commit(*, ask: bool) -> None:
        network.commits = [Refused("FL-SSH-REFUSED", "no"), OperatorError("FL-SSH-UNREACHABLE", "down")]
        await joiner(network, state)._commit(bundle.token, both, user, network.clock.monotonic() + 60, ask=ask)

    assert await refusal(commit(ask=True)) == "FL-SSH-REFUSED"
    await commit(ask=False)


@pytest.mark.parametrize(("said", "least_s", "most_s"), [("7", 7.0, 10.5), ("9999", 15.0, 22.5), ("soon", 0.0, 0.5)])
async def test_a_busy_portal_is_asked_again_when_it_has_said(
        world: World, network: Network, state: Path, monkeypatch: pytest.MonkeyPatch, said: str, least_s: float,
        most_s: float) -> None:
    pauses: list[float] = []

    async def noted(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("fairlead.enrol.join.asyncio.sleep", noted)
    network.exchanges = [lambda answer: Incoming(429, [("Retry-After", said)], json.dumps(
        {"code": "FL-JOIN-BUSY", "error": "busy", "remedy": ""}).encode(), answer.certificate)]
    await Joiner(state, "engine", "se-1", network.clock).join(await world.export(), lambda: None)
    assert least_s <= max(pauses) <= most_s


async def test_another_name_with_the_same_bundle_keeps_the_keys(world: World, network: Network, state: Path) -> None:
    await world.join("se-1")
    bundle = await world.export()
    assert await refusal(join(network, state, bundle)) == "FL-JOIN-NAME"
    kept = (state / "pending/join.json").read_text()
    trust = await join(network, state, bundle, name="se-2")
    assert trust.node == "se-2"
    assert load_key(state, HOST_KEY).openssh().decode().splitlines()[1] in kept


# -- whom it does not believe -----------------------------------------------------------------------------------------

UNTRUE: dict[str, Callable[[Incoming], Incoming]] = {
    "a signature of somebody else": lambda a: Incoming(
        200, a.headers, tampered(a.body, signature=flipped(json.loads(a.body)["signature"])), b""),
    "a page": lambda a: Incoming(200, [], b"<html>", b""),
    "nothing": lambda a: Incoming(200, [], b"", b""),
}


@pytest.mark.parametrize("what", UNTRUE)
async def test_who_is_not_the_pinned_controller_is_named_and_gets_nothing_more(
        world: World, network: Network, state: Path, what: str) -> None:
    network.exchanges = [UNTRUE[what]]
    bundle, spent = await world.export(), list[str]()
    assert await refusal(join(network, state, bundle, spent)) == "FL-JOIN-PEER"
    assert network.dialled == []
    assert (spent, files(state)) == ([], ["pending/join.json"])
    await join(network, state, bundle)  # once nobody is in between


async def test_a_certificate_of_another_root_is_refused_before_anything_is_sent(
        world: World, network: Network, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> Incoming:
        raise CertificateRefused("unable to get local issuer certificate", "", 20)

    monkeypatch.setattr(joining, "request", refuse)
    with pytest.raises(Refused) as caught:
        await join(network, state, await world.export())
    assert caught.value.code == "FL-JOIN-PEER"
    assert "192.0.2.10:8443" in caught.value.message
    assert network.posted == []


async def test_a_certificate_outside_its_time_blames_the_clock(
        world: World, network: Network, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    async def refuse(address: str, port: int, context: object, name: str, build: Callable[[bytes], Outgoing],
                     **_: object) -> Incoming:
        nonlocal calls
        calls += 1
        if calls > 1:
            build(world.leaf)
        raise CertificateRefused("certificate has expired", "", 10)

    monkeypatch.setattr(joining, "request", refuse)
    with pytest.raises(Refused) as caught:
        await join(network, state, await world.export())
    assert caught.value.code == "FL-TIME-SKEW"
    assert "2025-12-31T23:00:00Z" in caught.value.message  # back-dated by an hour


@pytest.mark.parametrize("what", ["portal", "ssh"])
async def test_it_gives_up_when_the_bundle_has_ended(world: World, network: Network, state: Path, what: str) -> None:
    network.exchanges = [lose] * 10_000 if what == "portal" else []
    network.commits = [OperatorError("FL-SSH-UNREACHABLE", "no route")] * 10_000
    with pytest.raises(OperatorError) as caught:
        await join(network, state, await world.export(lifetime_s=5))
    assert caught.value.code == ("FL-JOIN-UNREACHABLE" if what == "portal" else "FL-JOIN-SSH")
    assert "8443" in caught.value.remedy or "192.0.2.10:22" in caught.value.remedy
    assert 65 <= network.clock.monotonic() < 120


async def test_bundles_for_others_are_refused_without_a_call(world: World, network: Network, state: Path) -> None:
    table = [(await world.export("controller"), "FL-BUNDLE-ROLE"), (await world.export(node="se-9"), "FL-BUNDLE-NODE")]
    for bundle, code in table:
        assert await refusal(join(network, state, bundle)) == code
    assert network.posted == []
    assert files(state) == []


# -- a request first, a token only ------------------------------------------------------------------------------------

async def test_a_bundle_for_the_machine_that_asked(world: World, network: Network, state: Path, tmp_path: Path) -> None:
    asking = joiner(network, state)
    request = decode_request(asking.request().file())
    bundle = await world.enrolment.issue(role="engine", node="se-1", source=None, lifetime_s=600, by="admin",
                                         bound_keys_hash=request.keys_hash)
    sealed = bundles.seal(bundle, request.encoded(), request.recipient)
    thief = joiner(network, tmp_path / "thief")
    assert await refusal(_unseal(thief, sealed)) == "FL-BUNDLE-SEALED"
    thief.request()
    assert await refusal(_unseal(thief, sealed)) == "FL-BUNDLE-OTHER"
    opened = joiner(network, state).unseal(sealed)
    trust = await join(network, state, opened)
    assert trust.node == "se-1"
    assert load_key(state, HOST_KEY).public == request.host_key
    # who has the token all the same
    assert await refusal(join(network, tmp_path / "thief", opened)) == "FL-JOIN-BOUND"
    node = world.directory.named("se-1")
    assert node is not None
    assert node.state == "up"


def _instead(body: bytes, answer: Incoming) -> Incoming:
    return Incoming(200, [], body, answer.certificate)


async def _unseal(joining_machine: Joiner, sealed: bytes) -> Bundle:
    return joining_machine.unseal(sealed)


async def test_a_token_string_finds_the_cluster_without_trust_on_first_use(
        world: World, network: Network, state: Path) -> None:
    bundle = await world.export()
    found = joiner(network, state)
    got = await found.find(bundle.token, [("10.0.0.1", 443)], str(world.cluster_uuid).upper())
    assert (got.anchor, got.token) == (bundle.anchor, bundle.token)
    assert network.posted == []
    other = str(world.cluster_uuid)[::-1]
    assert await refusal(joiner(network, state).find(bundle.token, [("10.0.0.1", 443)], other)) == "FL-ENV-CLUSTER"
    assert await refusal(joiner(network, state).find(bundle.token, [], str(world.cluster_uuid))) == "FL-ENV"
    for forged in (b"", bundle.anchor.encode() + b"\0", b"<html>"):
        network.exchanges = [partial(_instead, forged)]
        finding = joiner(network, state).find(bundle.token, [("10.0.0.1", 443)], str(world.cluster_uuid))
        assert await refusal(finding) == "FL-ANCHOR-PIN"
    trust = await found.join(got, lambda: None)
    assert trust.node == "se-1"
