"""Certificates and keys that an operator brings: out of files that anybody may have made. Pure.

Rules, and the attack or mistake each stops:

1. A key is taken with the certificate that it belongs to, or not at all, and is kept in one form.
2. What is brought is bounded in bytes and in certificates before it is parsed, and in work before it is decrypted: a
   file says itself how many rounds its passphrase costs.
3. No refusal has a cause or a text out of the key or the passphrase.
"""

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

from fairlead.base.clock import rfc3339
from fairlead.base.errors import Refused
from fairlead.pki import chain as chains
from fairlead.pki.certificate import microseconds
from fairlead.pki.own import Owned, Pending, key_text
from fairlead.pki.strength import Key, strange, strong
from fairlead.pki.work import too_much_work

MOST_BYTES = 64 * 1024
MOST_KEY_BYTES = 8 * 1024


def imported(certificate_pem: bytes, key_pem: bytes, passphrase: bytes | None, chain_pem: bytes, now: int) -> Owned:
    """A certificate and its key as they were brought, PEM; what follows the first certificate belongs to its chain.

    A passphrase that the key does not need is not used. *now*: microseconds.
    Raises Refused FL-CERT-FORMAT, FL-CERT-KEY, FL-CERT-KEY-WEAK, FL-CERT-KEY-TYPE, FL-CERT-PASSPHRASE, FL-CERT-CHAIN,
    FL-CERT-SIGNATURE, FL-CERT-EXPIRED.
    """
    found = chains.read(certificate_pem, "certificate")
    if not found:
        raise chains.unreadable("there is no certificate")
    return _owned(found[0], read_key(key_pem, passphrase), found[1:] + chains.read(chain_pem, "chain"), now)


def finish(pending: Pending, certificate_pem: bytes, chain_pem: bytes, now: int) -> Owned:
    """The pending key with the certificate that a CA made for it. Raises as `imported`."""
    return imported(certificate_pem, pending.key_pem, None, chain_pem, now)


def from_pkcs12(data: bytes, passphrase: bytes | None, now: int) -> Owned:
    """As `imported`, from a PKCS #12 file."""
    if len(data) > MOST_BYTES or data[:1] != b"\x30":
        raise chains.unreadable(f"that is no PKCS #12 file, or one of more than {MOST_BYTES // 1024} KiB")
    if too_much_work(data):
        raise _work("the PKCS #12 file")
    found = _opened(data, passphrase)
    if found.cert is None or found.key is None:
        raise chains.unreadable("the PKCS #12 file has no certificate with its private key")
    above = [one.certificate for one in found.additional_certs]
    whole = chains.read(chains.written([found.cert.certificate, *above]), "PKCS #12 file")
    return _owned(whole[0], strong(found.key), whole[1:], now)


def read_key(pem: bytes, passphrase: bytes | None) -> Key:
    """The private key: PKCS #8, PKCS #1 or SEC 1, encrypted or not.

    Raises Refused FL-CERT-KEY, FL-CERT-KEY-WEAK, FL-CERT-KEY-TYPE, FL-CERT-PASSPHRASE.
    """
    if len(pem) > MOST_KEY_BYTES:
        raise _no_key(f"has more than {MOST_KEY_BYTES // 1024} KiB")
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not passphrase:
        raise _passphrase("the private key is encrypted, and there is no passphrase")
    if encrypted and too_much_work(pem):
        raise _work("the private key")
    try:
        key: object = load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError):
        if encrypted:
            raise _passphrase("the private key is not opened by the passphrase, or is damaged") from None
        raise _no_key("is no PEM of a private key that can be read") from None
    except UnsupportedAlgorithm:
        raise strange("the private key") from None
    return strong(key)


def _opened(data: bytes, passphrase: bytes | None) -> pkcs12.PKCS12KeyAndCertificates:
    for secret in dict.fromkeys((passphrase, passphrase or None)):  # an empty passphrase and none are two things
        try:
            return pkcs12.load_pkcs12(data, secret)
        except (ValueError, TypeError, x509.InvalidVersion):
            continue
        except UnsupportedAlgorithm:
            raise chains.unreadable("the PKCS #12 file is made in a way that is not supported") from None
    raise _passphrase("the PKCS #12 file is not opened by the passphrase, or is damaged")


def _owned(leaf: x509.Certificate, key: Key, above: Iterable[x509.Certificate], now: int) -> Owned:
    try:
        public: object = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise strange("the certificate's key") from None
    if key.public_key() != public:
        raise Refused("FL-CERT-KEY", "the private key does not belong to the certificate",
                      "give the key with which the certificate was requested; of several certificates the first is "
                      "meant")
    last = microseconds(leaf.not_valid_after_utc)
    if last < now:
        raise Refused("FL-CERT-EXPIRED", f"the certificate has expired at {rfc3339(last)}", "bring one that is valid")
    return Owned(chains.written([leaf]), key_text(key), chains.written(chains.in_order(leaf, above)))


def _no_key(why: str) -> Refused:
    return Refused("FL-CERT-KEY", f"the private key {why}", "give one as PEM: PKCS #8, PKCS #1 or SEC 1")


def _passphrase(why: str) -> Refused:
    return Refused("FL-CERT-PASSPHRASE", why, "give the right passphrase")


def _work(what: str) -> Refused:
    return Refused("FL-CERT-PASSPHRASE", f"to open {what} would keep the Controller busy for too long",
                   "encrypt it again, with fewer rounds")
