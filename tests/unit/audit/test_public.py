"""Public names of events."""

from fairlead.audit.public import event_id
from fairlead.audit.record import Entry, chain


def test_what_the_public_model_names_has_its_name_and_nothing_else_has() -> None:
    def named(event: str, **details: str) -> str | None:
        return event_id(chain(None, Entry(event, "se-1", "admin", details), "ctl-1", 1))

    assert named("controller.started") == "CONTROLLER_NODE_STARTED"
    assert named("join.committed", role="engine") == "SE_SECURE_KEY_EXCHANGE"
    assert named("join.committed", role="controller") == "CTLR_SECURE_KEY_EXCHANGE"
    assert named("join.committed") is None, "a record of before roles stood in it"
    assert named("token.issued") is None
