"""What was broken by hand in the store keeps no Controller from starting, and is mended by one command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fairlead.api.certificates import BROKEN, SYSTEM
from fairlead.api.configuration import CERTIFICATE, CHANNEL_CERTIFICATE, PORTAL_CERTIFICATE
from fairlead.base.clock import DAY
from fairlead.controller import secrets
from fairlead.controller.secrets import Certified
from fairlead.controller.settings import ControllerSettings
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import NODES, encode
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of, portal_name
from fairlead.pki.pair import leaf_fault
from fairlead.store.protocol import Delete, Operation, Put
from tests.unit.controller.ground import CHANNEL, Ground, grounded
from tests.unit.pki import organisation
from tests.world import START, refusal

API = secrets.CERTIFICATES + secrets.API
REPAIR = "`fairlead cert use System-Default-Secure-Channel-Cert`"
Breaking = Callable[[Ground, Certified], Operation]


def written(ground: Ground, certificate: bytes, key: bytes, place: str = CHANNEL) -> Put:
    """A record for CHANNEL whose key was sealed for *place*."""
    return Put(CHANNEL, secrets.sealed(ground.signing.cluster_key, place, Certified(certificate, key)).value)


def other(ground: Ground) -> Certified:
    """A sound pair for the same portal, under a root of somebody's own."""
    uuid = ground.trust.cluster_uuid
    issued = Authority.create(uuid, START).issue_portal(uuid, ["192.0.2.10"], START)
    return Certified(issued.certificate_pem, issued.key_pem)


def fields(record: Certified, **changed: Any) -> bytes:
    return json.dumps({"certificate": record.certificate_pem.decode(), "key": "AAAA"} | changed).encode()


BROKEN_BY: dict[str, Breaking] = {
    "deleted": lambda ground, own: Delete(CHANNEL),
    "not JSON": lambda ground, own: Put(CHANNEL, b"\xff\x00 garbage"),
    "JSON of another kind": lambda ground, own: Put(CHANNEL, b'["certificate"]'),
    "without a key": lambda ground, own: Put(CHANNEL, fields(own, key=None)),
    "a key that is not base64": lambda ground, own: Put(CHANNEL, fields(own, key="no base64")),
    "not PEM": lambda ground, own: written(ground, b"no PEM", own.key_pem),
    "no key inside": lambda ground, own: written(ground, own.certificate_pem, b"no key"),
    "no pair": lambda ground, own: written(ground, own.certificate_pem, other(ground).key_pem),
    "sealed for another place": lambda ground, own: written(ground, own.certificate_pem, own.key_pem, API),
    "sealed under another key": lambda ground, own: secrets.sealed(bytes(32), CHANNEL, own),
    "of another root": lambda ground, own: secrets.sealed(ground.signing.cluster_key, CHANNEL, other(ground)),
}


async def broken(ground: Ground, how: str) -> None:
    own = await secrets.open_certified(ground.store, ground.signing.cluster_key, CHANNEL)
    assert (await ground.store.transact([], [BROKEN_BY[how](ground, own)])).succeeded


def codes(ground: Ground) -> list[str]:
    return [line.rpartition("[")[2].rstrip("]") for line in ground.presentation.problems]


@pytest.mark.parametrize("how", list(BROKEN_BY))
async def test_attack_a_broken_certificate_keeps_nobody_from_starting_and_is_mended(tmp_path: Path, how: str) -> None:
    async with grounded(tmp_path) as ground:
        await broken(ground, how)
    async with grounded(tmp_path, ground.clock) as ground:
        await ground.renew()
        channel, _ = await ground.presentation.load()
        assert codes(ground) == ["FL-CERT-BROKEN"]
        assert REPAIR in ground.presentation.problems[0]
        root = der_of(await ground.signing.root())
        name = portal_name(ground.trust.cluster_uuid)
        assert leaf_fault(channel.current.certificate_der, root, name) == "", "one that nodes believe, for the moment"
        assert [item.value.model_dump()["status"] for item in await ground.certificates.items()
                if item.name == SYSTEM[CHANNEL_CERTIFICATE]] == [BROKEN]
        await ground.presentation.follow()
        assert codes(ground) == ["FL-CERT-BROKEN"], "it is said until it is mended"

        await ground.use(CHANNEL_CERTIFICATE)
        assert ground.presentation.problems == []
        mended = await ground.signing.channel_certificate()
        assert channel.current.certificate_der == der_of(mended.certificate_pem)
        (record,) = await ground.events("certificate.")
        assert (record.event, record.subject, record.by) == ("certificate.repaired", "secure-channel", "admin")
        await ground.use(CHANNEL_CERTIFICATE)
        assert len(await ground.events("certificate.")) == 1, "there is nothing to mend"


async def test_it_breaks_while_it_runs_and_what_was_presented_stays(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        channel, _ = await ground.presentation.load()
        before = channel.current
        for how in ("no pair", "not JSON", "deleted"):
            if how != "no pair":
                await ground.store.transact([], [BROKEN_BY[how](ground, Certified(b"", b""))])
            else:
                await broken(ground, how)
            await ground.presentation.follow()
            assert channel.current is before
            assert codes(ground) == ["FL-CERT-BROKEN"]


async def test_the_apis_certificate_is_made_anew_by_itself(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        pair = other(ground)
        await ground.store.transact([], [Put(API, b"garbage")])
        _, api = await ground.presentation.load()
        assert ground.presentation.problems == []
        for value in (b"garbage", secrets.sealed(ground.signing.cluster_key, API, pair).value):
            await ground.store.transact([], [Put(f"{API}/{ground.trust.node_id}", value)])
            shown = api.current.certificate_der
            await ground.presentation.follow()
            assert api.current.certificate_der != shown
            assert ground.presentation.problems == []


async def test_a_controller_that_moves_below_a_root_that_is_over_presents_what_it_has(tmp_path: Path) -> None:
    """While it runs, and when it starts again."""
    def elsewhere() -> Endpoint:
        return ControllerSettings(addresses=["192.0.2.11"]).endpoint

    async with grounded(tmp_path) as ground:
        channel, api = await ground.presentation.load()
        before = (channel.current.certificate_der, api.current.certificate_der)
        ground.pass_days(3651)
        ground.renewal.endpoint = ground.presentation.endpoint = elsewhere
        await ground.renew()
        await ground.presentation.follow()
        assert (channel.current.certificate_der, api.current.certificate_der) == before
    async with grounded(tmp_path, ground.clock) as again:
        again.renewal.endpoint = again.presentation.endpoint = elsewhere
        await again.renew()
        channel, api = await again.presentation.load()
        assert (channel.current.certificate_der, api.current.certificate_der) == before
        await again.look()
        assert any("`fairlead rotate start root-ca`" in line for line in again.expiring.problems)


async def test_nothing_is_mended_by_naming_another_one(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        await broken(ground, "no pair")
        root = organisation.root("root", START, last=300 * DAY)
        item = await ground.bring("org", root.leaf(["192.0.2.10"], START), [root])
        await ground.use(item.uuid)
        assert await refusal(ground.signing.channel_certificate()) == "FL-CERT-BROKEN"


async def engine(ground: Ground) -> None:
    """One is in the system, so nothing is exchanged directly."""
    node = next(iter(ground.directory.nodes.values()))
    made = Node(str(uuid4()), "se-1", "engine", "up", "127.64.1.0", node.host_key, node.user_key, START)
    outcome = await ground.store.transact([], [Put(NODES + made.id, encode(made))])
    await ground.directory.reached(outcome.revision)


@pytest.mark.parametrize("how", ["expired", "key", "record"])
async def test_an_operators_one_that_cannot_be_used_any_more_is_left_by_naming_what_stands_in(
        tmp_path: Path, how: str) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        root = organisation.root("root", START, last=300 * DAY)
        item = await ground.bring("org", root.leaf(["192.0.2.10"], START, last=20 * DAY), [root])
        await ground.use(item.uuid)
        await engine(ground)
        assert await refusal(ground.use(CHANNEL_CERTIFICATE)) == "FL-CHANNEL-PRECONDITION", "nodes know that root"
        place = f"objects/{CERTIFICATE}/{item.uuid}"
        record = await ground.store.get(place)
        assert record is not None
        kept = json.loads(record.value)
        if how == "expired":
            ground.pass_days(21)
        elif how == "key":
            await ground.store.transact([], [Put(place, json.dumps(kept | {"sealed": {}}).encode())])
        else:
            await ground.store.transact([], [Put(place, b"garbage")])
    async with grounded(tmp_path, ground.clock) as ground:
        channel, _ = await ground.presentation.load()
        assert codes(ground) == ["FL-CERT-EXPIRED" if how == "expired" else "FL-CERT-BROKEN", "FL-CERT-STAND-IN"]
        assert REPAIR in ground.presentation.problems[1]
        own = der_of((await ground.signing.channel_certificate()).certificate_pem)
        assert channel.current.certificate_der == own
        await ground.presentation.follow()
        assert "FL-CERT-STAND-IN" in codes(ground)
        await ground.use(CHANNEL_CERTIFICATE)
        assert (ground.presentation.problems, channel.current.certificate_der) == ([], own)
        assert await refusal(ground.use(item.uuid)) == "FL-CHANNEL-PRECONDITION", "there is nobody who stands in"


async def test_one_that_is_in_use_is_presented_to_its_end(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        root = organisation.root("root", START, last=300 * DAY)
        leaf = root.leaf(["192.0.2.10"], START, last=20 * DAY)
        item = await ground.bring("org", leaf, [root])
        await ground.use(item.uuid)
        ground.pass_days(19.5)
    async with grounded(tmp_path, ground.clock) as ground:
        channel, _ = await ground.presentation.load()
        assert (channel.current.certificate_der, codes(ground)) == (leaf.der, [])
        await ground.use(CHANNEL_CERTIFICATE)
        assert await refusal(ground.use(item.uuid)) == "FL-CERT-EXPIRED", "it is not taken into use for half a day"


async def test_attack_what_serves_is_never_half_of_one_and_half_of_another(tmp_path: Path) -> None:
    """Each step of a swap that was done by hand, in either order."""
    async with grounded(tmp_path) as ground:
        channel, _ = await ground.presentation.load()
        one = await ground.signing.channel_certificate()
        two = await ground.signing.issue_portal(["192.0.2.10"])
        for half in (Certified(one.certificate_pem, two.key_pem), Certified(two.certificate_pem, one.key_pem)):
            await ground.store.transact([], [secrets.sealed(ground.signing.cluster_key, CHANNEL, half)])
            await ground.presentation.follow()
            assert channel.current.certificate_der == der_of(one.certificate_pem)
            assert codes(ground) == ["FL-CERT-BROKEN"]
        await ground.store.transact([], [secrets.sealed(ground.signing.cluster_key, CHANNEL, two)])
        await ground.presentation.follow()
        assert (channel.current.certificate_der, codes(ground)) == (der_of(two.certificate_pem), [])


async def test_the_apis_own_serves_no_portal(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        assert await refusal(ground.use(PORTAL_CERTIFICATE)) == "FL-CERT-NAME"
