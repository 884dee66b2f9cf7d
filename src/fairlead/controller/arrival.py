"""The follower's side of its coming: from a committed join to a member that votes, whatever is stopped on the way.

Each stage is durable before the next begins (`cluster.note`), and each question to the leader may be asked again: a
crash anywhere is mended by the next start.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base import files
from fairlead.base.errors import FairleadError, Refused
from fairlead.cluster.etcd import folder, put_identity
from fairlead.cluster.note import Note
from fairlead.controller import secrets
from fairlead.controller.admission import purpose
from fairlead.controller.cluster import ASK_AGAIN_S, Cluster
from fairlead.keys.seal import hpke_open, new_key, new_recipient, recipient_public
from fairlead.keys.wire import b64, from_b64
from fairlead.pki.request import new_request
from fairlead.store.protocol import StoreUnavailable

LOOK_EVERY = 8
"""So many vain questions, and it looks around."""
PATIENCE_S = 10.0
"""So long a step may fail silently; then the log, and the node's problems, say why."""

log = structlog.get_logger("fairlead.cluster")

T = TypeVar("T", bound=BaseModel)
Ask = Callable[..., Awaitable[dict[str, Any]]]
"""A question to whoever leads: an operation and its fields. Raises FairleadError."""


class Admitted(BaseModel):
    """What the leader answers to `admit`."""

    model_config = ConfigDict(strict=True)
    certificate: str
    ca: str
    base: int = Field(ge=0)
    members: dict[str, str]
    member: str


class Entered(BaseModel):
    """What the leader answers to `enter`."""

    model_config = ConfigDict(strict=True)
    cluster_key: str = Field(repr=False)


@dataclass(slots=True)
class Arrival:
    """Brings this Controller into the cluster."""

    cluster: Cluster
    ask: Ask
    look_around: Callable[[], Awaitable[None]]
    """Learn of Controllers that came in since this one's join."""
    version: str

    async def come_in(self) -> None:
        """Return when this Controller votes. Raises FairleadError when it is not to come in any more."""
        cluster = self.cluster
        while True:
            assert cluster.note is not None
            if cluster.note.stage == "committed":
                await self._be_admitted()
            if cluster.etcd is None:
                await cluster.open()
            if await self._enter():
                cluster.problem = ""
                return
            await cluster.forget()

    async def _be_admitted(self) -> None:
        log.info("cluster.joining", step="asks for admission")
        shutil.rmtree(folder(self.cluster.state), ignore_errors=True)
        key, request = new_request()
        answer = await self._until_answered(Admitted, "admit", request=request.decode(), version=self.version)
        put_identity(self.cluster.state, answer.certificate.encode(), key, answer.ca.encode())
        self.cluster.record(Note(stage="learning", base=answer.base, members=answer.members, member=answer.member))

    async def _enter(self) -> bool:
        """Whether this node votes now; not: it has to be admitted anew."""
        log.info("cluster.joining", step="follows the store")
        note, recipient = self.cluster.note, new_recipient()
        assert note is not None
        try:
            answer = await self._until_answered(Entered, "enter", member=note.member,
                                                recipient=b64(recipient_public(recipient)))
        except Refused as refusal:
            if refusal.code == "FL-MEMBER-UNKNOWN":
                return False
            raise
        sealed = from_b64(answer.cluster_key)
        self.cluster.signing.cluster_key = hpke_open(recipient, purpose(self.cluster.trust.node_id), sealed)
        node_key = new_key()
        files.write_private(self.cluster.state / secrets.NODE_KEY, node_key)
        put = secrets.wrapped(node_key, self.cluster.trust.node_id, self.cluster.signing.cluster_key)
        while True:
            with contextlib.suppress(StoreUnavailable):
                await self.cluster.store.transact([], [put])
                break
            await asyncio.sleep(ASK_AGAIN_S)
        self.cluster.record(Note(stage="member", base=note.base, members=note.members))
        log.info("cluster.joined", step="this Controller votes")
        return True

    async def _until_answered(self, kind: type[T], op: str, **fields: Any) -> T:
        """Ask again until the answer is yes. What is in the way is a problem of this node meanwhile."""
        began, said, tries = self.cluster.clock.monotonic(), set[str](), 0
        while True:
            try:
                return kind.model_validate(await self.ask(op, **fields))
            except ValidationError:
                error: FairleadError = Refused("FL-LINK-MESSAGE", "the leader's answer cannot be understood",
                                               "both must run versions of fairlead that fit")
            except FairleadError as refusal:
                error = refusal
            if error.code in ("FL-MEMBER-UNKNOWN", "FL-NODE-REMOVED"):
                raise error
            late = self.cluster.clock.monotonic() - began > PATIENCE_S
            if late:
                self.cluster.problem = error.line()
            if late and error.code not in said:  # reasons that take turns are said once each
                said.add(error.code)
                log.warning("cluster.waiting", step=op, code=error.code, reason=error.message)
            tries += 1
            if tries % LOOK_EVERY == 0:
                await self.look_around()
            await asyncio.sleep(ASK_AGAIN_S)
