"""What a PATCH makes of an object's fields. Pure.

``{"add"|"replace"|"delete": {...}}``, several at once, in this order: a scalar is set by *add* and *replace*; a list is
extended by *add*, exchanged by *replace*, and *delete* takes its entries out; *delete* of a scalar brings back the
default. Fields of a nested object are merged by the same rules, one level deep. ``{"json_patch": [...]}`` is RFC 6902
without ``move`` and ``copy``.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

from fairlead.base.errors import Refused, printable

OPERATIONS = ("add", "replace", "delete")
MOST_STEPS = 256
MOST_COMPARED = 100_000
"""Pairs of entries that one PATCH compares: it is done while everything else waits."""


def apply(fields: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """*fields* after *body*. Raises Refused FL-OBJECT-PATCH."""
    if not body or any(name not in (*OPERATIONS, "json_patch", "_last_modified", "uuid", "url") for name in body):
        raise Refused("FL-OBJECT-PATCH", "a PATCH says add, replace, delete or json_patch", "see the guide")
    made = copy.deepcopy(dict(fields))
    for operation in OPERATIONS:
        given = body.get(operation)
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise Refused("FL-OBJECT-PATCH", f"what to {operation} is an object", "such as {\"add\": {\"field\": 1}}")
        _merge(made, operation, given, nested=True)
    if (steps := body.get("json_patch")) is not None:
        made = _steps(made, steps)
    return made


def _merge(made: dict[str, Any], operation: str, given: Mapping[str, Any], *, nested: bool) -> None:
    for name, value in given.items():
        now = made.get(name)
        if nested and isinstance(now, dict) and isinstance(value, Mapping):
            _merge(now, operation, value, nested=False)
        elif operation == "delete":
            if isinstance(now, list) and isinstance(value, list):
                made[name] = _without(now, value)
            else:
                made.pop(name, None)
        elif operation == "add" and isinstance(now, list) and isinstance(value, list):
            there = {_canonical(one) for one in now}
            made[name] = [*now, *(one for one in value if _canonical(one) not in there)]
        else:
            made[name] = copy.deepcopy(value)


def _without(now: list[Any], gone: list[Any]) -> list[Any]:
    """*now* without the entries that are meant."""
    texts, others = {_bare(one) for one in gone if isinstance(one, str)}, [o for o in gone if not isinstance(o, str)]
    if len(now) * len(others) > MOST_COMPARED:
        raise Refused("FL-OBJECT-PATCH", "too many entries are to be looked for at once", "delete fewer in one PATCH")
    return [one for one in now if not (isinstance(one, str) and _bare(one) in texts)
            and not any(_same(one, other) for other in others)]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _same(one: Any, gone: Any) -> bool:
    """Whether an entry is meant: an object by the fields that were given."""
    if isinstance(one, dict) and isinstance(gone, Mapping):
        return all(one.get(name) == value for name, value in gone.items())
    return bool(one == gone)


def _bare(text: str) -> str:
    return text.partition("#")[0].partition("/api/")[2] or text


def _steps(made: dict[str, Any], steps: Any) -> dict[str, Any]:
    if not isinstance(steps, list) or len(steps) > MOST_STEPS:
        raise Refused("FL-OBJECT-PATCH", f"json_patch is a list of at most {MOST_STEPS} steps",
                      "send several PATCHes")
    for step in steps:
        if not isinstance(step, Mapping) or not isinstance(path := step.get("path"), str):
            raise _impossible("?")
        keys = [key.replace("~1", "/").replace("~0", "~") for key in path.split("/")[1:]]
        if not path.startswith("/") or not keys or len(keys) > 16:
            raise _impossible(path)
        _step(made, step, keys, path)
    return made


def _step(made: dict[str, Any], step: Mapping[str, Any], keys: list[str], path: str) -> None:
    operation, here = step.get("op"), made
    if operation not in ("add", "replace", "remove", "test") or (operation != "remove" and "value" not in step):
        raise _impossible(path)
    try:
        for key in keys[:-1]:
            here = here[_index(here, key)]
        at = _index(here, keys[-1])
        if operation == "remove":
            del here[at]
        elif operation == "test":
            if here[at] != step["value"]:
                raise Refused("FL-OBJECT-PATCH", f"{printable(path, 80)} is not what the test expects",
                          "read the object again")
        elif operation == "add" and isinstance(here, list):
            here.insert(len(here) if keys[-1] == "-" else at, copy.deepcopy(step["value"]))
        elif operation == "add" or at in here or isinstance(here, list):
            here[at] = copy.deepcopy(step["value"])
        else:
            raise _impossible(path)
    except (LookupError, TypeError, ValueError):
        raise _impossible(path) from None


def _index(here: Any, key: str) -> Any:
    if isinstance(here, list):
        if key == "-":
            return len(here)
        if not key.isascii() or not key.isdigit() or len(key) > 6 or int(key) > len(here):
            raise LookupError(key)
        return int(key)
    if isinstance(here, dict):
        return key
    raise LookupError(key)


def _impossible(path: str) -> Refused:
    return Refused("FL-OBJECT-PATCH", f"json_patch: {printable(path, 80)!r} cannot be changed so",
                   "see that the place is there; op is add, replace, remove or test")
