"""A backup that was made is on record by what it is known again, and its content nowhere."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx2
import pytest

from fairlead.api import backup as api
from fairlead.api import objects
from fairlead.api.application import build
from fairlead.audit.log import AuditLog
from fairlead.base.errors import FairleadError
from fairlead.cluster import backup as sealing
from fairlead.controller.backup import Backups
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.trust import KEYS, USER_KEY, Trust, save_key
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import from_b64, sha256
from fairlead.objects.catalogue import Catalogue
from fairlead.objects.shelf import OBJECTS, Shelf, Shelved
from fairlead.store.sqlite import SQLiteStore
from tests.world import ManualClock

WORDS = "several words of ours"
TRUST = Trust(cluster_uuid=UUID(int=7), node="ctl-1", node_id="id-1", role="controller", user="u",
              internal_address="127.80.0.1", ca_certificates=[], tls_name="t", controllers=[])


class Keeping:
    cluster_key = b"k" * 32


@dataclass
class Room:
    store: SQLiteStore
    audit: AuditLog
    clock: ManualClock
    client: httpx2.AsyncClient


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    clock = ManualClock()
    store = SQLiteStore.open(tmp_path / "store.db", clock)
    audit, catalogue = AuditLog(store, "ctl-1"), Catalogue()
    shelf = Shelf(store, audit, api.BUILT)
    await shelf.load()
    following = asyncio.create_task(shelf.follow())
    records = Shelved(shelf, api.BACKUP, catalogue.referrers)
    catalogue.add(records)
    (tmp_path / KEYS).mkdir()
    save_key(tmp_path, USER_KEY, PrivateKey.generate())
    backups = Backups(store, shelf, Keeping(), TRUST, PrivateKey.generate, Keyring(tmp_path))
    app = build([api.routes(backups), objects.routes(records, catalogue)], version="1", public=frozenset())

    async def entered(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": {"fairlead": {"peer_uid": 0}}}, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=entered), base_url="https://ctl-1") as client:
        yield Room(store, audit, clock, client)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await store.close()


async def test_what_was_made_is_listed_as_it_is_and_as_the_audit_log_says(room: Room) -> None:
    made = (await room.client.post("/api/backup", json={"passphrase": WORDS})).json()
    file = from_b64(made["backup"])
    (listed,) = (await room.client.get("/api/backup")).json()["results"]
    assert listed == (await room.client.get(f"/api/backup/{made['uuid']}")).json()
    assert (listed["size"], listed["sha256"]) == (len(file), sha256(file).hex())
    assert {name: listed[name] for name in ("uuid", "file_name", "sha256", "checksum", "revision", "records")} == {
        name: made[name] for name in ("uuid", "file_name", "sha256", "checksum", "revision", "records")}
    assert (listed["timestamp"], listed["made_by"], listed["controller"], listed["sealed"]) == (
        made["time"], "root", "ctl-1", "under a passphrase")
    assert listed["checksum"] == sealing.open_with(file, passphrase=WORDS).checksum
    (said,) = await room.audit.records(9)
    assert (said.event, said.by, said.details["uuid"], said.details["checksum"]) == (
        "backup.created", "root", made["uuid"], made["checksum"])


async def test_neither_the_file_nor_what_opens_it_is_kept(room: Room) -> None:
    made = (await room.client.post("/api/backup", json={"passphrase": WORDS})).json()
    kept = [record.value for record in (await room.store.list("")).records]
    assert any(made["uuid"].encode() in value or made["sha256"].encode() in value for value in kept)
    assert not any(WORDS.encode() in value or made["backup"][:64].encode() in value
                   or from_b64(made["backup"])[-64:] in value for value in kept)


async def test_the_last_hundred_are_kept_and_who_deletes_one_leaves_the_audit_log_as_it_is(
        room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "seal_under", lambda *_: b"sealed")  # else each takes a moment
    made = []
    for number in range(api.MOST_RECORDS + 2):
        room.clock.set(number)
        made.append((await room.client.post("/api/backup", json={"passphrase": WORDS})).json()["uuid"])
    listed = (await room.client.get("/api/backup")).json()
    assert listed["count"] == api.MOST_RECORDS
    assert {one["uuid"] for one in listed["results"]} == set(made[2:])
    assert (await room.client.get(f"/api/backup/{made[1]}")).json()["code"] == "FL-OBJECT-UNKNOWN"
    assert (await room.client.delete(f"/api/backup/{made[-1]}")).status_code == 204
    assert (await room.client.get(f"/api/backup/{made[-1]}")).status_code == 404
    assert len((await room.store.list(OBJECTS)).records) == api.MOST_RECORDS - 1
    said = await room.audit.records(1000)
    assert [record.details["uuid"] for record in said if record.event == "backup.created"] == made
    assert (said[-1].event, said[-1].subject) == ("object.removed", f"backup {made[-1]}")


async def test_what_could_not_be_recorded_is_given_to_nobody(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object) -> Any:
        raise FairleadError("FL-STORE", "no room")

    monkeypatch.setattr(room.store, "transact", full)
    answer = await room.client.post("/api/backup", json={"passphrase": WORDS})
    assert (answer.status_code, set(answer.json())) == (503, {"error", "code", "remedy"})


async def test_nobody_writes_a_record(room: Room) -> None:
    made = (await room.client.post("/api/backup", json={"passphrase": WORDS})).json()["uuid"]
    for method in ("PUT", "PATCH"):
        answer = await room.client.request(method, f"/api/backup/{made}", json={"sha256": "0" * 64})
        assert cast("dict[str, str]", answer.json())["code"] == "FL-API-METHOD"
