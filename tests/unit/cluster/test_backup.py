"""A backup opens whole for who holds its key, or not at all."""

import json
from dataclasses import replace
from uuid import UUID

import pytest

from fairlead.base.errors import FairleadError, Refused
from fairlead.cluster import backup as backups
from fairlead.cluster.backup import Backup, header, new_identity, open_with, read_identity, read_recipient
from fairlead.cluster.move import MOVED
from fairlead.cluster.tenure import LEADER
from fairlead.keys.seal import hpke_seal
from fairlead.keys.wire import sha256
from fairlead.store.protocol import MARK, Record
from fairlead.users.apitokens import TOKENS
from fairlead.users.sessions import SESSIONS
from tests.world import START

BACKUP = Backup(UUID(int=7), START, 12, "id-1", "ctl-1", {"nodes/id-1": b"\x00one", "users/admin": b"two"}, "{}",
                b"k" * 32, b"host", b"user")
WORDS = "several words of ours"
IDENTITY, RECIPIENT = new_identity()
KEY = read_identity(IDENTITY)


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return backups.seal_to(BACKUP, read_recipient(RECIPIENT))


@pytest.fixture(scope="module")
def locked() -> bytes:
    return backups.seal_under(BACKUP, WORDS)


def test_it_comes_back_as_it_was(sealed: bytes, locked: bytes) -> None:
    assert open_with(sealed, identity=KEY) == BACKUP
    assert open_with(locked, passphrase=WORDS) == BACKUP
    assert (header(sealed).cluster_uuid, header(sealed).created) == (UUID(int=7), "2026-01-01T00:00:00Z")
    assert header(sealed).to == RECIPIENT


def test_nothing_but_the_first_line_is_in_the_clear(sealed: bytes, locked: bytes) -> None:
    for data in (sealed, locked):
        line, _, rest = data.partition(b"\n")
        assert set(json.loads(line)) == {"fairlead_backup", "cluster_uuid", "created", "sealed", "to"}
        assert not any(word in rest for word in (b"nodes/", b"ctl-1", b"k" * 32, b"host", b"records"))


def test_whatever_byte_was_harmed_it_is_damaged_and_not_another_key(sealed: bytes) -> None:
    for place in range(len(sealed)):
        for change in (0x01, 0x80):
            harmed = bytearray(sealed)
            harmed[place] ^= change
            assert refusal(bytes(harmed)) == "FL-BACKUP-DAMAGED", place
    for length in range(len(sealed)):
        assert refusal(sealed[:length]) == "FL-BACKUP-DAMAGED", length
    assert refusal(sealed + b"\n") == "FL-BACKUP-DAMAGED"


def test_who_mends_the_checksum_puts_no_other_line_before_it(sealed: bytes) -> None:
    line, _, rest = sealed[:-32].partition(b"\n")
    for other in (line.replace(b"2026-01-01", b"2026-02-01"), line.replace(b"000000000007", b"000000000008")):
        assert other != line
        forged = other + b"\n" + rest
        assert refusal(forged + sha256(forged)) == "FL-BACKUP-SEALED"
    newer = line.replace(b'"fairlead_backup":1', b'"fairlead_backup":2,"more":true') + b"\n" + rest
    assert refusal(newer + sha256(newer)) == "FL-BACKUP-VERSION"


def test_only_its_own_key_opens_it(sealed: bytes, locked: bytes) -> None:
    other = read_identity(new_identity()[0])
    for data, identity, passphrase in (
            (sealed, other, None), (sealed, None, WORDS), (sealed, None, None),
            (locked, None, WORDS + "."), (locked, None, ""), (locked, KEY, None)):
        with pytest.raises(Refused) as caught:
            open_with(data, identity=identity, passphrase=passphrase)
        assert caught.value.code == "FL-BACKUP-SEALED"
        assert WORDS not in caught.value.line()


def test_a_stranger_who_seals_to_the_recipient_makes_no_backup_of_nonsense() -> None:
    for nonsense in (replace(BACKUP, cluster_key=b"short"), replace(BACKUP, time=10**30)):
        try:
            data = backups.seal_to(nonsense, read_recipient(RECIPIENT))
        except (ValueError, OverflowError):
            continue
        assert refusal(data) == "FL-BACKUP-DAMAGED"
    line = backups._line(BACKUP, "recipient", read_recipient(RECIPIENT))
    for content in (b"", b"[]", b'{"records": 1}', b"[" * 100_000):
        closed = backups._closed(line, hpke_seal(read_recipient(RECIPIENT), backups._purpose(line).encode(),
                                                         content))
        assert refusal(closed) == "FL-BACKUP-DAMAGED"


def test_what_must_not_come_back_is_left_out() -> None:
    listing = [Record(key, b"", 1, 1) for key in (LEADER, MARK, MOVED, "enrol/live/1", "enrol/token/1", "cluster/term",
                                                  f"{SESSIONS}1", f"{TOKENS}1")]
    assert sorted(backups.kept(listing)) == ["cluster/term", "enrol/token/1"]


@pytest.mark.parametrize("text", ["", "A" * 44, "AAAA", "\u00e4" * 44])
def test_what_is_no_recipient(text: str) -> None:
    with pytest.raises(FairleadError) as caught:
        read_recipient(text)
    assert caught.value.code == "FL-BACKUP-RECIPIENT"
    with pytest.raises(FairleadError) as caught:
        read_identity(text.encode())
    assert caught.value.code == "FL-BACKUP-IDENTITY"


def refusal(data: bytes) -> str:
    with pytest.raises(FairleadError) as caught:
        open_with(data, identity=KEY)
    return caught.value.code
