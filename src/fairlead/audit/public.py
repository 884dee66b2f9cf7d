"""The names that the public model has for what stands on record. Pure."""

from fairlead.audit.record import AuditRecord

EVENTS = {
    "controller.admitted": "CONTROLLER_NODE_JOINED",
    "controller.started": "CONTROLLER_NODE_STARTED",
}
"""By our event; the model names no others of ours."""
EXCHANGES = {"engine": "SE_SECURE_KEY_EXCHANGE", "controller": "CTLR_SECURE_KEY_EXCHANGE"}
"""Of ``join.committed``, by the role of who came."""


def event_id(record: AuditRecord) -> str | None:
    """The public name of what *record* is about; None where there is none."""
    if record.event == "join.committed":
        return EXCHANGES.get(str(record.details.get("role")))
    return EVENTS.get(record.event)
