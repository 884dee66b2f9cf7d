"""Every secret of a site, in every spelling in which it might come out, and where in a haystack one is found.

Half of a secret is enough to be found, in bytes, numbers, hexadecimal, Base64 of any alignment or escaped, and whether
or not it was broken into lines: a key in a PEM file is found by the bytes that the file stands for.
"""

import asyncio
import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fairlead.base.clock import SystemClock
from fairlead.controller import secrets as sealing
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.trust import HOST_KEY, USER_KEY, load, load_key
from fairlead.keys.ssh import PrivateKey
from fairlead.store.sqlite import SQLiteStore

_BREAKS = re.compile(rb"\s|\\r|\\n")


class Canaries:
    """Secrets by name."""

    def __init__(self) -> None:
        self._needles: dict[str, frozenset[bytes]] = {}

    @property
    def names(self) -> set[str]:
        """Of all secrets that are looked for."""
        return set(self._needles)

    def add(self, name: str, secret: bytes | str) -> None:
        """Look for *secret* from now on."""
        data = secret.encode() if isinstance(secret, str) else secret
        assert len(data) >= 10, "too short to be told from chance"
        middle = len(data) // 2
        parts = (data[:middle], data[middle:]) if len(data) >= 32 else (data,)
        self._needles[name] = frozenset(spelling for part in parts for spelling in spellings(part))

    def find(self, haystack: bytes | str) -> set[str]:
        """The names of the secrets that are in *haystack*."""
        data = haystack.encode(errors="surrogateescape") if isinstance(haystack, str) else haystack
        joined = _BREAKS.sub(b"", data)
        return {name for name, needles in self._needles.items()
                if any(needle in data or needle in joined for needle in needles)}

    def add_key(self, name: str, key: PrivateKey) -> None:
        """An Ed25519 key: its seed."""
        self.add(name, key.key.private_bytes_raw())

    def add_pem(self, name: str, pem: bytes) -> None:
        """A key of a certificate: its number."""
        key = load_pem_private_key(pem, password=None)
        assert isinstance(key, EllipticCurvePrivateKey)
        self.add(name, key.private_numbers().private_value.to_bytes(32, "big"))

    def add_bundle(self, name: str, bundle: Bundle) -> None:
        """A bundle: its token's secret, as the string has it, and the key that it makes."""
        self.add(f"{name} token", bundle.token.secret)
        self.add_key(f"{name} token key", bundle.token.key(bundle.anchor.cluster_uuid))

    def add_node(self, name: str, state: Path) -> None:
        """A node that has joined: both its SSH keys."""
        for one in (HOST_KEY, USER_KEY):
            self.add_key(f"{name} {one}", load_key(state, one))

    def add_controller(self, name: str, state: Path, copied: Path) -> UUID:
        """A Controller: what `add_node` takes, and all that is sealed in its store, read from a copy of that.

        Returns the cluster's UUID.
        """
        self.add_node(name, state)
        self.add("node key", (state / sealing.NODE_KEY).read_bytes())
        copied.mkdir(mode=0o700)
        for file in state.glob("store.db*"):
            shutil.copy2(file, copied)
        trust = load(state)

        async def opened() -> None:
            store = SQLiteStore.open(copied / "store.db", SystemClock())
            try:
                cluster_key = await sealing.open_cluster_key(store, state, trust.node_id)
                self.add("cluster key", cluster_key)
                for what, place in (("root CA", sealing.ROOT),
                                    ("portal TLS", sealing.CERTIFICATES + sealing.SECURE_CHANNEL),
                                    ("API TLS", sealing.CERTIFICATES + sealing.API)):
                    self.add_pem(what, (await sealing.open_certified(store, cluster_key, place)).key_pem)
            finally:
                await store.close()

        asyncio.run(opened())
        shutil.rmtree(copied)
        return trust.cluster_uuid


def spellings(part: bytes) -> Iterator[bytes]:
    """How *part* may look when it was printed, encoded or dumped, alone or within something longer."""
    yield part
    yield part.hex().encode()
    yield part.hex().upper().encode()
    yield part.hex(":").encode()
    yield str(list(part))[1:-1].encode()
    yield str(list(part))[1:-1].replace(" ", "").encode()
    yield quote(part, safe="").encode()
    yield json.dumps(part.decode("latin-1"))[1:-1].encode()
    yield repr(part)[2:-1].encode()
    yield repr(part)[2:-1].replace("\\'", "'").encode()
    for before in range(3):  # the characters that it shares with its neighbours are left out
        plain = base64.b64encode(bytes(before) + part)
        inner = plain[-(-before * 8 // 6):(before + len(part)) * 8 // 6]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))
