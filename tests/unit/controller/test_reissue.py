"""A member of the store that was off until its certificate had expired: it gets another, and has its data."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.base.clock import DAY
from fairlead.cluster.etcd import certificate, client_url, folder, member_context, put_identity
from fairlead.controller import secrets
from fairlead.controller.reissue import COPY, reissue
from fairlead.enrol.trust import Trust
from fairlead.keys.seal import new_key
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import SERVER_LIFETIME, der_of
from fairlead.pki.expiry import life
from fairlead.pki.request import new_request, read_request
from fairlead.store.etcd import EtcdStore
from fairlead.store.gateway import Gateway
from tests.unit.cluster.ring import NOW, Ring, Site, ring
from tests.world import ManualClock, refusal

KEY, VALUE = (base64.b64encode(text).decode() for text in (b"key", b"value"))
CLUSTER_KEY = new_key()
OVER = NOW - SERVER_LIFETIME - DAY


def clock() -> ManualClock:
    made = ManualClock()
    made.instant = NOW
    return made


async def switched_off(cluster: Ring, issued: int) -> tuple[Site, Trust]:
    """A member with data, whose certificate is of *issued* (microseconds)."""
    cluster.root = Authority.create(cluster.uuid, NOW - 500 * DAY)
    site = await cluster.site(1).start().ready()
    trust = Trust(cluster_uuid=cluster.uuid, node=site.name, node_id="id-1", role="controller", user="avictlruser",
                  internal_address=site.address, ca_certificates=[], tls_name="portal", controllers=[])
    store, node_key = EtcdStore(site.own), new_key()
    (site.state / secrets.NODE_KEY).write_bytes(node_key)
    (site.state / secrets.NODE_KEY).chmod(0o600)
    await store.transact([], [
        secrets.wrapped(node_key, trust.node_id, CLUSTER_KEY),
        secrets.sealed(CLUSTER_KEY, secrets.ROOT, secrets.Certified(cluster.root.certificate_pem,
                                                                    cluster.root.key_pem))])
    await site.own.call("kv/put", {"key": KEY, "value": VALUE})
    await site.stop()
    await site.own.close()
    key, request = new_request()
    put_identity(site.state, cluster.root.certify_member(
        cluster.uuid, site.name, site.address, read_request(request), issued), key,
        cluster.root.certificate_pem)
    return site, trust


@pytest.mark.parametrize("issued", [OVER, NOW + DAY], ids=["over", "not yet"])
async def test_it_gets_another_certificate_and_comes_up_with_its_data(tmp_path: Path, issued: int) -> None:
    async with ring(tmp_path) as cluster:
        site, trust = await switched_off(cluster, issued)
        assert await reissue(site.state, trust, clock())
        assert life(der_of(certificate(site.state))).last == NOW // 1_000_000 * 1_000_000 + SERVER_LIFETIME
        assert not (folder(site.state) / COPY).exists()
        own = Gateway([client_url(site.address)], member_context(site.state), timeout_s=5.0)
        again = replace(site, own=own, etcd=type(site.etcd)(site.etcd._binary, site.state, site.plan, own))
        cluster.sites[:] = [again]
        await again.start().ready()
        assert (await own.call("kv/range", {"key": KEY}))["kvs"][0]["value"] == VALUE
        assert not await reissue(site.state, trust, clock()), "it is sound"


@pytest.mark.parametrize("missing", ["node.key", "root"])
async def test_attack_without_what_opens_it_there_is_none(tmp_path: Path, missing: str) -> None:
    async with ring(tmp_path) as cluster:
        site, trust = await switched_off(cluster, OVER)
        before = certificate(site.state)
        if missing == "node.key":
            (site.state / secrets.NODE_KEY).write_bytes(new_key())
        else:
            (folder(site.state) / "ca.pem").write_bytes(Authority.create(cluster.uuid, NOW).certificate_pem)
        expected = "FL-SEAL-BROKEN" if missing == "node.key" else "FL-ETCD-IDENTITY"
        assert await refusal(reissue(site.state, trust, clock())) == expected
        assert (certificate(site.state), (folder(site.state) / COPY).exists()) == (before, False)
        cluster.sites.clear()
