"""What an operator may say about the SSH port: who of the people comes from where, and fewer algorithms. Pure.

Rules, and the attack each stops:

1. Algorithms are taken away, never added: whatever is not in our own set (`options`) is refused by name, with the
   reason. A setting that was written for another product does not bring weak ciphers back.
2. What would leave nothing is refused: nodes use the same port, and nobody could come in any more.
3. Networks are for people only. Nodes prove a key that the cluster knows, wherever they are.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from fairlead.base.errors import OperatorError, printable
from fairlead.base.networks import Networks
from fairlead.transport.options import CIPHERS, KEY_EXCHANGES, MACS, SIGNATURES, Algorithms

SAFE_MACS = (*MACS, "hmac-sha2-512-etm@openssh.com")
_MOST_NAME = 64


@dataclass(frozen=True, slots=True)
class SshRules:
    """What holds for new connections."""

    networks: Networks | None = None
    """None: people may come from everywhere."""
    banner: str = ""
    """Shown before the log-in, to everybody."""
    algorithms: Algorithms = field(default_factory=Algorithms)

    def admits(self, source: str) -> bool:
        """Whether people may log in from the address *source*."""
        return self.networks is None or self.networks.hold(source)


def check_ssh_algorithms(ciphers: Sequence[str] | None = None, macs: Sequence[str] | None = None,
                         kex_exclude: Collection[str] = (), host_key_exclude: Collection[str] = ()) -> Algorithms:
    """What is offered when only *ciphers* and *macs* may be (None or empty: all of ours), and what is excluded may not.

    To exclude what we never offer changes nothing. Raises OperatorError FL-SSH-ALGORITHM.
    """
    for name in (*(ciphers or ()), *(macs or ()), *kex_exclude, *host_key_exclude):
        if not 0 < len(name) <= _MOST_NAME or not name.isascii() or not name.isprintable() or set(" ,") & set(name):
            raise OperatorError("FL-SSH-ALGORITHM", f"{printable(name, 80)!r} is no name of an algorithm",
                                "give each name by itself")
    left = _without(KEY_EXCHANGES, kex_exclude, "key exchange")
    _without(SIGNATURES, host_key_exclude, "host key")
    return Algorithms(left, _among(CIPHERS, ciphers, "cipher", "AES-GCM"),
                      _among(SAFE_MACS, macs, "MAC", "SHA-2 with encrypt-then-MAC") if macs else MACS)


def _among(ours: tuple[str, ...], wanted: Sequence[str] | None, what: str, kind: str) -> tuple[str, ...]:
    for name in wanted or ():
        if name not in ours:
            raise OperatorError("FL-SSH-ALGORITHM", f"the {what} {name} is not offered: only {kind} is",
                                f"choose among {', '.join(ours)}")
    return tuple(dict.fromkeys(wanted)) if wanted else ours


def _without(ours: tuple[str, ...], excluded: Collection[str], what: str) -> tuple[str, ...]:
    left = tuple(name for name in ours if name not in excluded)
    if not left:
        raise OperatorError("FL-SSH-ALGORITHM", f"no {what} would be left, and no node could connect",
                            f"leave one of {', '.join(ours)}")
    return left
