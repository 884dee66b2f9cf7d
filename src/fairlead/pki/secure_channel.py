"""Whether a certificate may serve the system portal, and by what the nodes then know it. Pure.

Rules, and the mistake or attack each stops:

1. With an issuer: nodes trust the root alone, under the cluster's name or the Controllers' addresses. So the chain must
   be whole, each link signed by one that may sign, all valid now, and the names must cover every Controller: a node
   that cannot verify its portal is lost, and only a new bundle brings it back.
2. Self-signed: nodes pin exactly this certificate, whatever its name. It must be no CA, for the key of one would vouch
   for other certificates than the pinned one.
3. A wildcard covers nothing: whoever gets a certificate for another host of the same zone could play the portal.
4. What OpenSSL would refuse on the nodes is refused here, before it is used; so is what we do not judge (names that a
   CA is constrained to, critical extensions that we do not know).
5. Everything that is wrong is said at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from fairlead.base.clock import DAY, rfc3339
from fairlead.base.errors import Refused
from fairlead.pki.certificate import covers, extension, microseconds, names, plain
from fairlead.pki.chain import forgeable, is_issued_by, is_self_signed, read, unreadable, who, written
from fairlead.pki.own import Owned
from fairlead.pki.strength import weakness

MOST_ANCHOR_BYTES = 4096
"""As large as a certificate in an anchor may be (`enrol.anchor`, which is above us)."""
LEAST_LIFETIME = DAY

_KNOWN = frozenset((ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE,
                    ExtensionOID.SUBJECT_ALTERNATIVE_NAME, ExtensionOID.SUBJECT_KEY_IDENTIFIER,
                    ExtensionOID.AUTHORITY_KEY_IDENTIFIER))


@dataclass(frozen=True, slots=True)
class Presentation:
    """What nodes trust, and what the portal shows them."""

    ca_certificates: tuple[bytes, ...]
    """DER, for the anchor: the root, or the one pinned certificate."""
    chain_pem: bytes
    """The leaf and the certificates between it and the root, for the portal's TLS server."""
    tls_name: str
    """A name under which the portal verifies at every Controller, since all of them show the same certificate."""
    tls_names: Mapping[str, str]
    """The name for each Controller's address: the cluster's, or else the address itself."""


def judge(owned: Owned, addresses: Sequence[str], cluster_name: str, now: int,
          least: int = LEAST_LIFETIME) -> Presentation:
    """How *owned* serves the portal of Controllers at *addresses* (all of theirs: host names, IP addresses).

    *cluster_name*: `certificate.portal_name`. *now*, *least* (for how long it has to be good): microseconds. Raises
    Refused with the code of what is wrong (FL-CERT-CA, -CHAIN, -EXPIRED, -FORMAT, -KEY-TYPE, -KEY-WEAK, -NAMES,
    -NOT-YET, -SIGNATURE, -SIZE, -USAGE), or FL-CERT-UNFIT with a list of them.
    """
    chain = read(owned.certificate_pem, "certificate")[:1] + read(owned.chain_pem, "chain")
    if not chain:
        raise unreadable("there is no certificate")
    unmet = list(_unmet(chain, addresses, cluster_name, now, least))
    if len(unmet) == 1:
        raise unmet[0]
    if unmet:
        raise Refused("FL-CERT-UNFIT", "the certificate cannot serve the secure channel: "
                      + "; ".join(f"{one.message} [{one.code}]" for one in unmet),
                      "mend each: " + "; ".join(dict.fromkeys(one.remedy for one in unmet)))
    pinned = is_self_signed(chain[0])
    shown = chain if pinned else chain[:-1]
    by_name = pinned or covers(_der(chain[0]), cluster_name)
    tls_names = {address: cluster_name if by_name else plain(address) for address in addresses}
    return Presentation((_der(chain[-1]),), written(shown), cluster_name if by_name else plain(addresses[0]),
                        MappingProxyType(tls_names))


def _unmet(chain: Sequence[x509.Certificate], addresses: Sequence[str], cluster_name: str,
           now: int, least: int) -> Iterator[Refused]:
    leaf, *above = chain
    pinned = is_self_signed(leaf)
    yield from _of_leaf(leaf, pinned, now, least)
    if not pinned:
        yield from _of_names(leaf, addresses, cluster_name)
        yield from _of_chain(leaf, above)
    for at, certificate in enumerate(chain):
        yield from _of_any(certificate, "the certificate" if at == 0 else who(certificate), now,
                           is_root=at > 0 and is_self_signed(certificate))
    if len(_der(chain[-1])) > MOST_ANCHOR_BYTES:
        yield Refused("FL-CERT-SIZE", f"{who(chain[-1])} has more than {MOST_ANCHOR_BYTES} bytes, and nodes keep it",
                      "have a smaller one made")


def _of_leaf(leaf: x509.Certificate, pinned: bool, now: int, least: int) -> Iterator[Refused]:
    constraints, usage = extension(leaf, x509.BasicConstraints), extension(leaf, x509.KeyUsage)
    if leaf.version is x509.Version.v1:
        yield Refused("FL-CERT-CA", "the certificate is of version 1, which OpenSSL takes for a CA's when nodes pin it",
                      "make one of version 3, with -addext or -extfile basicConstraints=critical,CA:FALSE")
    if (constraints is not None and constraints.ca) or (usage is not None and usage.key_cert_sign):
        yield Refused("FL-CERT-CA", "the certificate is a CA's, so its key could vouch for other certificates",
                      "make one that is none: `fairlead cert create`, or -addext basicConstraints=critical,CA:FALSE"
                      if pinned else "have the CA issue a server's certificate, and use that")
    if usage is not None and not usage.digital_signature:
        yield _usage("the certificate's key may not sign", "digitalSignature among the key usages")
    purposes = extension(leaf, x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
        yield _usage("the certificate is not for servers", "serverAuth among the extended key usages")
    last = microseconds(leaf.not_valid_after_utc)
    if now <= last < now + least:
        yield Refused("FL-CERT-EXPIRED", f"the certificate expires within a day, at {rfc3339(last)}",
                      "bring one that is good for longer")


def _of_names(leaf: x509.Certificate, addresses: Sequence[str], cluster_name: str) -> Iterator[Refused]:
    der = _der(leaf)
    missing = [address for address in addresses if not covers(der, address)]
    if not covers(der, cluster_name) and (missing or not addresses):
        why = "; a wildcard counts for no name" if any("*" in name for name in names(der)) else ""
        yield Refused("FL-CERT-NAMES", f"the certificate is good neither for {cluster_name} nor for every Controller's "
                      f"address: {', '.join(missing) or 'none is known'} {'is' if len(missing) < 2 else 'are'} "
                      f"missing{why}", "have one made with all of them, or with the cluster's name, as subject "
                      "alternative names")


def _of_chain(leaf: x509.Certificate, above: Sequence[x509.Certificate]) -> Iterator[Refused]:
    below: x509.Certificate = leaf
    for depth, issuer in enumerate(above):
        if forgeable(below) is None and not is_issued_by(below, issuer):
            yield _chain(f"{who(issuer)} has not issued {who(below)}")
        constraints, usage = extension(issuer, x509.BasicConstraints), extension(issuer, x509.KeyUsage)
        if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
            yield _chain(f"{who(issuer)} may not issue certificates")
        elif constraints.path_length is not None and constraints.path_length < depth:
            yield _chain(f"{who(issuer)} allows {constraints.path_length} CAs below it, there are {depth}")
        purposes = extension(issuer, x509.ExtendedKeyUsage)
        if purposes is not None and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
            yield _usage(f"{who(issuer)} may not issue certificates for servers", "serverAuth among its usages")
        if extension(issuer, x509.NameConstraints) is not None:
            yield _chain(f"the names that {who(issuer)} may certify are constrained, which fairlead does not judge")
        below = issuer
    if not is_self_signed(below):
        yield _chain(f"the issuer of {who(below)} is not there")


def _of_any(certificate: x509.Certificate, name: str, now: int, *, is_root: bool) -> Iterator[Refused]:
    first, last = microseconds(certificate.not_valid_before_utc), microseconds(certificate.not_valid_after_utc)
    if last < now:
        yield Refused("FL-CERT-EXPIRED", f"{name} has expired at {rfc3339(last)}", "bring one that is valid")
    if now < first:
        yield Refused("FL-CERT-NOT-YET", f"{name} is not valid before {rfc3339(first)}",
                      "wait, or see that the clocks are right")
    if not is_root and (refusal := forgeable(certificate, name)) is not None:  # nobody checks how a root signs itself
        yield refusal
    try:
        refusal = weakness(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        refusal = weakness(None)
    if refusal is not None:
        yield Refused(refusal.code, f"{name}: {refusal.message}", refusal.remedy)
    for one in certificate.extensions:
        if one.critical and one.oid not in _KNOWN and one.oid != ExtensionOID.NAME_CONSTRAINTS:
            yield Refused("FL-CERT-USAGE", f"{name} has a critical extension {one.oid.dotted_string} that fairlead "
                          "does not judge", "have it issued without that")


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _chain(why: str) -> Refused:
    return Refused("FL-CERT-CHAIN", why, "give the whole chain, from the issuer up to the self-signed root")


def _usage(why: str, what: str) -> Refused:
    return Refused("FL-CERT-USAGE", why, f"have it issued with {what}")
