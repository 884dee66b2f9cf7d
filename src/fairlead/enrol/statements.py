"""Fetching trust statements from a portal that the node cannot verify any more: it slept while what it knows changed.

The connection is believed by nobody, as that which fetches an anchor: it sends no secret, and what it brings counts
only for the signatures of the root that the node knows (`pki.statement`). It names that root by its hash: statements
say where the Controllers are, and a stranger, who knows no root, is told nothing.
"""

import json
from collections.abc import Callable, Sequence

from fairlead.base import strict
from fairlead.base.errors import FairleadError, Refused
from fairlead.client.https import Outgoing, request
from fairlead.enrol import exchange
from fairlead.enrol.trust import Trust
from fairlead.keys.wire import from_b64, sha256
from fairlead.link.trust import MOST_BYTES, MOST_CHAIN
from fairlead.pki.verify import unverified_context

PATH = exchange.PATH + "/trust/"
MOST_ANSWER = 2 * MOST_BYTES * MOST_CHAIN


def answer(texts: Sequence[str]) -> bytes:
    """The body that brings *texts*."""
    return json.dumps({"statements": list(texts)}, separators=(",", ":")).encode()


async def caught_up(trust: Callable[[], Trust]) -> Trust:
    """What *trust*, which has roots, becomes by the statements of the first portal that has newer ones which count.

    Itself, when none has. *trust* is what is believed at the moment: what is brought is judged by what has been learnt
    while it was on its way, or who holds an answer back would lead the node back. Raises Refused FL-TRUST-... when all
    that was brought are some that do not count.
    """
    refusal: Refused | None = None
    for controller in trust().controllers:
        try:
            texts = await _fetch(controller.address, controller.portal_port, trust())
        except FairleadError:
            continue
        believed = trust()
        try:
            found = believed.after(texts)
        except Refused as error:
            refusal = error
            continue
        if found is not believed:
            return found
    if refusal is not None:
        raise refusal
    return trust()


async def _fetch(address: str, port: int, trust: Trust) -> list[str]:
    path = f"{PATH}{sha256(from_b64(trust.roots[0])).hex()}/{trust.statement}"
    incoming = await request(address, port, unverified_context(), "", lambda _: Outgoing("GET", path),
                             most=MOST_ANSWER)
    try:
        if incoming.status != 200:
            raise ValueError("refused")
        texts = strict.loads(incoming.body)["statements"]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("no list of texts")
    except (ValueError, TypeError, KeyError):
        raise Refused("FL-PEER-PROTOCOL", f"{address}:{port} has no trust statements",
                      "see what listens there") from None
    return texts
