"""The state table through the store: each step, what stands there afterwards, and what is on record of it."""

import asyncio
from dataclasses import replace

import pytest

from fairlead.audit.log import AuditLog
from fairlead.base.clock import DAY, MINUTE, SECOND
from fairlead.base.errors import Refused
from fairlead.enrol import state as states
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.exchange import USER_NAMESPACE, Core, Submission, prove
from fairlead.enrol.redeem import ANCHORS, GENERATION, LIVE, REFUSALS, TOKENS, new_generation
from fairlead.enrol.token import NAMESPACE
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64, sha256, string
from fairlead.nodes import records
from fairlead.nodes.node import Endpoint, State
from fairlead.nodes.records import AddressEntry, NameEntry
from fairlead.nodes.service import declare
from fairlead.store.protocol import Delete, Put, Record
from tests.world import SOURCE, Machine, World, refusal, tampered


async def live(world: World, bundle: Bundle) -> Record | None:
    return await world.store.get(LIVE + bundle.token.id.hex())


async def about(world: World, bundle: Bundle) -> list[str]:
    return await world.events(bundle.token.id.hex())


async def reserved(world: World, node: str = "se-1", bound: bool = False) -> tuple[Bundle, Machine, Core]:
    machine = Machine()
    bundle = await world.export(node=node if bound else None, bound=machine if bound else None)
    return bundle, machine, await world.exchange(bundle, machine, node)


async def joined(world: World, node: str = "se-1") -> tuple[Bundle, Machine, Core]:
    bundle, machine, core = await reserved(world, node)
    await world.commit(bundle, machine, core)
    return bundle, machine, core


# -- issue ------------------------------------------------------------------------------------------------------------

async def test_issue_keeps_no_secret(world: World) -> None:
    bundle = await world.export(node="se-1", source="192.0.2.0/24")
    token = await world.token(bundle)
    assert (token.state, token.node, token.source, token.anchor_hash) == (
        "open", "se-1", "192.0.2.0/24", bundle.anchor.hash.hex())
    assert token.expires_at - token.issued_at == 10 * MINUTE
    assert token.commit_by - token.expires_at == 60 * SECOND
    assert token.token_public == bundle.token.key(world.cluster_uuid).public.raw.hex()
    everything = b"".join(r.key.encode() + r.value for r in (await world.store.list("")).records)
    seed = bundle.token.key(world.cluster_uuid).key.private_bytes_raw()
    for secret in (bundle.token.secret, seed):
        for text in (secret, secret.hex().encode(), b64(secret).encode()):
            assert text not in everything
    assert bundle.token.encode().encode() not in everything
    assert await about(world, bundle) == ["token.issued"]
    anchor = await world.enrolment.anchor(bundle.anchor.hash)
    assert anchor == bundle.anchor.encode()


@pytest.mark.parametrize(("given", "code"), [
    ({"lifetime_s": 0}, "FL-BUNDLE-TTL"), ({"lifetime_s": 601}, "FL-BUNDLE-TTL"), ({"lifetime_s": -1}, "FL-BUNDLE-TTL"),
    ({"source": "192.0.2.1/24"}, "FL-BUNDLE-SOURCE"), ({"source": "$(id)"}, "FL-BUNDLE-SOURCE"),
    ({"node": "SE"}, "FL-NAME"), ({"node": "engines"}, "FL-NAME"), ({"node": "ctl-1"}, "FL-JOIN-NAME"),
])
async def test_what_is_not_issued(world: World, given: dict[str, int | str], code: str) -> None:
    before = await world.revision()
    assert await refusal(world.export(**given)) == code  # type: ignore[arg-type]
    assert await world.revision() == before


# -- reserve ----------------------------------------------------------------------------------------------------------

async def test_reserve(world: World) -> None:
    bundle, machine, core = await reserved(world)
    assert (core.result, core.node, core.role, core.user) == ("reserved", "se-1", "engine", "aviseuser")
    assert (core.internal_address, core.commit_within_s) == ("127.64.1.0", 660)
    assert [(c.name, c.address, c.internal_address) for c in core.controllers] == [
        ("ctl-1", "192.0.2.10", "127.64.0.1")]
    token = await world.token(bundle)
    assert (token.state, token.node_id, token.used_by) == (
        "reserved", core.node_id, machine.host.public.fingerprint)
    assert token.keys_hash == world.claim_keys(machine).hex() == core.keys_hash
    node = await world.node(core.node_id)
    assert node is not None
    assert (node.state, node.joined_at, node.internal_address) == ("joining", 0, "127.64.1.0")
    assert await world.name("se-1") == NameEntry(core.node_id, "held")
    assert await world.address("127.64.1.0") == AddressEntry(core.node_id, "held")
    for key, use in ((machine.host, "host"), (machine.user, "user")):
        entry = await world.key(key.public)
        assert entry is not None
        assert (entry.node_id, entry.use, entry.state, entry.token_id, entry.commit_by) == (
            core.node_id, use, "pending", token.id, token.commit_by)
    assert await about(world, bundle) == ["token.issued", "join.reserved"]
    assert (await live(world, bundle)) is not None


async def test_a_lost_reply_costs_nothing(world: World) -> None:
    """The same keys get the same answer, again and again, without a write."""
    bundle, machine, core = await reserved(world)
    before = await world.revision()
    for _ in range(3):
        world.clock.instant += SECOND
        assert (await world.exchange(bundle, machine)).model_copy(update={
            "commit_within_s": core.commit_within_s, "server_time": core.server_time}) == core
    assert await world.revision() == before


async def test_a_bundle_of_before_the_host_keys_changed_is_refused_with_the_reason(world: World) -> None:
    (used, _, _), bundle, new = await joined(world), await world.export(), PrivateKey.generate()
    office = world.enrolment.office

    def known_by(**keys: str) -> None:
        world.directory.nodes[world.controller.id] = replace(world.controller, **keys)  # type: ignore[arg-type]

    world.enrolment.office = replace(office, host_key=lambda: new)
    known_by(next_host_key=new.public.line)
    assert await refusal(world.exchange(bundle, Machine(), "se-2")) == "FL-STORE", "another may show the old one"
    known_by(host_key=new.public.line)
    assert await refusal(world.exchange(bundle, Machine(), "se-2")) == "FL-JOIN-ANCHOR"
    assert await refusal(world.exchange(used, Machine(), "se-3")) == "FL-JOIN-CONFLICT", "a thief is noticed"
    known_by()
    world.enrolment.office = office
    assert (await world.exchange(bundle, Machine(), "se-2")).result == "reserved"


async def test_commit(world: World) -> None:
    bundle, machine, core = await reserved(world)
    world.clock.set(5)
    assert await world.commit(bundle, machine, core) == 1
    assert (await world.token(bundle)).state == "redeemed"
    node = await world.node(core.node_id)
    assert node is not None
    assert (node.state, node.joined_at) == ("up", world.clock.now())
    assert world.directory.nodes[core.node_id] == node  # the picture has it when the answer leaves
    for key in (machine.host, machine.user):
        entry = await world.key(key.public)
        assert entry is not None
        assert (entry.state, entry.commit_by) == ("active", 0)
    assert await live(world, bundle) is None
    assert await about(world, bundle) == ["token.issued", "join.reserved", "join.committed"]
    # a lost answer: both messages may be sent again
    before = await world.revision()
    assert await world.commit(bundle, machine, core) == 1
    assert (await world.exchange(bundle, machine)).result == "committed"
    assert await world.revision() == before


@pytest.mark.parametrize("change", [
    {"token_id": "00" * 16}, {"node_id": "00000000-0000-0000-0000-000000000000"}, {"keys_hash": "00" * 32},
    {"keys_hash": None}, {"token_id": ["x"]}, {"node_id": None}])
async def test_a_commit_that_disagrees_with_the_key_is_refused(world: World, change: dict[str, object]) -> None:
    bundle, machine, core = await reserved(world)
    before = await world.revision()
    assert await refusal(world.commit(bundle, machine, core, **change)) == "FL-JOIN-REFUSED"
    assert await world.revision() == before


async def test_only_the_reserved_user_key_commits(world: World) -> None:
    bundle, machine, core = await reserved(world)
    for other in (Machine(), Machine(machine.user, machine.host), Machine(user=machine.host)):
        assert await refusal(world.commit(bundle, other, core)) == "FL-JOIN-REFUSED"
    other_bundle, other_machine, _ = await reserved(world, "se-2")
    assert await refusal(world.commit(bundle, other_machine, core)) == "FL-JOIN-REFUSED"
    assert {(await world.token(b)).state for b in (bundle, other_bundle)} == {"reserved"}


async def test_a_controller_joins_and_waits_for_admission(world: World) -> None:
    machine, endpoint = Machine(), Endpoint(("192.0.2.11",), 443, 8443, 22)
    bundle = await world.export("controller")
    core = await world.exchange(bundle, machine, "ctl-2", endpoint=endpoint)
    assert (core.user, core.internal_address) == ("avictlruser", "127.64.0.2")
    moved = replace(endpoint, addresses=("192.0.2.66",))
    assert await refusal(world.exchange(bundle, machine, "ctl-2", endpoint=moved)) == "FL-JOIN-CHANGED"
    await world.commit(bundle, machine, core)
    assert world.directory.nodes[core.node_id].state == "joining"
    assert [c.name for c in world.directory.controllers()] == ["ctl-1"]


# -- deadlines --------------------------------------------------------------------------------------------------------

async def test_open_until_expires_at(world: World) -> None:
    bundles = [await world.export(), await world.export()]
    world.clock.instant = (await world.token(bundles[0])).expires_at - 1
    await world.exchange(bundles[0], Machine(), "se-1")
    world.clock.instant += 1
    before = await world.revision()
    assert await refusal(world.exchange(bundles[1], Machine(), "se-2")) == "FL-JOIN-EXPIRED"
    assert (await world.token(bundles[1])).state == "expired"
    assert await world.revision() > before
    assert (await about(world, bundles[1]))[:2] == ["token.issued", "token.expired"]
    assert await world.name("se-2") is None


async def test_reserved_until_commit_by(world: World) -> None:
    (in_time, first, core), (late, second, other) = await reserved(world, "se-1"), await reserved(world, "se-2")
    world.clock.instant = (await world.token(in_time)).commit_by - 1
    assert (await world.exchange(late, second, "se-2")).commit_within_s == 0
    await world.commit(in_time, first, core)
    world.clock.instant += 1
    assert await refusal(world.commit(late, second, other)) == "FL-JOIN-EXPIRED"
    assert (await about(world, late))[-1] == "join.expired"
    await gone(world, late, second, other, "expired", keys=None)
    assert await refusal(world.exchange(late, second, "se-2")) == "FL-JOIN-EXPIRED"
    assert await refusal(world.commit(late, second, other)) == "FL-JOIN-REFUSED"


async def gone(world: World, bundle: Bundle, machine: Machine, core: Core, state: str, keys: str | None) -> None:
    """Everything that the node held was given back in one step."""
    assert (await world.token(bundle)).state == state
    assert await world.node(core.node_id) is None
    assert core.node_id not in world.directory.nodes
    assert await world.name(core.node) is None
    address = await world.address(core.internal_address)
    assert address is not None
    assert (address.state, address.node_id) == ("quarantined", core.node_id)
    assert address.until == world.clock.now() + 10 * MINUTE
    for key in (machine.host, machine.user):
        entry = await world.key(key.public)
        assert (entry.state if entry else None) == keys
    assert await live(world, bundle) is None


async def test_the_clock_expires_what_nobody_asks_for(world: World) -> None:
    opened = await world.export()
    held, machine, core = await reserved(world)
    world.clock.instant = (await world.token(opened)).expires_at - 1
    await world.enrolment.expire_due()
    assert (await world.token(opened)).state == "open"
    world.clock.instant += 1
    await world.enrolment.expire_due()
    assert ((await world.token(opened)).state, (await world.token(held)).state) == ("expired", "reserved")
    world.clock.instant = (await world.token(held)).commit_by
    await world.enrolment.expire_due()
    await gone(world, held, machine, core, "expired", keys=None)
    assert [(await about(world, b))[-1] for b in (opened, held)] == ["token.expired", "join.expired"]
    before = await world.revision()
    await world.enrolment.expire_due()
    assert await world.revision() == before


# -- somebody else ----------------------------------------------------------------------------------------------------

async def test_other_keys_before_the_commit_freeze_for_good(world: World) -> None:
    bundle, honest, core = await reserved(world)
    thief = Machine()
    assert await refusal(world.exchange(bundle, thief, "se-9", source="203.0.113.5")) == "FL-JOIN-CONFLICT"
    await gone(world, bundle, honest, core, "frozen", keys="revoked")
    records = [r for r in await world.audited() if r.event == "join.interception"]
    assert [(r.subject, r.by, r.details["source"], r.details["first"]) for r in records] == [
        (bundle.token.id.hex(), thief.host.public.fingerprint, "203.0.113.5", honest.host.public.fingerprint)]
    # nobody gets anywhere with it any more
    for machine in (honest, thief, Machine()):
        assert await refusal(world.exchange(bundle, machine)) == "FL-JOIN-FROZEN"
    assert await refusal(world.commit(bundle, honest, core)) == "FL-JOIN-REFUSED"
    # and neither do those keys with another bundle
    assert await refusal(world.exchange(await world.export(), honest)) == "FL-JOIN-KEYS"


async def test_other_keys_after_the_commit_freeze_the_engine_once(world: World) -> None:
    bundle, honest, core = await joined(world)
    world.clock.set(599.999_999)
    before_conflict = await world.token(bundle)
    with pytest.raises(Refused) as caught:
        await world.exchange(bundle, Machine(), "se-1", source="203.0.113.5")
    assert caught.value.code == "FL-JOIN-CONFLICT"
    assert honest.host.public.fingerprint in caught.value.message
    assert "2026-01-01T00:00:00Z" in caught.value.message
    token = await world.token(bundle)
    assert token.state == "redeemed"
    assert before_conflict.conflict is None
    assert token.conflict is not None
    assert token.conflict.source == "203.0.113.5"
    node = await world.node(core.node_id)
    assert node is not None
    assert node.state == "frozen"
    assert (await world.name("se-1"), (await world.address(core.internal_address))) == (
        NameEntry(core.node_id, "held"), AddressEntry(core.node_id, "held"))
    assert (await about(world, bundle)).count("join.interception-late") == 1
    # released by the right fingerprint only; the same thief cannot freeze it again
    await world.directory.reached(await world.revision())
    other = Machine().host.public.fingerprint
    assert await refusal(world.registry.release("se-1", other, "admin")) == "FL-NODE-FINGERPRINT"
    await world.registry.release("se-1", honest.host.public.fingerprint, "admin")
    assert await refusal(world.exchange(bundle, Machine(), "se-1")) == "FL-JOIN-CONFLICT"
    assert world.directory.nodes[core.node_id].state == "up"
    assert (await about(world, bundle)).count("join.interception-late") == 1


async def test_after_expires_at_other_keys_freeze_nothing(world: World) -> None:
    bundle, honest, core = await joined(world)
    world.clock.set(600)
    with pytest.raises(Refused) as caught:
        await world.exchange(bundle, Machine())
    assert caught.value.code == "FL-JOIN-USED"
    assert honest.host.public.fingerprint in caught.value.message
    assert "2026-01-01T00:00:00Z" in caught.value.message
    assert (await about(world, bundle))[-1] == "token.late-use"
    assert world.directory.nodes[core.node_id].state == "up"
    assert (await world.exchange(bundle, honest)).result == "committed"
    world.clock.set(660)
    assert await refusal(world.exchange(bundle, honest)) == "FL-JOIN-USED"


async def test_a_controller_that_votes_is_not_cut_off_by_a_thief(world: World) -> None:
    endpoint = Endpoint(("192.0.2.11",), 443, 8443, 22)
    states_: tuple[tuple[int, State], ...] = ((2, "up"), (3, "joining"))
    for number, state in states_:
        bundle, machine = await world.export("controller"), Machine()
        core = await world.exchange(bundle, machine, f"ctl-{number}", endpoint=endpoint)
        await world.commit(bundle, machine, core)
        node = await world.node(core.node_id)
        assert node is not None
        await world.store.transact([], [Put(records.NODES + node.id, records.encode(replace(node, state=state)))])
        assert await refusal(world.exchange(bundle, Machine(), "x", endpoint=endpoint)) == "FL-JOIN-CONFLICT"
        after = await world.node(core.node_id)
        assert after is not None
        assert after.state == ("up" if state == "up" else "frozen")
        assert "join.interception-late" in await about(world, bundle)


async def test_a_bound_bundle_is_no_lever_for_a_thief(world: World) -> None:
    """In no state does he change more than the count of his refusals."""
    machine, thief = Machine(), Machine()
    bundle = await world.export(node="se-1", bound=machine)

    async def rob(node: str = "se-1") -> str:
        before = await world.token(bundle)
        code = await refusal(world.exchange(bundle, thief, node))
        assert await world.token(bundle) == before
        return code

    assert await rob() == "FL-JOIN-BOUND"
    core = await world.exchange(bundle, machine)
    assert await rob() == "FL-JOIN-BOUND"
    await world.commit(bundle, machine, core)
    assert await rob() == "FL-JOIN-BOUND"
    assert world.directory.nodes[core.node_id].state == "up"
    assert (await about(world, bundle)).count("join.bound") == 3
    assert not [e for e in await about(world, bundle) if "interception" in e]


# -- revoke -----------------------------------------------------------------------------------------------------------

async def test_revoke(world: World) -> None:
    opened, (held, machine, core) = await world.export(), await reserved(world)
    done, _, other = await joined(world, "se-2")
    for bundle in (opened, held):
        assert (await world.enrolment.revoke(bundle.token.id.hex(), "admin")).state == "revoked"
    await gone(world, held, machine, core, "revoked", keys=None)
    assert [(await about(world, b))[-1] for b in (opened, held)] == ["token.revoked", "join.revoked"]
    assert await refusal(world.enrolment.revoke(done.token.id.hex(), "admin")) == "FL-TOKEN-REDEEMED"
    assert await refusal(world.enrolment.revoke("00" * 16, "admin")) == "FL-TOKEN-UNKNOWN"
    assert world.directory.nodes[other.node_id].state == "up"
    before = await world.revision()
    assert (await world.enrolment.revoke(held.token.id.hex(), "admin")).state == "revoked"
    assert await world.revision() == before
    for bundle, node in ((opened, "se-3"), (held, "se-1")):
        assert await refusal(world.exchange(bundle, machine, node)) == "FL-JOIN-REVOKED"
    assert await refusal(world.commit(held, machine, core)) == "FL-JOIN-REFUSED"


# -- what the holder of a token may be refused ------------------------------------------------------------------------

async def test_requests_at_fault_leave_the_token_unharmed(world: World) -> None:
    bundle, machine = await world.export(node="se-1", source="192.0.2.0/24"), Machine()
    other = await world.export()
    claim = machine.claim(bundle, world.certificate)
    body = machine.body(claim, bundle)
    swapped = Submission.parse(body)

    async def send(data: bytes, source: str = SOURCE) -> str:
        return await refusal(world.enrolment.exchange(Submission.parse(data), source, world.presents))

    def proven(**changes: object) -> bytes:
        return machine.body(replace(claim, **changes), bundle)  # type: ignore[arg-type]

    proofs = (b64(swapped.proofs.host), b64(swapped.proofs.user))
    thief = Machine()
    faults = {
        "FL-JOIN-PROOF": [tampered(body, host_proof=proofs[1]), tampered(body, user_proof=proofs[0]),
                          thief.body(claim, bundle)],
        "FL-JOIN-RELAY": [proven(certificate_hash=sha256(b"of somebody in between"))],
        "FL-JOIN-ANCHOR": [proven(anchor_hash=sha256(b"another"))],
        "FL-JOIN-ROLE": [proven(role="controller", endpoint=Endpoint(("192.0.2.11",), 443, 8443, 22))],
        "FL-JOIN-NAME": [proven(node="se-2")],
        "FL-JOIN-KEYS": [proven(user_key=machine.host.public)],
    }
    for code, requests in faults.items():
        for request in requests:
            assert await send(request) == code
    for source in ("192.0.3.1", "2001:db8::1", "::ffff:192.0.3.1"):
        assert await send(body, source) == "FL-JOIN-SOURCE"
    assert (await world.token(bundle)).state == "open"
    assert set(await about(world, bundle)) == {"token.issued", "join.refused"}
    assert (await world.enrolment.tokens())[0][0].id in (bundle.token.id.hex(), other.token.id.hex())
    assert {t.id: n for t, n in await world.enrolment.tokens()}[bundle.token.id.hex()] == 11
    await world.exchange(bundle, machine, source="::ffff:192.0.2.7")
    assert (await world.token(other)).state == "open"


async def test_small_order_keys_prove_nothing(world: World) -> None:
    """Without rule 2 of keys.ssh this request would be fully proven by a key that nobody holds."""
    bundle, machine = await world.export(), Machine()
    everybody = string("ssh-ed25519") + string(bytes.fromhex("01" + "00" * 31))
    body = tampered(machine.body(machine.claim(bundle, world.certificate), bundle),
                    host_key=f"ssh-ed25519 {b64(everybody)}", host_proof=b64(b"\1" + bytes(63)))
    transcript = Submission.parse(body).transcript(world.cluster_uuid)
    token_proof = bundle.token.key(world.cluster_uuid).sign(NAMESPACE, transcript)
    user_proof = machine.user.sign(USER_NAMESPACE, transcript)
    body = tampered(body, token_proof=b64(token_proof), user_proof=b64(user_proof))
    assert await refusal(world.enrolment.exchange(Submission.parse(body), SOURCE, world.presents)) == "FL-JOIN-KEYS"


async def test_strangers_cause_no_write_and_are_counted(world: World) -> None:
    bundle, machine = await world.export(), Machine()
    await reserved(world, "se-2")
    claim = machine.claim(bundle, world.certificate)
    thief = PrivateKey.generate()
    wrong = prove(claim, token=thief, host=machine.host, user=machine.user)
    unknown = prove(replace(claim, token_id=bytes(16)), token=bundle.token.key(world.cluster_uuid), host=machine.host,
                    user=machine.user)
    replayed = tampered(machine.body(claim, bundle), nonce=b64(bytes(32)))
    before, audited = await world.revision(), await world.audited()
    said = set()
    for body in (wrong, unknown, replayed) * 20:
        with pytest.raises(Refused) as caught:
            await world.enrolment.exchange(Submission.parse(body), "203.0.113.9", world.presents)
        said.add((caught.value.code, caught.value.message, caught.value.remedy))
    assert said == {("FL-JOIN-REFUSED", "the join was refused", "")}
    assert await world.revision() == before
    assert await world.audited() == audited
    sums = world.refusals.flush(world.clock.now() + MINUTE)
    assert [(e.subject, e.details["bad-token-proof"], e.details["unknown-token"]) for e in sums] == [
        ("203.0.113.0/24", 40, 20)]


async def test_refusals_of_a_holder_are_recorded_32_times_then_in_sums(world: World) -> None:
    bundle, machine = await world.export(node="se-1"), Machine()
    for _ in range(40):
        assert await refusal(world.exchange(bundle, machine, "se-2")) == "FL-JOIN-NAME"
    assert (await about(world, bundle)).count("join.refused") == 32
    sums = world.refusals.flush(world.clock.now() + MINUTE)
    assert [e.details["FL-JOIN-NAME"] for e in sums] == [8]
    before = await world.revision()
    assert await refusal(world.exchange(bundle, machine, "se-2")) == "FL-JOIN-NAME"
    assert await world.revision() == before
    await world.exchange(bundle, machine, "se-1")  # no lock-out: whoever has the token is not locked out of it


# -- names, keys, addresses -------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("owner", "allow", "mentioned"), [
    ("se-old", ["controllers"], "se-old"), ("ctl-1", ["se-later", "engines"], "se-later")])
async def test_a_name_that_a_policy_mentions_is_for_bound_bundles_only(
        world: World, owner: str, allow: list[str], mentioned: str) -> None:
    if owner == "se-old":
        await joined(world, "se-old")
    await world.registry.add_service(declare("db", node=owner, role=None, port=5432, target=None, allow=allow), "admin")
    if owner == "se-old":
        await world.registry.remove("se-old", "admin")
        await world.store.transact([], [Delete(records.NAMES + "se-old")])  # the mention alone must do
    bundle, machine = await world.export(), Machine()
    assert await refusal(world.exchange(bundle, machine, mentioned)) == "FL-JOIN-NAME"
    await world.exchange(bundle, machine, "se-unheard-of")
    await world.exchange(await world.export(node=mentioned), Machine(), mentioned)


async def test_the_name_of_a_removed_node_is_for_bound_bundles_only(world: World) -> None:
    await joined(world)
    await world.registry.remove("se-1", "admin")
    entry = await world.name("se-1")
    assert entry is not None
    assert entry.state == "tombstone"
    assert await refusal(world.exchange(await world.export(), Machine(), "se-1")) == "FL-JOIN-NAME"
    core = await world.exchange(await world.export(node="se-1"), Machine(), "se-1")
    assert await world.name("se-1") == NameEntry(core.node_id, "held")


@pytest.mark.parametrize("end", ["expired", "revoked", "frozen"])
async def test_a_join_that_came_to_nothing_leaves_the_tombstone_that_it_took(world: World, end: str) -> None:
    await joined(world)
    await world.registry.remove("se-1", "admin")
    bundle = await world.export(node="se-1")
    await world.exchange(bundle, Machine(), "se-1")
    match end:
        case "expired":
            world.clock.set(660)
            await world.enrolment.expire_due()
        case "revoked":
            await world.enrolment.revoke(bundle.token.id.hex(), "admin")
        case _:
            assert await refusal(world.exchange(bundle, Machine(), "se-1")) == "FL-JOIN-CONFLICT"
    assert (await world.token(bundle)).state == end
    assert await refusal(world.exchange(await world.export(), Machine(), "se-1")) == "FL-JOIN-NAME"


@pytest.mark.parametrize("name", ["se-1", "ctl-1", "engines", "controllers"])
async def test_names_that_are_taken_or_mean_a_role(world: World, name: str) -> None:
    await joined(world)
    assert await refusal(world.exchange(await world.export(), Machine(), name)) == "FL-JOIN-NAME"


async def test_a_bound_bundle_does_not_take_a_name_that_is_held_meanwhile(world: World) -> None:
    bundle = await world.export(node="se-1")
    await joined(world, "se-1")
    assert await refusal(world.exchange(bundle, Machine(), "se-1")) == "FL-JOIN-NAME"
    assert await refusal(world.export(node="se-1")) == "FL-JOIN-NAME"


async def test_keys_join_once(world: World) -> None:
    _, machine, core = await joined(world)
    second = await world.export()
    for used in (machine, Machine(host=machine.host), Machine(user=machine.user), Machine(host=machine.user),
                 Machine(machine.user, machine.host)):
        assert await refusal(world.exchange(second, used, "se-2")) == "FL-JOIN-KEYS"
    await world.registry.remove("se-1", "admin")
    for key in (machine.host, machine.user):
        entry = await world.key(key.public)
        assert entry is not None
        assert entry.state == "revoked"
    assert await refusal(world.exchange(second, machine, "se-2")) == "FL-JOIN-KEYS"
    assert (await world.token(second)).state == "open"
    assert await world.node(core.node_id) is None


async def test_a_freed_address_rests_for_ten_minutes(world: World) -> None:
    _, _, first = await joined(world, "se-1")
    _, _, second = await joined(world, "se-2")
    await world.registry.remove("se-1", "admin")
    world.clock.set(599.999_999)
    _, _, third = await reserved(world, "se-3")
    world.clock.set(600)
    _, _, fourth = await reserved(world, "se-4")
    assert [c.internal_address for c in (first, second, third, fourth)] == [
        "127.64.1.0", "127.64.1.1", "127.64.1.2", "127.64.1.0"]
    assert await world.address("127.64.1.0") == AddressEntry(fourth.node_id, "held")


async def test_a_full_pool_refuses_and_harms_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.nodes.directory.candidates", lambda role, since: iter(["127.64.1.0"]))
    await reserved(world, "se-1")
    bundle = await world.export()
    assert await refusal(world.exchange(bundle, Machine(), "se-2")) == "FL-JOIN-POOL"
    assert (await world.token(bundle)).state == "open"
    assert await world.name("se-2") is None


# -- a restored store, and the end of records -------------------------------------------------------------------------

@pytest.mark.parametrize("reserve_first", [False, True])
async def test_tokens_of_another_generation_redeem_nothing(world: World, reserve_first: bool) -> None:
    bundle, machine = await world.export(), Machine()
    core = await world.exchange(bundle, machine) if reserve_first else None
    await world.store.transact([], [Put(GENERATION, new_generation())])
    before = await world.revision()
    if core is None:
        assert await refusal(world.exchange(bundle, machine)) == "FL-STORE"
        assert await world.name("se-1") is None
    else:
        assert await refusal(world.commit(bundle, machine, core)) == "FL-STORE"
        node = await world.node(core.node_id)
        assert node is not None
        assert node.state == "joining"
    assert await world.revision() == before


@pytest.mark.parametrize("reserve_first", [False, True])
async def test_a_lease_that_ended_ends_the_token(world: World, reserve_first: bool) -> None:
    """The backstop: a clock that stood still while the lease ran out."""
    bundle, machine = await world.export(), Machine()
    core = await world.exchange(bundle, machine) if reserve_first else None
    await world.store.transact([], [Delete(LIVE + bundle.token.id.hex())])
    before = await world.revision()
    late = world.exchange(bundle, machine) if core is None else world.commit(bundle, machine, core)
    assert await refusal(late) == "FL-STORE"
    assert await world.revision() == before


async def test_what_ended_is_forgotten_after_thirty_days_and_then_unknown(world: World) -> None:
    bundle, machine, _ = await joined(world)
    other = await world.export(node="se-9")
    assert await refusal(world.exchange(other, Machine(), "se-8")) == "FL-JOIN-NAME"
    await world.enrolment.revoke(other.token.id.hex(), "admin")
    await settled(world)
    world.clock.instant += 30 * DAY - 1
    await world.enrolment.tidy()
    assert len((await world.store.list(TOKENS)).records) == 2
    world.clock.instant += 1
    await world.enrolment.tidy()
    assert not (await world.store.list(TOKENS)).records
    assert not (await world.store.list(REFUSALS)).records
    assert await refusal(world.exchange(bundle, machine)) == "FL-JOIN-REFUSED"


async def settled(world: World) -> None:
    """Everything that follows the store has caught up."""
    for _ in range(20):
        await world.store.now()
        await asyncio.sleep(0)


async def test_an_anchor_is_kept_while_a_token_names_it(world: World) -> None:
    bundle = await world.export()
    await world.registry.announce(world.controller.id, Endpoint(("192.0.2.11",), 443, 8443, 22), "ctl-1")
    later = await world.export()
    assert later.anchor.hash != bundle.anchor.hash
    await world.enrolment.tidy()
    assert len((await world.store.list(ANCHORS)).records) == 2
    await world.exchange(bundle, Machine())  # older bundles stay good
    world.clock.set(12 * 60)
    await world.enrolment.tidy()
    assert [r.key for r in (await world.store.list(ANCHORS)).records] == [ANCHORS + later.anchor.hash.hex()]
    assert await world.enrolment.anchor(bundle.anchor.hash) is None
    assert await refusal(world.exchange(bundle, Machine())) == "FL-JOIN-EXPIRED"  # it is still known what it was


async def test_the_chain_of_records_is_whole(world: World) -> None:
    await test_other_keys_after_the_commit_freeze_the_engine_once(world)
    heads = await AuditLog(world.store, "ctl-1").verify()
    assert heads["ctl-1"].seq == len(await world.audited())
    token = next(r for r in (await world.store.list(TOKENS)).records)
    assert states.decode(token.value).state == "redeemed"
