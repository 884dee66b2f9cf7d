"""`cluster recover`: this Controller goes on alone, because most of the others are lost for good. Nothing runs here.

Its member of the store is started once, by itself, and told to forget the others; then the store is changed as in
`anew`; then everything on disk by which this Controller knew the others.

Rules, and what each stops:

1. Only a member that has voted has all that a majority once agreed on, or nearly; a learner may have half of it.
2. The note says ``recovering`` from before the first change until after the last: a Controller that was stopped in
   between does not run, it is recovered again, which changes nothing that counts.
3. The others' keys are revoked before anybody can log in, and they are in no copy on this disk: one that was not lost
   after all cannot bring its store together with this one. It is told that it was removed.
4. The data as it was is kept beside it, until the next recovery.
"""

import asyncio
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairlead.audit.log import AuditLog
from fairlead.audit.record import Entry
from fairlead.base import files, strict
from fairlead.base.clock import DAY, LAST_INSTANT, Clock, rfc3339
from fairlead.base.errors import OperatorError
from fairlead.cluster import note as notes
from fairlead.cluster.etcd import MOST_QUOTA_BYTES, Etcd, Plan, check_etcd, client_url, folder, member_context
from fairlead.cluster.members import Members
from fairlead.cluster.move import Shifted, batches
from fairlead.cluster.note import Note
from fairlead.controller import secrets
from fairlead.controller.anew import Anew, begin_anew
from fairlead.controller.daemon import load_settings
from fairlead.controller.initialise import COPY
from fairlead.controller.reissue import reissue
from fairlead.controller.restore import alone
from fairlead.controller.settings import ControllerSettings
from fairlead.enrol.trust import Trust
from fairlead.enrol.trust import load as load_trust
from fairlead.nodes.directory import snapshot_of
from fairlead.nodes.node import Node
from fairlead.nodes.records import KEYS, NODES, key_from, node_from
from fairlead.store.etcd import EtcdStore
from fairlead.store.gateway import Gateway
from fairlead.store.protocol import MARK, Put, mark_value

BIRTH_S = 60.0
"""For the member to come up with all of its data."""
BEFORE = "before-recover"
FAR = DAY
"""So far the cluster's time may be ahead of this machine's clock without a word."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Survivor:
    """A Controller that may go on alone."""

    trust: Trust
    note: Note
    settings: ControllerSettings
    others: Sequence[str]
    """Names of the Controllers that it had seen last."""

    @property
    def me(self) -> str:
        """Its name."""
        return self.trust.node


def examine(state: Path) -> Survivor:
    """See that the Controller in *state* can go on alone. Raises OperatorError; nothing has changed."""
    trust, note, settings = load_trust(state), notes.load(state), load_settings(state)
    if note is None:
        raise OperatorError("FL-CLUSTER-SINGLE", f"{trust.node} is a single Controller: it needs no others",
                            "`fairlead controller run`; if its store is lost, `fairlead backup restore`")
    if trust.removed:
        raise OperatorError("FL-NODE-REMOVED", f"{trust.node} was removed from the cluster",
                            "recover on one that was not")
    if note.stage not in ("member", "recovering"):
        raise OperatorError("FL-CLUSTER-VOTER", f"{trust.node} has never been a whole member of the store: it may lack "
                            "half of it", "recover on one that was, or restore a backup")
    if not (folder(state) / "data" / "member").is_dir():
        raise OperatorError("FL-STATE-DAMAGED", f"there is no data of the store in {folder(state)}",
                            "recover on another Controller, or restore a backup")
    return Survivor(trust, note, settings, sorted(set(_seen(state)) - {trust.node}))


def _seen(state: Path) -> Sequence[str]:
    """Names of the Controllers in the copy of the directory, if there is one."""
    try:
        copy = strict.loads(files.read_private(state / COPY))
        return [node_from(value.encode()).name for key, value in copy.items() if key.startswith(NODES)]
    except (FileNotFoundError, ValueError, AttributeError):
        return []


async def recover(state: Path, survivor: Survivor, removed: Collection[str], clock: Clock, progress: Progress, *,
                  reset_clock: bool = False) -> Anew:
    """Go on alone. Raises FairleadError; then it is to be repeated.

    *removed*: nodes that were removed by what is lost, by name. *reset_clock*: the store's time, which never goes back
    else, becomes this machine's.
    """
    trust, note = survivor.trust, survivor.note
    with files.alone(state):
        await reissue(state, trust, clock)
        binary, before = check_etcd(), folder(state) / BEFORE
        own = Gateway([client_url(trust.internal_address)], member_context(state))
        etcd = Etcd(binary, state, Plan(trust.node, trust.internal_address, trust.cluster_uuid,
                                        {trust.node: trust.internal_address}, existing=False, alone=True,
                                        quota_bytes=MOST_QUOTA_BYTES), own)
        try:
            if note.stage == "member":
                progress(f"keeping the data as it is in {before}")
                await asyncio.to_thread(_keep, folder(state) / "data", before)
                note = note.model_copy(update={"stage": "recovering"})
                note.save(state)
            progress("starting this Controller's member of the store by itself")
            running = asyncio.get_running_loop().create_task(etcd.run())
            try:
                await _up(etcd, running)
                await _disarm(Members(own))
                me, anew = await _change(Shifted(EtcdStore(own), note.base), state, trust, removed, clock,
                                         progress, reset_clock=reset_clock)
            finally:
                running.cancel()
                await asyncio.wait([running])
            alone(trust, me, survivor.settings.endpoint).save(state)
            Note(stage="member", base=note.base, members={trust.node: trust.internal_address}).save(state)
        finally:
            await own.close()
    return anew


def _keep(data: Path, before: Path) -> None:
    """A copy of the data; nobody writes to it now."""
    try:
        shutil.rmtree(before, ignore_errors=True)
        shutil.copytree(data, before)
    except (OSError, shutil.Error) as error:
        raise OperatorError("FL-DISK", f"the data cannot be copied to {before}: {error}",
                            "make room for it, then repeat the command; nothing has changed") from None


async def _up(etcd: Etcd, running: "asyncio.Task[None]") -> None:
    """Wait until the member answers. Raises OperatorError FL-ETCD-DOWN, or what it ended with."""
    ready = asyncio.get_running_loop().create_task(etcd.ready())
    try:
        await asyncio.wait([ready, running], timeout=BIRTH_S, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        if not ready.done():
            raise OperatorError("FL-ETCD-DOWN", "etcd does not come up: "
                                + ("; ".join(etcd.problems) or "it does not answer"), "mend that, then repeat it")
    finally:
        ready.cancel()


async def _disarm(members: Members) -> None:
    """An alarm for space was of the quota that counted before; here it would refuse all that is to be changed."""
    for alarm in await members.alarms():
        if alarm.kind == "NOSPACE":
            await members.disarm(alarm)


async def _change(store: Shifted, state: Path, trust: Trust, removed: Collection[str], clock: Clock,
                  progress: Progress, *, reset_clock: bool) -> tuple[Node, Anew]:
    """Change the store, and this Controller's copy of the directory."""
    await secrets.open_cluster_key(store, state, trust.node_id)  # or nobody could run it afterwards
    listing = await store.list("")
    records = {record.key: record.value for record in listing.records}
    now = _time(records, clock.now(), progress, reset_clock=reset_clock)
    await store.transact([], [Put(MARK, mark_value(now))])  # first: the records that follow are dated by it
    anew = begin_anew(records, trust.node_id, removed, by="recover", now=now)
    first, *rest = batches(anew.operations)
    audit = AuditLog(store, trust.node)
    await audit.append_with([], first, [Entry("cluster.recovered", trust.node, "recover", {
        "revision": listing.revision, "reset_clock": int(reset_clock), "removed": " ".join(anew.removed),
        "revoked": anew.revoked})])
    for batch in rest:
        await store.transact([], batch)
    await audit.append(*anew.entries)
    me = node_from(records[NODES + trust.node_id])
    keys = [key_from(value) for key, value in records.items() if key.startswith(KEYS)]
    files.write_private(state / COPY, snapshot_of([me], [key for key in keys if key.node_id == me.id]))
    return me, anew


def _time(records: Mapping[str, bytes], wall: int, progress: Progress, *, reset_clock: bool) -> int:
    """The cluster's time from now on, microseconds. It never goes back, unless it was put where it cannot be.

    Raises OperatorError FL-CLUSTER-CLOCK.
    """
    try:
        mark = int(records.get(MARK, b"0"))
    except ValueError:
        mark = LAST_INSTANT
    if reset_clock or mark <= wall:
        return wall
    if mark >= LAST_INSTANT - FAR:
        raise OperatorError("FL-CLUSTER-CLOCK", "the cluster's time is beyond all calendars",
                            "repeat the command with --reset-clock, when this machine's clock is right")
    if mark - wall > FAR:
        progress(f"the cluster's time, {rfc3339(mark)}, is far ahead of this machine's clock. If that is right, do "
                 "this again with --reset-clock before you run it: new certificates would not be valid yet")
    return mark
