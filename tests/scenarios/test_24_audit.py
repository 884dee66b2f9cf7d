"""Somebody who can write to the Controller's store changes its past; the engine has seen it."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.audit.log import decode_head, encode_head, record_key
from fairlead.audit.record import decode
from tests.processes import Daemon, Site, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(200)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def verified(controller: Daemon) -> Any:
    return controller.get("/api/audit/verify")


def seen(controller: Daemon) -> int:
    """The number of the newest record, once the engine has seen it."""

    def look() -> int:
        found = verified(controller)
        return int(found["head"]["seq"]) if [(w["seq"], w["state"]) for w in found["witnesses"]] == [
            (found["head"]["seq"], "agrees")] else 0

    return until(look, "the engine has seen the newest record")


def edit(controller: Daemon, change: Callable[[sqlite3.Connection], None]) -> None:
    """Change the store of a Controller that does not run."""
    with sqlite3.connect(next(controller.state.glob("store.db"))) as store:
        change(store)
    store.close()


def cut(store: sqlite3.Connection, last: int) -> None:
    """End the chain at record *last*, and make its head say so."""
    ((value,),) = store.execute("SELECT value FROM record WHERE key = ?", (record_key("ctl", last).encode(),))
    ((head,),) = store.execute("SELECT value FROM record WHERE key = CAST('audit-head/ctl' AS BLOB)")
    assert decode_head(head).seq > last
    store.execute("DELETE FROM record WHERE key > ? AND key < CAST('audit/ctl/~' AS BLOB)",
                  (record_key("ctl", last).encode(),))
    store.execute("UPDATE record SET value = ? WHERE key = CAST('audit-head/ctl' AS BLOB)",
                  (encode_head(decode(value, "").head()),))


def test_an_edited_record_is_named(site: Site) -> None:
    controller = site.controller()
    controller.stop()

    def change(store: sqlite3.Connection) -> None:
        ((value,),) = store.execute("SELECT value FROM record WHERE key = ?", (record_key("ctl", 1).encode(),))
        fields = json.loads(value) | {"by": "nobody"}
        store.execute("UPDATE record SET value = ? WHERE key = ?", (json.dumps(
            fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(), record_key("ctl", 1).encode()))

    edit(controller, change)
    controller.start()
    assert "record 2 of ctl" in controller.cli("audit", "verify").refused("FL-AUDIT-BROKEN")


def test_a_tail_that_was_cut_is_found_by_the_engine_and_stays_found(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    last = seen(controller)
    controller.stop()
    edit(controller, lambda store: cut(store, last - 4))
    controller.start()
    until(lambda: engine.events("alarm"), "the engine raises an alarm")
    until(lambda: controller.events("alarm"), "the Controller raises one")
    controller.cli("audit", "verify").refused("FL-AUDIT-CUT")
    for node in (controller, engine):
        assert any("FL-AUDIT-" in problem for problem in node.get("/api/status")["problems"])
    assert {"audit.cut", "audit.fork"} & {r["event"] for r in controller.get("/api/audit")["results"]}
    # grown past what the engine has seen, and started anew, it is no better
    for name in "abcd":
        controller.cli("service", "add", name, "--node", "se-1", "--port", "80", "--allow", "controllers").done()
        controller.cli("service", "remove", name).done()
    engine.stop()
    engine.start()
    until(lambda: verified_refused(controller), "the engine has told what it has seen")
    controller.cli("audit", "verify").refused("FL-AUDIT-FORK")


def verified_refused(controller: Daemon) -> bool:
    return "FL-AUDIT-FORK" in controller.cli("audit", "verify").err


def test_an_older_copy_of_the_store_that_went_on_is_found(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    first = seen(controller)
    engine.stop()
    controller.stop()
    store = next(controller.state.glob("store.db"))
    copy = store.read_bytes()
    controller.start()
    engine.start()
    until(lambda: verified(controller)["witnesses"] and seen(controller) > first, "the engine has seen what came then")
    engine.stop()
    controller.stop()
    for file in controller.state.glob(store.name + "*"):
        file.unlink()
    store.write_bytes(copy)
    store.chmod(0o600)
    controller.start()
    for name in "abcd":  # longer than what the engine has seen
        controller.cli("service", "add", name, "--node", "se-1", "--port", "80", "--allow", "controllers").done()
        controller.cli("service", "remove", name).done()
    controller.cli("audit", "verify").done()  # in itself it is whole
    engine.start()
    until(lambda: verified_refused(controller), "the engine has told what it has seen")
    until(lambda: engine.events("alarm"), "the engine raises an alarm")
