"""A trust statement is followed for its signatures and its number, and for nothing else."""

import json
from dataclasses import replace
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from fairlead.base.errors import Refused
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64, from_b64
from fairlead.pki import certificate as certificates
from fairlead.pki import statement as statements
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of
from fairlead.pki.statement import Content, Stated, Statement, follow

CLUSTER = UUID(int=7)
OLD, NEW, NEWER = (Authority.create(CLUSTER, 1_700_000_000_000_000) for _ in range(3))
KEY = PrivateKey.generate().public


def der(authority: Authority) -> bytes:
    return der_of(authority.certificate_pem)


def signed(number: int, roots: list[Authority], by: list[Authority], cluster: UUID = CLUSTER) -> str:
    content = Content("aa", tuple(map(der, roots)), (der(roots[0]),), ("portal.example",),
                      (Stated("id-1", "ctl-1", (("192.0.2.1", 8443),), 22, "127.64.0.1", KEY, (KEY,)),))
    return Statement(cluster, number, content).text([(der(one), one.state) for one in by])


def followed(number: int, roots: list[Authority], *texts: str) -> int | None:
    found = follow(CLUSTER, number, list(map(der, roots)), texts)
    return found.number if found is not None else None


def verdict(text: str) -> str:
    """Why it is refused by who has the old root; FL-TRUST-OLD for what is passed over."""
    try:
        return "FL-TRUST-OLD" if followed(4, [OLD], text) is None else ""
    except Refused as refusal:
        return refusal.code


CHANGE = [signed(5, [OLD, NEW], [OLD, NEW]), signed(6, [NEW], [OLD, NEW]), signed(7, [NEW, NEWER], [NEW, NEWER]),
          signed(8, [NEWER], [NEWER, NEW]), signed(9, [NEWER], [NEWER])]


def test_who_slept_through_two_changes_of_root_follows_the_chain() -> None:
    assert followed(4, [OLD], *CHANGE) == 9
    assert followed(6, [NEW], *CHANGE) == 9
    assert followed(9, [NEWER], *CHANGE) is None
    assert followed(4, [OLD]) is None


def test_without_roots_the_last_is_taken_and_must_have_signed_itself() -> None:
    assert followed(0, [], CHANGE[-1]) == 9
    with pytest.raises(Refused, match="a new root"):
        followed(0, [], signed(9, [NEWER], [OLD]))


@pytest.mark.parametrize(("number", "roots", "texts", "code"), [
    pytest.param(4, [OLD], [signed(5, [NEW], [NEW])], "FL-TRUST-ROOT", id="a root of somebody's own"),
    pytest.param(4, [OLD], [signed(5, [OLD, NEW], [OLD])], "FL-TRUST-ROOT", id="the new root has not signed"),
    pytest.param(4, [OLD], [signed(5, [OLD, NEW], [NEW])], "FL-TRUST-ROOT", id="the old root has not signed"),
    pytest.param(4, [OLD], [CHANGE[0], CHANGE[4]], "FL-TRUST-ROOT", id="a link of the chain is missing"),
    pytest.param(8, [NEWER], [signed(10, [OLD], [OLD])], "FL-TRUST-ROOT", id="back to a retired root"),
    pytest.param(4, [OLD], [CHANGE[1], CHANGE[0]], "FL-TRUST-ORDER", id="another order"),
    pytest.param(4, [OLD], [CHANGE[0], CHANGE[0]], "FL-TRUST-ORDER", id="the same twice"),
    pytest.param(4, [OLD], [signed(5, [OLD], [OLD], UUID(int=8))], "FL-TRUST-CLUSTER", id="another cluster"),
    pytest.param(4, [OLD], [*CHANGE, signed(10, [OLD], [OLD])], "FL-TRUST-ROOT", id="a false one after true ones"),
    pytest.param(4, [OLD], [signed(number, [OLD], [OLD]) for number in range(5, 80)], "FL-TRUST-FORMAT", id="many")])
def test_what_is_forged_reordered_or_rolled_back_is_refused(number: int, roots: list[Authority], texts: list[str],
                                                            code: str) -> None:
    with pytest.raises(Refused) as caught:
        followed(number, roots, *texts)
    assert caught.value.code == code


def test_an_old_statement_that_is_sent_again_is_not_followed() -> None:
    assert followed(9, [NEWER], *CHANGE[:2]) is None


def test_every_byte_of_it_counts() -> None:
    fields = json.loads(CHANGE[0])
    body = from_b64(fields["statement"])
    for at in range(len(body)):
        harmed = bytearray(body)
        harmed[at] ^= 1
        assert verdict(json.dumps(fields | {"statement": b64(bytes(harmed))})).startswith("FL-TRUST-"), at


def test_it_says_again_what_was_said() -> None:
    text = signed(5, [OLD, NEW], [OLD, NEW])
    kept = statements.read(text).statement
    assert kept.text([(der(OLD), OLD.state)]) != text, "ECDSA signatures differ"
    assert statements.read(kept.text([(der(OLD), OLD.state)])).statement == kept


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"statement":"","signatures":{}}',
                                  '{"statement":1,"signatures":{}}', '{"statement":"AAAA","signatures":[]}',
                                  "{" * 5000, '"' + "x" * 200_000 + '"'])
def test_what_is_no_statement_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        statements.read(text)
    assert caught.value.code == "FL-TRUST-FORMAT"


def test_a_root_with_a_name_that_nobody_decodes_is_no_certificate() -> None:
    """x400Address: the library has an error of its own for it, which must not end whoever reads it off the network."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
    made = (certificates.dated(name, name, key.public_key(), 1, 1_700_000_000_000_000, 1_800_000_000_000_000)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"),
                                                      bytes.fromhex("3004a3020500")), critical=False)
            .sign(key, SHA256()).public_bytes(Encoding.DER))
    statement = statements.read(CHANGE[0]).statement
    text = replace(statement, content=replace(statement.content, roots=(made,))).text([(der(OLD), OLD.state)])
    with pytest.raises(Refused) as caught:
        statements.read(text)
    assert caught.value.code == "FL-TRUST-FORMAT"


@pytest.mark.parametrize("changes", [{"roots": ()}, {"controllers": ()}, {"portal_names": ()},
                                     {"portal_certificates": ()}, {"roots": (b"x",)}])
def test_nothing_may_be_left_out(changes: dict[str, tuple[bytes, ...]]) -> None:
    statement = statements.read(CHANGE[0]).statement
    harmed = replace(statement, content=replace(statement.content, **changes))  # type: ignore[arg-type]
    with pytest.raises(Refused, match="damaged"):
        followed(4, [OLD], harmed.text([(der(OLD), OLD.state), (der(NEW), NEW.state)]))
