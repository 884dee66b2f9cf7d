"""What each role may do: what is not named nobody may."""

from fairlead.users.roles import PERMISSIONS, permits


def test_an_admin_may_all_that_others_may_and_nobody_may_what_is_not_named() -> None:
    assert PERMISSIONS["viewer"] < PERMISSIONS["operator"] < PERMISSIONS["admin"]
    assert all(name.endswith(":read") or name == "session:own" for name in PERMISSIONS["viewer"])
    for role in PERMISSIONS:
        assert not permits(role, "")
        assert not permits(role, "everything:write")
    assert not permits("operator", "user:write")
    assert not permits("operator", "cluster:certificate")
