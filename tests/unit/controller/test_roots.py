"""One root signs, and another takes its place: each step once, whatever is asked again."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fairlead.base.errors import OperatorError
from fairlead.controller import secrets
from fairlead.controller.initialise import STORE, initialise
from fairlead.controller.roots import Roots, known_as
from fairlead.controller.secrets import NEXT_ROOT, OLD_ROOT, ROOT
from fairlead.controller.settings import ControllerSettings
from fairlead.controller.signing import Signing
from fairlead.enrol.trust import load
from fairlead.nodes.node import Endpoint
from fairlead.pki.certificate import der_of, names, parsed
from fairlead.pki.chain import is_issued_by
from fairlead.pki.request import new_request
from fairlead.store.fence import unfenced
from fairlead.store.protocol import Absent, Exists, Put, StoreUnavailable
from fairlead.store.sqlite import SQLiteStore
from tests.world import ManualClock, refusal

SHARED = [secrets.CERTIFICATES + name for name in (secrets.SECURE_CHANNEL, secrets.API)]
HERE, ELSEWHERE = (Endpoint((address,), 443, 8443, 22) for address in ("192.0.2.10", "192.0.2.99"))
"""What is kept for all Controllers names the first; for the other there is a certificate of its own."""


@contextlib.asynccontextmanager
async def controller(state: Path) -> AsyncIterator[Roots]:
    """A new Controller's store, opened."""
    clock = ManualClock()
    await initialise(state, "ctl-1", ControllerSettings(addresses=["192.0.2.10"]), "a long enough passphrase", clock)
    trust = load(state)
    store = SQLiteStore.open(state / STORE, clock)
    try:
        yield Roots(Signing(trust, store, await secrets.open_cluster_key(store, state, trust.node_id)), unfenced)
    finally:
        await store.close()


async def known(roots: Roots) -> dict[str, str]:
    """What is where."""
    return {place: known_as(await secrets.certificate_of(roots.signing.store, place))
            for place in (ROOT, NEXT_ROOT, OLD_ROOT) if await roots.signing.store.get(place)}


async def signs(roots: Roots) -> bool:
    """Whether everything that is issued is by the root that signs: what is kept, and what is made now."""
    signing, root = roots.signing, parsed(der_of(await roots.signing.root()))
    node = cast("Any", SimpleNamespace(name="ctl-1", internal_address="127.64.0.1"))
    made = [await secrets.certificate_of(signing.store, place) for place in SHARED]
    made += [(await signing.api_certificate(HERE)).certificate_pem,
             (await signing.api_certificate(ELSEWHERE)).certificate_pem,
             (await signing.issue_client())[0].certificate_pem, await signing.certify(node, new_request()[1])]
    return all(is_issued_by(parsed(der_of(one)), root) for one in made)


async def test_another_root_comes_signs_and_is_the_only_one(tmp_path: Path) -> None:
    async with controller(tmp_path) as roots:
        signing = roots.signing
        old = (await known(roots))[ROOT]
        names_before = [names(der_of(await secrets.certificate_of(signing.store, place))) for place in SHARED]
        before, new = await roots.stage()
        assert before == old
        assert await roots.stage() == (old, new)  # again, after a crash: the same
        assert await known(roots) == {ROOT: old, NEXT_ROOT: new}
        assert [known_as(pem) for pem in await signing.roots()] == [old, new]
        assert await signs(roots)
        for _ in range(2):
            await roots.cut_over(new)
            assert await known(roots) == {ROOT: new, OLD_ROOT: old}
            assert await signs(roots)
        assert [known_as(pem) for pem in await signing.roots()] == [new, old]
        assert [names(der_of(await secrets.certificate_of(signing.store, place)))
                for place in SHARED] == names_before
        assert await refusal(roots.stage()) == "FL-ROOT-BUSY"
        for _ in range(2):
            await roots.retire(new)
            assert await known(roots) == {ROOT: new}
        assert await signs(roots)


async def test_two_roots_of_a_cluster_have_no_subject_in_common(tmp_path: Path) -> None:
    async with controller(tmp_path) as roots:
        await roots.stage()
        one, other = (parsed(der_of(pem)).subject for pem in await roots.signing.roots())
        assert one != other


async def test_it_leads_back_from_wherever_it_is(tmp_path: Path) -> None:
    async with controller(tmp_path) as roots:
        old = (await known(roots))[ROOT]
        _, new = await roots.stage()
        await roots.cut_back(new)  # nothing was cut over
        assert await known(roots) == {ROOT: old, NEXT_ROOT: new}
        await roots.cut_over(new)
        for _ in range(2):
            await roots.cut_back(new)
            assert await known(roots) == {ROOT: old, NEXT_ROOT: new}
            assert await signs(roots)
        for _ in range(2):
            await roots.withdraw(new)
            assert await known(roots) == {ROOT: old}
        assert (await roots.stage())[1] != new


async def test_a_step_that_comes_late_takes_no_other_root(tmp_path: Path) -> None:
    async with controller(tmp_path) as roots:
        _, withdrawn = await roots.stage()
        await roots.withdraw(withdrawn)
        _, new = await roots.stage()
        for late in (roots.cut_over(withdrawn), roots.retire(new)):
            with pytest.raises(OperatorError, match="not those of this rotation"):
                await late
        await roots.cut_over(new)
        with pytest.raises(OperatorError, match="not those of this rotation"):
            await roots.withdraw(new)


async def test_who_leads_no_more_changes_no_root(tmp_path: Path) -> None:
    async with controller(tmp_path) as roots:
        before = await known(roots)
        late = Roots(roots.signing, lambda: [Exists("leader/none")])
        with pytest.raises(StoreUnavailable):
            await late.stage()
        assert await known(roots) == before
        _, new = await roots.stage()
        for step in (late.cut_over(new), late.withdraw(new)):
            with pytest.raises(StoreUnavailable):
                await step
        assert await known(roots) == before | {NEXT_ROOT: new}


async def test_a_root_is_opened_at_its_own_place_only(tmp_path: Path) -> None:
    async with controller(tmp_path) as roots:
        await roots.stage()
        record = await roots.signing.store.get(NEXT_ROOT)
        assert record is not None
        assert b"PRIVATE" not in record.value
        await roots.signing.store.transact([], [Put(ROOT, record.value)])  # moved by hand, by whoever can
        with pytest.raises(OperatorError) as refused:
            await roots.signing.issue_client()
        assert refused.value.code == "FL-AUTHORITY-DAMAGED"
        await roots.signing.store.transact([], [Put(NEXT_ROOT, b"{}")])
        with pytest.raises(OperatorError, match="the next root CA in the store is broken") as refused:
            await roots.signing.roots()
        assert refused.value.code == "FL-AUTHORITY-DAMAGED"
        assert (await roots.signing.store.transact([Absent(OLD_ROOT)], [])).succeeded
