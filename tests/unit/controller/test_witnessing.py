"""Heads that a Controller signed before it changed its host key still count, with the key that signed them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fairlead.audit.head import sign
from fairlead.audit.record import Head
from fairlead.audit.witness import Witness
from fairlead.controller.witnessing import Witnessing
from fairlead.enrol.trust import Trust
from fairlead.keys.ssh import PrivateKey
from fairlead.nodes import records
from fairlead.nodes.records import KeyEntry
from fairlead.store.protocol import Put
from tests.unit.enrol.test_trust import TRUST
from tests.world import START, open_world


async def test_what_was_signed_with_a_retired_key_stays_said(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        retired, present, stranger = PrivateKey.generate(), PrivateKey.generate(), PrivateKey.generate()
        outcome = await world.store.transact([], [
            Put(records.NODES + world.controller.id, records.encode(
                replace(world.controller, host_key=present.public.line))),
            Put(records.KEYS + retired.public.fingerprint, records.encode(
                KeyEntry(world.controller.id, "host", "revoked", "", retired.public.line)))])
        await world.directory.reached(outcome.revision)
        cluster = str(world.cluster_uuid)
        trust: Trust = TRUST.but(node="ctl-1", cluster_uuid=world.cluster_uuid)
        mesh = SimpleNamespace(directory=world.directory, generation="aa")
        witness = Witness(tmp_path / "witness", cluster)
        witnessing = Witnessing(world.audit, cast("Any", mesh), trust, lambda: present, witness, world.clock)

        def said(key: PrivateKey, seq: int) -> str:
            return sign(key, cluster_uuid=cluster, generation="aa", node="ctl-1", head=Head(seq, f"{seq:064x}"),
                        time=START + seq).text()

        texts = [said(retired, 4), said(stranger, 5), said(present, 6)]
        assert [head.seq for head in witnessing._signed(texts)] == [4, 6]
        witness.keep(texts[0], "ctl-1", retired.public)
        (only,) = witnessing.signed_heads()
        assert (only[0].seq, only[1]) == (4, retired.public)
        witness.keep(texts[2], "ctl-1", present.public)
        assert [(head.seq, key) for head, key in witnessing.signed_heads()] == [(6, present.public)]
