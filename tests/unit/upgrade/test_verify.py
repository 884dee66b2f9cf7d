"""Whether a bundle may be used: each attack of the TUF list by its name, and every bit of the file."""

import contextlib
import json
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, SSlibKey
from tuf.api.metadata import Metadata, Targets

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.upgrade import verify as module
from fairlead.upgrade.container import END, header
from fairlead.upgrade.manifest import File, Manifest
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.verify import MOST_AHEAD, fits, read_root, signers, verify
from tests.unit.upgrade.ground import (
    EXPIRES,
    FILES,
    KINDS,
    NOW,
    TIME,
    Publisher,
    checked,
    opened,
    packed,
    sha,
    signer,
)

OURS = Publisher()
ROOT = OURS.roots[0]
SOUND = OURS.bundle()
SEEN = Seen(1, 7, 7, 7, 3)
LATE = TIME - timedelta(seconds=1)


def refused(data: bytes, code: str, root: bytes = ROOT, seen: Seen = Seen(), now: int = NOW) -> str:  # noqa: B008
    with pytest.raises(Refused) as caught:
        checked(data, root, seen, now)
    assert caught.value.code == f"FL-UPGRADE-{code}", caught.value.message
    assert caught.value.remedy
    return caught.value.message


def test_a_sound_bundle_is_verified_and_says_what_it_is() -> None:
    found = checked(SOUND, ROOT)
    assert (found.sha256, found.size, found.root, found.seen) == (sha(SOUND), len(SOUND), ROOT, SEEN)
    assert (found.manifest.version, found.manifest.minimum, found.manifest.counter) == ("2.0.0", "1.0.0", 3)
    assert found.expires == int(EXPIRES.timestamp()) * SECOND
    assert {f.path: SOUND[at:at + f.size] for f, at in zip(found.manifest.files, found.offsets, strict=True)} == FILES
    assert checked(SOUND, ROOT, SEEN) == found, "once more is no rollback"
    assert set(signers(found.root)) == set(KINDS)


def test_large_files_are_hashed_by_pieces() -> None:
    many = {"a.bin": random.Random(1).randbytes((5 << 20) + 17), "b.bin": b"", "c.bin": bytes(1 << 20)}
    data = Publisher(files=many).bundle()
    assert checked(data, ROOT).sha256 == sha(data)
    for at in (len(data) - (3 << 20), len(data) - len(END) - 1):
        refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:], "CONTENT")


# -- rollback, freeze, mix-and-match, fast-forward, endless data ---------------------------------------------------

@pytest.mark.parametrize("kind", ["timestamp", "snapshot", "targets"])
def test_attack_rollback(kind: str) -> None:
    assert kind in refused(SOUND, "ROLLBACK", seen=replace(SEEN, **{kind: 8}))


def test_attack_rollback_to_an_older_root() -> None:
    refused(SOUND, "ROLLBACK", seen=replace(SEEN, root=2))
    newer = Publisher().rotate()
    refused(SOUND, "ROOT", root=newer.roots[1])


def test_attack_rollback_below_the_security_counter() -> None:
    refused(SOUND, "COUNTER", seen=replace(SEEN, counter=4))


@pytest.mark.parametrize("kind", KINDS)
def test_attack_freeze(kind: str) -> None:
    frozen = Publisher(expires={kind: TIME})
    root = frozen.roots[0]
    assert kind in refused(frozen.bundle(), "EXPIRED", root)
    checked(frozen.bundle(), root, now=NOW - SECOND)


def test_an_expired_root_in_the_middle_of_the_chain_leads_on() -> None:
    old = Publisher(expires={"root": LATE})
    pinned = old.roots[0]
    old.expires = {}
    assert checked(old.rotate().bundle(), pinned).seen.root == 2


OTHER = Publisher(versions={"timestamp": 8, "snapshot": 8, "targets": 8}, files={"other": b"other"})
SAME = Publisher(files={"other": b"other"})
"""Signed by the same keys, with the same numbers."""


def _instead(publisher: Publisher, other: Publisher, kind: str) -> bytes:
    """*publisher*'s bundle with the entry of *kind* taken over from *other*, with its name."""
    theirs = next(part for part in other.parts() if kind in part[0])
    return packed([theirs if kind in part[0] else part for part in publisher.parts()])


@pytest.mark.parametrize("other", [OTHER, SAME], ids=["newer", "same-number"])
@pytest.mark.parametrize("kind", ["timestamp", "snapshot", "targets.json"])
def test_attack_mix_and_match(other: Publisher, kind: str) -> None:
    with pytest.raises(Refused) as caught:
        checked(_instead(OURS, other, kind), ROOT)
    assert caught.value.code in {"FL-UPGRADE-MIXED", "FL-UPGRADE-SIZE"}


def test_attack_mix_and_match_under_the_right_name_and_length() -> None:
    twin = Publisher(files=dict(zip(FILES, (b"for peopel", *list(FILES.values())[1:]), strict=True)))
    mine = OURS.targets()
    assert len(twin.targets()) == len(mine)
    refused(OURS.bundle(targets=twin.targets()), "MIXED")


def test_attack_metadata_that_says_another_version_than_is_signed_for() -> None:
    class Lying(Publisher):
        def snapshot(self, targets: bytes) -> bytes:
            self.versions = {"snapshot": 6}
            made = super().snapshot(targets)
            self.versions = {}
            return made

    assert "snapshot 6" in refused(Lying().bundle(), "MIXED")


def test_attack_a_manifest_that_names_other_files_than_are_signed_for() -> None:
    other = (File("notes/read.me", 10, sha(b"something.")),)
    refused(Publisher(fields={"files": other}).bundle(), "MIXED")

    class Surplus(Publisher):
        def targets(self, extra: Any = None) -> bytes:
            return super().targets({"surplus": b"never named"})

    refused(Surplus().bundle(), "MIXED")


@pytest.mark.parametrize("kind", ["timestamp", "snapshot", "targets"])
def test_attack_fast_forward(kind: str) -> None:
    far = Publisher(versions={kind: 7 + MOST_AHEAD + 1})
    assert kind in refused(far.bundle(), "FORWARD", seen=SEEN)
    assert getattr(checked(Publisher(versions={kind: 7 + MOST_AHEAD}).bundle(), ROOT, SEEN).seen, kind) > MOST_AHEAD


def test_attack_fast_forward_of_the_security_counter() -> None:
    refused(Publisher(fields={"counter": MOST_AHEAD + 4}).bundle(), "FORWARD", seen=SEEN)


@pytest.mark.parametrize("name", ["metadata/1.root.json", "metadata/timestamp.json"])
def test_attack_endless_data_where_no_length_is_signed(name: str) -> None:
    parts = OURS.parts()
    at = [part[0] for part in parts].index(name)
    front = packed(parts[:at])[:-len(END)]
    for size in (module.MOST_ROOT_BYTES + 1, 1 << 32):
        assert "allowed" in refused(front + header(name, size) + bytes(1024), "SIZE")


def test_attack_endless_data_beyond_what_is_signed() -> None:
    for at in range(1, len(parts := OURS.parts())):
        if "timestamp" in parts[at][0]:
            continue
        name, data = parts[at]
        more = packed(parts[:at])[:-len(END)] + header(name, len(data) + 512) + bytes(4096)
        refused(more, "SIZE")


def test_attack_endless_data_is_not_read() -> None:
    """A sparse file of a terabyte, and one that never ends."""
    name = "metadata/timestamp.json"
    with opened(packed(OURS.parts()[:1])[:-len(END)] + header(name, 1 << 32)) as fd:
        os.ftruncate(fd, 1 << 40)
        with pytest.raises(Refused, match="allowed"):
            verify(fd, ROOT, Seen(), NOW)
    with Path("/dev/zero").open("rb") as endless, pytest.raises(Refused) as caught:
        verify(endless.fileno(), ROOT, Seen(), NOW)
    assert caught.value.code == "FL-UPGRADE-FORMAT"


@pytest.mark.parametrize("at", range(len(OURS.parts())))
def test_attack_a_length_below_zero_is_no_length(at: int) -> None:
    """As a size that is none would be written: a header that agrees with itself."""
    name, data = (parts := OURS.parts())[at]
    assert b"-0000000001\0" in header(name, -1)
    assert "as it is written" in refused(packed(parts[:at])[:-len(END)] + header(name, -1) + data, "FORMAT")


# -- roots ------------------------------------------------------------------------------------------------------------

def test_a_chain_of_roots_is_followed_from_each_that_is_pinned() -> None:
    three = Publisher().rotate().rotate()
    for pinned in three.roots:
        found = checked(three.bundle(), pinned, replace(SEEN, root=1))
        assert (found.root, found.seen.root) == (three.roots[-1], 3)
        assert read_root(pinned) == sha(pinned)


def test_attack_wrong_root() -> None:
    stranger = Publisher("stranger")
    assert "pinned" in refused(stranger.bundle(), "ROOT")
    assert "pinned" in refused(stranger.rotate().bundle(), "ROOT")


def test_attack_a_new_root_that_the_old_one_has_not_signed() -> None:
    for by in (["ours root 1 1"], []):
        thief = Publisher(generation=2, roots=[ROOT])
        thief.roots = [ROOT, thief.root(2, [*by, *thief.keys("root")])]
        assert "the one before" in refused(thief.bundle(), "ROOT")


def test_attack_a_new_root_that_its_own_keys_have_not_signed() -> None:
    wrong = Publisher(generation=2, roots=[ROOT])
    wrong.roots = [ROOT, wrong.root(2, [*wrong.keys("root", 1), wrong.keys("root")[0]])]
    assert "its own" in refused(wrong.bundle(), "ROOT")


def test_attack_a_root_that_leaves_one_out_or_comes_again() -> None:
    three = Publisher().rotate().rotate()
    for roots in ([three.roots[0], three.roots[2]], [ROOT, ROOT], three.roots[1:]):
        refused(Publisher(generation=3, roots=roots).bundle(), "ROOT")


def test_attack_a_key_under_two_ids() -> None:
    """It would count twice."""
    fields_: dict[str, Any] = json.loads(ROOT)
    signed = fields_["signed"]
    first = signed["roles"]["targets"]["keyids"][0]
    signed["keys"]["0" * 64] = dict(signed["keys"][first])
    signed["roles"]["targets"]["keyids"] = ["0" * 64, *signed["roles"]["targets"]["keyids"]]
    again = Metadata[Any].from_dict(fields_)
    again.signatures.clear()
    for name in sorted(OURS.keys("root"), key=lambda name: signer(name).public_key.keyid):
        again.sign(signer(name), append=True)
    data = again.to_bytes()
    assert "not its own" in refused(Publisher(roots=[data]).bundle(), "ROOT", root=data)
    with pytest.raises(Refused, match="not its own"):
        read_root(data)


@pytest.mark.parametrize("data", [
    b"", b"{}", b"null", b"[" * 100_000, ROOT + b"\n", ROOT.replace(b'"threshold":2', b'"threshold":4'),
    ROOT.replace(b"ed25519", b"ed25518"), OURS.targets(), Publisher().root(by=OURS.keys("root")[:1])])
def test_what_is_no_root_is_not_pinned(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_root(data)
    assert caught.value.code == "FL-UPGRADE-ROOT"
    refused(SOUND, "ROOT", root=data)


# -- signatures -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["timestamp", "snapshot", "targets"])
def test_attack_below_the_threshold(kind: str) -> None:
    due = OURS.keys(kind)
    for by in ([], due[:1], due[2:]):
        assert "of 2" in refused(Publisher(signed_by={kind: by}).bundle(), "SIGNATURES")
    checked(Publisher(signed_by={kind: due[1:]}).bundle(), ROOT)


@pytest.mark.parametrize("kind", ["timestamp", "snapshot", "targets"])
def test_attack_a_key_of_another_role_a_stranger_and_a_retired_key(kind: str) -> None:
    due = OURS.keys(kind)
    for more in ("nobody", OURS.keys("root")[0]):
        assert "does not name" in refused(Publisher(signed_by={kind: [due[0], more]}).bundle(), "SIGNATURES")
        assert "does not name" in refused(Publisher(signed_by={kind: [*due, more]}).bundle(), "SIGNATURES")
    rotated = Publisher().rotate()
    rotated.signed_by = {kind: due}
    assert "no longer" in refused(rotated.bundle(), "SIGNATURES")


def _signatures(data: bytes, change: Callable[[list[dict[str, str]]], object]) -> bytes:
    fields_ = json.loads(data)
    change(fields_["signatures"])
    return json.dumps(fields_, sort_keys=True, separators=(",", ":")).encode()


def test_attack_one_key_counted_twice() -> None:
    one = Publisher(signed_by={"timestamp": OURS.keys("timestamp")[:1]})
    parts = one.parts()
    data = _signatures(parts[1][1], lambda signatures: signatures.append(signatures[0]))
    assert "two signatures of one key" in refused(one.bundle(timestamp=data), "SIGNATURES")


def test_attack_a_surplus_signature_that_does_not_hold() -> None:
    timestamp = OURS.parts()[1][1]
    for at in range(3):
        bad = _signatures(timestamp, lambda signatures, at=at: signatures[at].update(sig="0" * 128))  # type: ignore[misc]
        assert "does not hold" in refused(OURS.bundle(timestamp=bad), "SIGNATURES")
    root = _signatures(ROOT, lambda signatures: signatures[1].update(sig="0" * 128))
    assert "does not hold" in refused(Publisher(roots=[root]).bundle(), "ROOT", root=root)
    two = Publisher().rotate()
    two.roots[1] = _signatures(two.roots[1], lambda signatures: signatures[1].update(sig="0" * 128))
    assert "does not hold" in refused(two.bundle(), "ROOT")


@pytest.mark.parametrize(("name", "change"), [
    ("order", lambda s: s.reverse()),
    ("capitals", lambda s: s[0].update(sig=s[0]["sig"].upper())),
    ("field", lambda s: s[0].update(more="")),
    ("blank", lambda s: s[0].update(sig=s[0]["sig"] + " ")),
], ids=["order", "capitals", "field", "blank"])
def test_a_signature_has_one_spelling(name: str, change: Callable[[list[dict[str, str]]], object]) -> None:
    refused(OURS.bundle(timestamp=_signatures(OURS.parts()[1][1], change)), "FORMAT")


@pytest.mark.parametrize(("old", "new"), [
    (b'{"signatures"', b'{ "signatures"'), (b'{"signatures"', b'{"more":1,"signatures"'), (b'"sig":', b'"s\\u0069g":'),
    (b'"version":7}', b'"version":7.0}'), (b'"version":7}', b'"version":7,"version":7}'), (b"", b"\xef\xbb\xbf")],
    ids=["blank", "field", "escape", "float", "twice", "mark"])
def test_metadata_has_one_spelling(old: bytes, new: bytes) -> None:
    for at in (1, 2, 3):
        parts = OURS.parts()
        name, data = parts[at]
        parts[at] = name, data.replace(old, new, 1)
        with pytest.raises(Refused):
            checked(packed(parts), ROOT)


def test_targets_delegate_to_nobody() -> None:
    class Delegating(Publisher):
        def targets(self, extra: Any = None) -> bytes:
            metadata = Metadata[Targets].from_bytes(super().targets(extra))
            fields_ = metadata.signed.to_dict() | {"delegations": {"keys": {}, "roles": []}}
            again = Metadata(Targets.from_dict(fields_))
            for one in sorted(self.signers("targets"), key=lambda one: one.public_key.keyid):
                again.sign(one, append=True)
            return again.to_bytes()

    refused(Delegating().bundle(), "FORMAT")


# -- the whole file ---------------------------------------------------------------------------------------------------

ROTATED = Publisher(files={"a": b"x", "y" * 101: b"z"}).rotate()
SMALL = ROTATED.bundle()


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature over the same bytes is not computed ten thousand times."""
    really, known = SSlibKey.verify_signature, dict[tuple[str, str, bytes], bool]()

    def verify_signature(self: SSlibKey, signature: Signature, data: bytes) -> None:
        about = (self.keyval["public"], signature.signature, data)
        if about not in known:
            try:
                really(self, signature, data)
                known[about] = True
            except UnverifiedSignatureError:
                known[about] = False
        if not known[about]:
            raise UnverifiedSignatureError

    monkeypatch.setattr(SSlibKey, "verify_signature", verify_signature)


def _flips(bits: Iterator[int] | range) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(SMALL)
        file.flush()
        fd = file.fileno()
        verify(fd, ROOT, Seen(), NOW)
        for bit in bits:
            at, mask = bit // 8, 1 << bit % 8
            os.pwrite(fd, bytes([SMALL[at] ^ mask]), at)
            with contextlib.suppress(Refused):
                verify(fd, ROOT, Seen(), NOW)
                pytest.fail(f"bit {bit % 8} of byte {at} has no meaning: {SMALL[max(0, at - 40):at + 40]!r}")
            os.pwrite(fd, SMALL[at:at + 1], at)


@pytest.mark.usefixtures("remembered")
def test_one_flipped_bit_is_refused_wherever_it_is() -> None:
    """A sample here: one bit of each thirty-first byte, and the last ones."""
    chosen = random.Random(9)
    _flips(iter([at * 8 + chosen.randrange(8) for at in range(chosen.randrange(31), len(SMALL), 31)]))
    _flips(range((len(SMALL) - 3) * 8, len(SMALL) * 8))


@pytest.mark.whole
@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("eighth", range(8))
def test_every_flipped_bit_of_a_bundle_is_refused(eighth: int) -> None:
    _flips(range(eighth, len(SMALL) * 8, 8))


def test_what_is_cut_off_or_added_is_refused() -> None:
    for size in (0, 1, 511, 512, len(SOUND) // 2, len(SOUND) - 1024, len(SOUND) - 1):
        refused(SOUND[:size], "FORMAT")
    for more in (b"\0", b"x", bytes(512), bytes(10240), SOUND):
        refused(SOUND + more, "FORMAT")


def test_entries_that_are_missing_doubled_renamed_or_in_another_order_are_refused() -> None:
    parts = OURS.parts()
    for at, (name, data) in enumerate(parts):
        others = [parts[:at] + parts[at + 1:], parts[:at + 1] + parts[at:], [*parts[:at], (name + "x", data),
                                                                            *parts[at + 1:]]]
        if at:
            others.append([*parts[:at - 1], parts[at], parts[at - 1], *parts[at + 1:]])
        for changed in others:
            with pytest.raises(Refused):
                checked(packed(changed), ROOT)


# -- somebody writes to it meanwhile ----------------------------------------------------------------------------------

def test_attack_a_thread_rewrites_the_file_during_verification() -> None:
    """Two whole bundles in turn, by ours and by a stranger, and torn mixtures: what is verified was signed by us."""
    ours = Publisher(files={"a.bin": b"o" * 300_000})
    data, evil = ours.bundle(), Publisher("stranger", files={"a.bin": b"e" * 300_000}).bundle()
    assert len(data) == len(evil)
    honest, over = sha(data), threading.Event()
    with opened(data) as fd:
        def rewrite() -> None:
            while not over.is_set():
                for text in (evil, data):
                    os.pwrite(fd, text, 0)

        thread = threading.Thread(target=rewrite)
        thread.start()
        try:
            for _ in range(60):
                with contextlib.suppress(Refused):
                    assert verify(fd, ROOT, Seen(), NOW).sha256 == honest
        finally:
            over.set()
            thread.join()


# -- whether a node may go over ---------------------------------------------------------------------------------------

BASE = Manifest("2.0.0", "1.2.0", ("engine",), 3, (File("a", 1, "0" * 64),))


@pytest.mark.parametrize(("role", "running", "counter", "code"), [
    ("engine", "1.2.0", 3, ""), ("engine", "1.10.0", 0, ""), ("engine", "2.0.0", 3, ""),
    ("controller", "1.2.0", 3, "ROLE"), ("engine", "1.1.9", 3, "MINIMUM"), ("engine", "0.10.0", 3, "MINIMUM"),
    ("engine", "1.2.0", 4, "COUNTER"), ("engine", "dev", 3, "VERSION")])
def test_who_may_go_over(role: str, running: str, counter: int, code: str) -> None:
    if not code:
        fits(BASE, role, running, Seen(counter=counter))
        return
    with pytest.raises(Refused) as caught:
        fits(BASE, role, running, Seen(counter=counter))
    assert caught.value.code == f"FL-UPGRADE-{code}"


def test_what_was_seen_only_rises() -> None:
    low, high = Seen(1, 9, 2, 3, 4), Seen(2, 1, 3, 3, 0)
    assert low.merged(high) == high.merged(low) == Seen(2, 9, 3, 3, 4)
    assert Seen.decode(low.encode()) == low
    for bad in (b"", b"{}", b"[]", low.encode().replace(b"9", b"-9"), low.encode().replace(b"9", b"true"),
                low.encode().replace(b"9", b"9.0"), low.encode().replace(b"root", b"roof"), b"[" * 100_000):
        with pytest.raises(ValueError):
            Seen.decode(bad)
    newer = low.encode()[:-1] + b',"x":{"y":1}}'
    assert Seen.decode(newer) == low
    assert json.loads(high.encode(newer)) == json.loads(high.encode()) | {"x": {"y": 1}}
    assert len(fields(Seen)) == 5
