"""HTTP between nodes, signed with the exchanged keys (RFC 9421, RFC 9530; join protocol, section 11). Pure.

Rules, and the attack each stops:

1. The covered components and the parameters are compared as text, whole and in order, before any signature is looked
   at: nobody gets a narrower signature accepted, and no two readings of one ``Signature-Input`` exist.
2. Exactly one signature, and every covered field exactly once: no second value slips past the one that was verified.
3. Only the checked fields reach the verifying library, and only they may reach a handler. A URL with user name or
   fragment, and any ``Content-Encoding``, are refused: they would be acted upon without being covered.
4. A request names its one recipient: replayed to another node it is refused before its key is looked up.
5. A response covers the request's signature: it answers that request and no other. Requests and responses carry
   different tags and components: neither passes for the other.
6. Time is handed in (store time). The library would ask the local clock, which a node must not decide by.

The order of work is the caller's: `read_request`, `check_recipient`, the key's standing, `check_fresh`,
`verify_request`, `replay.ReplayCache.insert`, and only then act.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureComponentResolver, HTTPSignatureKeyResolver
from http_message_signatures.algorithms import ED25519
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from http_sf.compat import Item

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.keys.ssh import SIGNATURE_BYTES, PrivateKey, PublicKey
from fairlead.keys.wire import b64, b64url, from_b64, sha256

OLDEST = 60 * SECOND
NEWEST = 10 * SECOND
NONCE_BYTES = 16

_REQUEST_TAG = "fairlead-request-v1"
_RESPONSE_TAG = "fairlead-response-v1"
_ON_BEHALF = "fairlead-on-behalf"
_FIELDS = ("content-type", "content-digest", "fairlead-to")
_REQUEST = tuple(f'"{name}"' for name in ("@method", "@authority", "@path", "@query", *_FIELDS))
_FORWARDED = (*_REQUEST, f'"{_ON_BEHALF}"')
_RESPONSE = ('"@status"', '"content-type"', '"content-digest"', '"@method";req', '"@authority";req', '"@path";req',
             '"@query";req', '"content-digest";req', '"fairlead-to";req', '"signature";req;key="fl"')

_CREATED = r";created=(?P<created>0|[1-9][0-9]{0,11})"
_SIGNER = r';keyid="(?P<keyid>SHA256:[A-Za-z0-9+/]{43})";alg="ed25519"'
_SIGNATURE = re.compile(r"fl=:(?P<signature>[A-Za-z0-9+/]{86}==):")
_DIGEST = re.compile(r"sha-256=:[A-Za-z0-9+/]{43}=:")
_URL = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?(\?[^#\s]*)?")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it is on the wire."""

    method: str
    url: str
    """Absolute: scheme, what ``Host`` says, path and query, as sent."""
    headers: Sequence[tuple[str, str]]
    """Every field line, repeated ones too."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A response as it is on the wire."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a well-formed signed request claims, before its signature is verified."""

    keyid: str
    """Fingerprint of the sender's user key."""
    created: int
    """Seconds since the epoch."""
    nonce: bytes
    to: str
    """``<cluster uuid>/<node id>`` of the one node that this request is for."""
    on_behalf: str | None
    """Node id of the original sender, on the one route that hands requests to the leader."""


def recipient(cluster_uuid: object, node_id: object) -> str:
    """The ``Fairlead-To`` of a node: two UUIDs as text."""
    return f"{cluster_uuid}/{node_id}"


def sign_request(method: str, url: str, body: bytes, content_type: str, *, key: PrivateKey, to: str, created: int,
                 nonce: bytes, on_behalf: str | None = None) -> dict[str, str]:
    """The five header fields of a request by the user key *key* to the node *to*.

    *created* is in seconds of store time, *nonce* 16 new random bytes. *on_behalf* (a node id) adds
    ``fairlead-on-behalf`` to the fields and to what is covered. ValueError for a bug of the caller.
    """
    if len(nonce) != NONCE_BYTES or not _URL.fullmatch(url):
        raise ValueError("a signed request needs 16 bytes of nonce and an absolute URL")
    headers = {"content-type": content_type, "content-digest": _digest(body), "fairlead-to": to}
    if on_behalf is not None:
        headers[_ON_BEHALF] = on_behalf
    components = _REQUEST if on_behalf is None else _FORWARDED
    parameters = (f'({" ".join(components)});created={created};nonce="{b64url(nonce)}";'
                  f'keyid="{key.public.fingerprint}";alg="ed25519";tag="{_REQUEST_TAG}"')
    return headers | _signed(_request_message(method, url, headers), components, parameters, key)


def read_request(request: Request, *, forwarded: bool = False) -> SignedRequest:
    """The claims of a request whose shape is exactly ours; nothing is verified yet. Raises Refused, ``FL-SIG-FORMAT``.

    *forwarded* is for the one route that takes requests on behalf of another node: there the field is required.
    """
    fields = _request_fields(request, forwarded=forwarded)
    found = _input(fields, _FORWARDED if forwarded else _REQUEST,
                   _CREATED + r';nonce="(?P<nonce>[A-Za-z0-9_-]{22})"' + _SIGNER, _REQUEST_TAG)
    nonce = base64.urlsafe_b64decode(found["nonce"] + "==")  # its alphabet is checked by the pattern
    if b64url(nonce) != found["nonce"]:
        raise _malformed("the nonce is not canonical")
    return SignedRequest(found["keyid"], int(found["created"]), nonce, fields["fairlead-to"], fields.get(_ON_BEHALF))


def check_recipient(signed: SignedRequest, me: str) -> None:
    """Refuse a request that names another node than *me* (`recipient`). Raises Refused, ``FL-SIG-RECIPIENT``."""
    if signed.to != me:
        raise Refused("FL-SIG-RECIPIENT", f"the request is for {signed.to}, this is {me}",
                      "send it to the node that it names")


def check_fresh(created_s: int, now_us: int, started_us: int) -> None:
    """Refuse what is older than 60 s, more than 10 s ahead, or not later than my start. Raises ``FL-SIG-STALE``.

    *created_s* is in seconds; *now_us* (store time) and *started_us* (store time at which this node's replay cache
    began to remember) are in microseconds. What was signed in the very second of the start may have been answered
    before it, and is refused too.
    """
    created = created_s * SECOND
    if not now_us - OLDEST <= created <= now_us + NEWEST or created_s <= started_us // SECOND:
        raise Refused("FL-SIG-STALE", "the request was signed too long ago, ahead of time, or before this node started",
                      "sign it again; if it comes back, compare the clocks of both nodes")


def verify_request(request: Request, public: PublicKey, *, forwarded: bool = False) -> None:
    """Refuse a request that *public* (a user key) did not sign, or whose body is another. Raises Refused.

    ``FL-SIG-FORMAT`` as `read_request`, else ``FL-SIG-BAD``.
    """
    signed = read_request(request, forwarded=forwarded)
    fields = _request_fields(request, forwarded=forwarded)
    _verify(_request_message(request.method, request.url, fields), signed.keyid, public, _REQUEST_TAG,
            _FORWARDED if forwarded else _REQUEST, fields, request.body)


def sign_response(status: int, body: bytes, content_type: str, *, request: Request, key: PrivateKey,
                  created: int) -> dict[str, str]:
    """The four header fields of the answer to *request* by the host key *key*. Raises Refused, ``FL-SIG-FORMAT``.

    *request* must be one that `read_request` reads, forwarded or not.
    """
    headers = {"content-type": content_type, "content-digest": _digest(body)}
    parameters = (f'({" ".join(_RESPONSE)});created={created};keyid="{key.public.fingerprint}";alg="ed25519";'
                  f'tag="{_RESPONSE_TAG}"')
    return headers | _signed(_response_message(status, headers, request), _RESPONSE, parameters, key)


def verify_response(response: Response, request: Request, public: PublicKey) -> None:
    """Refuse an answer that *public* (a host key) did not give to exactly *request*. Raises Refused.

    ``FL-SIG-FORMAT`` or ``FL-SIG-BAD``. *request* is what this node sent, with the signature that it sent. There is no
    clock in this: the request's nonce makes the answer new.
    """
    fields = _once(response.headers, ("content-type", "content-digest", "signature-input", "signature"))
    found = _input(fields, _RESPONSE, _CREATED + _SIGNER, _RESPONSE_TAG)
    _verify(_response_message(response.status, fields, request), found["keyid"], public, _RESPONSE_TAG, _RESPONSE,
            fields, response.body)


class _TheOneKey(HTTPSignatureKeyResolver):
    """Hands the library the key that the caller looked up; `_verify` has seen that the message names it."""

    def __init__(self, public: PublicKey) -> None:
        self.public = public

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:  # noqa: ARG002 - the library's interface
        return Ed25519PublicKey.from_public_bytes(self.public.raw)


class _Verifier(HTTPMessageVerifier):
    """The library's verification without the local clock (rule 6)."""

    def validate_created_and_expires(self, sig_input: object, max_age: object = None) -> None:
        """Freshness is `check_fresh`, by store time."""


def _verify(message: SimpleNamespace, keyid: str, public: PublicKey, tag: str, components: Sequence[str],
            fields: dict[str, str], body: bytes) -> None:
    if keyid != public.fingerprint:
        raise Refused("FL-SIG-BAD", f"the message is signed by {keyid}, not by {public.fingerprint}")
    try:
        verifier = _Verifier(signature_algorithm=ED25519, key_resolver=_TheOneKey(public))
        verifier.verify(message, max_age=None, expect_tag=tag, expect_label="fl", require_components=components)
    except HTTPMessageSignaturesException as error:
        raise Refused("FL-SIG-BAD", "the signature does not fit the message") from error
    if fields["content-digest"] != _digest(body):
        raise Refused("FL-SIG-BAD", "the body is not the one that was signed")


def _signed(message: SimpleNamespace, components: Sequence[str], parameters: str, key: PrivateKey) -> dict[str, str]:
    """The two signature fields. Our own assembly of the base: the library's signer has another order of parameters."""
    resolver = HTTPSignatureComponentResolver(message)  # type: ignore[no-untyped-call]
    lines = [f"{component}: {resolver.resolve(_item(component))}" for component in components]
    base = "\n".join((*lines, f'"@signature-params": {parameters}'))
    return {"signature-input": f"fl={parameters}", "signature": f"fl=:{b64(key.key.sign(base.encode('ascii')))}:"}


def _item(component: str) -> Item:
    item = Item()
    item.parse(component.encode("ascii"))
    return item


def _request_message(method: str, url: str, fields: dict[str, str]) -> SimpleNamespace:
    return SimpleNamespace(method=method, url=url, headers=fields)


def _response_message(status: int, fields: dict[str, str], request: Request) -> SimpleNamespace:
    of = _request_message(request.method, request.url, _request_fields(request, forwarded=False))
    return SimpleNamespace(status_code=status, headers=fields, request=of)


def _request_fields(request: Request, *, forwarded: bool) -> dict[str, str]:
    if not _URL.fullmatch(request.url):
        raise _malformed("the URL is not absolute and plain")
    names = (*_FIELDS, "signature-input", "signature")
    return _once(request.headers, (*names, _ON_BEHALF) if forwarded else names)


def _once(headers: Iterable[tuple[str, str]], names: Sequence[str]) -> dict[str, str]:
    """Exactly the fields *names*, each of which must be there once (rules 2 and 3)."""
    fields: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        if lower == "content-encoding":
            raise _malformed("the body has a content encoding")
        if lower in names:
            if lower in fields:
                raise _malformed(f"the field {lower} is repeated")
            fields[lower] = value.strip(" \t")
    missing = [name for name in names if name not in fields]
    if missing:
        raise _malformed(f"the field {missing[0]} is missing")
    if not _DIGEST.fullmatch(fields["content-digest"]):
        raise _malformed("the content digest is not one sha-256")
    signature = _SIGNATURE.fullmatch(fields["signature"])
    if signature is None or not _canonical(signature["signature"]):
        raise _malformed("the signature is not exactly one ed25519 signature with the label fl")
    return fields


def _canonical(signature: str) -> bool:
    try:
        return len(from_b64(signature)) == SIGNATURE_BYTES
    except ValueError:
        return False


def _input(fields: dict[str, str], components: Sequence[str], parameters: str, tag: str) -> re.Match[str]:
    """The parameters of the one ``Signature-Input``, whose text must be exactly ours (rule 1)."""
    shape = re.escape(f"fl=({' '.join(components)})") + parameters + re.escape(f';tag="{tag}"')
    found = re.fullmatch(shape, fields["signature-input"])
    if found is None:
        raise _malformed("the signature does not cover exactly what it must")
    return found


def _digest(body: bytes) -> str:
    """``Content-Digest`` (RFC 9530) of *body*."""
    return f"sha-256=:{b64(sha256(body))}:"


def _malformed(why: str) -> Refused:
    return Refused("FL-SIG-FORMAT", f"this is not a signed message of ours: {why}")
