"""Somebody holds the Controller's address: with each certificate that he can come by he tries to be the Controller.

He ends the TLS connections of a real ``fairlead engine join`` and has, in turn, more in his hand: a root of his own,
which the machine trusts for all else; the API's key; the cluster's root key; at last the portal's own. The engine's
bundle outlives all of it.
"""

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import pytest

from fairlead.base.clock import SystemClock
from fairlead.controller import secrets
from fairlead.controller.secrets import Certified
from fairlead.enrol import bundle as bundles
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.exchange import PATH, answer
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import b64, from_b64
from fairlead.pki.authority import Authority, Issued
from fairlead.pki.certificate import der_of
from fairlead.store.sqlite import SQLiteStore
from tests.hostile import between as he
from tests.hostile.between import Between
from tests.processes import Daemon, Result, Site, an_address, fairlead

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]

NOW = SystemClock().now()


@dataclass
class Place:
    site: Site
    controller: Daemon
    between: Between
    file: Path
    bundle: Bundle
    stolen: dict[str, Certified]
    """What he gets from the Controller's own state, for the later steps."""

    @property
    def uuid(self) -> UUID:
        return self.bundle.anchor.cluster_uuid

    def join(self, **env: str) -> Result:
        """The same engine, each time with the same bundle."""
        return fairlead("engine", "join", self.file, "--name", "se-1", state=self.site.folder / "se-1", env=env)

    def untouched(self) -> bool:
        """Whether the bundle is as good as new, and nobody has joined."""
        (token,) = self.controller.listed("token")
        return token["state"] == "open" and self.controller.node("se-1") == {} and self.file.exists()


async def steal(state: Path) -> dict[str, Certified]:
    """The keys in a copy of a Controller's state folder."""
    trust = json.loads((state / "trust.json").read_text())
    store = SQLiteStore.open(state / "store.db", SystemClock())
    try:
        key = await secrets.open_cluster_key(store, state, trust["node_id"])
        places = {"root": secrets.ROOT, "api": secrets.CERTIFICATES + secrets.API,
                  "portal": secrets.CERTIFICATES + secrets.SECURE_CHANNEL}
        return {name: await secrets.open_certified(store, key, place) for name, place in places.items()}
    finally:
        await store.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        address = an_address()
        controller = site.controller(address=address)
        shutil.copytree(controller.state, site.folder / "copy", ignore=shutil.ignore_patterns("*.sock"))
        file = site.bundle(controller)
        between = Between(("127.0.0.1", controller.ports["portal"]))
        with (between.listening(address, controller.ports["portal"]),
              Between(("127.0.0.1", controller.ports["ssh"])).listening(address, controller.ports["ssh"])):
            yield Place(site, controller, between, file, bundles.decode(file.read_bytes()),
                        asyncio.run(steal(site.folder / "copy")))


@pytest.fixture
def between(place: Place) -> Between:
    place.between.honest()
    place.between.conversations.clear()
    return place.between


def pair(one: Issued | Certified) -> tuple[bytes, bytes]:
    return one.certificate_pem, one.key_pem


def test_1_attack_a_rogue_controller_with_a_root_of_its_own_and_the_right_name(place: Place, between: Between) -> None:
    """Even where the machine trusts that root for everything else."""
    rogue = Authority.create(place.uuid, NOW)
    between.certificate = pair(rogue.issue_portal(place.uuid, [place.bundle.anchor.controllers[0].address], NOW))
    trusted = place.site.folder / "trusted"
    trusted.mkdir()
    (trusted / "system.pem").write_bytes(rogue.certificate_pem)
    for env in ({}, {"SSL_CERT_FILE": str(trusted / "system.pem"), "SSL_CERT_DIR": str(trusted)},
                {"REQUESTS_CA_BUNDLE": str(trusted / "system.pem"), "CURL_CA_BUNDLE": str(trusted / "system.pem")}):
        said = place.join(**env).refused("FL-JOIN-PEER", alone=False)
        assert str(place.controller.ports["portal"]) in said
    assert [bytes(said.there) for said in between.conversations] == [b""] * 3, "the engine has said nothing to it"
    assert place.untouched()


def test_2_attack_the_rogue_controller_and_a_token_string(place: Place, between: Between) -> None:
    """With the string alone the engine asks for the anchor, of anybody; only the pinned one counts."""
    rogue = Authority.create(place.uuid, NOW)
    between.certificate = pair(rogue.issue_portal(place.uuid, [], NOW))
    anchor = place.bundle.anchor
    forged = replace(anchor, ca_certificates=(der_of(rogue.certificate_pem),))
    between.answered = lambda _: he.answer(200, forged.encode())
    env = {"AVICNTRL": f"{anchor.controllers[0].address}:{place.controller.ports['portal']}",
           "AVICNTRL_AUTHTOKEN": place.bundle.token.encode(), "AVICNTRL_CLUSTERUUID": str(place.uuid)}
    fairlead("engine", "join", "--from-env", "--name", "se-1", state=place.site.folder / "se-2", env=env).refused(
        "FL-ANCHOR-PIN", alone=False)
    (said,) = between.conversations
    assert said.there.startswith(f"GET {PATH}/anchor/{anchor.hash.hex()} HTTP/1.1".encode())
    assert place.bundle.token.secret not in said.there
    assert place.bundle.token.encode().encode() not in said.there
    assert place.untouched()


def test_3_attack_the_key_of_the_api_which_has_the_same_root(place: Place, between: Between) -> None:
    between.certificate = pair(place.stolen["api"])
    place.join().refused("FL-JOIN-PEER", alone=False)
    assert [bytes(said.there) for said in between.conversations] == [b""]
    assert place.untouched()


def test_4_attack_the_key_of_the_cluster_s_root(place: Place, between: Between) -> None:
    """The engine believes his certificate; its proof says so, and the portal knows that it is not its own."""
    root = Authority.load(place.stolen["root"].certificate_pem, place.stolen["root"].key_pem)
    between.certificate = pair(root.issue_portal(place.uuid, [], NOW))
    place.join().refused("FL-JOIN-RELAY", alone=False)
    refused = [row for row in place.controller.listed("audit") if row["event"] == "join.refused"]
    assert "FL-JOIN-RELAY" in json.dumps(refused[-1])
    assert place.untouched()


REQUESTS: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "his keys": lambda fields: {name: PrivateKey.generate().public.line for name in fields if name.endswith("_key")},
    "another name": lambda _: {"node": "se-2"},
}


@pytest.mark.parametrize("what", REQUESTS)
def test_5_attack_the_portals_own_key_and_a_request_that_he_changes(place: Place, between: Between, what: str) -> None:
    between.certificate = pair(place.stolen["portal"])

    def change(request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        fields = json.loads(body)
        other = json.dumps(fields | REQUESTS[what](fields), separators=(",", ":")).encode()
        return re.sub(rb"(?i)content-length: \d+", b"content-length: %d" % len(other), head) + b"\r\n\r\n" + other

    between.asked = change
    place.join().refused("FL-JOIN-REFUSED", alone=False)
    assert place.untouched()


def test_6_attack_the_portals_own_key_and_a_reply_of_his_own(place: Place, between: Between) -> None:
    """He sends the engine to a Controller of his, under his signature and under the old one."""
    between.certificate = pair(place.stolen["portal"])
    his = PrivateKey.generate()

    def forge(request: bytes) -> bytes:
        fields = json.loads(request.partition(b"\r\n\r\n")[2])
        core = {"v": 1, "result": "committed", "node": "se-1", "node_id": str(place.uuid), "role": "engine",
                "user": "aviseuser", "internal_address": "127.64.1.0", "keys_hash": "", "commit_within_s": 60,
                "server_time": "", "controllers": [{
                    "name": "ctl", "address": place.bundle.anchor.controllers[0].address, "portal_port": 1,
                    "ssh_port": 2, "internal_address": "127.64.0.1", "host_key": his.public.line,
                    "user_key": his.public.line, "node_id": ""}]}
        assert PublicKey.from_line(fields["host_key"])
        return he.answer(200, answer(json.dumps(core).encode(), b"", "ctl", his))

    between.answered = forge
    place.join().refused("FL-JOIN-PEER", alone=False)
    assert place.untouched()


def test_7_attack_the_portals_own_key_and_a_true_reply_that_he_changes(place: Place, between: Between) -> None:
    """The token is used by now, by the engine that it was made for: its keys are reserved, and it may ask again."""
    between.certificate = pair(place.stolen["portal"])

    def spoil(reply: bytes) -> bytes:
        fields = json.loads(reply.partition(b"\r\n\r\n")[2])
        core = from_b64(fields["core"]).replace(b"127.64.0.1", b"127.64.0.9")
        return he.answer(200, json.dumps(fields | {"core": b64(core)}).encode())

    between.spoiled = spoil
    place.join().refused("FL-JOIN-PEER", alone=False)
    assert place.controller.node("se-1")["state"] == "joining"
    assert place.file.exists()


def test_8_whoever_only_reads_along_learns_no_secret_and_the_engine_joins(place: Place, between: Between) -> None:
    between.certificate = pair(place.stolen["portal"])
    place.join().done()
    (said,) = between.conversations
    keys = place.site.folder / "se-1" / "keys"
    for secret in (place.bundle.token.secret, b64(place.bundle.token.secret).encode(),
                   place.bundle.token.encode().encode(),
                   *((keys / name).read_bytes().splitlines()[2] for name in ("host", "user"))):
        assert secret not in said.there + said.back
    assert place.controller.node("se-1")["fingerprint"] == PublicKey.from_line(
        (keys / "host.pub").read_text().strip()).fingerprint
    assert not place.file.exists()
    events = [row["event"] for row in place.controller.listed("audit")]
    assert events.count("join.reserved") == events.count("join.committed") == 1
