"""Changes that a parser is likely to get wrong: libFuzzer's own are blind to JSON, which is read by compiled code."""

import contextlib
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 65536, 2**31, 2**32, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, "", "\0", "\n", "\x1b[2J",
    "\ud800", "\u0660", "\u202e", "é", "a" * 63, "a" * 64, "a" * 300, "../x", "127.64.1.0", "::1%0", "1_0", "+1", " 1",
    "1e3", "AAAA", "AAA=", "ssh-ed25519 AAAA", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59+99:99", [], {}, [[]],
    {"a": {}}, ["Content-Encoding", "gzip"]]
RAW = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"-0", b"1.0", b"01", b"9" * 5000, b'"\\ud800"',
       b'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"', b"[" * 990 + b"]" * 990, b"[" * 3000 + b"]" * 3000,
       b'{"a":' * 3000 + b"1" + b"}" * 3000]
"""Values as JSON's readers, generous ones too, may see them."""
PIECES = [
    b"\0", b"\n", b"\r\n", b" ", b"\t", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xd9\xa3", b"%", b"%25", b"::",
    b"::1%\0", b"[", b"]", b"[[", b"{", b"}", b'"', b"'''", b"\\", b"=", b"==", b"-", b"_", b"+", b"/", b"9" * 5000,
    b"0x10", b"1_000", b"inf", b"nan", b"true", b"1979-05-27", b"1979-05-27T07:32:00+99:99", b"[a.b.c]\n",
    b"a.b.c = 1\n", b"a = {" * 1000, b"[" * 1000, b"a." * 1000, b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0"]
_MARK = "@raw@"


def mutate(data: bytes, most: int, seed: int, otherwise: Callable[[bytes, int], bytes]) -> bytes:
    """A relative of *data*, at most *most* bytes; *otherwise* is libFuzzer's own way."""
    draw = random.Random(seed)
    way = draw.random()
    if way < 0.7:
        lines = data.split(b"\n")
        for text, before, after in ((data, [], []), _one_of(lines, draw)):
            with contextlib.suppress(ValueError, RecursionError):
                return b"\n".join([*before, _json(json.loads(text), draw), *after])[:most]
    if way < 0.85:
        start = draw.randrange(len(data) + 1)
        end = draw.choice((start, min(len(data), start + draw.randrange(16))))
        return (data[:start] + draw.choice(PIECES) + data[end:])[:most]
    return otherwise(data, most)


def _one_of(lines: list[bytes], draw: random.Random) -> tuple[bytes, list[bytes], list[bytes]]:
    at = draw.randrange(len(lines))
    return lines[at], lines[:at], lines[at + 1:]


def _json(value: Any, draw: random.Random) -> bytes:
    places = list(_places(value))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if places:
            _change(*draw.choice(places), draw)
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    text = re.sub(json.dumps(_MARK).encode(), lambda _: draw.choice(RAW), text)
    if draw.random() < 0.05:  # a field said twice
        text = re.sub(rb'("[a-z_]+"):', rb"\1:1,\1:", text, count=1)
    return text.decode().encode(draw.choice(("utf-16", "utf-32", "utf-8-sig"))) \
        if draw.random() < 0.02 and _clean(text) else text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for at, inner in list(items):
        yield value, at
        yield from _places(inner)


def _change(holder: Any, at: Any, draw: random.Random) -> None:
    try:
        old = holder[at]
    except LookupError:  # gone by an earlier change
        return
    match draw.randrange(9):
        case 0:
            holder[at] = _MARK
        case 1 | 2:
            holder[at] = draw.choice(VALUES)
        case 3:
            del holder[at]
        case 4 if isinstance(holder, dict):
            holder[draw.choice(("x", "", "v", "\0", "\ud800", str(at).upper()))] = old
        case 5 if isinstance(holder, list):
            holder.extend([old] * draw.choice((1, 4, 40)))
        case 6 if isinstance(old, str):
            holder[at] = draw.choice((old.upper(), old.replace("-", ""), f"{{{old}}}", old + "\n", " " + old, old + "=",
                                      old.replace("-", "_"), re.sub("[0-9]", "\u0664", old, count=1)))
        case _ if isinstance(old, str):
            start = draw.randrange(len(old) + 1)
            piece = draw.choice([*map(str, VALUES), *"aB0-_.:/+= "])
            holder[at] = old[:start] + piece + old[start + draw.choice((0, 0, 1)):]
        case _ if isinstance(old, int):
            holder[at] = old + draw.choice((-1, 1, -old, 2**32, 10**30))
        case _:
            holder[at] = [old]


def _clean(text: bytes) -> bool:
    try:
        return text.decode() is not None
    except UnicodeDecodeError:
        return False
