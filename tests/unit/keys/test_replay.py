"""The replay cache: nothing twice, nothing forgotten early, nobody crowded out."""

import pytest

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.keys.replay import KEPT, MOST_OF_KEY, ReplayCache

NOW = 1_767_225_600 * SECOND


def refused(cache: ReplayCache, keyid: str, nonce: bytes, now: int, role: str = "engine") -> str:
    with pytest.raises(Refused) as caught:
        cache.insert(keyid, nonce, role, now)  # type: ignore[arg-type]
    return caught.value.code


def nonce(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_seen_for_the_whole_window_and_not_for_ever() -> None:
    cache = ReplayCache()
    inserted = NOW + SECOND - 1  # the last instant of its second: whole seconds must not cut it short
    cache.insert("a", nonce(1), "engine", inserted)
    assert refused(cache, "a", nonce(1), inserted) == "FL-SIG-REPLAY"
    assert refused(cache, "a", nonce(1), inserted + KEPT * SECOND) == "FL-SIG-REPLAY"
    cache.insert("b", nonce(1), "engine", inserted)  # another key's nonce is another request
    cache.insert("a", nonce(1), "engine", inserted + (KEPT + 1) * SECOND)
    assert len(cache) == 1


def test_one_key_has_its_share_and_gets_it_back() -> None:
    cache = ReplayCache()
    for number in range(MOST_OF_KEY["engine"]):
        cache.insert("engine", nonce(number), "engine", NOW)
    assert refused(cache, "engine", nonce(10**6), NOW) == "FL-SIG-BUSY"
    assert refused(cache, "engine", nonce(0), NOW) == "FL-SIG-REPLAY"  # full, and still evicting nothing
    cache.insert("other", nonce(0), "engine", NOW)
    for number in range(MOST_OF_KEY["engine"] + 1):
        cache.insert("controller", nonce(number), "controller", NOW)
    cache.insert("engine", nonce(10**6), "engine", NOW + (KEPT + 1) * SECOND)
    assert len(cache) == 1


def test_a_flood_of_engines_does_not_shut_controllers_out() -> None:
    cache = ReplayCache(most=3)
    for number in range(3):
        cache.insert(f"engine {number}", nonce(0), "engine", NOW)
    assert refused(cache, "engine 9", nonce(0), NOW) == "FL-SIG-FULL"
    cache.insert("controller", nonce(0), "controller", NOW)
    assert refused(cache, "engine 0", nonce(0), NOW + KEPT * SECOND) == "FL-SIG-REPLAY"


def test_a_clock_that_steps_back_forgets_nothing() -> None:
    cache = ReplayCache()
    cache.insert("a", nonce(1), "engine", NOW)
    cache.insert("a", nonce(2), "engine", NOW - 50 * SECOND)
    assert refused(cache, "a", nonce(2), NOW + 20 * SECOND) == "FL-SIG-REPLAY"
    assert refused(cache, "a", nonce(1), NOW + KEPT * SECOND) == "FL-SIG-REPLAY"
