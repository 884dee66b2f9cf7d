"""What we negotiate, our limits, and how asyncssh is told to take nothing from its surroundings.

Rules, and the attack each stops:

1. AES-GCM only and strict key exchange required (`connection`): no prefix truncation (Terrapin, CVE-2023-48795).
2. Ed25519 only, for host keys and for users: no weaker signature to fall back to.
3. Every option that asyncssh would otherwise read from a file, an agent or the environment is given here: nobody who
   can write ~/.ssh or set SSH_AUTH_SOCK, and no default that changes, has a say in whom we trust.
4. Keepalives both ways: a frozen or unplugged peer holds its place for `Keepalive` only.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

import asyncssh
from asyncssh.connection import SSHConnection

from fairlead.base.errors import OperatorError
from fairlead.keys.ssh import PrivateKey, PublicKey

TESTED_ASYNCSSH = "2.24.1"

KEY_EXCHANGES = ("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org")
CIPHERS = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com")
SIGNATURES = ("ssh-ed25519",)
MACS = ("hmac-sha2-256-etm@openssh.com",)
"""Never used: GCM authenticates itself. RFC 4253 section 7.1 wants a name in the list."""
COMPRESSION = ("none",)
SOFTWARE = "fairlead"
"""The version that the SSH banner shows; the real one is nobody's business before login."""

LOGIN_TIMEOUT = 15.0
"""Seconds from the first byte to a proven key."""
TYPING_TIMEOUT = 60.0
"""The same where people log in, for whoever has exchanged keys and begun: a person reads and types."""
PENDING_LIFETIME = 15.0
"""Seconds in all for a node that may only commit."""
CONNECT_TIMEOUT = 10.0
"""Seconds that a service has to accept a connection."""
OPEN_TIMEOUT = 15.0
"""Seconds that a peer has to answer a request to open a channel; more than `CONNECT_TIMEOUT`, which it spends."""
MOST_ATTEMPTS = 10
"""Refused authentication requests in one connection (sshd's MaxAuthTries is 6)."""
MOST_PASSWORDS = 6
"""Passwords that are compared in one connection."""
MOST_REQUESTS = 4 * MOST_ATTEMPTS
"""Authentication requests in one connection, whether they were answered or another one came first."""
MOST_CHANNELS = 1024
"""Channels in one connection."""
MOST_SESSIONS = 4
"""Of those, with subsystems: a node has one, or two while one ends. Each may hold a window that nobody reads yet."""
MOST_REVERSES = 1024
"""Remembered tcpip-forward requests in one connection."""

WINDOW = 512 * 1024
"""Bytes that a peer may send on one channel before we have passed them on."""
MOST_WINDOW = 16 * 1024 * 1024
"""What that grows to on the accelerated path, where the path carries it and the program takes it."""
MOST_PACKET = 64 * 1024
"""Bytes of data in one packet, both ways. Above it the allocator asks the kernel for every packet (measured)."""
FAST_PACKET = 250 * 1024
"""The same on the accelerated path, which has its own buffers."""
QUANTUM = 250 * 1024
"""Bytes that a stream of the accelerated path sends before another one has its turn."""
MOST_EARLY_PACKET = 35_000
"""Bytes of a packet while no channel was opened: what RFC 4253 section 6.1 asks for and nothing beyond."""
HIGH_WATER = 256 * 1024
"""Bytes waiting in one connection at which its streams stop reading."""
LOW_WATER = 64 * 1024
MOST_UNSENT = 64 * 1024 * 1024
"""Bytes waiting in one connection at which a peer that sends and does not read is cut."""
MOST_DEFERRED = 64 * 1024
"""Messages waiting for a key exchange at which a peer that does not end it is cut."""


@dataclass(frozen=True, slots=True)
class Algorithms:
    """What is offered, in order; all of it unless somebody said otherwise (`rules`)."""

    key_exchanges: tuple[str, ...] = KEY_EXCHANGES
    ciphers: tuple[str, ...] = CIPHERS
    macs: tuple[str, ...] = MACS


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A peer that is silent for *missed* (at least 2) times *interval_s* seconds is dead."""

    interval_s: float = 5.0
    missed: int = 3


def server_options(server_factory: Callable[[], asyncssh.SSHServer], host_key: PrivateKey, keepalive: Keepalive, *,
                   people: bool = False, algorithms: Algorithms | None = None,
                   ) -> asyncssh.SSHServerConnectionOptions:
    """Everything that asyncssh needs to know to serve; *people*: whether they log in here, too."""
    _silence()
    return asyncssh.SSHServerConnectionOptions(
        server_factory=server_factory, server_version=SOFTWARE, config=None,
        server_host_keys=[asyncssh.import_private_key(host_key.openssh())], server_host_certs=(),
        send_server_host_keys=False, known_client_hosts=None, authorized_client_keys=None,
        public_key_auth=True, password_auth=people, kbdint_auth=people, host_based_auth=False,
        gss_host=None, gss_kex=False, gss_auth=False, x509_trusted_certs=None, x509_trusted_cert_paths=(),
        allow_pty=False, line_editor=False, x11_forwarding=False, agent_forwarding=False, rdns_lookup=False,
        process_factory=None, session_factory=None, sftp_factory=None, allow_scp=False,
        tunnel=None, proxy_command=None, encoding=None, window=WINDOW, max_pktsize=MOST_PACKET,
        login_timeout=LOGIN_TIMEOUT, keepalive_interval=keepalive.interval_s,
        keepalive_count_max=_count_max(keepalive), **_algorithms(algorithms))


def client_options(client_factory: Callable[[], asyncssh.SSHClient], user: str, key: PrivateKey,
                   host_keys: Collection[PublicKey], keepalive: Keepalive) -> asyncssh.SSHClientConnectionOptions:
    """Everything that asyncssh needs to know to dial: as *user*, with *key* alone, to one of *host_keys*."""
    _silence()
    trusted = [asyncssh.import_public_key(host_key.line) for host_key in host_keys]
    try:
        options = asyncssh.SSHClientConnectionOptions(
            client_factory=client_factory, client_version=SOFTWARE, config=None, username=user,
            client_keys=[asyncssh.import_private_key(key.openssh())], client_certs=(), agent_path=None,
            agent_forwarding=False, pkcs11_provider=None, client_host_keysign=False, client_host_keys=None,
            known_hosts=(trusted, [], []), host_key_alias=None, server_host_key_algs=list(SIGNATURES),
            server_host_keys_handler=None, preferred_auth=["publickey"], disable_trivial_auth=True,
            public_key_auth=True, password_auth=False, kbdint_auth=False, host_based_auth=False,
            gss_host=None, gss_kex=False, gss_auth=False, x509_trusted_certs=None, x509_trusted_cert_paths=(),
            tunnel=None, proxy_command=None, canonicalize_hostname=False, env=None, send_env=None, request_pty=False,
            x11_forwarding=False, command=None, encoding=None, window=WINDOW, max_pktsize=MOST_PACKET,
            login_timeout=LOGIN_TIMEOUT, keepalive_interval=keepalive.interval_s,
            keepalive_count_max=_count_max(keepalive), **_algorithms())
    except ValueError as error:
        # asyncssh asks who the local user is, though we say who we log in as; a container's user may have no name.
        raise OperatorError("FL-SSH-SETUP", f"SSH cannot be set up: {error}",
                            "set LOGNAME to any name in the daemon's environment") from error
    options.agent_path = None  # asyncssh makes of our None an agent with an empty path
    return options


def check_asyncssh() -> None:
    """Whether the asyncssh at hand is what this room was written against.

    Another version is a warning in the log. A version that lacks what the guards in `connection`, `server` and
    `dialler` override or read is refused: an override that nobody calls would be an open door. Raises OperatorError.
    """
    missing = [f"{owner.__name__}.{name}" for owner, names in _OVERRIDDEN.items() for name in names
               if not callable(getattr(owner, name, None))]
    stored = (*SSHConnection.__init__.__code__.co_names, *asyncssh.SSHTCPChannel.__init__.__code__.co_names)
    missing += [name for name in _READ if name not in stored]
    if missing:
        raise OperatorError("FL-SSH-ASYNCSSH", f"asyncssh {asyncssh.__version__} has no {', '.join(missing)}",
                            f"install asyncssh {TESTED_ASYNCSSH}")
    if asyncssh.__version__ != TESTED_ASYNCSSH:
        logging.getLogger(__name__).warning("asyncssh is %s, tested is %s", asyncssh.__version__, TESTED_ASYNCSSH)


_OVERRIDDEN: dict[type, tuple[str, ...]] = {
    SSHConnection: ("send_newkeys", "data_received", "pause_writing", "resume_writing", "connection_made",
                    "_update_recv_pktlen", "_make_global_request", "send_channel_open_failure", "disconnect",
                    "log_sent_packet", "log_received_packet"),
    asyncssh.SSHServerConnection: ("reload_config", "validate_public_key", "send_userauth_failure", "validate_password",
                                   "change_password", "get_kbdint_challenge", "validate_kbdint_response",
                                   "_process_userauth_request", "_cancel_login_timer", "send_server_host_keys"),
    asyncssh.SSHClientConnection: ("validate_server_host_key", "try_next_auth", "public_key_auth_requested"),
    asyncssh.SSHServerChannel: ("_service_next_request", "_report_response", "process_open"),
    asyncssh.SSHClientChannel: ("create", "process_open_confirmation"),
    asyncssh.SSHTCPChannel: ("connect", "accept", "process_open", "process_open_confirmation", "_process_eof"),
}
_READ = ("_strict_kex", "_kex", "_channels", "_transport", "_max_recv_pktlen", "_loop", "_recv_buf", "_send_state",
         "_request_queue", "_session_id")


def _algorithms(chosen: Algorithms | None = None) -> dict[str, object]:
    offered = chosen or Algorithms()
    return {"kex_algs": list(offered.key_exchanges), "encryption_algs": list(offered.ciphers),
            "mac_algs": list(offered.macs),
            "compression_algs": list(COMPRESSION), "signature_algs": list(SIGNATURES)}


def _count_max(keepalive: Keepalive) -> int:
    # asyncssh gives up one interval after the last unanswered request that it allows.
    return max(1, keepalive.missed - 1)


def _silence() -> None:
    # Below warnings it tells of every packet, with names that peers choose.
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
