"""The API of a Controller behind which everybody answers whatever is asked."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

from fairlead.api.images import IMAGE
from fairlead.controller.application import Parts, certificates_of, shelf_for
from fairlead.objects.catalogue import Catalogue
from fairlead.users.accounts import Account

CLUSTER = UUID("11111111-1111-4111-8111-111111111111")
ANSWERS: dict[str, Any] = {"status": {}, "explain": {}, "named": Account("x", "viewer", ""), "member": None}


class Everything:
    """Answers whatever is asked; what it raises is set by the test."""

    healthy = True
    error: Exception | None = None
    trust = SimpleNamespace(cluster_uuid=CLUSTER)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def answer(*_: object, **__: object) -> Any:
            if self.error:
                raise self.error
            return ANSWERS.get(name, [])

        return answer


class _Images:
    """Answers as *everything*, about images."""

    kind = IMAGE

    def __init__(self, everything: Any) -> None:
        self._everything = everything

    def __getattr__(self, name: str) -> Any:
        return getattr(self._everything, name)


def parts(everything: Any, people: Any = None) -> Parts:
    """What the application is made of."""
    shelf, catalogue = shelf_for(everything, everything, str(CLUSTER)), Catalogue()
    return Parts("1", shelf, catalogue, certificates_of(shelf, everything, catalogue), everything, everything,
                 everything, people, everything, everything, everything, everything, everything, everything,
                 everything, everything, everything, everything, everything, everything, _Images(everything),
                 everything, lambda: None)
