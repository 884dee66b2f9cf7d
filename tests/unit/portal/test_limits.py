"""A source whose proofs fail is served last, at a pace, and never refused."""

from fairlead.portal.limits import FAILURES, MOST_SOURCES, MOST_WAIT_S, PER_SECOND, WINDOW_S, Patience


def failing(times: int) -> Patience:
    patience = Patience()
    for _ in range(times):
        patience.failed("192.0.2.1", 1000.0)
    return patience


def test_up_to_twenty_failures_nobody_waits() -> None:
    assert failing(FAILURES).wait("192.0.2.1", 1000.0) == 0.0


def test_beyond_them_requests_get_a_pace_and_no_refusal() -> None:
    patience = failing(FAILURES + 1)
    waits = [patience.wait("192.0.2.1", 1000.0) for _ in range(32)]
    assert waits == sorted(waits)
    assert abs(waits[-1] - 32 / PER_SECOND) < 1e-6  # fifty in a second, in turn


def test_who_hung_up_keeps_nobody_waiting() -> None:
    patience = failing(FAILURES + 1)
    for _ in range(6000):
        patience.wait("192.0.2.1", 1000.0)
    assert patience.wait("192.0.2.1", 1000.0) <= MOST_WAIT_S + 1e-6


def test_others_do_not_wait_for_them() -> None:
    patience = failing(FAILURES + 1)
    patience.wait("192.0.2.1", 1000.0)
    assert patience.wait("192.0.2.2", 1000.0) == 0.0


def test_it_is_forgotten_after_the_window() -> None:
    assert failing(FAILURES + 1).wait("192.0.2.1", 1000.0 + WINDOW_S + 1) == 0.0


def test_sources_are_bounded() -> None:
    patience = failing(FAILURES + 1)
    for number in range(MOST_SOURCES):
        patience.failed(f"source {number}", 1001.0)
    assert patience.wait("192.0.2.1", 1001.0) == 0.0
