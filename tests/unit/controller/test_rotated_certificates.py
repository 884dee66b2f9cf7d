"""A certificate that a rotation leads to, or away from, is in use: nobody deletes it under the rotation's feet."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fairlead.controller.application import certificates_of
from fairlead.rotation.phases import Rotation


async def nobody(kind: str, uuid: str) -> Sequence[str]:
    return []


@pytest.mark.parametrize(("uuid", "named"), [("asked", True), ("old", True), ("new", True), ("other", False)])
async def test_it_is_named_as_one_that_refers_to_it(uuid: str, *, named: bool) -> None:
    rotation = Rotation("r1", "secure-channel", "jane", 1, 1, "cut-over", 1, to="asked",
                        material={"from": "old", "to": "new"})
    made = certificates_of(cast("Any", None), cast("Any", None), cast("Any", SimpleNamespace(referrers=nobody)),
                           lambda: rotation)
    assert bool(await made.referrers("sslkeyandcertificate", uuid)) == named
    assert bool(await made.shelved.referrers("sslkeyandcertificate", uuid)) == named
