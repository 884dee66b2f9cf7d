"""Keys of people: which lines are keys, whose they are, and that no node's key is one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fairlead.base.errors import Refused
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64, string
from fairlead.users.keys import MOST_KEYS, UserKeys, read_line
from fairlead.users.passwords import Passwords
from fairlead.users.people import People
from fairlead.users.sessions import Sessions
from tests.world import Machine, World, refusal

KEY = PrivateKey.from_seed(b"k" * 32)
PASSWORD = "correct horse battery"


@pytest.fixture
def keys(world: World) -> UserKeys:
    return UserKeys(world.store, world.audit)


@pytest.fixture
async def people(world: World) -> AsyncIterator[People]:
    passwords = Passwords()
    made = People(world.store, world.audit, passwords, Sessions(world.store), world.refusals)
    for name in ("admin", "jane"):
        await made.add(name, "admin", PASSWORD, "root")
    yield made
    passwords.close()


async def test_a_key_comes_and_goes_with_its_records(world: World, keys: UserKeys, people: People) -> None:
    made = await keys.add("admin", KEY.public.line + " my laptop\n", None, "root")
    assert (made.line, made.comment, made.fingerprint) == (KEY.public.line, "my laptop", KEY.public.fingerprint)
    assert [one.fingerprint for one in await keys.of("admin")] == [KEY.public.fingerprint]
    assert await keys.owner(KEY.public) == "admin"
    for who in ("admin", "jane"):
        assert await refusal(keys.add(who, KEY.public.line, None, "root")) == "FL-USER-KEY"
    assert await refusal(keys.add("nobody", KEY.public.line, None, "root")) == "FL-USER-UNKNOWN"
    assert await refusal(keys.remove("jane", KEY.public.fingerprint, "root")) == "FL-USER-KEY-UNKNOWN"
    await keys.remove("admin", KEY.public.fingerprint, "jane")
    assert await keys.owner(KEY.public) is None
    assert [(r.event, r.subject, r.by, r.details["key"]) for r in (await world.audited())[-2:]] == [
        ("user.key-added", "admin", "root", KEY.public.fingerprint),
        ("user.key-removed", "admin", "jane", KEY.public.fingerprint)]


async def test_a_key_goes_with_its_account(keys: UserKeys, people: People) -> None:
    await keys.add("jane", KEY.public.line, None, "root")
    await people.remove("jane", "admin")
    assert await keys.owner(KEY.public) is None
    await people.add("jane", "viewer", PASSWORD, "root")
    assert await keys.of("jane") == [], "whoever has the name next does not inherit it"


async def test_a_key_that_comes_while_its_account_goes_is_not_left_behind(
        world: World, keys: UserKeys, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    append_with, added = world.audit.append_with, False

    async def interposed(compare: object, then: object, entries: object) -> object:
        nonlocal added
        if entries[0].event == "user.removed" and not added:  # type: ignore[index]
            added = True
            await keys.add("jane", KEY.public.line, None, "root")
        return await append_with(compare, then, entries)  # type: ignore[arg-type]

    monkeypatch.setattr(world.audit, "append_with", interposed)
    await people.remove("jane", "admin")
    assert added
    assert await keys.owner(KEY.public) is None


async def test_an_account_has_so_many_keys_and_no_more(keys: UserKeys, people: People) -> None:
    for n in range(MOST_KEYS):
        await keys.add("admin", PrivateKey.from_seed(bytes([n]) * 32).public.line, None, "root")
    assert await refusal(keys.add("admin", KEY.public.line, None, "root")) == "FL-USER-KEY"


async def test_no_nodes_key_becomes_a_persons_and_no_persons_a_nodes(world: World, keys: UserKeys,
                                                                     people: People) -> None:
    machine, other = Machine(), Machine()
    await world.join("se-1", machine)
    for key in (machine.host, machine.user, world.host_key):
        assert await refusal(keys.add("admin", key.public.line, None, "root")) == "FL-USER-KEY"
    await keys.add("admin", other.user.public.line, None, "root")
    assert await refusal(world.exchange(await world.export(), other, "se-2")) == "FL-JOIN-KEYS"


async def test_when_both_ask_at_once_one_of_them_has_the_key(world: World, keys: UserKeys, people: People,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """The look comes first; that nothing changed meanwhile is the transaction's to say."""
    machine, bundle = Machine(), await world.export()
    looked, go = asyncio.Event(), asyncio.Event()
    append_with = world.audit.append_with

    async def held(compare: object, then: object, entries: object) -> object:
        if entries[0].event == "user.key-added":  # type: ignore[index]
            looked.set()
            await go.wait()
        return await append_with(compare, then, entries)  # type: ignore[arg-type]

    monkeypatch.setattr(world.audit, "append_with", held)
    adding = asyncio.ensure_future(refusal(keys.add("admin", machine.user.public.line, None, "root")))
    await looked.wait()
    await world.exchange(bundle, machine, "se-1")
    go.set()
    assert await adding == "FL-USER-KEY"


RSA = generate_private_key(65537, 2048).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize("line", [
    RSA, "", "ssh-ed25519", "ssh-ed25519 !!!", 'command="id" ' + KEY.public.line, "no-pty " + KEY.public.line,
    "cert-authority " + KEY.public.line, KEY.public.line + "\n" + KEY.public.line, "ssh-ed25519 " + "A" * 5000,
    KEY.openssh().decode(), "ssh-ed25519-cert-v01@openssh.com AAAA",
    "ssh-ed25519 " + b64(string("ssh-ed25519") + string(b"\1" + bytes(31)))])
def test_other_lines_are_no_keys_and_are_not_quoted(line: str) -> None:
    with pytest.raises(Refused) as caught:
        read_line(line)
    assert caught.value.code == "FL-USER-KEY"
    assert caught.value.remedy
    assert "AAAA" not in caught.value.line()


def test_the_line_of_a_pub_file(tmp_path: Path) -> None:
    assert read_line(f"  {KEY.public.line}   a b  c \r\n") == (KEY.public, "a b  c")
    assert read_line(KEY.public.line) == (KEY.public, "")
