"""The next user key of a node: what proves that the node made it, and what proves it on a connection that lives. Pure.

Rules, and the attack each stops:

1. A key is registered for the node that holds it: it signs the node's own id, the cluster and the rotation, under a
   namespace of its own. A proof of another node, rotation or cluster is none, and nobody registers a key of somebody
   else that he has seen (unknown key share).
2. The node's host key signs the same under another namespace. Who has stolen the user key that is to be replaced can
   log in with it and speak for the node; without the host key he cannot give the node a next one of his own making.
3. On a living connection the key signs what the two ends have in common and nobody else has: the session id of that SSH
   connection, with the Controller's id, the node's and a nonce of the Controller's. It is signed by each end's own
   values. A challenge that was taken from another connection, or that another Controller passes on, comes to nothing.
4. None of these signatures verifies as one that logs in, joins, or signs a call (`keys.ssh`, rule 3).
"""

from dataclasses import dataclass
from uuid import UUID

from fairlead.base.errors import Refused
from fairlead.keys.ssh import KeyRefused, PrivateKey, PublicKey
from fairlead.keys.wire import b64, from_b64, string

USER_NAMESPACE = "fairlead-rotate-v1/user"
HOST_NAMESPACE = "fairlead-rotate-v1/host"
CONNECTION_NAMESPACE = "fairlead-rotate-v1/connection"
NONCE_BYTES = 32
LEAST_SESSION_BYTES = 20
"""Of an SSH session id, a hash: an empty one would bind nothing."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A next key with its two proofs, as they travel: ``ssh-ed25519 <base64>``, and base64 of 64 bytes each."""

    key: str
    user_proof: str
    host_proof: str


def form(cluster: UUID, node_id: str, rotation: str, key: PublicKey) -> bytes:
    """What the next *key* and the node's host key sign."""
    return string(cluster.bytes) + string(node_id) + string(rotation) + string(key.blob)


def offer(cluster: UUID, node_id: str, rotation: str, key: PrivateKey, host_key: PrivateKey) -> Offer:
    """The offer of *key* for *rotation*."""
    message = form(cluster, node_id, rotation, key.public)
    return Offer(key.public.line, b64(key.sign(USER_NAMESPACE, message)), b64(host_key.sign(HOST_NAMESPACE, message)))


def check(offered: Offer, cluster: UUID, node_id: str, rotation: str, host_key: str) -> PublicKey:
    """The key that the node with that id and *host_key* has proven. Raises Refused FL-KEY-PROOF."""
    try:
        key, host = PublicKey.from_line(offered.key), PublicKey.from_line(host_key)
        user_proof, host_proof = from_b64(offered.user_proof), from_b64(offered.host_proof)
    except (KeyRefused, ValueError):
        raise _unproven("it is not well formed") from None
    message = form(cluster, node_id, rotation, key)
    if key == host:
        raise _unproven("it is the node's host key")
    if not key.verifies(USER_NAMESPACE, message, user_proof):
        raise _unproven("the key itself has not signed it for this node and this rotation")
    if not host.verifies(HOST_NAMESPACE, message, host_proof):
        raise _unproven("the node's host key has not signed it")
    return key


def connection_form(cluster: UUID, controller_id: str, node_id: str, session: bytes, nonce: bytes) -> bytes:
    """What a key signs on a connection that lives. *session*: the id of that SSH connection, as each end has it."""
    return (string(cluster.bytes) + string(controller_id) + string(node_id) + string(session) + string(nonce))


def prove(key: PrivateKey, cluster: UUID, controller_id: str, node_id: str, session: bytes, nonce: str) -> str:
    """The proof, base64. Raises Refused FL-KEY-PROOF for a nonce or a session that would bind nothing."""
    try:
        said = from_b64(nonce)
    except ValueError:
        said = b""
    if len(said) != NONCE_BYTES or len(session) < LEAST_SESSION_BYTES:
        raise _unproven("the challenge is not well formed")
    return b64(key.sign(CONNECTION_NAMESPACE, connection_form(cluster, controller_id, node_id, session, said)))


def proven(key: PublicKey, proof: str, cluster: UUID, controller_id: str, node_id: str, session: bytes,
           nonce: bytes) -> bool:
    """Whether *proof* is *key*'s for this very connection and *nonce*."""
    try:
        signature = from_b64(proof)
    except ValueError:
        return False
    return (len(nonce) == NONCE_BYTES and len(session) >= LEAST_SESSION_BYTES and key.verifies(
        CONNECTION_NAMESPACE, connection_form(cluster, controller_id, node_id, session, nonce), signature))


def _unproven(why: str) -> Refused:
    return Refused("FL-KEY-PROOF", f"the next user key is not proven: {why}",
                   "it is asked for again; if it goes on, see who has this node's keys")
