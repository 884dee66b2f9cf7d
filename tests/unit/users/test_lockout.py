"""Who may try a password: counted by name and network, for a while."""

from fairlead.base.clock import SECOND
from fairlead.users.lockout import MOST_COUNTED, Lockout
from fairlead.users.rules import Rules

MOST_FAILURES, LOCKED_S = Rules().most_failures, Rules().locked / SECOND


def test_a_name_is_closed_to_the_network_that_failed_and_opens_again() -> None:
    now = 0.0
    lockout = Lockout(monotonic=lambda: now)
    for _ in range(MOST_FAILURES):
        assert lockout.left("jane", "192.0.2.0/24") == 0.0
        lockout.failed("jane", "192.0.2.0/24")
    assert lockout.left("jane", "192.0.2.0/24") == LOCKED_S
    assert lockout.left("jane", "198.51.100.0/24") == 0.0
    assert lockout.left("john", "192.0.2.0/24") == 0.0
    now = LOCKED_S
    assert lockout.left("jane", "192.0.2.0/24") == 0.0
    lockout.failed("jane", "192.0.2.0/24")
    assert lockout.left("jane", "192.0.2.0/24") == 0.0, "the count begins anew"


def test_a_success_in_between_counts_anew() -> None:
    lockout = Lockout(monotonic=lambda: 0.0)
    for _ in range(3):
        lockout.failed("jane", "n")
        lockout.failed("jane", "n")
        lockout.succeeded("jane", "n")
    assert lockout.left("jane", "n") == 0.0


def test_whoever_invents_names_takes_no_memory() -> None:
    lockout = Lockout(monotonic=lambda: 0.0)
    for number in range(3 * MOST_COUNTED):
        lockout.failed(f"nobody-{number}", "n")
    assert len(lockout._failures) == MOST_COUNTED


def test_the_rules_are_those_of_now() -> None:
    rules = Rules(most_failures=0)
    lockout = Lockout(lambda: rules, monotonic=lambda: 0.0)
    for _ in range(5):
        lockout.failed("jane", "192.0.2.0/24")
    assert lockout.left("jane", "192.0.2.0/24") == 0.0, "nobody is locked out"
    rules = Rules(most_failures=5, locked=60 * SECOND)
    assert lockout.left("jane", "192.0.2.0/24") == 60.0
