"""No secret comes out of the objects that hold it, of a refusal, or of a bug's traceback in the log.

What finds the secrets is tested first, with secrets that were put there.
"""

import base64
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import structlog

from fairlead.base import logs
from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.client.https import Outgoing
from fairlead.controller.initialise import Initialised
from fairlead.controller.secrets import Certified
from fairlead.enrol import bundle as bundles
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.join import JOURNAL, PENDING, Joiner, _Pending
from fairlead.enrol.token import Token
from fairlead.enrol.trust import HOST_KEY, KEYS, load_key, save_key
from fairlead.keys.seal import new_recipient
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of, portal_name
from tests.hostile.canaries import Canaries

PASSWORD = "a canary, 19 letters"


class Holders:
    """One of every object that holds a secret, and the secrets."""

    def __init__(self) -> None:
        now, uuid = SystemClock().now(), uuid4()
        self.key, self.user, recipient = PrivateKey.generate(), PrivateKey.generate(), new_recipient()
        self.authority = Authority.create(uuid, now)
        issued = self.authority.issue_portal(uuid, ["192.0.2.1"], now)
        anchor = Anchor(uuid, (1,), (der_of(self.authority.certificate_pem),), (
            AnchorController("ctl", "192.0.2.1", 8443, portal_name(uuid), self.key.public),))
        self.bundle = bundles.issue(anchor, "engine", "se-1", Token.new(anchor.hash), now, 600)
        self.file = self.bundle.encode()
        self.pending = _Pending(role="engine", node="se-1", host_key=self.key.openssh().decode(),
                                user_key=self.user.openssh().decode(), recipient=b64(recipient),
                                token=self.bundle.token.encode())
        self.objects: dict[str, object] = {
            "PrivateKey": self.key, "Token": self.bundle.token, "Bundle": self.bundle, "Pending": self.pending,
            "bundle file": bundles._File.model_validate_json(self.file), "Authority": self.authority,
            "Issued": issued, "Certified": Certified(issued.certificate_pem, issued.key_pem),
            "Initialised": Initialised("ctl", str(uuid), self.key.public.fingerprint, PASSWORD),
            "request": Outgoing("POST", "/", {}, self.file)}
        self.canaries = canaries = Canaries()
        canaries.add("password", PASSWORD)
        canaries.add("recipient", recipient)
        canaries.add_key("host key", self.key)
        canaries.add_key("user key", self.user)
        canaries.add_pem("root CA", self.authority.key_pem)
        canaries.add_pem("portal TLS", issued.key_pem)
        canaries.add_bundle("a", self.bundle)


@pytest.fixture(scope="module")
def holders() -> Holders:
    return Holders()


def test_the_finder_finds_what_was_planted_in_every_spelling(holders: Holders) -> None:
    seed = holders.key.key.private_bytes_raw()
    canaries = Canaries()
    canaries.add("host key", seed)
    for before in range(5):
        within = bytes(before) + seed + b"\xff" * before
        for text in (within, within.hex(), within.hex().upper(), within.hex(":"), base64.b64encode(within),
                     base64.urlsafe_b64encode(within), base64.encodebytes(within), str(list(within)), repr(within),
                     json.dumps(within.decode("latin-1")), within[:before + 16], within[before + 16:]):
            assert canaries.find(text) == {"host key"}, text
    other = PrivateKey.generate()
    assert canaries.find(other.openssh() + holders.key.public.blob) == set()
    pem, found = holders.authority.key_pem, holders.canaries.find
    assert found(holders.key.openssh()) == {"host key"}
    assert found(repr(holders.key.openssh())) == {"host key"}
    assert found(pem) == found(json.dumps({"key": pem.decode()})) == found(base64.b64encode(der_of_key(pem))) \
        == {"root CA"}
    assert found(holders.file) == found(holders.bundle.token.encode()) == {"a token"}
    assert found(f"said {PASSWORD!r}") == {"password"}
    assert found(holders.pending.model_dump_json()) == {"host key", "user key", "recipient", "a token"}


def der_of_key(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def test_no_object_shows_the_secret_that_it_holds(holders: Holders) -> None:
    for name, one in holders.objects.items():
        shown = [repr(one), str(one), f"{one}", pprint.pformat(one), repr([one]), f"{one!a}", repr(Exception(one))]
        assert holders.canaries.find("\n".join(shown)) == set(), name


def test_no_object_shows_it_as_a_local_variable_of_a_traceback(holders: Holders) -> None:
    def fails(held: object) -> None:
        both = {"held": [held]}
        raise RuntimeError(f"a bug with {held} and {len(both)}")

    for name, one in holders.objects.items():
        with pytest.raises(RuntimeError) as caught:
            fails(one)
        text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert "held = " in text
        assert holders.canaries.find(text) == set(), name


def test_signing_keys_are_not_pickled(holders: Holders) -> None:
    for one in (holders.key, holders.authority):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(one)


@pytest.fixture
def logging_again() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("logging_again")
@pytest.mark.parametrize("terminal", [True, False])
def test_a_bug_in_the_log_shows_no_variable(holders: Holders, capsys: pytest.CaptureFixture[str], *,
                                            terminal: bool) -> None:
    def fails(pem: bytes, password: str, **held: object) -> None:
        raise RuntimeError(f"a bug with {len(pem) + len(password) + len(held)}")

    logs.start("ctl", "debug", terminal=terminal)
    try:
        fails(holders.key.openssh(), PASSWORD, **holders.objects)
    except RuntimeError:
        structlog.get_logger("test").exception("bug", **{f"of {n}": o for n, o in holders.objects.items()})
        logging.getLogger("asyncio").exception("bug of %r", holders.objects)
    text = capsys.readouterr().err
    assert text.count("a bug with") >= 2
    assert text.count("in fails") == 2
    assert holders.canaries.find(text) == set()


def damages(file: bytes) -> Iterator[bytes]:
    """*file* with something wrong, the secrets still in it."""
    fields = json.loads(file)
    yield file[:-3]
    yield file + b"{"
    yield file.replace(b"{", b"{\xff", 1)
    yield json.dumps([fields]).encode()
    yield json.dumps(fields | {"more": fields}).encode()
    yield json.dumps(fields | {"token": [fields["token"]]}).encode()
    yield json.dumps(fields | {"token": fields["token"] + "x"}).encode()
    yield json.dumps(fields | {"token": fields["token"][:-2] + "__"}).encode()
    yield json.dumps(fields | {"token": "flj2" + fields["token"][4:]}).encode()
    for name, value in fields.items():
        if isinstance(value, str):  # short enough to be quoted whole, if anything is
            yield json.dumps(fields | {name: [value[:44]]}).encode()
            yield json.dumps(fields | {name: [value[26:70]]}).encode()
        yield json.dumps(fields | {name: {"is": fields["token"]}}).encode()
        if name != "node":  # a name that is none is quoted: whoever writes a secret there has published it
            yield json.dumps(fields | {name: fields["token"] + " " + name}).encode()


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """*error* and everything that it came from, also what is not shown."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def said(work: Callable[[], object]) -> str:
    """All that can be printed of the error in which *work* ends."""
    try:
        work()
    except (FairleadError, ValueError) as error:
        return "\n".join([*traceback.format_exception(error), *map(str, chain(error)), *map(repr, chain(error))])
    return ""


def test_no_error_about_a_damaged_bundle_or_join_quotes_it(holders: Holders, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    pending = tmp_path / PENDING / JOURNAL
    pending.parent.mkdir(mode=0o700)
    joiner = Joiner(tmp_path, "engine", "se-1", SystemClock())

    def load(data: bytes) -> object:
        pending.write_bytes(data)
        pending.chmod(0o600)
        return joiner.unseal(b"")

    def decode(data: bytes) -> Bundle:
        return bundles.decode(data)

    ends = 0
    for work, file in ((decode, holders.file), (load, holders.pending.model_dump_json().encode())):
        for data in damages(file):
            text = said(lambda work=work, data=data: work(data))  # type: ignore[misc]
            ends += "FL-" in text or "Error" in text or "Refused" in text
            assert holders.canaries.find(text) == set(), text
    assert ends > 30


def test_no_error_about_a_damaged_key_quotes_it(holders: Holders, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / KEYS).mkdir(mode=0o700)
    save_key(tmp_path, HOST_KEY, holders.key)
    path, good = tmp_path / KEYS / HOST_KEY, holders.key.openssh()
    lines = good.splitlines(keepends=True)
    for bad in (good[:-20], b"".join(lines[1:]), b"".join([*lines[:-2], lines[-1]]), good.replace(b"OPENSSH", b"EC"),
                good.replace(b"b3Bl", b"\xff\xff\xff\xff"), holders.authority.key_pem):
        path.write_bytes(bad)
        text = said(lambda: load_key(tmp_path, HOST_KEY))
        assert "OperatorError" in text
        assert holders.canaries.find(text) == set(), text
    certificate = holders.authority.certificate_pem
    for bad in (holders.authority.key_pem[:-30], holders.key.openssh(), b"x" + holders.authority.key_pem[3:]):
        text = said(lambda bad=bad: Authority.load(certificate, bad))  # type: ignore[misc]
        assert "OperatorError" in text
        assert holders.canaries.find(text) == set(), text
