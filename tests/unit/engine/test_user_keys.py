"""An engine's part when its user key changes: it makes, shows, proves, drops, and says what it cannot."""

from pathlib import Path
from typing import cast
from uuid import UUID

import pytest

from fairlead.base.errors import OperatorError, Refused
from fairlead.engine import user_keys as module
from fairlead.engine.user_keys import OwnKeys
from fairlead.enrol import keyring, next_key
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.next_key import Offer
from fairlead.enrol.trust import KEYS, USER_KEY, save_key
from fairlead.keys.ssh import PrivateKey
from fairlead.link.messages import KeyTrouble, NextKey, NextKeyWanted, UserKeys, UsingKey
from fairlead.transport.tunnel import Tunnel

OLD, HOST, CLUSTER = PrivateKey.from_seed(b"o" * 32), PrivateKey.from_seed(b"h" * 32), UUID(int=7)


class FakeTunnel:
    proven = OLD.public.fingerprint


class Place:
    def __init__(self, state: Path) -> None:
        (state / KEYS).mkdir(mode=0o700)
        save_key(state, USER_KEY, OLD)
        self.tunnels = {"ctl-1": [FakeTunnel(), FakeTunnel()], "ctl-2": [FakeTunnel()]}
        self.recorded: list[str] = []
        self.own = OwnKeys(Keyring(state), CLUSTER, "id-1", HOST,
                           lambda name: cast("list[Tunnel]", self.tunnels[name]), self._record)

    def _record(self, event: str, **_: str) -> None:
        self.recorded.append(event)

    async def next(self) -> str:
        shown = await self.own.next(NextKeyWanted(rotation="r1"))
        assert isinstance(shown, NextKey)
        offer = Offer(shown.key, shown.user_proof, shown.host_proof)
        return next_key.check(offer, CLUSTER, "id-1", "r1", HOST.public.line).fingerprint


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    async def prove_all(tunnels: list[FakeTunnel], key: PrivateKey, *_: object) -> None:
        for tunnel in tunnels:
            tunnel.proven = key.public.fingerprint

    monkeypatch.setattr(module, "prove_all", prove_all)
    return Place(tmp_path)


async def test_it_shows_the_same_key_again_and_uses_it_when_it_is_told_to(place: Place) -> None:
    made = await place.next()
    assert made == await place.next()
    told = await place.own.follow(UserKeys(use=made), "ctl-1")
    assert isinstance(told, UsingKey)
    assert (told.fingerprint, set(told.held)) == (made, {made, OLD.public.fingerprint})
    assert [one.proven for one in place.tunnels["ctl-1"]] == [made, made]
    assert place.tunnels["ctl-2"][0].proven == OLD.public.fingerprint, "that one will say so itself"
    told = await place.own.follow(UserKeys(use=made, revoked=[OLD.public.fingerprint]), "ctl-1")
    assert isinstance(told, UsingKey)
    assert told.held == [made]
    assert place.recorded == ["key.used", "key.dropped"]


async def test_it_is_given_no_key(place: Place) -> None:
    told = await place.own.follow(UserKeys(use=PrivateKey.generate().public.fingerprint), "ctl-1")
    assert isinstance(told, KeyTrouble)
    assert told.code == "FL-KEY-MISSING"
    assert place.own.keyring.in_use.public == OLD.public
    assert "FL-KEY-MISSING" in place.own.problems[0]


async def test_a_full_disk_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OperatorError("FL-DISK", "no space left", "free some")

    with monkeypatch.context() as patch:
        patch.setattr(keyring, "save_key", full)
        shown = await place.own.next(NextKeyWanted(rotation="r1"))
    assert isinstance(shown, KeyTrouble)
    assert shown.code == "FL-DISK"
    assert "FL-DISK" in place.own.problems[0]
    await place.own.follow(UserKeys(use=OLD.public.fingerprint), "ctl-1")
    assert "FL-DISK" in place.own.problems[0], "it is said as long as it is asked for"
    await place.own.follow(UserKeys(use=OLD.public.fingerprint), "ctl-1")
    assert place.own.problems == []
    await place.next()


async def test_what_is_not_proven_is_not_said_to_be(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await place.next()

    async def refuse(*_: object) -> None:
        raise Refused("FL-KEY-ROTATION", "the Controller does not know it yet")

    monkeypatch.setattr(module, "prove_all", refuse)
    told = await place.own.follow(UserKeys(use=made), "ctl-1")
    assert isinstance(told, KeyTrouble)
    assert place.own.problems == [], "it is tried again: nothing is wrong here"
