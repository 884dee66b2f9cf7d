"""A node that slept fetches what it missed from whoever answers, and follows only what its own root has signed."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairlead.base.errors import Refused
from fairlead.enrol import statements
from fairlead.enrol.trust import Trust
from fairlead.keys.wire import b64, sha256
from fairlead.pki import own
from tests.unit.pki.test_statement import CHANGE, CLUSTER, KEY, NEW, NEWER, OLD, der, signed

Answers = dict[int, Callable[[str], tuple[int, bytes]]]


@pytest.fixture
def portals(tmp_path: Path) -> Iterator[Callable[[Callable[[str], tuple[int, bytes]]], int]]:
    """Somebody's HTTPS server, with a certificate that nobody knows."""
    made = own.self_signed(own.Subject("nobody"), ["nobody.example"], own.KeyParams(), 1, 1_700_000_000_000_000)
    file = tmp_path / "pem"
    file.write_bytes(made.certificate_pem + made.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    listeners: list[socket.socket] = []

    def begin(answer: Callable[[str], tuple[int, bytes]]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                    with context.wrap_socket(plain, server_side=True) as tls:
                        status, body = answer(tls.recv(4096).decode().split()[1])
                        tls.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                except OSError:
                    if listener.fileno() < 0:
                        return

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield begin
    for one in listeners:
        one.shutdown(socket.SHUT_RDWR)
        one.close()


def sleeper(*ports: int, number: int = 4) -> Trust:
    return Trust.model_validate({
        "cluster_uuid": CLUSTER, "node": "se-1", "node_id": "1", "role": "engine", "user": "aviseuser",
        "internal_address": "127.64.1.0", "ca_certificates": [], "tls_name": "x", "roots": [b64(der(OLD))],
        "statement": number, "controllers": [
            {"name": "ctl-1", "address": "127.0.0.1", "portal_port": port, "ssh_port": 22,
             "internal_address": "127.64.0.1", "host_key": KEY.line, "user_key": KEY.line, "node_id": "2"}
            for port in ports]})


async def test_the_chain_is_fetched_and_followed(portals: Callable[..., int]) -> None:
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return 200, statements.answer(CHANGE)

    found = await statements.caught_up(lambda: sleeper(portals(answer)))
    assert (found.statement, found.roots) == (9, [b64(der(NEWER))])
    assert (found.tls_name, found.controllers[0].address) == ("portal.example", "192.0.2.1")
    assert asked == [f"/api/securekeyexchange/trust/{sha256(der(OLD)).hex()}/4"]


@pytest.mark.parametrize("texts", [
    pytest.param([signed(99, [NEW], [NEW])], id="a root of somebody's own"),
    pytest.param(CHANGE[3:], id="without its beginning"), pytest.param(["x"], id="nothing of the kind"),
    pytest.param([CHANGE[1], CHANGE[0]], id="another order")])
async def test_what_somebody_in_between_brings_is_followed_by_nobody_and_an_honest_portal_is(
        portals: Callable[..., int], texts: list[str]) -> None:
    bad = portals(lambda _: (200, statements.answer(texts)))
    with pytest.raises(Refused):
        await statements.caught_up(lambda: sleeper(bad))
    good = portals(lambda _: (200, statements.answer(CHANGE)))
    assert (await statements.caught_up(lambda: sleeper(bad, good))).statement == 9


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (200, b"{}"), (200, b"[]"), (200, b'{"statements":[1]}'),
                                              (200, b'{"statements":"x"}'), (200, b"\xff"), (200, b"{" * 9000)])
async def test_what_is_no_answer_leaves_everything_as_it_is(portals: Callable[..., int], status: int,
                                                            body: bytes) -> None:
    trust = sleeper(portals(lambda _: (status, body)))
    assert await statements.caught_up(lambda: trust) is trust


async def test_nothing_newer_changes_nothing(portals: Callable[..., int]) -> None:
    trust = sleeper(portals(lambda _: (200, statements.answer(CHANGE[:2]))), number=50)
    assert await statements.caught_up(lambda: trust) is trust


async def test_attack_an_answer_that_was_held_back_leads_nobody_back(portals: Callable[..., int]) -> None:
    """Somebody between has the retired root, and gives what was true when the node asked."""
    held: list[Trust] = []

    def answer(_: str) -> tuple[int, bytes]:
        held[0] = held[0].after(CHANGE)  # by the link to another Controller
        return 200, statements.answer(CHANGE[:2])

    held.append(sleeper(portals(answer)))
    found = await statements.caught_up(lambda: held[0])
    assert found is held[0]
    assert found.statement == 9


def test_its_answer_is_json() -> None:
    assert json.loads(statements.answer(["a"])) == {"statements": ["a"]}
