"""Whom a TLS client of ours believes: the certificates that it was handed, and nobody else.

Rules, and the attack each stops:

1. A context knows the given certificates only. The system's store and ``SSL_CERT_FILE`` have no say (a company's
   intercepting proxy, or a CA that was tricked, would be in the middle); ``SSLKEYLOGFILE`` has none either.
2. TLS 1.3 only; the name must stand in the certificate's alternative names, never in its subject.
3. A certificate that is no CA (a self-signed one that an operator chose) is believed only as itself: the presented leaf
   is byte for byte that certificate, in place of chain and name. Its private key vouches for no other certificate.
4. One function makes a context without verification, for the one use where a hash is compared afterwards.

Join protocol, sections 2, 3 and 5.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from hmac import compare_digest

from fairlead.base.errors import Refused
from fairlead.pki import certificate
from fairlead.pki.certificate import is_ca, parsed

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME; the ssl module has no name for it


def client_context(ca_certificates: Sequence[bytes]) -> ssl.SSLContext:
    """A context that trusts these CAs (DER) only, TLS 1.3, name checked. Raises Refused FL-CERTIFICATE-FORMAT."""
    context = _bare_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    for der in ca_certificates:
        parsed(der)  # refuses what OpenSSL would skip or misread, such as bytes after the certificate
        try:
            context.load_verify_locations(cadata=der)
        except ssl.SSLError as error:
            raise certificate.unreadable() from error
    return context


@dataclass(frozen=True, slots=True)
class PortalTrust:
    """The certificates (DER) by which a portal is known: CAs, and self-signed leaves that stand for themselves.

    A connection counts when it was made in `context` **and** `check` has passed, before anything is sent.
    """

    certificates: Sequence[bytes]

    def context(self) -> ssl.SSLContext:
        """A verifying context. Raises Refused FL-CERTIFICATE-FORMAT."""
        context = client_context(self.certificates)
        if self._pinned():
            context.check_hostname = False  # `check` compares the certificate itself, or else the name
        return context

    def check(self, leaf: bytes, name: str = "") -> None:
        """Refuse a leaf (DER) that the context lets pass but that is not the portal's.

        *name* matters only beside a pinned certificate, for leaves that a CA in the same list vouches for (both stand
        there while one replaces the other). Raises Refused FL-PEER-CERTIFICATE.
        """
        pinned = self._pinned()
        if not pinned or any(compare_digest(leaf, one) for one in pinned):
            return
        if len(pinned) == len(self.certificates) or not certificate.covers(leaf, name):
            raise Refused("FL-PEER-CERTIFICATE", "the portal presents a certificate that is not the pinned one",
                          "see that nobody is in between, or export a new bundle")

    def _pinned(self) -> Sequence[bytes]:
        return [der for der in self.certificates if not is_ca(der)]


def diagnosis_context(certificates: Sequence[bytes]) -> ssl.SSLContext:
    """As `PortalTrust.context`, whatever the time: for reading a certificate's validity into an error message only.

    Nothing may be sent or believed over it. Raises Refused FL-CERTIFICATE-FORMAT.
    """
    context = PortalTrust(certificates).context()
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    return context


def unverified_context() -> ssl.SSLContext:
    """A context that believes anybody: only for fetching the anchor, whose bytes are then checked by their hash."""
    context = _bare_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def validity(der: bytes) -> tuple[int, int]:
    """The first and the last moment (microseconds) at which it is valid. Raises Refused FL-CERTIFICATE-FORMAT."""
    return certificate.validity(der)


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unlike ssl.create_default_context, it loads nothing
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    return context
