"""Heads of audit chains, signed by the node whose chain it is, and what a witness makes of them. Pure.

Rules, and what each stops:

1. A head is signed with the node's host key under a namespace of its own: a signature that was made for anything else
   is no head, and a head is no proof of anything else. Who it is of is in what is signed.
2. A witness never goes back: a lower number is a chain that was cut, another hash for the same number a fork.
3. Who has contradicted itself stays contradicted: the head that proves it is not replaced by one that comes later.
4. Going back on purpose (a restore, a recovery) is said by another generation of the store. A generation that another
   one has followed never comes back: that would be an old copy of the store.

A head holds all heads before it through its hash, so the newest one is all that a witness needs.
"""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base.clock import LAST_INSTANT
from fairlead.base.errors import Refused
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import b64, from_b64

SUBSYSTEM = "fairlead-audit"
NAMESPACE = "fairlead-audit-head-v1"
CUT, FORK = "audit.cut", "audit.fork"

Verdict = Literal["first", "fresh", "same", "anew", "cut", "fork"]
Text = Annotated[str, Field(max_length=100)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SignedHead(_Message):
    """Where the chain of a node ended at a time. Believed after `check`."""

    cluster: Text
    node_id: Text
    node: Text
    generation: Text
    """Of the store; another one: the cluster was restored or recovered meanwhile."""
    seq: int = Field(ge=0, lt=10**12)
    hash: Hash
    time: int = Field(ge=0, lt=LAST_INSTANT)
    """Microseconds of store time."""
    signature: Text = ""

    def message(self) -> bytes:
        """What is signed."""
        return json.dumps(self.model_dump(exclude={"signature"}), sort_keys=True, separators=(",", ":")).encode()

    def signed(self, key: PrivateKey) -> "SignedHead":
        """The same, signed with the host key of the node."""
        return self.model_copy(update={"signature": b64(key.sign(NAMESPACE, self.message()))})


class Held(_Message):
    """Witness: the newest head of yours that I hold."""

    head: SignedHead | None


class Said(_Message):
    """Controller: where my chain ends. *follows*: the head that you hold is in it."""

    head: SignedHead
    follows: bool


def check(head: SignedHead, key: PublicKey, cluster: str, node_id: str) -> None:
    """See that *head* is the node *node_id*'s, whose host key is *key*. Raises Refused FL-AUDIT-HEAD."""
    try:
        good = key.verifies(NAMESPACE, head.message(), from_b64(head.signature))
    except ValueError:
        good = False
    if not good or (head.cluster, head.node_id) != (cluster, node_id):
        raise Refused("FL-AUDIT-HEAD", "the head of an audit chain is not signed by the node that it is of",
                      "see who could change what that node keeps, or sends")


def judge(held: SignedHead | None, past: frozenset[str], said: SignedHead, *, follows: bool) -> Verdict:
    """What *said* is to a witness that holds *held* and has seen the generations *past* end."""
    if held is None:
        return "first"
    if said.generation != held.generation:
        return "fork" if said.generation in past else "anew"
    if said.seq < held.seq:
        return "cut"
    if said.seq == held.seq:
        return "same" if said.hash == held.hash else "fork"
    return "fresh" if follows else "fork"


def held_from(fields: object) -> Held:
    """The message of a frame. Raises Refused FL-LINK-MESSAGE."""
    try:
        return Held.model_validate(fields)
    except ValidationError:
        raise _unknown() from None


def said_from(fields: object) -> Said:
    """The message of a frame. Raises Refused FL-LINK-MESSAGE."""
    try:
        return Said.model_validate(fields)
    except ValidationError:
        raise _unknown() from None


def _unknown() -> Refused:
    return Refused("FL-LINK-MESSAGE", "a message about an audit head that cannot be understood",
                   "both sides must run versions of fairlead that fit")
