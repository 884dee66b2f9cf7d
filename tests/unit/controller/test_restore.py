"""A Controller that is restored while its user key was being changed has the one that the backup holds."""

from dataclasses import replace
from pathlib import Path

from fairlead.controller import restore
from fairlead.controller.initialise import clear, refuse_foreign
from fairlead.keys.ssh import PrivateKey
from fairlead.nodes.records import KEYS, NODES, KeyEntry, encode, key_from, node_from
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.versions import Versions
from tests.unit.nodes.test_policy import CTL_1

OLD, NEW = PrivateKey.from_seed(b"o" * 32).public, PrivateKey.from_seed(b"n" * 32).public


def test_of_several_user_keys_one_is_left() -> None:
    before = replace(CTL_1, user_key=NEW.line, last_key=OLD.line)
    values = {NODES + CTL_1.id: encode(before), **{
        KEYS + key.fingerprint: encode(KeyEntry(CTL_1.id, "user", "active", "r1", key.line)) for key in (OLD, NEW)}}
    for held, other in ((OLD, NEW), (NEW, OLD)):
        me = replace(before, user_key=held.line, next_key="", last_key="")
        found = values | restore._one_user_key(values, me)
        assert node_from(found[NODES + CTL_1.id]).user_keys == (held.line,)
        assert key_from(found[KEYS + held.fingerprint]).state == "active"
        assert key_from(found[KEYS + other.fingerprint]).state == "revoked"


def test_what_this_disk_has_seen_of_bundles_outlives_what_clears_the_folder(tmp_path: Path) -> None:
    versions = Versions(tmp_path, "1.0.0")
    versions.pin(b"{}")
    versions.remember(Seen(counter=5))
    (tmp_path / "images").mkdir()
    clear(tmp_path)
    assert (versions.seen().counter, versions.root(), (tmp_path / "images").exists()) == (5, b"{}", False)
    refuse_foreign(tmp_path)
