"""What asyncssh sees of the accelerated path: two objects in the places of its ciphers, and what we touch to put them.

asyncssh makes new ciphers at each key exchange. `replaced` takes key and nonce out of one and goes on from there, so a
nonce is never used by both.
"""

import select
from typing import Any

from asyncssh.connection import SSHConnection
from asyncssh.crypto.cipher import GCMCipher
from asyncssh.encryption import GCMEncryption
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fairlead.transport.accelerated.packets import Opener, Padding, Sealer

_STORED: dict[type, tuple[str, ...]] = {
    SSHConnection: ("_recv_handler", "_inpbuf", "_recv_seq", "_rekey_bytes_sent", "_rekey_bytes", "_rekey_seconds",
                    "_rekey_time", "_kex_complete", "_kexinit_sent", "_auth_complete", "_auth_final",
                    "_send_encryption", "_next_recv_encryption", "_recv_encryption", "_keepalive_interval",
                    "_keepalive_count_max",
                    "_global_request_waiters", "_channels", "_deferred_packets"),
    GCMCipher: ("_key", "_iv"),
    GCMEncryption: ("_cipher",),
}
_CALLED: dict[Any, tuple[str, ...]] = {
    SSHConnection: ("_recv_version", "_recv_pkthdr", "_recv_packet", "_finish_recv_packet", "_send_kexinit",
                    "_send_disconnect", "_force_close", "_send_global_request", "_set_keepalive_timer", "send_packet",
                    "add_channel", "remove_channel", "internal_error"),
    AESGCM: ("encrypt_into", "decrypt_into"),
    select: ("epoll",),
}


def missing() -> list[str]:
    """What the accelerated path needs of this machine and its libraries, and is not there."""
    lacking = [f"{owner.__name__}.{name}" for owner, names in _STORED.items() for name in names
               if name not in vars(owner)["__init__"].__code__.co_names]
    return lacking + [f"{owner.__name__}.{name}" for owner, names in _CALLED.items() for name in names
                      if not callable(getattr(owner, name, None))]


class Outgoing:
    """Seals the packets that asyncssh makes, with the nonces of the one `Sealer`."""

    def __init__(self, sealer: Sealer) -> None:
        self.sealer = sealer

    def encrypt_packet(self, _number: int, head: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """A whole packet, and no separate tag."""
        return self.sealer.seal(head, packet), b""


class Incoming:
    """Gives asyncssh what was opened already; opens a packet that it takes apart itself."""

    def __init__(self, opener: Opener) -> None:
        self.opener = opener
        self.opened: bytes | None = None
        """Of the packet that asyncssh is given next."""

    def decrypt_header(self, _number: int, first: bytes, size: int) -> tuple[bytes, bytes]:
        """The length is not encrypted."""
        return first, first[:size]

    def decrypt_packet(self, _number: int, first: bytes, rest: bytes, size: int, tag: bytes) -> bytes | None:
        """The packet; None when it is not authentic."""
        opened, self.opened = self.opened, None
        if opened is not None:
            return opened
        return self.opener.open_packet(first[:size], first[size:] + rest + tag)


def sealed_with(encryption: Any, padding: Padding) -> Outgoing:
    """In the place of asyncssh's cipher for what we send."""
    cipher = encryption._cipher  # noqa: SLF001
    return Outgoing(Sealer(cipher._key, cipher._iv, padding))  # noqa: SLF001


def opened_with(encryption: Any) -> Incoming:
    """In the place of asyncssh's cipher for what the peer sends."""
    cipher = encryption._cipher  # noqa: SLF001
    return Incoming(Opener(cipher._key, cipher._iv))  # noqa: SLF001
