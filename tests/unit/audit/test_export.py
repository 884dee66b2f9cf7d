"""An export is read back, and what was done to it is found."""

import pytest

from fairlead.audit.export import lines, verify_export
from fairlead.base.errors import Refused
from tests.unit.audit.test_head import KEY, records, signed

WHOLE = records("a", "b", "c")
TEXT = [line.encode() for line in lines({"ctl-1": WHOLE}, [(signed(WHOLE[-1].head()), KEY.public)])]


def test_it_says_where_the_chain_ends_and_who_has_signed_it() -> None:
    assert verify_export(b"\n".join(TEXT)) == {"ctl-1": (WHOLE[-1].head(), KEY.public.fingerprint)}


@pytest.mark.parametrize("changed", [
    TEXT[:2] + TEXT[3:], [TEXT[0], *TEXT[2:]], TEXT[1:], [TEXT[1], TEXT[0], *TEXT[2:]],
    [TEXT[0].replace(b"admin", b"nobody"), *TEXT[1:]], [*TEXT, b"{}"], [*TEXT, b"x"], [*TEXT, b"[]"]])
def test_attack_what_was_cut_changed_moved_or_added_is_found(changed: list[bytes]) -> None:
    with pytest.raises(Refused) as caught:
        verify_export(b"\n".join(changed))
    assert caught.value.code in ("FL-AUDIT-BROKEN", "FL-AUDIT-HEAD")
