"""A stopped Controller's audit log is written anew, hashes and all: nothing in its folder tells, but its engine does.

What the Controller itself keeps beside its store is taken away, too: whoever can write the one can write the other.
"""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.audit.journal import Journal
from fairlead.audit.log import HEADS, encode_head, record_key
from fairlead.audit.record import AuditRecord, Entry, decode, verify
from fairlead.base.clock import SystemClock
from tests.processes import Daemon, Site, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]

Rewrite = Callable[[Sequence[AuditRecord]], Sequence[AuditRecord]]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def test_attack_a_log_is_cut_off_and_another_time_written_anew(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    for number in range(4):
        controller.cli("node", "label", "se-1", f"n={number}").done()
    whole = controller.cli("audit", "verify", "--json").done().json
    until(lambda: {"name": "se-1", "node": "ctl", "seq": whole["verified"], "state": "agrees"}
          in controller.get("/api/audit/verify")["witnesses"], "1. the engine was shown where the log ends")

    records = rewritten(controller, engine, lambda records: records)
    assert controller.cli("audit", "verify").done(), "2. a Controller that was started anew agrees with its witness"

    export = site.folder / "audit.jsonl"
    controller.cli("audit", "export", "--output", export).done()
    assert "signed by SHA256:" in controller.cli("audit", "verify", "--file", export).done().out

    rewritten(controller, engine, lambda records: records[:2])  # of before the engine was
    said = controller.cli("audit", "verify").refused("FL-AUDIT-CUT")
    assert "of ctl is missing, which se-1 was shown" in said, "3. the tail was cut off"
    until(lambda: engine.events("alarm"), "and the engine raises an alarm by itself")

    rewritten(controller, engine, lambda _: edited(records))
    said = controller.cli("audit", "verify").refused("FL-AUDIT-FORK")
    assert "is not the one that se-1 was shown" in said, "4. the log was written anew from a record on"


def test_attack_an_engines_journal_is_cut_off_and_another_time_written_anew(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    for number in range(3):
        body = json.dumps({"files": [{"path": "page", "content": str(number)}]})
        controller.cli("config", "put", "files", "page", "-", "--wait", given=body).done()
    whole = until(lambda: (found := engine.get("/api/audit/verify"))["witnesses"] and found["witnesses"][0]["seq"]
                  == found["verified"] and found, "1. the Controller was shown where the engine's journal ends")
    assert whole["witnesses"] == [{"name": "ctl", "node": "se-1", "seq": whole["verified"], "state": "agrees"}]
    assert "document.applied" in engine.cli("audit", "list").done().out

    file = engine.state / "audit.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    engine.stop()
    file.write_bytes(b"".join(lines[:-1]))
    engine.start()
    until(lambda: controller.node("se-1")["state"] == "up", "it is back")
    until(lambda: "is missing, which ctl was shown" in engine.cli("audit", "verify").err, "2. the cut is found")
    engine.cli("audit", "verify").refused("FL-AUDIT-CUT")
    until(lambda: controller.events("alarm"), "and the Controller raises an alarm by itself")

    engine.stop()
    file.unlink()
    with contextlib.closing(Journal.open(file, "se-1", SystemClock())) as journal:
        for line in lines[:-1]:
            before = decode(line.strip(), "here")
            journal.append(Entry(before.event, "somebody else", before.by, before.details))
    engine.start()
    until(lambda: controller.node("se-1")["state"] == "up", "it is back")
    until(lambda: "FL-AUDIT-FORK" in engine.cli("audit", "verify").err, "3. another journal is not the one that was")


def rewritten(controller: Daemon, engine: Daemon, rewrite: Rewrite) -> Sequence[AuditRecord]:
    """Stop the Controller, put another log in its store, and start it again; the log that was there."""
    controller.stop()
    with closing(sqlite3.connect(controller.state / "store.db")) as store, store:
        there = [decode(value, "here") for (value,) in store.execute(
            "SELECT value FROM record WHERE key >= ? AND key < ? ORDER BY key", (b"audit/ctl/", b"audit/ctl0"))]
        after = rewrite(there)
        store.execute("DELETE FROM record WHERE key >= ? AND key < ?", (b"audit/ctl/", b"audit/ctl0"))
        put = {record_key("ctl", record.seq): record.encoded() for record in after}
        put[HEADS + "ctl"] = encode_head(verify(after))
        for key, value in put.items():
            store.execute("INSERT OR REPLACE INTO record VALUES (?, ?, 1, 1, NULL)", (key.encode(), value))
    shutil.rmtree(controller.state / "witness")
    controller.start()
    until(lambda: controller.node("se-1")["state"] == "up", "the engine is back")
    return there


def edited(records: Sequence[AuditRecord]) -> Sequence[AuditRecord]:
    """One record less to be ashamed of, and every hash after it made to fit."""
    made = [replace(record, by="nobody") if record.event == "node.labelled" else record for record in records]
    for at in range(1, len(made)):
        made[at] = replace(made[at], previous=made[at - 1].head().hash)
    return made
