"""What an engine and a Controller say to each other over the link, the subsystem ``fairlead-engine``. Pure.

Who speaks is known from the connection's key; no message carries an identity. Unknown kinds are refused: both sides
say in their first message which version they speak (`link.spoken`).
"""

from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
)

from fairlead.base.clock import LAST_INSTANT
from fairlead.base.errors import Refused
from fairlead.keys.known import host_keys
from fairlead.keys.ssh import PublicKey
from fairlead.link import metrics
from fairlead.link.documents import MOST_BYTES, MOST_DOCUMENTS
from fairlead.link.report import Identifier, Report
from fairlead.link.report import Version as SoftwareVersion
from fairlead.link.trust import MOST_BYTES as MOST_STATEMENT
from fairlead.link.trust import MOST_CHAIN

SUBSYSTEM = "fairlead-engine"
KEEPS_HEADS = "heads/1"
"""In what an engine says of its software: it keeps heads of audit logs, and tells them. Who does not say so is sent
none, since it would not understand; a Controller that does not look for it never asks."""
TAKES_DOCUMENTS = "documents/1"
"""The same of configuration documents."""
TAKES_COMMANDS = "commands/1"
PINS_BOTH = "host-keys/1"
"""It pins both host keys of a Controller that changes its own; others are told of one."""
SHOWS_JOURNAL = "journal/1"
"""It shows where its own journal ends, to Controllers that ask for it."""
MOST_RESULT = 1024 * 1024
"""Characters of what a command brings."""
REPORTS_METRICS = "metrics/1"
"""The same of numbers of its own."""
FOLLOWS_TRUST = "trust/1"
"""It follows trust statements."""
UPGRADES = "upgrade/1"
"""It changes its version when a Controller offers it one, if it finds it good."""
TAKES_KEYS = "keys/1"
"""It makes its own next user key when a rotation asks for it."""
MOST_HEADS = 512
"""That an engine tells: fewer than it keeps, of a cluster that makes all it can."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _ipv4(text: str) -> str:
    return str(IPv4Address(text))


Instant = Annotated[int, Field(ge=0, lt=LAST_INSTANT)]
"""Microseconds since the epoch."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Port = Annotated[int, Field(ge=1, le=65535)]
InternalAddress = Annotated[str, AfterValidator(_ipv4)]
Name = Annotated[str, Field(pattern="^[a-z0-9-]{1,63}$")]
"""Loosely a node's or a service's: it stands in a hosts file."""
Fingerprint = Annotated[str, Field(pattern="^SHA256:[A-Za-z0-9+/]{43}$")]
Digest = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
Problems = Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=100)]


class PlanNode(_Message):
    """A node that the reader may know of."""

    name: Name
    role: Literal["controller", "engine"]
    internal_address: InternalAddress


class PlanController(_Message):
    """A Controller to keep a connection to, and how it is known."""

    node_id: str
    name: Name
    addresses: list[str]
    ssh_port: Port
    portal_port: Port
    internal_address: InternalAddress
    host_key: str
    user_key: str
    next_host_key: str = ""
    """The one that follows `host_key`, while it changes; left out for readers of an older version."""

    @model_serializer(mode="wrap")
    def _serialised(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = plain(self)
        if not self.next_host_key:
            del fields["next_host_key"]
        return fields

    @property
    def host_keys(self) -> tuple[PublicKey, ...]:
        """Those that may answer. Raises KeyRefused."""
        return host_keys(self)


class PlanReach(_Message):
    """A service of somebody else that the reader may reach at *address*, *port*."""

    service: str
    owner: str
    address: InternalAddress
    port: Port


class PlanServe(_Message):
    """A service of the reader's own, and where it really is."""

    service: str
    port: Port
    host: str
    target_port: Port
    allow: list[str]


class Plan(_Message):
    """Everything that one node should have: whom it knows, what it reaches, what it serves."""

    generation: str
    """Of the store; another one makes revisions begin anew."""
    revision: Count
    node: Name
    internal_address: InternalAddress
    nodes: list[PlanNode]
    controllers: list[PlanController]
    reach: list[PlanReach]
    serve: list[PlanServe]


class Hello(_Message):
    """Engine, first."""

    kind: Literal["hello"] = "hello"
    v: int
    software: str = Field(max_length=256)
    """Its version, and its abilities, with blanks between."""
    instance: str = Field(max_length=64)
    """Another one than before: the node's process was started anew, and older connections are its ghosts."""
    generation: str
    plan_revision: Count


class Welcome(_Message):
    """Controller, first."""

    kind: Literal["welcome"] = "welcome"
    v: int
    epoch: Count
    server_time: Instant
    heartbeat_s: float = Field(gt=0, le=3600)


class NewPlan(_Message):
    """Controller: from now on this."""

    kind: Literal["plan"] = "plan"
    plan: Plan


class Acknowledge(_Message):
    """Engine: the plan is in force, but for these problems."""

    kind: Literal["acknowledge"] = "acknowledge"
    revision: Count
    problems: Problems


class Heartbeat(_Message):
    """Either side. *time*: the sender's clock, microseconds."""

    kind: Literal["heartbeat"] = "heartbeat"
    sequence: Count
    time: Instant
    problems: Problems = Field(default_factory=list)


class StreamsWanted(_Message):
    """Controller: open the stream connection, a stream waits."""

    kind: Literal["streams-wanted"] = "streams-wanted"


class Removed(_Message):
    """Controller: this node is no longer in the cluster."""

    kind: Literal["removed"] = "removed"


class Frozen(_Message):
    """Controller: this node is frozen until an operator has compared its keys."""

    kind: Literal["frozen"] = "frozen"


class Draining(_Message):
    """Controller: it goes away on purpose."""

    kind: Literal["draining"] = "draining"


SignedHead = Annotated[str, Field(max_length=2048)]
"""The text of one (`audit.head`); whoever keeps it reads it."""


class AuditHead(_Message):
    """Controller: where its audit log ends, for the engine to keep."""

    kind: Literal["audit-head"] = "audit-head"
    head: SignedHead


class HeadsWanted(_Message):
    """Controller: which heads has the engine been shown, by any Controller?"""

    kind: Literal["heads-wanted"] = "heads-wanted"
    number: Count


class Heads(_Message):
    """Engine: these, to the question of that *number*."""

    kind: Literal["heads"] = "heads"
    number: Count
    heads: Annotated[list[SignedHead], Field(max_length=MOST_HEADS)]


class Assigned(_Message):
    """A document that the engine should have."""

    kind: Name
    name: Name
    revision: Count
    """0: none of those that the engine has not got yet."""
    digest: Digest
    """Of the body; of revision 0, empty."""
    keep: bool
    """An engine that holds any revision of it stays with that."""


class Assignment(_Message):
    """Controller: these documents, no others, in this order."""

    kind: Literal["assignment"] = "assignment"
    generation: str
    revision: Count
    """Of the Controller's picture: an older one is late."""
    documents: Annotated[list[Assigned], Field(max_length=MOST_DOCUMENTS)]


class BodyWanted(_Message):
    """Engine: the body of that digest, which is assigned to it."""

    kind: Literal["body-wanted"] = "body-wanted"
    digest: Digest


class Body(_Message):
    """Controller: the body; empty when it is no longer assigned."""

    kind: Literal["body"] = "body"
    digest: Digest
    body: str = Field(max_length=MOST_BYTES)


class Held(_Message):
    """A document as it stands on an engine."""

    kind: Name
    name: Name
    revision: Count
    """In force; 0: none."""
    digest: Digest
    since: Instant
    tried: Count = 0
    """The revision that was refused last, after the one in force; 0: none."""
    code: str = Field(default="", max_length=64)
    words: str = Field(default="", max_length=1000)
    """The driver's, for that refusal."""


class Holding(_Message):
    """Engine: all documents as they stand here."""

    kind: Literal["holding"] = "holding"
    documents: Annotated[list[Held], Field(max_length=2 * MOST_DOCUMENTS)]


class Command(_Message):
    """Controller: do this, within so many seconds, and say how it went."""

    kind: Literal["command"] = "command"
    number: Count
    command: str = Field(max_length=32)
    deadline_s: float = Field(gt=0, le=600)


class Outcome(_Message):
    """Engine: to the command of that *number*."""

    kind: Literal["outcome"] = "outcome"
    number: Count
    code: str = Field(max_length=64)
    """Empty: it is done."""
    words: str = Field(max_length=1000)
    result: str = Field(max_length=MOST_RESULT)
    """JSON."""


class JournalWanted(_Message):
    """Controller: from now on it keeps heads of the engine's own journal."""

    kind: Literal["journal-wanted"] = "journal-wanted"


class JournalHead(_Message):
    """Engine: where its journal ends."""

    kind: Literal["journal-head"] = "journal-head"
    head: SignedHead


class JournalHeadsWanted(_Message):
    """Engine: which heads of its journal are kept there?"""

    kind: Literal["journal-heads-wanted"] = "journal-heads-wanted"
    number: Count


class JournalHeads(_Message):
    """Controller: these, to the question of that *number*."""

    kind: Literal["journal-heads"] = "journal-heads"
    number: Count
    heads: Annotated[list[SignedHead], Field(max_length=MOST_HEADS)]


class MetricsWanted(_Message):
    """Controller: these numbers, about so often from now on."""

    kind: Literal["metrics-wanted"] = "metrics-wanted"
    every_s: float = Field(gt=0, le=3600)
    names: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=256)]
    """Perhaps some that the engine does not know."""


class TrustOffered(_Message):
    """Controller: the newest trust statement has this number."""

    kind: Literal["trust-offered"] = "trust-offered"
    number: Count


class Trusting(_Message):
    """Engine: it follows the statement of this number (0: none), and why none that came after it."""

    kind: Literal["trusting"] = "trusting"
    number: Count
    code: str = Field(default="", max_length=64)
    words: str = Field(default="", max_length=1000)


class TrustStatements(_Message):
    """Controller: the statements after the one that the engine follows, in order."""

    kind: Literal["trust-statements"] = "trust-statements"
    texts: Annotated[list[Annotated[str, Field(max_length=2 * MOST_STATEMENT)]], Field(max_length=MOST_CHAIN)]


class Metrics(_Message):
    """Engine: those of the numbers that were asked for which it has."""

    kind: Literal["metrics"] = "metrics"
    values: dict[metrics.Name, metrics.Value]


class NextKeyWanted(_Message):
    """Controller: make your next user key for that rotation, and show it; the same again, if there is one already."""

    kind: Literal["next-key-wanted"] = "next-key-wanted"
    rotation: str = Field(min_length=1, max_length=64)


class NextKey(_Message):
    """Engine: this is it, with the proofs of `enrol.next_key`."""

    kind: Literal["next-key"] = "next-key"
    rotation: str = Field(min_length=1, max_length=64)
    key: str = Field(max_length=128)
    user_proof: str = Field(max_length=128)
    host_proof: str = Field(max_length=128)


class UserKeys(_Message):
    """Controller: dial with this one of your keys, and prove it on the connections to me; these others are revoked."""

    kind: Literal["user-keys"] = "user-keys"
    use: Fingerprint
    revoked: Annotated[list[Fingerprint], Field(max_length=8)] = Field(default_factory=list)


class UsingKey(_Message):
    """Engine: so it is, on all connections to this Controller. Which keys it has besides, in use or not."""

    kind: Literal["using-key"] = "using-key"
    fingerprint: Fingerprint
    held: Annotated[list[Fingerprint], Field(max_length=8)] = Field(default_factory=list)


class KeyTrouble(_Message):
    """Engine: what it was told of keys it cannot do."""

    kind: Literal["key-trouble"] = "key-trouble"
    code: str = Field(max_length=64)
    words: str = Field(max_length=1000)


class UpgradeWanted(_Message):
    """Controller: say how you stand; and where there is an *id*, have this bundle, and run its version if it is good.

    *back*: run the version of before again, which is named for that you ran no other.
    """

    kind: Literal["upgrade-wanted"] = "upgrade-wanted"
    id: Identifier = ""
    version: SoftwareVersion = ""
    sha256: Digest = ""
    size: Count = 0
    back: bool = False


class UpgradeRoot(_Message):
    """Controller: by this root bundles are verified. It is the first that counts; no Controller changes it."""

    kind: Literal["upgrade-root"] = "upgrade-root"
    root: str = Field(max_length=64 * 1024)


class UpgradeStanding(_Message):
    """Engine: so it stands; at each change, once a Controller has asked."""

    kind: Literal["upgrade-standing"] = "upgrade-standing"
    report: Report


AnyFromEngine = (Hello | Acknowledge | Heartbeat | Heads | BodyWanted | Holding | Outcome | JournalHead
                 | JournalHeadsWanted | Metrics | Trusting | NextKey | UsingKey | KeyTrouble | UpgradeStanding)
AnyFromController = (Welcome | NewPlan | Heartbeat | StreamsWanted | Removed | Frozen | Draining | AuditHead
                     | HeadsWanted | Assignment | Body | Command | JournalWanted | JournalHeads | MetricsWanted
                     | TrustOffered | TrustStatements | NextKeyWanted | UserKeys | UpgradeWanted | UpgradeRoot)
FromEngine = Annotated[AnyFromEngine, Field(discriminator="kind")]
FromController = Annotated[AnyFromController, Field(discriminator="kind")]

_FROM_ENGINE: TypeAdapter[AnyFromEngine] = TypeAdapter(FromEngine)
_FROM_CONTROLLER: TypeAdapter[AnyFromController] = TypeAdapter(FromController)


def from_engine(fields: dict[str, Any]) -> AnyFromEngine:
    """The message of a frame. Raises Refused FL-LINK-MESSAGE."""
    try:
        return _FROM_ENGINE.validate_python(fields)
    except ValidationError:
        raise _unknown(fields) from None


def from_controller(fields: dict[str, Any]) -> AnyFromController:
    """The message of a frame. Raises Refused FL-LINK-MESSAGE."""
    try:
        return _FROM_CONTROLLER.validate_python(fields)
    except ValidationError:
        raise _unknown(fields) from None


def _unknown(fields: dict[str, Any]) -> Refused:
    return Refused("FL-LINK-MESSAGE", f"a message of kind {str(fields.get('kind'))[:40]!r} that cannot be understood",
                   "both sides must run versions of fairlead that fit")
