"""Certificates and their keys in the public model.

Rules, and the attack each stops:

1. A private key is taken in or made, sealed at once for its object, and never given out; a PUT without it keeps it.
2. The two certificates that the cluster makes for itself are shown as others are, and are nobody's to edit: replacing
   the secure channel's in place would break it for every node (seed: *do not replace or edit the
   System-Default-Secure-Channel-Cert*). Another one is made, and the system configuration points to it.
3. One that is in use is not edited either: what is presented changes only by pointing to another one, under the checks
   of that step.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from fairlead.api import documented
from fairlead.api.application import needs
from fairlead.api.asking import Asking
from fairlead.api.configuration import CERTIFICATE as PATH
from fairlead.api.configuration import CHANNEL_CERTIFICATE, PORTAL_CERTIFICATE
from fairlead.base.clock import DAY
from fairlead.base.errors import OperatorError, Refused
from fairlead.objects.catalogue import Catalogue, stale
from fairlead.objects.model import Computed, Fixed, Item, Kind, Model, Secret, Since, refs
from fairlead.objects.shelf import Built, Shelved, new_uuid
from fairlead.pki import brought, own
from fairlead.pki import chain as chains
from fairlead.pki.certificate import der_of, validity
from fairlead.pki.described import describe

MOST_PEM = 64 * 1024
CHANNEL = "System-Default-Secure-Channel-Cert"
PORTAL = "System-Default-Portal-Cert"
SYSTEM = {CHANNEL_CERTIFICATE: CHANNEL, PORTAL_CERTIFICATE: PORTAL}
"""The certificates that the cluster makes for itself: name by uuid."""
FINISHED, PENDING = "SSL_CERTIFICATE_FINISHED", "SSL_CERTIFICATE_PENDING"
BROKEN = "SSL_CERTIFICATE_BROKEN"
"""Of fairlead: what the store holds of it cannot be used."""
Pem = Annotated[str, Field(max_length=MOST_PEM)]
Said = Annotated[Any, Computed()]


class KeyParams(Model):
    """What sort of key."""

    algorithm: Literal["SSL_KEY_ALGORITHM_RSA", "SSL_KEY_ALGORITHM_EC"] = "SSL_KEY_ALGORITHM_EC"
    ec_params: dict[str, Any] | None = None
    rsa_params: dict[str, Any] | None = None


class Description(Model):
    """Whose it is."""

    common_name: str | None = None
    country: str | None = None
    distinguished_name: Said = None
    email_address: str | None = None
    locality: str | None = None
    organization: str | None = None
    organization_unit: str | None = None
    state: str | None = None


class SSLCertificate(Model):
    """The certificate: what it is to be, or what it says, which has no bounds; `pki.own` has those of what is made."""

    certificate: Pem | None = None
    certificate_signing_request: str | None = None
    days_until_expire: int = 365
    key_params: KeyParams | None = None
    self_signed: bool | None = None
    subject: Description | None = None
    subject_alt_names: list[str] | None = None
    chain_verified: Said = None
    expiry_status: Said = None
    fingerprint: Said = None
    issuer: Said = None
    not_after: Said = None
    not_before: Said = None
    public_key: Said = None
    serial_number: Said = None
    signature: Said = None
    signature_algorithm: Said = None
    text: Said = None
    version: Said = None


class CertificateAuthority(Model):
    """A certificate of the chain."""

    name: str | None = Field(default=None, max_length=1024)
    certificate: Pem | None = None
    ca_ref: Annotated[str | None, Fixed("give the certificate itself")] = None


class SSLKeyAndCertificate(Model):
    """A certificate with its key."""

    name: str = Field(min_length=1, max_length=256)
    type: Literal["SSL_CERTIFICATE_TYPE_VIRTUALSERVICE", "SSL_CERTIFICATE_TYPE_SYSTEM",
                  "SSL_CERTIFICATE_TYPE_CA"] = "SSL_CERTIFICATE_TYPE_SYSTEM"
    certificate: SSLCertificate = Field(default_factory=SSLCertificate)
    status: Annotated[str, Computed()] = FINISHED
    ca_certs: list[CertificateAuthority] = Field(default_factory=list, max_length=8)
    key: Annotated[Pem | None, Secret()] = Field(default=None, repr=False)
    key_passphrase: Annotated[str | None, Secret()] = Field(default=None, max_length=1024, repr=False)
    key_params: KeyParams | None = None
    format: Literal["SSL_PEM", "SSL_PKCS12"] = "SSL_PEM"
    certificate_base64: Annotated[bool, Since("17.1.1")] = False
    key_base64: bool = False
    certificate_management_profile_ref: Annotated[str | None, Fixed("fairlead runs no scripts")] = None
    configpb_attributes: Annotated[Any, Computed()] = None
    created_by: str | None = Field(default=None, max_length=256)
    dynamic_params: Any = None
    enable_ocsp_stapling: Annotated[bool, Since("20.1.1"), Fixed("fairlead does not have it")] = False
    enckey_base64: Annotated[str | None, Fixed("keys are not kept in a hardware module")] = None
    enckey_name: Annotated[str | None, Fixed("keys are not kept in a hardware module")] = None
    hardwaresecuritymodulegroup_ref: Annotated[str | None, Fixed("keys are not kept in a hardware module")] = None
    import_key_to_hsm: Annotated[bool, Since("22.1.1"), Fixed("keys are not kept in a hardware module")] = False
    is_federated: Annotated[bool, Since("22.1.3")] = False
    markers: Annotated[Any, Since("20.1.5")] = None
    in_use_by: Annotated[list[str], Computed()] = Field(default_factory=list)
    """Of fairlead: who names it."""
    ocsp_config: Annotated[Any, Since("20.1.1")] = None
    ocsp_error_status: Said = None
    ocsp_responder_url_list_from_certs: Said = None
    ocsp_response_info: Said = None


T = TypeVar("T")
_PLAIN = ("name", "type", "created_by", "dynamic_params", "is_federated", "markers", "ocsp_config")
"""Fields that are kept as they are given, and change nothing about the certificate."""
CERTIFICATE = Kind(PATH, "SSLKeyAndCertificate", SSLKeyAndCertificate, "certificate", scoped=True)
BUILT = (Built(CERTIFICATE),)


class Vault(Protocol):
    """Who seals keys, and has the certificates that the cluster makes for itself."""

    def seal(self, place: str, secret: bytes) -> str:
        """*secret*, sealed for *place*."""
        ...

    def unseal(self, place: str, sealed: str) -> bytes:
        """The reverse. Raises Refused FL-SEAL-BROKEN."""
        ...

    async def certificate(self, name: str) -> bytes:
        """One of the cluster's own, PEM."""
        ...

    async def now(self) -> int:
        """Store time, microseconds."""
        ...


@dataclass(frozen=True, slots=True)
class Certificates:
    """All certificates: the operators' and the cluster's own."""

    shelved: Shelved
    vault: Vault
    referrers: Callable[[str, str], Awaitable[Sequence[str]]]
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def kind(self) -> Kind:
        """Their kind."""
        return CERTIFICATE

    async def items(self) -> Sequence[Item]:
        """All of them, the cluster's own first, each as it is today."""
        now = await self.vault.now()
        return [self._used(item) for item in (*[await self._own(uuid, now) for uuid in SYSTEM],
                                              *(_as_of(item, now) for item in await self.shelved.items()))]

    async def item(self, uuid: str) -> Item | None:
        """One of them."""
        now = await self.vault.now()
        if uuid in SYSTEM:
            return self._used(await self._own(uuid, now))
        found = await self.shelved.item(uuid)
        return self._used(_as_of(found, now)) if found is not None else None

    async def owned(self, uuid: str) -> own.Owned | None:
        """An operator's certificate with its key; None: there is none, or it is not finished."""
        found = await self.shelved.item(uuid)
        if found is None or _value(found).status != FINISHED:
            return None
        return self._opened(found)

    async def make(self, value: Model, by: str, *, tenant: str, uuid: str | None) -> Item:
        """Import, make, or ask for one. Raises Refused, with the reason."""
        assert isinstance(value, SSLKeyAndCertificate)
        if value.name in SYSTEM.values():
            raise Refused("FL-OBJECT-EXISTS", f"SSLKeyAndCertificate {value.name} already exists", _way(value.name))
        now, uuid = await self.vault.now(), uuid or new_uuid(CERTIFICATE)
        said = value.certificate
        if value.format == "SSL_PKCS12" or said.certificate:
            return await self._keep(uuid, value, await self._beside(_imported, value, now), by, tenant, now)
        if said.subject is None and not said.subject_alt_names:
            raise Refused("FL-CERT-FORMAT", "the object has neither a certificate nor a subject for a new one",
                          "say certificate.certificate with key, or certificate.subject")
        subject, names = _subject(said), said.subject_alt_names or []
        params = _params(value)
        if said.self_signed is False:
            asked = await self._beside(own.requested, subject, names, params)
            return await self._pend(uuid, value, asked, by, tenant)
        made = await self._beside(own.self_signed, subject, names, params, said.days_until_expire, now)
        return await self._keep(uuid, value, made, by, tenant, now)

    async def change(self, old: Item, value: Model, by: str) -> Item:
        """Another name; or the certificate that was waited for. Raises Refused FL-CERT-DEFAULT, FL-CERT-USED."""
        assert isinstance(value, SSLKeyAndCertificate)
        if old.uuid in SYSTEM:
            raise Refused("FL-CERT-DEFAULT", f"{old.name} cannot be edited, replaced or renamed: it would break the "
                          "verification at every node", _way(old.name))
        kept = await self.shelved.item(old.uuid)
        if kept is None or kept.modified != old.modified:
            raise stale(CERTIFICATE, old.uuid)
        before, now = _value(kept), await self.vault.now()
        same = not value.certificate.certificate or _same(value.certificate.certificate, before.certificate.certificate)
        if same and not value.key and _pems(value) == _pems(before):
            changed = before.model_copy(update={name: getattr(value, name) for name in _PLAIN})
            return _as_of(await self.shelved.exchange(kept, replace(kept, value=changed), by), now)
        if names := await self.referrers(PATH, old.uuid):
            raise Refused("FL-CERT-USED", f"{old.name} is in use by {', '.join(names)}: what is presented changes by "
                          "pointing to another certificate", "make a new one, and point the configuration to it")
        if value.key or value.format == "SSL_PKCS12":
            owned = await self._beside(_imported, value, now)
        elif before.status == PENDING:
            pending = own.Pending((before.certificate.certificate_signing_request or "").encode(), self._key(kept))
            owned = await self._beside(brought.finish, pending, _text(value), _chain(value), now)
        else:
            text = _text(value) if value.certificate.certificate else (before.certificate.certificate or "").encode()
            owned = await self._beside(brought.imported, text, self._key(kept), None, _chain(value), now)
        sealed = {"key": self.vault.seal(_place(old.uuid), owned.key_pem)}
        return _as_of(await self.shelved.exchange(
            kept, replace(kept, value=_finished(value, owned), sealed=sealed), by), now)

    async def renew(self, old: Item, by: str) -> Item:
        """A self-signed one again, with the same key, from today. Raises Refused."""
        kept = await self.shelved.item(old.uuid)
        if kept is None:
            raise Refused("FL-CERT-DEFAULT", f"{old.name} is renewed by the cluster itself", _way(old.name))
        if names := await self.referrers(PATH, old.uuid):
            raise Refused("FL-CERT-USED", f"{old.name} is in use by {', '.join(names)}: nodes know exactly that one",
                          "make a new one, and point the configuration to it")
        now = await self.vault.now()
        opened = self._opened(kept)
        first, last = validity(der_of(opened.certificate_pem))
        days = min(max(1, (last - first) // DAY), own.MOST_DAYS)
        renewed = await self._beside(own.renewed, opened, days, now)
        return _as_of(await self.shelved.exchange(kept, replace(kept, value=_finished(_value(kept), renewed)), by), now)

    async def remove(self, old: Item, by: str) -> None:
        """It is no more. Raises Refused."""
        kept = await self.shelved.item(old.uuid)
        if kept is None:
            raise Refused("FL-CERT-DEFAULT", f"Cannot delete system default object {old.name}", _way(old.name))
        await self.shelved.remove(kept, by)

    def _used(self, item: Item) -> Item:
        system = self.shelved.shelf.one("systemconfiguration", "default")
        named = system is not None and (PATH, item.uuid) in set(refs(system.value))
        by = ["SystemConfiguration"] if named else []
        return replace(item, value=item.value.model_copy(update={"in_use_by": by}))

    async def _beside(self, work: Callable[..., T], *given: Any) -> T:
        """Do *work*, which may take a second (a large key, a slow passphrase), beside the loop, one at a time."""
        async with self._turn:
            return await asyncio.to_thread(work, *given)

    async def _own(self, uuid: str, now: int) -> Item:
        try:
            pem = (await self.vault.certificate(SYSTEM[uuid])).decode()
        except OperatorError as error:
            if error.code != "FL-CERT-BROKEN":
                raise
            return Item(uuid, SSLKeyAndCertificate(name=SYSTEM[uuid], status=BROKEN), tenant="tenant-admin")
        return _as_of(Item(uuid, SSLKeyAndCertificate(name=SYSTEM[uuid], certificate=SSLCertificate(certificate=pem)),
                           tenant="tenant-admin"), now)

    async def _keep(self, uuid: str, value: SSLKeyAndCertificate, owned: own.Owned, by: str, tenant: str,
                    now: int) -> Item:
        sealed = {"key": self.vault.seal(_place(uuid), owned.key_pem)}
        return _as_of(await self.shelved.keep(Item(uuid, _finished(value, owned), tenant=tenant, sealed=sealed), by),
                      now)

    async def _pend(self, uuid: str, value: SSLKeyAndCertificate, asked: own.Pending, by: str, tenant: str) -> Item:
        said = value.certificate.model_copy(update={"certificate_signing_request": asked.request_pem.decode()})
        pending = _bare(value).model_copy(update={"certificate": said, "status": PENDING})
        sealed = {"key": self.vault.seal(_place(uuid), asked.key_pem)}
        return await self.shelved.keep(Item(uuid, pending, tenant=tenant, sealed=sealed), by)

    def _opened(self, item: Item) -> own.Owned:
        value = _value(item)
        chain = "".join(one.certificate or "" for one in value.ca_certs)
        return own.Owned((value.certificate.certificate or "").encode(), self._key(item), chain.encode())

    def _key(self, item: Item) -> bytes:
        try:
            return self.vault.unseal(_place(item.uuid), item.sealed["key"])
        except (KeyError, ValueError):
            raise Refused("FL-CERT-BROKEN", f"the private key of {item.name} is not there, or was changed",
                          "import the certificate again, with its key") from None


def renewing(certificates: Certificates, catalogue: Catalogue) -> APIRouter:
    """POST sslkeyandcertificate/UUID/renew."""
    router = APIRouter(tags=[CERTIFICATE.title])

    @router.post(f"/api/{PATH}/{{uuid}}/renew", summary="Renew a self-signed certificate",
                 responses=documented.shown(SSLKeyAndCertificate))
    async def renew(request: Request, uuid: str, caller: str = needs("certificate:write")) -> Response:
        asked = Asking(request, catalogue, CERTIFICATE)
        made = await certificates.renew(await asked.find(certificates, uuid), caller)
        return JSONResponse((await asked.show(certificates, [made], written=True))[0], headers=asked.headers)

    return router


def _value(item: Item) -> SSLKeyAndCertificate:
    assert isinstance(item.value, SSLKeyAndCertificate)
    return item.value


def _bare(value: SSLKeyAndCertificate) -> SSLKeyAndCertificate:
    """Without what was only for the way in."""
    return value.model_copy(update={"key": None, "key_passphrase": None, "certificate_base64": False,
                                    "key_base64": False, "format": "SSL_PEM"})


def _finished(value: SSLKeyAndCertificate, owned: own.Owned) -> SSLKeyAndCertificate:
    chain = [CertificateAuthority(certificate=chains.written([one]).decode())
             for one in chains.read(owned.chain_pem, "chain")]
    said = SSLCertificate(certificate=owned.certificate_pem.decode(),
                          days_until_expire=value.certificate.days_until_expire)
    return _bare(value).model_copy(update={"certificate": said, "ca_certs": chain, "status": FINISHED})


def _as_of(item: Item, now: int) -> Item:
    """With what the certificate says, today."""
    value = _value(item)
    if value.status != FINISHED or not value.certificate.certificate:
        return item
    said = _described(value.certificate.certificate, now // DAY)
    return replace(item, value=value.model_copy(update={"certificate": said, "key_params": said.key_params}))


@lru_cache(512)
def _described(pem: str, day: int) -> SSLCertificate:
    """What a certificate says: whatever it is, it is shown, and never judged as a client's words are."""
    said = describe(der_of(pem.encode()), day * DAY)
    for name, model in (("subject", Description), ("key_params", KeyParams)):
        if said.get(name) is not None:
            said[name] = model.model_construct(**said[name])
    return SSLCertificate.model_construct(**said)


def _pems(value: SSLKeyAndCertificate) -> list[str]:
    """The chain, however it is written."""
    return ["".join((one.certificate or "").split()) for one in value.ca_certs]


def _same(one: str, other: str | None) -> bool:
    return "".join(one.split()) == "".join((other or "").split())


def _text(value: SSLKeyAndCertificate) -> bytes:
    return _decoded(value.certificate.certificate or "", plain=not value.certificate_base64)


def _chain(value: SSLKeyAndCertificate) -> bytes:
    return "\n".join(one.certificate or "" for one in value.ca_certs).encode()


def _decoded(text: str, *, plain: bool) -> bytes:
    if plain:
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("FL-CERT-FORMAT", "what should be base64 is not", "encode the file as it is") from None


def _imported(value: SSLKeyAndCertificate, now: int) -> own.Owned:
    passphrase = value.key_passphrase.encode() if value.key_passphrase is not None else None
    if value.format == "SSL_PKCS12":
        packed = value.key or value.certificate.certificate or ""
        return brought.from_pkcs12(_decoded(packed, plain=False), passphrase, now)
    if not value.key:
        raise Refused("FL-CERT-KEY", "a certificate is imported with its key", "say key as well")
    key = _decoded(value.key, plain=not value.key_base64)
    return brought.imported(_text(value), key, passphrase, _chain(value), now)


def _subject(said: SSLCertificate) -> own.Subject:
    fields = said.subject.model_dump(exclude={"distinguished_name"}) if said.subject is not None else {}
    first = next(iter(said.subject_alt_names or ()), "")
    return own.Subject(**{"common_name": first} | {name: value for name, value in fields.items() if value})


def _params(value: SSLKeyAndCertificate) -> own.KeyParams:
    said, made = value.certificate.key_params or value.key_params or KeyParams(), own.KeyParams()
    return own.KeyParams(said.algorithm, str((said.rsa_params or {}).get("key_size", made.key_size)),
                         str((said.ec_params or {}).get("curve", made.curve)))


def _place(uuid: str) -> str:
    return f"objects/{PATH}/{uuid}"


def _way(name: str) -> str:
    if name == PORTAL:
        return ("make a new certificate, and let portal_configuration.sslkeyandcertificate_refs of the system "
                "configuration name it")
    return ("make a new certificate, and let secure_channel_configuration.sslkeyandcertificate_refs of the system "
            "configuration name it: `fairlead cert create`, `fairlead cert use`")
