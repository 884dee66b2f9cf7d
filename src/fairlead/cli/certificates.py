"""Commands about certificates of one's own. Private keys go in and never come out."""

import base64
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fairlead.base.errors import OperatorError
from fairlead.cli import output
from fairlead.cli.options import Json, State, client, password, read

PATH = "/api/sslkeyandcertificate"
COLUMNS = ("name", "type", "status", "subject", "not_after", "expiry_status", "self_signed", "in_use_by")
MOST_BYTES = 64 * 1024
_EC = {"ec-p256": "SECP256R1", "ec-p384": "SECP384R1", "ec-p521": "SECP521R1"}
_RSA = ("rsa-2048", "rsa-3072", "rsa-4096")

Name = Annotated[str, typer.Option("--name", help="What the certificate is called here.")]
Called = Annotated[str, typer.Argument(metavar="NAME", help="What the certificate is called here.")]
CommonName = Annotated[str, typer.Option("--common-name", help="The subject's common name.")]
Names = Annotated[list[str] | None, typer.Option("--san", metavar="X", help=(
    "A host name or IP address that it is good for; may be repeated."))]
KeyType = Annotated[str, typer.Option("--key-type", help=f"{', '.join((*_EC, *_RSA))}.")]
Organization = Annotated[str, typer.Option("--organization", help="The subject's organization.")]
Unit = Annotated[str, typer.Option("--organization-unit", help="Its part of that.")]
Country = Annotated[str, typer.Option("--country", help="Two capital letters.")]
Region = Annotated[str, typer.Option("--region", help="The subject's state or province.")]
Locality = Annotated[str, typer.Option("--locality", help="The subject's town.")]
Email = Annotated[str, typer.Option("--email", help="The subject's e-mail address.")]


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    certificates = typer.Typer(no_args_is_help=True, help="Certificates of your own, such as one for the portal.")
    commands: dict[str, Callable[..., None]] = {"list": show_all, "show": show, "create": create, "csr": csr,
                                                "import": bring, "renew": renew, "delete": delete, "use": use}
    for name, function in commands.items():
        certificates.command(name)(function)
    app.add_typer(certificates, name="cert")


def show_all(context: typer.Context, state: State = None, json: Json = False) -> None:
    """The certificates, and what each is used for."""
    rows = [_row(one) for one in client(context, state).get(PATH)["results"]]
    if json:
        output.as_json(rows)
    else:
        output.table(rows, COLUMNS, "no certificates")


def show(context: typer.Context, name: Called, state: State = None, json: Json = False) -> None:
    """One certificate: what it says, and the certificate or the request as PEM."""
    found = _found(client(context, state), name)
    certificate = found.get("certificate") or {}
    if json:
        output.as_json(_row(found) | {"certificate": certificate})
        return
    output.facts(_row(found) | {"names": certificate.get("subject_alt_names"),
                                "fingerprint": certificate.get("fingerprint")})
    output.text(str(certificate.get("certificate") or certificate.get("certificate_signing_request") or ""))


def create(context: typer.Context, name: Name, common_name: CommonName, san: Names = None,
           key_type: KeyType = "ec-p256",
           days: Annotated[int, typer.Option("--days", help="For how long it is valid, 1 to 3650.")] = 365,
           organization: Organization = "", organization_unit: Unit = "", country: Country = "", region: Region = "",
           locality: Locality = "", email: Email = "", state: State = None) -> None:
    """Make a key and a self-signed certificate for it."""
    subject = _subject(common_name, organization, organization_unit, country, region, locality, email)
    _post(client(context, state), name, {"self_signed": True, "days_until_expire": days, "subject": subject,
                                         "subject_alt_names": san or [], "key_params": _params(key_type)})
    output.say(f"{name} is made; `fairlead cert use {name}` gives it to the secure channel")


def csr(context: typer.Context, name: Name, common_name: CommonName, san: Names = None, key_type: KeyType = "ec-p256",
        organization: Organization = "", organization_unit: Unit = "", country: Country = "", region: Region = "",
        locality: Locality = "", email: Email = "", state: State = None) -> None:
    """Make a key, and print the request that a CA makes a certificate of; import that under the same name."""
    subject = _subject(common_name, organization, organization_unit, country, region, locality, email)
    made = _post(client(context, state), name, {"self_signed": False, "subject": subject,
                                                "subject_alt_names": san or [], "key_params": _params(key_type)})
    output.text(str((made.get("certificate") or {}).get("certificate_signing_request", "")))
    output.say(f"{name} waits for its certificate: `fairlead cert import --name {name} --certificate F`")


def bring(context: typer.Context, name: Name,
          certificate: Annotated[str | None, typer.Option("--certificate", metavar="F", help=(
              "The certificate, PEM; those above it may follow in the file."))] = None,
          key: Annotated[str | None, typer.Option("--key", metavar="F", help=(
              "Its private key, PEM; not for the certificate of a request."))] = None,
          chain: Annotated[str | None, typer.Option("--chain", metavar="F", help="Those above it, PEM.")] = None,
          pkcs12: Annotated[str | None, typer.Option("--pkcs12", metavar="F", help=(
              "Certificate, key and chain in one file, in place of the others."))] = None,
          passphrase_file: Annotated[str | None, typer.Option("--passphrase-file", metavar="F", help=(
              "Read the key's passphrase from this file (or -)."))] = None, state: State = None) -> None:
    """Bring a certificate with its key, or the certificate that a CA made of a request."""
    if (pkcs12 is None) == (certificate is None) or (pkcs12 is not None and (key or chain)):
        raise typer.BadParameter("give --certificate (with --key and --chain) or --pkcs12")
    api = client(context, state)
    secret = {} if passphrase_file is None else {"key_passphrase": password(passphrase_file)}
    if pkcs12 is not None:
        data = base64.b64encode(_bytes(pkcs12, "PKCS #12 file")).decode()
        api.post(PATH, _object(name) | secret | {"format": "SSL_PKCS12", "certificate": {"certificate": data},
                                                 "certificate_base64": True})
    else:
        body: dict[str, Any] = {"certificate": {"certificate": _pem(str(certificate), "certificate")},
                                "format": "SSL_PEM"} | secret
        if chain is not None:
            body["ca_certs"] = [{"certificate": _pem(chain, "chain")}]
        if key is None:
            pending = _found(api, name)
            api.put(f"{PATH}/{pending['uuid']}", _object(name) | body)
        else:
            api.post(PATH, _object(name) | body | {"key": _pem(key, "private key")})
    output.say(f"{name} is there; `fairlead cert use {name}` gives it to the secure channel")


def renew(context: typer.Context, name: Called, state: State = None) -> None:
    """Make a self-signed certificate again, for its key and names."""
    api = client(context, state)
    api.post(f"{PATH}/{_found(api, name)['uuid']}/renew")
    output.say(f"{name} is renewed")


def delete(context: typer.Context, name: Called, state: State = None) -> None:
    """Delete a certificate and its key; one that is in use stays."""
    api = client(context, state)
    api.delete(f"{PATH}/{_found(api, name)['uuid']}")
    output.say(f"{name} is deleted")


def use(context: typer.Context, name: Called, state: State = None) -> None:
    """Let the secure channel's portal present this certificate."""
    api = client(context, state)
    reference = f"{PATH}/{_found(api, name)['uuid']}"
    api.patch("/api/systemconfiguration",
              {"replace": {"secure_channel_configuration": {"sslkeyandcertificate_refs": [reference]}}})
    output.say(f"the secure channel uses {name}")


def _found(api: Any, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [one for one in api.get(PATH, name=name)["results"] if one.get("name") == name]
    if not found:
        raise OperatorError("FL-CERT-UNKNOWN", f"there is no certificate {name!r}", "`fairlead cert list`")
    return found[0]


def _post(api: Any, name: str, certificate: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = api.post(PATH, _object(name) | {
        "certificate": certificate, "key_params": certificate["key_params"], "format": "SSL_PEM"})
    return made


def _object(name: str) -> dict[str, Any]:
    return {"name": name, "type": "SSL_CERTIFICATE_TYPE_SYSTEM"}


def _row(one: dict[str, Any]) -> dict[str, Any]:
    """What is listed of an object; nothing else of it is shown, whatever it holds."""
    certificate = one.get("certificate") or {}
    subject, issuer = (certificate.get(who) or {} for who in ("subject", "issuer"))
    return {"name": one.get("name"), "uuid": one.get("uuid"), "type": _short(one.get("type"), "SSL_CERTIFICATE_TYPE_"),
            "status": _short(one.get("status"), "SSL_CERTIFICATE_"), "subject": subject.get("distinguished_name"),
            "issuer": issuer.get("distinguished_name"), "not_after": certificate.get("not_after"),
            "days_until_expire": certificate.get("days_until_expire"),
            "expiry_status": _short(certificate.get("expiry_status"), "SSL_CERTIFICATE_"),
            "self_signed": certificate.get("self_signed"), "in_use_by": one.get("in_use_by") or []}


def _short(value: Any, prefix: str) -> str | None:
    return None if value is None else str(value).removeprefix(prefix).lower()


def _subject(common_name: str, organization: str, unit: str, country: str, region: str, locality: str,
             email: str) -> dict[str, str]:
    fields = {"common_name": common_name, "organization": organization, "organization_unit": unit, "country": country,
              "state": region, "locality": locality, "email_address": email}
    return {field: value for field, value in fields.items() if value}


def _params(key_type: str) -> dict[str, Any]:
    if key_type in _EC:
        return {"algorithm": "SSL_KEY_ALGORITHM_EC", "ec_params": {"curve": f"SSL_KEY_EC_CURVE_{_EC[key_type]}"}}
    if key_type in _RSA:
        return {"algorithm": "SSL_KEY_ALGORITHM_RSA", "rsa_params": {"key_size": f"SSL_KEY_{key_type[4:]}_BITS"}}
    raise typer.BadParameter(f"--key-type is one of {', '.join((*_EC, *_RSA))}")


def _bytes(path: str, what: str) -> bytes:
    data = read(path, what, MOST_BYTES)
    if len(data) > MOST_BYTES:
        raise OperatorError("FL-CERT-FORMAT", f"the {what} {path} has more than {MOST_BYTES // 1024} KiB",
                            "give the right file")
    return data


def _pem(path: str, what: str) -> str:
    try:
        return _bytes(path, what).decode()
    except UnicodeDecodeError:  # its text would quote the file
        raise OperatorError("FL-CERT-FORMAT", f"the {what} {path} is not PEM",
                            "give PEM, or PKCS #12 with --pkcs12") from None
