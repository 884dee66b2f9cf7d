"""The user keys of a node on its disk: none is lost, wherever the machine stops or the disk refuses."""

from pathlib import Path
from typing import Any

import pytest

from fairlead.base import files
from fairlead.base.errors import OperatorError
from fairlead.enrol import keyring as rings
from fairlead.enrol import trust
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.trust import KEYS, USER_KEY, save_key
from fairlead.keys.ssh import PrivateKey
from tests.world import Death, denied

OLD = PrivateKey.from_seed(b"o" * 32)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / KEYS).mkdir(mode=0o700)
    save_key(tmp_path, USER_KEY, OLD)
    return tmp_path


def held(state: Path) -> set[str]:
    return {key.public.fingerprint for key in Keyring(state).held}


def test_a_next_key_is_the_same_until_it_is_used(state: Path) -> None:
    ring = Keyring(state)
    new = ring.next()
    assert ring.next().public == new.public == Keyring(state).next().public != OLD.public
    assert (state / KEYS / rings.NEXT).stat().st_mode & 0o777 == 0o600
    assert ring.in_use.public == Keyring(state).in_use.public == OLD.public


def test_keys_change_places_and_back(state: Path) -> None:
    ring = Keyring(state)
    new = ring.next()
    for wanted in (new, OLD, new, OLD, new):
        assert ring.use(wanted.public.fingerprint)
        assert not ring.use(wanted.public.fingerprint)
        assert Keyring(state).in_use.public == ring.in_use.public == wanted.public
        assert held(state) == {OLD.public.fingerprint, new.public.fingerprint}
    assert ring.drop([OLD.public.fingerprint, new.public.fingerprint]) == [OLD.public.fingerprint]  # not the one in use
    assert held(state) == {new.public.fingerprint}
    assert sorted(file.name for file in (state / KEYS).iterdir()) == [USER_KEY, f"{USER_KEY}.pub"]
    assert ring.next().public not in (OLD.public, new.public)


def test_a_key_that_it_does_not_hold_is_none(state: Path) -> None:
    assert denied(lambda: Keyring(state).use(PrivateKey.generate().public.fingerprint)) == "FL-KEY-MISSING"
    assert held(state) == {OLD.public.fingerprint}


@pytest.mark.parametrize("stop", range(12))
@pytest.mark.parametrize("back", [False, True])
def test_wherever_it_stops_every_key_is_there(state: Path, stop: int, back: bool,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring(state)
    new = ring.next().public.fingerprint
    if back:
        ring.use(new)
    target = OLD.public.fingerprint if back else new
    count = iter(range(100))

    def stopping(doing: Any) -> Any:
        def do(*arguments: Any, **options: Any) -> Any:
            if next(count) >= stop:
                raise Death
            return doing(*arguments, **options)
        return do

    with monkeypatch.context() as patch:
        patch.setattr(trust, "write_private", stopping(files.write_private))
        patch.setattr(files, "remove", stopping(files.remove))
        try:
            ring.use(target)
        except Death:
            pass
        else:
            assert stop >= 8, "it was stopped nowhere"
    assert held(state) == {OLD.public.fingerprint, new}
    again = Keyring(state)
    again.use(target)
    assert Keyring(state).in_use.public.fingerprint == target
    assert held(state) == {OLD.public.fingerprint, new}


def test_a_disk_that_refuses_makes_no_key_and_stops_no_change(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OperatorError("FL-DISK", f"{path} cannot be written: no space left", "free some")

    ring = Keyring(state)
    with monkeypatch.context() as patch:
        patch.setattr(trust, "write_private", full)
        assert denied(ring.next) == "FL-DISK"
    new = ring.next().public.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(trust, "write_private", full)
        assert ring.use(new)
        assert ring.in_use.public.fingerprint == new
        assert held(state) == {OLD.public.fingerprint, new}
        assert denied(ring.next) == "FL-DISK", "its only file is in that place"
    ring.next()
    assert held(state) >= {OLD.public.fingerprint, new}
    assert Keyring(state).in_use.public.fingerprint == new
