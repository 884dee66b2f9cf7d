"""Heads of audit chains, signed by the node whose chain it is, for others to keep. Pure.

A chain has no key: whoever may write the store may write it anew, from any record on, and its head as well. What he
cannot do is to make others forget which head they were shown.

Rules, and what each stops:

1. A head is signed under a namespace of its own by the host key by which the node is known: nobody makes a head for
   another node, and no signature made for something else is a head.
2. It names the cluster and the generation of its store. A chain that goes back because a backup was restored goes on
   under another generation: that is told apart from one that was cut.
3. It has one encoding, and decoding refuses every other text: two texts would be two heads of one record.
4. A head is judged by the chain alone: it says the hash of one record, and the chain has that record or has not.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fairlead.audit.record import LONGEST_TEXT, Head
from fairlead.base import strict
from fairlead.base.clock import LAST_INSTANT
from fairlead.base.errors import Refused
from fairlead.keys.ssh import SIGNATURE_BYTES, PrivateKey, PublicKey
from fairlead.keys.wire import b64, from_b64

NAMESPACE = "fairlead-audit-head-v1"
MOST_BYTES = 2048
"""Of a head's text."""

State = Literal["agrees", "ahead", "differs", "earlier"]
"""What a chain is to a head: it holds that record; it ends before it; it holds another one there. ``earlier``: one of
the latter two, and the head is of another generation of the store."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """Where the chain of *node* ended at *time*, as that node has signed it. Made by `sign` and `decode`."""

    cluster_uuid: str
    generation: str
    """Of the store, hex."""
    node: str
    seq: int
    hash: str
    """SHA-256 of the record's encoding, hex."""
    time: int
    """Microseconds since the epoch."""
    signature: bytes

    @property
    def head(self) -> Head:
        """The end of the chain."""
        return Head(self.seq, self.hash)

    def signed(self) -> bytes:
        """What the signature covers."""
        return _canonical(self._fields())

    def text(self) -> str:
        """The one encoding, a line without its end."""
        return _canonical(self._fields() | {"signature": b64(self.signature)}).decode()

    def _fields(self) -> dict[str, Any]:
        return {"cluster_uuid": self.cluster_uuid, "generation": self.generation, "hash": self.hash,
                "node": self.node, "seq": self.seq, "time": self.time}


@dataclass(frozen=True, slots=True)
class Judged:
    """A head, and what the chain is to it."""

    head: SignedHead
    state: State


def sign(key: PrivateKey, *, cluster_uuid: str, generation: str, node: str, head: Head, time: int) -> SignedHead:
    """The *head* of *node*'s chain, signed with its host *key* at *time*, microseconds."""
    bare = SignedHead(cluster_uuid, generation, node, head.seq, head.hash, time, bytes(SIGNATURE_BYTES))
    return SignedHead(cluster_uuid, generation, node, head.seq, head.hash, time, key.sign(NAMESPACE, bare.signed()))


def decode(text: str) -> SignedHead:
    """The head of a text; its signature is not checked. Raises Refused ``FL-AUDIT-HEAD`` for every other text."""
    try:
        fields: Any = strict.loads(text.encode()) if len(text) <= MOST_BYTES else None
        head = SignedHead(**fields | {"signature": from_b64(fields["signature"])})
        texts = (head.cluster_uuid, head.generation, head.node, head.hash)
        if ({type(value) for value in texts} != {str} or {type(number) for number in (head.seq, head.time)} != {int}
                or head.seq < 1 or not 0 <= head.time < LAST_INSTANT or len(head.hash) != 64
                or len(head.signature) != SIGNATURE_BYTES or max(map(len, texts)) > LONGEST_TEXT
                or head.text() != text):
            raise ValueError("not in canonical form")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise refused("a text that is none") from None
    return head


def check(head: SignedHead, *host_keys: PublicKey, cluster_uuid: str, node: str) -> None:
    """Whether *head* is what *node*, known by its *host_keys*, says of its own chain. Raises Refused FL-AUDIT-HEAD."""
    if (head.cluster_uuid, head.node) != (cluster_uuid, node):
        raise refused("it is of another node, or of another cluster")
    if not any(key.verifies(NAMESPACE, head.signed(), head.signature) for key in host_keys):
        raise refused(f"it is not signed by the host key of {node}")


def judge(witnessed: Sequence[SignedHead], has: Callable[[int], str | None], generation: str) -> Sequence[Judged]:
    """What a chain is to each head that was *witnessed* of it. *generation*: of the store that holds the chain.

    *has*: the hash of the record of a number; None behind its end.
    """
    def state(head: SignedHead) -> State:
        found = has(head.seq)
        if found == head.hash:
            return "agrees"
        if head.generation != generation:
            return "earlier"
        return "ahead" if found is None else "differs"

    return [Judged(head, state(head)) for head in witnessed]


def insist(judged: Mapping[str, Sequence[Judged]]) -> None:
    """Raises Refused ``FL-AUDIT-FORK`` or ``FL-AUDIT-CUT`` for the lowest record that a witness, by name, has seen
    otherwise or not any more.
    """
    bad = sorted(((one.head.seq, name, one) for name, each in judged.items() for one in each
                 if one.state in ("ahead", "differs")), key=lambda found: found[:2])
    for seq, name, one in bad:
        if one.state == "differs":
            raise Refused("FL-AUDIT-FORK", f"record {seq} of {one.head.node} is not the one that {name} was shown: it, "
                          "or one before it, was changed, or the log was cut off and went on",
                          _REMEDY)
    for seq, name, one in bad:
        raise Refused("FL-AUDIT-CUT", f"record {seq} of {one.head.node} is missing, which {name} was shown: the end of "
                      "the log was cut off", _REMEDY)


def refused(why: str) -> Refused:
    """The refusal of a head."""
    return Refused("FL-AUDIT-HEAD", f"no head of an audit log: {why}")


_REMEDY = "keep a copy, find out who could write to the store, and compare with an export or a backup"


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
