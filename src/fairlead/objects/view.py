"""An object as one request is shown it. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.objects.model import Item, Kind, Model, Version, facts

ALWAYS = frozenset(("name", "url", "uuid"))
Names = Callable[[str, str], str]
"""The name of the object of a kind with a uuid; empty when there is none."""


@dataclass(frozen=True, slots=True)
class View:
    """How a request wants to see objects."""

    base: str
    """``https://HOST[:PORT]``, as the request names us."""
    version: Version
    names: Names | None = None
    """Whose names stand behind references; None: nobody's."""
    skip_default: bool = False
    fields: frozenset[str] | None = None
    """Which are wanted; None: all."""

    def show(self, kind: Kind, item: Item) -> dict[str, Any]:
        """*item*, whose *kind* it is."""
        shown: dict[str, Any] = {"uuid": item.uuid, "url": self.url(kind, item),
                                 "_last_modified": str(item.modified)}
        if item.tenant:
            shown["tenant_ref"] = self._ref(f"tenant/{item.tenant}")
        shown |= self._value(item.value)
        if self.fields is not None:
            shown = {name: value for name, value in shown.items() if name in self.fields or name in ALWAYS}
        return shown

    def url(self, kind: Kind, item: Item) -> str:
        """Where *item* is, with its name when names are wanted."""
        if kind.singleton is not None:
            return f"{self.base}/api/{kind.path}"
        return self._ref(f"{kind.path}/{item.uuid}", item.name)

    def _value(self, value: Model) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for one in facts(type(value)):
            said = getattr(value, one.name)
            if said is None or one.secret or one.since > self.version or (self.skip_default and said == one.default):
                continue
            if one.ref is not None:
                said = [self._ref(each) for each in said] if isinstance(said, list | tuple) else self._ref(said)
            elif one.inner is not None:
                said = [self._value(each) for each in said] if isinstance(said, list | tuple) else self._value(said)
            shown[one.name] = said
        return (value.model_extra or {}) | shown

    def _ref(self, kept: str, name: str = "") -> str:
        address = f"{self.base}/api/{kept}"
        if self.names is None:
            return address
        kind, _, uuid = kept.partition("/")
        name = name or self.names(kind, uuid)
        return f"{address}#{name}" if name else address


def whole(value: Model) -> dict[str, Any]:
    """All fields of *value* as a client may send them back, secrets left out; references as they are kept."""
    shown: dict[str, Any] = {}
    for one in facts(type(value)):
        said = getattr(value, one.name)
        if said is None or one.secret or one.computed:
            continue
        if one.inner is not None:
            said = [whole(each) for each in said] if isinstance(said, list | tuple) else whole(said)
        elif one.ref is not None:
            said = [f"/api/{each}" for each in said] if isinstance(said, list | tuple) else f"/api/{said}"
        elif isinstance(said, Mapping):
            said = dict(said)
        shown[one.name] = said
    return (value.model_extra or {}) | shown
