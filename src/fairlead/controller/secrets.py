"""Keys at rest: sealed under the cluster key, which only a Controller's ``node.key`` opens.

A copy of the store, or a backup of it, reveals no key: ``node.key`` is in neither.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fairlead.base.errors import OperatorError
from fairlead.base.files import read_private
from fairlead.keys.seal import seal, unseal
from fairlead.keys.wire import b64, from_b64
from fairlead.nodes.records import CLUSTER_KEYS
from fairlead.store.protocol import Put, Record

NODE_KEY = "node.key"
CLUSTER_KEY = CLUSTER_KEYS
ROOT = "pki/root"
CERTIFICATES = "pki/certificate/"
SECURE_CHANNEL = "System-Default-Secure-Channel-Cert"
API = "System-Default-Portal-Cert"


class Reading(Protocol):
    """What is needed of the store."""

    async def get(self, key: str) -> Record | None:
        """The record of a key."""
        ...


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and its private key, PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


def sealed(cluster_key: bytes, place: str, one: Certified) -> Put:
    """The record of a certificate whose key is sealed for this *place*."""
    return Put(place, json.dumps({"certificate": one.certificate_pem.decode(),
                                  "key": b64(seal(cluster_key, one.key_pem, place))}).encode())


def wrapped(node_key: bytes, node_id: str, cluster_key: bytes) -> Put:
    """The record of the cluster key, for one Controller."""
    return Put(CLUSTER_KEY + node_id, seal(node_key, cluster_key, CLUSTER_KEY + node_id))


async def open_cluster_key(store: Reading, state: Path, node_id: str) -> bytes:
    """The cluster key. Raises OperatorError FL-STATE-DAMAGED, or Refused FL-SEAL-BROKEN for a foreign ``node.key``."""
    record = await store.get(CLUSTER_KEY + node_id)
    try:
        node_key = read_private(state / NODE_KEY)
    except FileNotFoundError:
        node_key = b""
    if record is None or not node_key:
        raise OperatorError("FL-STATE-DAMAGED", f"{state / NODE_KEY} or the sealed cluster key is missing",
                            "restore the state folder; without node.key the keys in the store stay closed")
    return unseal(node_key, record.value, CLUSTER_KEY + node_id)


async def certificate_of(store: Reading, place: str) -> bytes:
    """A certificate without its key, PEM. Raises OperatorError."""
    record = await store.get(place)
    if record is None:
        raise OperatorError("FL-STATE-DAMAGED", f"the store has no {place}", "restore the state folder")
    certificate: str = json.loads(record.value)["certificate"]
    return certificate.encode()


async def open_certified(store: Reading, cluster_key: bytes, place: str) -> Certified:
    """A certificate with its key. Raises OperatorError, or Refused FL-SEAL-BROKEN."""
    record = await store.get(place)
    if record is None:
        raise OperatorError("FL-STATE-DAMAGED", f"the store has no {place}", "restore the state folder")
    fields = json.loads(record.value)
    return Certified(fields["certificate"].encode(), unseal(cluster_key, from_b64(fields["key"]), place))
