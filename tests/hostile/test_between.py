"""Somebody in between a joining engine and its Controller, on real TLS and real SSH: he watches, drops, and no more."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fairlead.pki.authority import Authority
from tests.hostile.between import Between, Conversation, Harm, Way, cut, flip, swap
from tests.hostile.wire import Wire, open_wire, years_from_now
from tests.processes import ask, echo, serving
from tests.world import refusal


@pytest.fixture
async def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    async with open_wire(tmp_path, monkeypatch) as opened:
        yield opened


def test_he_does_what_the_tests_believe_of_him() -> None:
    with serving(echo) as target, Between(("127.0.0.1", target)).listening() as between:
        assert ask("127.0.0.1", between.port, b"hello") == b"hello"
        for harm, got in ((flip("there", 1), b"hdllo"), (flip("back", 4), b"helln"), (cut("there", 2), b"he"),
                          (cut("back", 3), b"hel"), (cut("back", 0), b""), (swap(["back"], b"ll", b"LL"), b"heLLo"),
                          (flip("there", 5), b"hello")):
            between.harm = harm
            assert got.startswith(ask("127.0.0.1", between.port, b"hello"))
            assert between.conversations[-1].changed == (got != b"hello")
            assert ask("127.0.0.1", between.port, b"hello") == b"hello"
        assert bytes(between.conversations[1].there) == b"hello"
        assert bytes(between.conversations[1].back) == b"hdllo"


async def test_what_he_hears_of_a_join_holds_no_secret_and_no_name(wire: Wire) -> None:
    bundle = await wire.world.export()
    await wire.join("se-canary", bundle)
    wire.joined("se-canary")
    (portal,), (ssh,) = wire.portal.conversations, wire.ssh.conversations
    for said in (portal.there, portal.back, ssh.there, ssh.back):
        assert len(said) > 500
        for word in (bundle.token.id, bundle.token.secret, bundle.token.encode().encode(), b"se-canary", b"aviseuser"):
            assert word not in said


SPREAD = [4, pytest.param(24, marks=pytest.mark.whole)]


@pytest.mark.parametrize("how", [flip, cut])
@pytest.mark.parametrize("spread", SPREAD)
async def test_a_join_that_he_harms_once_anywhere_ends_well_and_as_itself(wire: Wire, how: Callable[[Way, int], Harm],
                                                                       spread: int) -> None:
    """The engine tries again by itself, with the same keys; nothing that he did shows in who it is afterwards."""
    await wire.join("se-first", await wire.world.export())
    harmed = 0
    for between in (wire.portal, wire.ssh):
        length: dict[Way, int] = {"there": len(between.conversations[0].there),
                                  "back": len(between.conversations[0].back)}
        for way, size in length.items():
            for n in range(spread):
                bundle, name = await wire.world.export(), f"se-{harmed}"
                met = len(between.conversations)
                between.harm = how(way, size * (2 * n + 1) // (2 * spread))
                await wire.join(name, bundle)
                harmed += 1
                node = wire.joined(name)
                first: Conversation = between.conversations[met]
                assert first.changed, (way, n)
                events = await wire.world.events(bundle.token.id.hex())
                assert events == ["token.issued", "join.reserved", "join.committed"]
                assert node.token_id == bundle.token.id.hex()
    assert len(wire.world.directory.nodes) == harmed + 2


async def test_he_has_no_certificate_that_an_engine_believes(wire: Wire, monkeypatch: pytest.MonkeyPatch,
                                                           tmp_path: Path) -> None:
    """A root of his own with the right name, which this machine trusts for all else; the API's; one that is not yet
    valid, for which the clock is not to blame. The engine says nothing to him, and the bundle is good afterwards."""
    uuid, now = wire.world.cluster_uuid, years_from_now(0)
    his = Authority.create(uuid, now)
    (tmp_path / "system.pem").write_bytes(his.certificate_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    late = Authority.create(uuid, years_from_now(1))
    bundle, before = await wire.world.export(), await wire.world.revision()
    for issued in (his.issue_portal(uuid, ["127.0.0.1"], now), wire.root.issue_api(uuid, ["127.0.0.1"], now),
                   late.issue_portal(uuid, ["127.0.0.1"], years_from_now(1))):
        wire.portal.certificate = issued.certificate_pem, issued.key_pem
        assert await refusal(wire.join("se-1", bundle)) == "FL-JOIN-PEER"
        assert bytes(wire.portal.conversations[-1].there) == b""
    assert await wire.world.revision() == before
    wire.portal.honest()
    await wire.join("se-1", bundle)
    wire.joined("se-1")
