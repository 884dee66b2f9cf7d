"""Keys at rest: sealed under the cluster key, which only a Controller's ``node.key`` opens.

A copy of the store, or a backup of it, reveals no key: ``node.key`` is in neither.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fairlead.base import strict
from fairlead.base.errors import OperatorError, Refused
from fairlead.base.files import read_private
from fairlead.keys.seal import seal, unseal
from fairlead.keys.wire import b64, from_b64
from fairlead.nodes.records import CLUSTER_KEYS
from fairlead.pki.pair import pair_fault
from fairlead.store.protocol import Put, Record

NODE_KEY = "node.key"
CLUSTER_KEY = CLUSTER_KEYS
ROOT = "pki/root"
"""The root that signs."""
NEXT_ROOT = "pki/root/next"
"""The one that takes its place, believed already."""
OLD_ROOT = "pki/root/old"
"""The one whose place it took, believed still."""
ROOTS = (ROOT, NEXT_ROOT, OLD_ROOT)
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
    """A certificate without its key, PEM. Raises OperatorError as `opened`."""
    record = await store.get(place)
    return certificate_in(record.value if record is not None else None, place)


def certificate_in(value: bytes | None, place: str) -> bytes:
    """The certificate, PEM, of what is kept at *place*. Raises OperatorError as `opened`."""
    return _fields(value, place)[0]


async def open_certified(store: Reading, cluster_key: bytes, place: str) -> Certified:
    """A certificate with its key. Raises OperatorError as `opened`."""
    return opened(await store.get(place), cluster_key, place)


def opened(record: Record | None, cluster_key: bytes, place: str) -> Certified:
    """The same, of the record at *place*, whoever wrote it: a pair, or nothing.

    Raises OperatorError FL-CERT-BROKEN; for a root FL-AUTHORITY-DAMAGED.
    """
    certificate_pem, sealed_key = _fields(record.value if record is not None else None, place)
    try:
        key_pem = unseal(cluster_key, sealed_key, place)
    except Refused:
        raise broken(place, "its key was sealed for another place or under another key, or was changed") from None
    if why := pair_fault(certificate_pem, key_pem):
        raise broken(place, why)
    return Certified(certificate_pem, key_pem)


def broken(place: str, why: str) -> OperatorError:
    """The refusal of what is kept at *place*."""
    if place in ROOTS:
        which = {NEXT_ROOT: "next root CA", OLD_ROOT: "last root CA"}.get(place, "root CA")
        return OperatorError("FL-AUTHORITY-DAMAGED", f"the {which} in the store is broken: {why}",
                             "restore the Controller from its backup")
    name = place.removeprefix(CERTIFICATES)
    return OperatorError("FL-CERT-BROKEN", f"{name} in the store is broken: {why}",
                         f"`fairlead cert use {SECURE_CHANNEL}` makes it anew, on the Controller's machine"
                         if name == SECURE_CHANNEL else "the Controller makes it anew by itself")


def _fields(value: bytes | None, place: str) -> tuple[bytes, bytes]:
    if value is None:
        raise broken(place, "it is not there")
    try:
        fields = strict.loads(value)
        return fields["certificate"].encode(), from_b64(fields["key"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise broken(place, "it is not what fairlead writes") from None  # the cause might quote the key
