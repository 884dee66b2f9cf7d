"""Host keys on the disk: whenever the machine stops, the keys that count are there, and no others for long."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fairlead.base import files
from fairlead.controller.hostkeys import NEXT, OLD, HostKeys
from fairlead.enrol.trust import HOST_KEY, KEYS, load_key, save_key
from fairlead.keys.ssh import PrivateKey, PublicKey

FIRST = PrivateKey.from_seed(b"1" * 32)


class Stopped(BaseException):
    """The machine is off."""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    files.make_private_folder(tmp_path / "state" / KEYS)
    save_key(tmp_path / "state", HOST_KEY, FIRST)
    return tmp_path / "state"


def names(state: Path) -> set[str]:
    return {path.name for path in (state / KEYS).iterdir()}


def test_there_and_back_and_on(state: Path) -> None:
    keys = HostKeys.load(state)
    assert (keys.shown.public, keys.others) == (FIRST.public, {})
    second = keys.make()
    assert keys.has(second)
    assert keys.shown.public == FIRST.public
    assert {path.stat().st_mode & 0o777 for path in (state / KEYS).iterdir()} == {0o600}
    for _ in range(2):  # each step may be asked for again
        keys.show(second)
        assert (keys.shown.public, [key.public for key in keys.others.values()]) == (second, [FIRST.public])
        assert load_key(state, HOST_KEY).public == second
    assert names(state) == {HOST_KEY, f"{HOST_KEY}.pub", OLD, f"{OLD}.pub"}
    keys.show(FIRST.public)
    assert names(state) == {HOST_KEY, f"{HOST_KEY}.pub", NEXT, f"{NEXT}.pub"}
    assert (state / KEYS / f"{HOST_KEY}.pub").read_text() == f"{FIRST.public.line}\n"
    keys.show(second)
    keys.keep([second])
    assert names(state) == {HOST_KEY, f"{HOST_KEY}.pub"}
    assert HostKeys.load(state).shown.public == second


def test_the_one_that_is_shown_is_never_forgotten(state: Path) -> None:
    keys = HostKeys.load(state)
    keys.make()
    keys.keep([])
    assert HostKeys.load(state).shown.public == FIRST.public


def _made(keys: HostKeys) -> PublicKey:
    return next(key.public for key in keys.others.values())


def _shown(keys: HostKeys) -> None:
    keys.make()
    keys.show(_made(keys))


STEPS: list[tuple[str, Callable[[HostKeys], object], Callable[[HostKeys], object]]] = [
    ("make", lambda _: None, lambda keys: keys.make()),
    ("show", lambda keys: keys.make(), lambda keys: keys.show(_made(keys))),
    ("show again", _shown, lambda keys: keys.show(_made(keys))),
    ("keep", _shown, lambda keys: keys.keep([])),
]


@pytest.mark.parametrize(("before", "step"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
def test_a_crash_at_every_change_of_the_disk_loses_no_key_that_counts(
        state: Path, before: Callable[[HostKeys], object], step: Callable[[HostKeys], object],
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop before each rename and each removal; what is found afterwards can show each key that counts."""
    for stop_at in range(20):
        keys = HostKeys.load(state)
        keys.keep([])
        before(keys)
        counted = {key.public for key in (keys.shown, *keys.others.values())}
        shown = keys.shown.public
        done = 0

        def counting(plain: Callable[..., None], *given: object, at: int = stop_at) -> None:
            nonlocal done
            if done == at:
                raise Stopped
            done += 1
            plain(*given)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", lambda self, to, plain=Path.replace: counting(plain, self, to))
            patched.setattr(Path, "unlink", lambda self, plain=Path.unlink, **_: counting(plain, self))
            try:
                step(keys)
            except Stopped:
                ended = False
            else:
                ended = True
        found = HostKeys.load(state)
        there = {key.public for key in (found.shown, *found.others.values())}
        if step is STEPS[3][2]:
            assert found.shown.public == shown
        else:
            assert counted <= there
        for public in there:
            found.show(public)
            assert HostKeys.load(state).shown.public == public
        assert (state / KEYS / f"{HOST_KEY}.pub").read_text() == f"{HostKeys.load(state).shown.public.line}\n"
        if ended:
            break
    else:
        raise AssertionError("it never came to its end")
    assert stop_at >= 2
