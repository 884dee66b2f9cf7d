"""Portals with an operator's own certificate, over real TLS: every kind is joined and called, and nobody else is."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fairlead.base.clock import DAY, HOUR
from fairlead.base.errors import Refused
from fairlead.enrol import signed
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.trust import USER_KEY, load_key
from fairlead.keys.wire import b64
from fairlead.pki.authority import Issued
from fairlead.pki.certificate import portal_name
from fairlead.pki.own import KeyParams, Owned, Subject, self_signed
from fairlead.pki.secure_channel import Presentation, judge
from tests.hostile.wire import Wire, open_wire
from tests.unit.pki.organisation import Holder, made, root

NOW = time.time_ns() // 1000
TOP = root("Example Root", NOW)
MIDDLE = TOP.ca("Example Servers", NOW, path_length=0)
CHAIN = MIDDLE.pem + TOP.pem


@dataclass(frozen=True)
class Kind:
    """*address* stands for the Controller's in the judgement; all is dialled at 127.0.0.1."""

    address: str = "127.0.0.1"
    by_cluster: bool = False
    pinned: bool = False

    def owned(self, cluster_name: str) -> Owned:
        if self.pinned:
            return self_signed(Subject("The portal"), (), KeyParams(), 30, NOW)
        leaf = MIDDLE.leaf([cluster_name if self.by_cluster else self.address], NOW)
        return Owned(leaf.pem, leaf.key_pem, CHAIN)


KINDS = {"the cluster's name": Kind(by_cluster=True), "an address": Kind(), "a name": Kind("ctl.example.org"),
         "an IPv6 address": Kind("2001:db8::1"), "pinned": Kind(pinned=True)}


def serve(wire: Wire, kind: Kind) -> tuple[Owned, Presentation]:
    """The portal gets a certificate of this kind, and new bundles say so."""
    world = wire.world
    owned = kind.owned(name := portal_name(world.cluster_uuid))
    presentation = judge(owned, [kind.address], name, NOW)
    wire.present(Issued(presentation.chain_pem, owned.key_pem))

    def anchor() -> Anchor:
        return Anchor(world.cluster_uuid, (1,), presentation.ca_certificates, tuple(
            AnchorController(c.name, address, port, presentation.tls_names[kind.address], world.host_key.public)
            for c in world.directory.controllers() if c.endpoint for address, port in c.endpoint.places)).checked()

    world.enrolment.office = replace(world.enrolment.office, anchor=anchor)
    return owned, presentation


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_is_joined_and_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async with open_wire(tmp_path, monkeypatch) as wire:
        _, presentation = serve(wire, KINDS[kind])
        trust = await wire.join("se-1", await wire.world.export())
        wire.joined("se-1")
        assert trust.tls_name == presentation.tls_name
        assert trust.ca_certificates == [b64(der) for der in presentation.ca_certificates]
        core = await signed.reread(trust, load_key(tmp_path / "se-1", USER_KEY), wire.world.clock.now())
        assert core.node == "se-1"


def holder(owned: Owned) -> Holder:
    key = load_pem_private_key(owned.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Holder(x509.load_pem_x509_certificate(owned.certificate_pem), key)


def shown(leaf: Holder, *above: Holder) -> Issued:
    return Issued(leaf.pem + b"".join(one.pem for one in above), leaf.key_pem)


def another_ca(owned: Owned, name: str) -> Issued:
    top = root("Example Root", NOW)
    middle = top.ca("Example Servers", NOW)
    return shown(middle.leaf([name], NOW), middle, top)


Attack = Callable[[Owned, str], Issued]
ATTACKS: dict[str, tuple[str, Attack, str]] = {
    "another name of the same CA": (
        "an address", lambda *_: shown(MIDDLE.leaf(["127.0.0.2", "www.example.org"], NOW), MIDDLE), "FL-JOIN-PEER"),
    "another name of the same CA, for a name": (
        "a name", lambda *_: shown(MIDDLE.leaf(["www.example.org", "example.org"], NOW), MIDDLE), "FL-JOIN-PEER"),
    "the same name of another CA": ("an address", another_ca, "FL-JOIN-PEER"),
    "below another's leaf": (
        "an address",
        lambda _, name: shown((other := MIDDLE.leaf(["www.example.org"], NOW)).leaf([name], NOW), other, MIDDLE),
        "FL-JOIN-PEER"),
    "the intermediate is missing": ("an address", lambda owned, _: Issued(owned.certificate_pem, owned.key_pem),
                                    "FL-JOIN-PEER"),
    "expired": ("an address", lambda _, name: shown(MIDDLE.leaf([name], NOW, first=-DAY, last=-HOUR), MIDDLE),
                "FL-TIME-SKEW"),
    "another one in place of the pinned": ("pinned", lambda *_: shown(made("The portal", None, NOW)), "FL-JOIN-PEER"),
    "another one with the key of the pinned": (
        "pinned", lambda owned, name: shown(made("The portal", None, NOW, names=[name], key=holder(owned).key)),
        "FL-JOIN-PEER"),
    "the pinned one vouches for another": (
        "pinned", lambda owned, name: shown(holder(owned).leaf([name], NOW), holder(owned)), "FL-JOIN-PEER"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_nobody_else_is_believed_and_nothing_is_spent(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    kind, show, code = ATTACKS[attack]
    async with open_wire(tmp_path, monkeypatch) as wire:
        owned, presentation = serve(wire, KINDS[kind])
        trust = await wire.join("se-1", await wire.world.export())
        bundle = await wire.world.export()
        right = Issued(presentation.chain_pem, owned.key_pem)
        wire.present(show(owned, presentation.tls_name))
        before = await wire.world.revision()
        with pytest.raises(Refused) as caught:
            await wire.join("se-2", bundle)
        assert caught.value.code == code
        with pytest.raises(Refused) as caught:
            await signed.reread(trust, load_key(tmp_path / "se-1", USER_KEY), wire.world.clock.now())
        assert caught.value.code == "FL-PEER-CERTIFICATE"
        assert await wire.world.revision() == before
        assert (await wire.world.token(bundle)).state == "open"
        wire.present(right)
        await wire.join("se-2", bundle)
