"""Who gets in, as whom, and what strangers can do before that: nothing."""

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_USERAUTH_REQUEST
from asyncssh.packet import Boolean, String, UInt32
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.transport import options, server
from fairlead.transport.accelerated import poller
from fairlead.transport.admission import Admission
from fairlead.transport.dialler import dial
from fairlead.transport.options import Keepalive
from fairlead.transport.peer import Peer
from tests.unit.transport.hostile import (
    USERAUTH_FAILURE,
    USERAUTH_PK_OK,
    USERAUTH_SUCCESS,
    Hostile,
    Unstrict,
    hostile,
)
from tests.unit.transport.world import ALICE, BOB, CLOCK, HOST_KEY, PATIENT, World, bound, peer_of, until, world


async def test_a_known_key_gets_in_and_both_ends_know_it(way_of_streams: str) -> None:
    async with world() as w:
        tunnel = await w.dial()
        await w.door.arrival.wait()
        (seen,) = w.door.tunnels
        assert (seen.peer.node, seen.direction, tunnel.direction) == ("alice", "in", "out")
        for end in (seen, tunnel):
            assert (end.cipher, end.kex) == ("aes256-gcm@openssh.com", "mlkem768x25519-sha256")
            assert end.transport == way_of_streams
            assert end.address.startswith("127.0.0.1:")
            assert end.since > 0
            assert not end.closed.is_set()
        assert w.admission.inside == 0
        seen.close("removed")
        await tunnel.wait_closed()
        await w.door.departure.wait()
        assert w.door.gone == [seen]
        assert (seen.reason, tunnel.closed.is_set()) == ("removed", True)


async def test_over_ipv6() -> None:
    async with world() as w:
        sock = socket.socket(socket.AF_INET6)
        sock.bind(("::1", 0))
        listener = await server.listen([sock], host_keys=lambda: (HOST_KEY,), door=w.door,
                                       admission=w.admission, keepalive=PATIENT, clock=CLOCK, way=w.way)
        tunnel = await dial("::1", sock.getsockname()[1], peer=peer_of("alice", ALICE), key=ALICE,
                            host_keys=[HOST_KEY.public], keepalive=PATIENT, clock=CLOCK, way=w.way)
        assert tunnel.address.startswith("[::1]:")
        tunnel.close("done")
        await w.door.departure.wait()
        await listener.close()


@pytest.mark.parametrize(("user", "key"), [("aviseuser", BOB), ("avictlruser", ALICE), ("root", ALICE), ("", ALICE),
                                           ("aviseuser ", ALICE)])
async def test_whoever_is_not_known_is_refused(user: str, key: PrivateKey) -> None:
    async with world() as w:
        with pytest.raises(Refused) as refusal:
            await w.dial(key, peer_of("x", key, user))
        assert refusal.value.code == "FL-SSH-REFUSED"
        assert w.door.tunnels == []


async def test_a_key_offered_is_not_a_key_proven() -> None:
    """Offer Alice's key, prove Bob's: Bob comes in (CVE-2024-45337)."""
    async with world() as w:
        w.door.known(BOB, peer_of("bob", BOB, "avictlruser"))
        async with hostile(w.port) as mallory:
            await mallory.begin()
            mallory.name("aviseuser")
            mallory.probe(ALICE)
            assert await mallory.answer() == USERAUTH_PK_OK
            mallory.name("avictlruser")
            await mallory.prove(BOB)
            assert await mallory.answer() == USERAUTH_SUCCESS
            (seen,) = w.door.tunnels
            assert seen.peer == peer_of("bob", BOB, "avictlruser")


async def test_a_signature_counts_for_its_own_name_and_key_only() -> None:
    async with world() as w:
        w.door.known(BOB, peer_of("bob", BOB, "avictlruser"))
        async with hostile(w.port) as mallory:
            await mallory.begin()
            mallory.name("aviseuser")
            await mallory.prove(BOB, shown=ALICE)
            assert await mallory.answer() == USERAUTH_FAILURE
            await mallory.prove(BOB)  # Bob's key under Alice's name
            assert await mallory.answer() == USERAUTH_FAILURE
        assert w.door.tunnels == []


async def test_requests_in_one_breath_do_not_mix() -> None:
    """Proof of Bob, then at once a probe of Alice under another name: nobody becomes Alice by that."""
    async with world() as w:
        w.door.known(BOB, peer_of("bob", BOB, "avictlruser"))
        for _ in range(20):
            async with hostile(w.port) as mallory:
                await mallory.begin()
                mallory.name("avictlruser")
                await mallory.prove(BOB)
                mallory.name("aviseuser")
                mallory.probe(ALICE)
                assert await mallory.answer() in (USERAUTH_SUCCESS, USERAUTH_PK_OK)
        assert {tunnel.peer.node for tunnel in w.door.tunnels} <= {"bob"}


async def test_every_name_is_offered_public_keys_and_nothing_else() -> None:
    async with world() as w, hostile(w.port) as mallory:
        await mallory.begin()
        answers = set()
        for user in ("aviseuser", "root", "", "admin"):
            mallory.name(user)
            mallory.method("none")
            answers.add(await mallory.answer_in_full())
        mallory.method("password", Boolean(False), String("secret"))
        answers.add(await mallory.answer_in_full())
        mallory.method("keyboard-interactive", String(""), String(""))
        answers.add(await mallory.answer_in_full())
        mallory.method("hostbased", String("ssh-ed25519"), String(ALICE.public.blob), String("h"), String("u"),
                       String(""))
        answers.add(await mallory.answer_in_full())
        assert answers == {(USERAUTH_FAILURE, String("publickey") + Boolean(False))}


async def test_after_too_many_attempts_the_connection_ends() -> None:
    async with world() as w, hostile(w.port) as mallory:
        await mallory.begin()
        for _ in range(options.MOST_ATTEMPTS):
            mallory.probe(BOB)
            assert await mallory.answer() == USERAUTH_FAILURE
        mallory.probe(BOB)
        assert await mallory.answer() == -1


async def test_other_kinds_of_keys_are_not_even_looked_up() -> None:
    rsa = generate_private_key(65537, 2048).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    blob = asyncssh.import_public_key(rsa).public_data
    user_ca = asyncssh.import_private_key(BOB.openssh())
    certificate = user_ca.generate_user_certificate(asyncssh.import_private_key(ALICE.openssh()), "x",
                                                    principals=["aviseuser"]).public_data
    small_order = String("ssh-ed25519") + String(b"\1" + bytes(31))
    async with world() as w, hostile(w.port) as mallory:
        await mallory.begin()
        mallory.name("aviseuser")
        for kind, key in (("rsa-sha2-256", blob), ("ssh-ed25519-cert-v01@openssh.com", certificate),
                          ("ssh-ed25519", small_order), ("ssh-ed25519", b""), ("x509v3-ssh-rsa", b"\0" * 400)):
            mallory.method("publickey", Boolean(False), String(kind), String(key))
            assert await mallory.answer() == USERAUTH_FAILURE
        assert w.door.asked == []


async def test_strict_key_exchange_is_required_by_the_server() -> None:
    async with world() as w, hostile(w.port, Unstrict) as mallory:
        mallory.send_service_request(b"ssh-userauth")
        assert await mallory.answer() == -1
        assert isinstance(mallory.end, asyncssh.KeyExchangeFailed)
        assert "strict" in mallory.end.reason


async def test_weak_algorithms_are_not_spoken() -> None:
    async with world() as w:
        for weak in ({"encryption_algs": ["chacha20-poly1305@openssh.com", "aes256-ctr"]},
                     {"kex_algs": ["diffie-hellman-group14-sha256", "ecdh-sha2-nistp256"]},
                     {"server_host_key_algs": ["rsa-sha2-512"]}):
            with pytest.raises(asyncssh.KeyExchangeFailed):
                async with hostile(w.port, Hostile, **weak):
                    pass


async def test_strict_key_exchange_is_required_by_the_dialler(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as w:
        strict = SSHConnection._get_extra_kex_algs
        monkeypatch.setattr(SSHConnection, "_get_extra_kex_algs",
                            lambda self: [b"ext-info-s"] if self.is_server() else strict(self))
        monkeypatch.setattr(server.ServerConnection, "send_newkeys", SSHConnection.send_newkeys)
        with pytest.raises(Refused) as refusal:
            await w.dial()
        assert refusal.value.code == "FL-SSH-WEAK"


async def test_another_host_key_is_refused_before_anything_is_said() -> None:
    async with world() as w:
        with pytest.raises(Refused) as refusal:
            await dial("127.0.0.1", w.port, peer=peer_of("alice", ALICE), key=ALICE,
                       host_keys=[ALICE.public, BOB.public], keepalive=PATIENT, clock=CLOCK, way=w.way)
        assert refusal.value.code == "FL-SSH-HOSTKEY"
        for shown in (f"127.0.0.1:{w.port}", HOST_KEY.public.fingerprint, ALICE.public.fingerprint,
                      BOB.public.fingerprint):
            assert shown in refusal.value.message
        with pytest.raises(Refused):
            await dial("127.0.0.1", w.port, peer=peer_of("alice", ALICE), key=ALICE, host_keys=[],
                       keepalive=PATIENT, clock=CLOCK, way=w.way)
        assert w.door.asked == []


async def test_nothing_around_us_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder, an agent and a proxy that would change everything."""
    ssh = tmp_path / ".ssh"
    ssh.mkdir()
    (ssh / "config").write_text("Host *\n Hostname 192.0.2.1\n ProxyCommand false\n User root\n RekeyLimit 99\n")
    (ssh / "known_hosts").write_text(f"* {BOB.public.line}\n")
    (ssh / "id_ed25519").write_bytes(BOB.openssh())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    monkeypatch.setenv("ALL_PROXY", "socks5://192.0.2.1:1")
    called: list[asyncio.StreamWriter] = []
    agent = await asyncio.start_unix_server(lambda _, writer: called.append(writer), tmp_path / "agent")
    async with world() as w:
        tunnel = await w.dial()
        assert tunnel.connection._rekey_bytes == 1 << 30
        assert called == []
        agent.close()
        assert {fingerprint for _, fingerprint in w.door.asked} == {ALICE.public.fingerprint}
        with pytest.raises(Refused):
            await dial("127.0.0.1", w.port, peer=peer_of("a", ALICE), key=ALICE, host_keys=[BOB.public],
                       keepalive=PATIENT, clock=CLOCK, way=w.way)


async def test_what_cannot_be_reached_says_why() -> None:
    async with world() as w:
        closed = bound()
        with pytest.raises(OperatorError) as nobody:
            await w.dial(port=closed.getsockname()[1])
        assert nobody.value.code == "FL-SSH-UNREACHABLE"
        assert "efused" in nobody.value.message
        closed.listen()
        with pytest.raises(OperatorError) as silent:
            await w.dial(port=closed.getsockname()[1], patience=0.2)
        assert "no answer in time" in silent.value.message
        closed.close()

        async def web(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\x1b[31m\r\n\xff\r\nSSH-1.5-old\r\n")
            await writer.drain()

        with pytest.raises(FairleadError) as other:
            await w.dial(port=await w.serve(web))
        assert other.value.code == "FL-SSH-UNREACHABLE"


async def test_a_frozen_peer_is_noticed_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that stops passing anything on, in the middle of a live connection."""
    monkeypatch.setattr(poller, "SWEEP_S", 0.02)
    quick = Keepalive(interval_s=0.1, missed=3)
    async with world(keepalive=quick) as w:
        frozen = asyncio.Event()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", w.port)

            async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(1 << 16):
                    if frozen.is_set():
                        await asyncio.Event().wait()
                    sink.write(data)

            await asyncio.gather(copy(reader, back), copy(there, writer))

        tunnel = await w.dial(port=await w.serve(relay), keepalive=quick)
        async with asyncio.timeout(5):
            await w.door.arrival.wait()
        await asyncio.sleep(0.5)  # longer than the limit: an idle connection lives
        assert not tunnel.closed.is_set()
        frozen.set()
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with asyncio.timeout(5):
            await tunnel.wait_closed()
            await w.door.departure.wait()
        assert loop.time() - start < 2
        assert "keepalive" in tunnel.reason


async def test_a_dead_peer_costs_fifteen_seconds_by_default() -> None:
    loop_options = options.server_options(asyncssh.SSHServer, HOST_KEY, Keepalive())
    assert loop_options.keepalive_interval * (loop_options.keepalive_count_max + 1) == 15


async def test_strangers_have_few_places_and_those_who_are_known_do_not_need_them() -> None:
    async with world(admission=Admission(10, 2)) as w:
        waiting = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(2)]
        for reader, _ in waiting:
            assert (await reader.readline()).startswith(b"SSH-2.0-fairlead")
        with pytest.raises(OperatorError):
            await w.dial()
        for _, writer in waiting:
            writer.close()
        await until(lambda: not w.admission.inside)
        tunnels = [await w.dial() for _ in range(5)]
        assert w.admission.inside == 0
        assert not any(tunnel.closed.is_set() for tunnel in tunnels)


async def test_strangers_who_wait_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "LOGIN_TIMEOUT", 0.2)
    async with world() as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"SSH-2.0-x\r\n")
        async with asyncio.timeout(5):
            await reader.read(-1)
        writer.close()
        assert w.admission.inside == 0


async def test_closing_the_door_sends_strangers_away_and_leaves_tunnels() -> None:
    async with world() as w:
        tunnel = await w.dial()
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        await reader.readline()
        await w.listener.close()
        async with asyncio.timeout(5):
            await reader.read(-1)
        writer.close()
        assert not tunnel.closed.is_set()
        with pytest.raises(OperatorError):
            await w.dial()


@pytest.mark.parametrize("early", [
    (90, String("session") + UInt32(0) + UInt32(1 << 20) + UInt32(32768)),
    (80, String("tcpip-forward") + Boolean(True) + String("127.64.0.1") + UInt32(80)),
    (94, UInt32(0) + String(b"x")), (52, b""), (51, String("publickey") + Boolean(False)),
    (53, String("x") + String("")),
    (60, String("ssh-ed25519") + String(b"")), (6, String("ssh-connection"))])
@pytest.mark.parametrize("begun", [False, True])
async def test_nothing_that_belongs_after_login_works_before_it(early: tuple[int, bytes], begun: bool) -> None:
    """CVE-2018-7749, CVE-2018-10933, CVE-2025-32433."""
    async with world() as w, hostile(w.port) as mallory:
        if begun:
            await mallory.begin()
        mallory._auth_complete = True  # so that its own asyncssh lets it
        mallory.send_packet(early[0], early[1])
        assert await mallory.answer() == -1
        assert w.door.tunnels == []
        assert w.door.asked == []


@pytest.mark.parametrize("noise", [
    b"\xff" * 9000, b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-\xff\xfe\r\n", b"SSH-2.0-x\r\n" + b"\xff" * 64,
    b"SSH-2.0-x\r\n" + bytes(4) + bytes(64), b"SSH-2.0-x\r\n\x00\x00\x00\x0c\x0a\x14" + bytes(64),
    b"SSH-2.0-x\r\n\x00\x00\x88\xb9\x04\x14" + bytes(64), b"SSH-2.0-" + b"x" * 300 + b"\r\n"])
async def test_noise_ends_the_connection_and_leaves_no_trace(noise: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world() as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(noise)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                await reader.read(-1)
        await until(lambda: not w.admission.inside)
        writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_packet_may_not_be_large_before_a_channel_is_open() -> None:
    async with world() as w, hostile(w.port) as mallory:
        mallory.send_packet(2, String(os.urandom(options.MOST_EARLY_PACKET)))
        assert await mallory.answer() == -1


async def test_a_pending_node_is_cut_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PENDING_LIFETIME", 0.3)
    async with world() as w:
        w.door.known(BOB, peer_of("bob", BOB, standing="pending"))
        pending, active = await w.dial(BOB), await w.dial(ALICE)
        async with asyncio.timeout(5):
            await pending.wait_closed()
        assert w.door.tunnels[0].reason == "time is up"
        assert not active.closed.is_set()


async def dies(w: World) -> None:
    """Dial, and see it cut: before the dialler has noticed that it was let in, or after."""
    with contextlib.suppress(FairleadError):
        async with asyncio.timeout(5):
            await (await w.dial()).wait_closed()


async def test_the_door_may_close_on_arrival() -> None:
    async with world() as w:
        w.door.on_arrival = lambda tunnel: tunnel.close("not today")
        await dies(w)
        await w.door.departure.wait()
        assert w.door.gone == w.door.tunnels


async def test_a_faulty_door_lets_nobody_in_and_is_heard_of() -> None:
    async with world() as w:
        def broken(user: str, key: PublicKey, source: str) -> Peer | None:
            raise ZeroDivisionError

        w.door.admit = broken  # type: ignore[method-assign]
        with pytest.raises(FairleadError):
            await w.dial()
        assert [type(fault["exception"]) for fault in w.faults] == [ZeroDivisionError]
        w.faults.clear()
        assert w.door.tunnels == []


async def test_without_a_proof_nobody_comes_in_whatever_asyncssh_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two faults that asyncssh might have again: success without a key, and a name that changed under the proof."""
    async with world() as w:
        with monkeypatch.context() as fault:
            fault.setattr(server.Guest, "begin_auth", lambda *_: False)
            await dies(w)
        with monkeypatch.context() as fault:
            kept = server.ServerConnection.set_extra_info
            fault.setattr(server.ServerConnection, "set_extra_info", lambda self, **extra: kept(
                self, **{name: "root" if name == "username" else value for name, value in extra.items()}))
            await dies(w)
        assert w.door.tunnels == []


def test_the_installed_asyncssh_fits() -> None:
    options.check_asyncssh()


def test_an_asyncssh_that_lacks_what_we_override_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(asyncssh.SSHServerConnection, "validate_public_key")
    with pytest.raises(OperatorError) as refusal:
        options.check_asyncssh()
    assert "validate_public_key" in refusal.value.message


def test_another_version_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(asyncssh, "__version__", "9.9")
    options.check_asyncssh()
    assert "9.9" in caplog.text


async def test_our_key_is_proven_at_once_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request, signed, before any question; when it is refused, nothing else is tried."""
    sent: list[bytes] = []

    def noting(self: SSHConnection, kind: int, *fields: bytes, **more: Any) -> None:
        if kind == MSG_USERAUTH_REQUEST:
            sent.append(b"".join(fields))
        send(self, kind, *fields, **more)

    send = SSHConnection.send_userauth_packet
    monkeypatch.setattr(SSHConnection, "send_userauth_packet", noting)
    async with world() as w:
        await w.dial()
        assert len(sent) == 1
        assert String("publickey") + b"\1" + String("ssh-ed25519") in sent.pop()
        with pytest.raises(Refused) as refusal:
            await w.dial(BOB)
        assert refusal.value.code == "FL-SSH-REFUSED"
        assert len(sent) == 1
