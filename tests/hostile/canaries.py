"""Every secret of a site, in every spelling in which it might come out, and where in a haystack one is found.

Half of a secret is enough to be found, in bytes, numbers, hexadecimal, Base64 of any alignment or escaped, and whether
or not it was broken into lines: a key in a PEM file is found by the bytes that the file stands for.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fairlead.base.clock import SystemClock
from fairlead.cluster.etcd import folder
from fairlead.controller import secrets as sealing
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.trust import HOST_KEY, USER_KEY, load, load_key
from fairlead.keys.ssh import PrivateKey
from fairlead.store.sqlite import SQLiteStore

_BREAKS = re.compile(rb"\s|\\r|\\n")
_NOTHING = re.compile(rb"\0{64,}")  # what etcd's files are mostly made of


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
        data = _NOTHING.sub(b"\0", data)
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

    def add_member(self, name: str, state: Path) -> None:
        """A Controller of a cluster: what `add_node` takes, its `node.key`, and the key of its member of etcd."""
        self.add_node(name, state)
        self.add(f"{name} node key", (state / sealing.NODE_KEY).read_bytes())
        self.add_pem(f"{name} etcd TLS", (folder(state) / "member.pem").read_bytes())

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


class Watcher:
    """What /proc shows of every process of the site: its command line, and its environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.fsencode(folder)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: set[tuple[bytes, bytes]] = set()

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    line = (process / "cmdline").read_bytes()
                    if self._folder in line:
                        self.seen.add((line, (process / "environ").read_bytes()))


def places(canaries: Canaries, folder: Path) -> dict[str, set[str]]:
    """Where secrets lie: the path below *folder*, and whose they are. What holds one is for its owner only."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and (names := canaries.find(file.read_bytes())):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
            found[str(file.relative_to(folder))] = names
    return found


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
