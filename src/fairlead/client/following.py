"""How a log-in from afar survives a change of the cluster's root CA: by the trust statements, as nodes do.

The connection over which they come is believed by nobody and carries no secret. They count for the signatures of a root
that this log-in knows (`pki.statement`): somebody in between brings nothing that would be followed. Strangers are told
nothing: who asks names a root by its hash.
"""

import ssl
from collections.abc import Sequence

import httpx2

from fairlead.base import strict
from fairlead.base.errors import FairleadError, Refused
from fairlead.keys.wire import sha256
from fairlead.pki.certificate import ders_of
from fairlead.pki.statement import beginning, follow, read
from fairlead.pki.verify import unverified_context

PATH = "/api/trust"
MOST_ANSWER = 8 << 20
MOST_PAGES = 8


def followed(url: str, ca: str, timeout_s: float) -> str | None:
    """What *ca* (PEM) becomes by the trust statements that the Controller at *url* has; None: they lead nowhere else.
    """
    try:
        known = list(ders_of(ca.encode()))
        believed, retired = next((found for one in known if (found := _believed(url, one, timeout_s))[0]), ((), set()))
    except (FairleadError, httpx2.HTTPError, OSError):
        return None
    if not believed or set(believed) <= set(known):
        return None
    kept = [*believed, *(one for one in known if one not in retired and one not in believed)]
    return "".join(map(ssl.DER_cert_to_PEM_cert, kept))


def _believed(url: str, known: bytes, timeout_s: float) -> tuple[Sequence[bytes], set[bytes]]:
    """The roots that are believed in the end, DER, and all that were on the way. Raises FairleadError, HTTPError."""
    number, roots, seen = 0, list[bytes](), set[bytes]()
    for _ in range(MOST_PAGES):
        texts = _fetch(url, known, number, timeout_s)
        chain = texts if roots else beginning([known], texts)
        if not chain:
            break
        first = read(chain[0]).statement
        found = follow(first.cluster_uuid, number, roots or [known], chain)
        if found is None:
            break
        number, roots = found.number, list(found.content.roots)
        seen.update(*(read(text).statement.content.roots for text in chain))
    return roots, seen


def _fetch(url: str, root: bytes, after: int, timeout_s: float) -> list[str]:
    answer = bytearray()
    with (httpx2.Client(transport=httpx2.HTTPTransport(verify=unverified_context(), trust_env=False), trust_env=False,
                        base_url=url, timeout=timeout_s) as client,
          client.stream("GET", PATH, params={"root": sha256(root).hex(), "after": after}) as response):
        for piece in response.iter_bytes():
            answer += piece
            if len(answer) > MOST_ANSWER:
                raise _strange()
    try:
        texts = strict.loads(bytes(answer))["statements"]
        if response.status_code != 200 or not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise ValueError("no list of texts")
    except (ValueError, TypeError, KeyError):
        raise _strange() from None
    return texts


def _strange() -> Refused:
    return Refused("FL-PEER-PROTOCOL", "that are no trust statements", "see what listens there")
