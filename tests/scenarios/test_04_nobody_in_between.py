"""Who ends the TLS connection in the middle can watch and drop, and change nothing."""

import json
from functools import partial
from pathlib import Path

from fairlead.enrol.exchange import answer, believe
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64, from_b64
from tests.world import Machine, denied, open_world, tampered


async def test_even_with_the_portals_own_certificate(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        bundle, honest, thief = await world.export(), Machine(), Machine()
        claim = honest.claim(bundle, world.certificate)
        body = honest.body(claim, bundle)
        # 1. attack: he puts in his own keys, another name, another role, another software
        before = await world.revision()
        for change in ({"host_key": thief.host.public.line}, {"user_key": thief.user.public.line}, {"node": "se-2"},
                       {"software": "x"}, {"nonce": b64(bytes(32))}, {"certificate": b64(bytes(32))},
                       {"anchor": b64(bytes(32))}):
            assert (await world.post(tampered(body, **change))).code == "FL-JOIN-REFUSED"
        assert await world.revision() == before
        # 2. the request as it was goes through
        reply = (await world.post(body)).body
        core = json.loads(from_b64(json.loads(reply)["core"]))
        # 3. attack: he changes the answer, or gives one of his own
        forged = json.dumps(core | {"internal_address": "127.64.0.1"}).encode()
        answers = [tampered(reply, core=b64(forged)), tampered(reply, signer="ctl-2"),
                   answer(forged, claim.transcript(), "ctl-1", PrivateKey.generate()),
                   answer(forged, claim.transcript(), "ctl-1", honest.host)]
        for one in answers:
            assert denied(partial(believe, one, claim, bundle.anchor)) == "FL-JOIN-PEER"
        # 4. attack: he answers the next request with the last answer
        again = honest.claim(bundle, world.certificate)
        assert denied(lambda: believe(reply, again, bundle.anchor)) == "FL-JOIN-PEER"
        # 5. what the machine believes is what the Controller said
        assert believe(reply, claim, bundle.anchor)[0].internal_address == "127.64.1.0"
        # 6. attack: he sends the captured request again; it is the same public answer, and no second node
        assert (await world.post(body)).status == 200
        assert len(world.directory.nodes) == 2
