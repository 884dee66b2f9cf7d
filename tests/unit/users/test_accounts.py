"""What an account can be called and what its password can be."""

import pytest

from fairlead.base.errors import FairleadError
from fairlead.users.accounts import account, check_user_name, decode, encode, new_password


@pytest.mark.parametrize("name", ["root", "aviseuser", "avictlruser", "cli", "anonymous", "Admin", "", "a b", "-a",
                                  "a-", "a/b", "ä", "a" * 65, "a\n"])
def test_names_that_nobody_gets(name: str) -> None:
    with pytest.raises(FairleadError) as caught:
        check_user_name(name)
    assert caught.value.code == "FL-USER-NAME"


@pytest.mark.parametrize("name", ["a", "jane.doe", "ci_1", "a" * 64])
def test_names_that_people_have(name: str) -> None:
    assert check_user_name(name) == name


def test_what_is_stored_holds_no_password_and_its_stamp_changes_with_it() -> None:
    password = new_password()
    one, other = account("jane", "viewer", password), account("jane", "viewer", password)
    assert decode(encode(one)) == one
    assert password.encode() not in encode(one)
    assert one.password_hash not in repr(one)
    assert one.password_hash.startswith("$argon2id$")
    assert one.stamp != other.stamp
