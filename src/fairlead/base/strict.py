"""JSON from the other side, in one reading only.

`json.loads` by itself also takes UTF-16, keeps the last of a field that is said twice, and knows numbers that are not
in JSON: whoever else reads the same bytes may read something else. It makes texts of half a surrogate pair, which fail
wherever they are written later. And it ends in a RecursionError, which is no ValueError, for what nests deeply: a peer
must not choose the exception that we die of.
"""

import contextlib
import json
import math
import re
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(data: bytes) -> Any:
    """The value of *data*: UTF-8, no field said twice, finite numbers. Raises ValueError for everything else."""
    text = _text(data)
    try:
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # a whole pair passes
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _text(data: bytes) -> str:
    with contextlib.suppress(UnicodeDecodeError):
        return data.decode()
    raise ValueError("not UTF-8")  # the decoder's own error carries all the bytes, and they may be secret


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is repeated")
    return fields


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite)
