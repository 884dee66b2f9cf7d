"""What a password can be, by the house's rules."""

import pytest

from fairlead.base.errors import FairleadError
from fairlead.users.accounts import new_password
from fairlead.users.rules import Rules


@pytest.mark.parametrize(("rules", "password"), [
    *((Rules(), password) for password in ("", "short", "a" * 11, "a" * 257, "ä" * 129)),
    (Rules(minimum_password_length=20), "a" * 19), (Rules(password_strength=True), "only small letters here"),
    (Rules(password_strength=True), "a1" * 10)])
def test_passwords_that_are_refused(rules: Rules, password: str) -> None:
    with pytest.raises(FairleadError) as caught:
        rules.check(password)
    assert caught.value.code == "FL-PASSWORD"
    assert "a" * 20 not in caught.value.line()


@pytest.mark.parametrize(("rules", "password"), [
    (Rules(), "a" * 12), (Rules(minimum_password_length=8), "a" * 8),
    (Rules(password_strength=True), "Small-and-Large")])
def test_passwords_that_are_taken(rules: Rules, password: str) -> None:
    assert rules.check(password) == password
    assert rules.check(new_password())
