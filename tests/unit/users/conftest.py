"""One Controller for each test."""

from tests.unit.enrol.conftest import world

__all__ = ["world"]
