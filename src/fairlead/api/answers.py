"""What routes of fairlead's own answer, for the description of the API.

Answers are not made of these: they are what the node says of itself, in the words of the command line's ``--json``. The
tests of the description hold them against real answers.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """These fields, and no other one."""

    model_config = ConfigDict(extra="forbid")


class Version(Answer):
    """Which software this is."""

    version: str
    product: str


class PublicVersion(Answer):
    """Which release of the public model is spoken."""

    Version: str
    min_version: str
    Product: str
    ProductName: str
    Tag: str
    build: int
    Date: str


class InitialData(Answer):
    """What clients ask before they log in."""

    version: PublicVersion


class Health(Answer):
    """Whether everything that is planned is there."""

    healthy: bool


class Stopping(Answer):
    """The daemon ends."""

    stopping: bool


class Status(BaseModel):
    """How this node and its cluster are, as `fairlead status --json` says it."""

    node: str
    role: str
    state: str
    cluster_uuid: str
    leader: str | None
    version: str
    controllers: list[dict[str, Any]]
    engines: dict[str, int]
    tunnels: dict[str, Any]
    view: str
    healthy: bool
    problems: list[Any]


class Node(BaseModel):
    """A node. Engines have more fields: since, skew_s, drained, problems, plan_revision."""

    name: str
    role: str
    state: str
    address: str | None
    internal_address: str
    fingerprint: str
    joined_at: str | None
    user_fingerprint: str
    user: str
    labels: dict[str, str]
    software: str | None
    """With which it joined."""
    version: str | None = None
    """That it runs, as it says; not known of one that is not connected."""
    token: str | None


class CommandDone(Answer):
    """What an engine answers to a command."""

    engine: str
    command: str
    result: Any


class LogPage(Answer):
    """Lines of an engine's logs, and the place where the next ones begin."""

    text: str
    place: str
    unheard: list[str] = Field(description="Controllers that are silent, and may have something that belongs before.")


class NodeStreams(Answer):
    """What is open at an engine and from it, at all Controllers."""

    streams: int
    unheard: list[str] = Field(description="Controllers that did not say theirs.")


class NodeEvent(Answer):
    """An engine became up, late, down or something else."""

    time: str
    state: str
    before: str | None = Field(description="null: the Controller had just started.")


class Removed(Answer):
    """What is no more."""

    removed: str


class Service(Answer):
    """A declared service."""

    name: str
    owner: str
    port: int
    target: str | None
    allow: list[str]
    scrape: str | None = Field(description="The path of its metrics, of an exporter that Prometheus is to find.")


class ScrapeTargets(Answer):
    """Exporters, as Prometheus's HTTP service discovery takes them."""

    targets: list[str]
    labels: dict[str, str]


class Document(Answer):
    """A configuration document, and how many of its engines have it."""

    kind: str
    name: str
    target: str
    revision: int
    sha256: str
    put_at: str
    put_by: str
    stage: str
    why: str | None
    engines: int
    applied: int
    refused: int
    behind: int


class DocumentBody(Document):
    """The same with what it holds."""

    body: dict[str, Any]


class DocumentRow(Answer):
    """What one engine says of a document."""

    engine: str
    state: str
    document: str
    wanted: int
    running: int | None
    since: str | None
    verdict: str
    code: str | None
    words: str | None


class DocumentStatus(Document):
    """The same with all of its engines."""

    rows: list[DocumentRow]


class RotationStep(Answer):
    """A phase, and since when."""

    phase: str
    at: str


class Rotation(Answer):
    """A rotation of certificates or keys."""

    id: str
    kind: str
    phase: str
    outcome: str
    why: str
    to: str
    by: str
    asked_at: str
    starts_at: str
    since: str
    patience_s: int
    behind: dict[str, str]
    missing: int
    tokens: int
    forced: list[str]
    statement: int
    steps: list[RotationStep]


class RotationStatus(Answer):
    """The rotation that is under way, and past ones, the newest first. *late*: nodes of which a user key of before the
    newest rotation of user keys still logs in, since they were off; they change it when they come back.
    """

    current: Rotation | None
    past: list[Rotation]
    statement: int
    late: list[str]


class UpgradeStep(Answer):
    """A phase, and since when."""

    phase: str
    at: str


class Upgrade(Answer):
    """A change of all nodes to another version. *before*: the one that they ran. *back*: it leads back. *failed*: why,
    by node. *away*: engines that were not there, of which there are *missing*.
    """

    id: str
    version: str
    before: str
    back: bool
    image: str
    phase: str
    outcome: str
    why: str
    by: str
    asked_at: str
    since: str
    labels: list[str]
    batch: str
    budget: str
    pause_s: int
    patience_s: int
    batches: int
    failed: dict[str, str]
    away: list[str]
    missing: int
    steps: list[UpgradeStep]


class UpgradeNode(Answer):
    """How a node stands in the newest upgrade: waiting, fetching, verified, switching, trial, done, failed, back (by
    itself) or offline; since when and why, how many seconds it took and how many bytes it fetched.
    """

    node: str
    role: str
    version: str | None
    state: str
    why: str
    since: str | None
    seconds: float
    bytes: int


class UpgradeStatus(Answer):
    """The upgrade that is under way, past ones, the newest first, and every node."""

    current: Upgrade | None
    past: list[Upgrade]
    nodes: list[UpgradeNode]


class TrustStatements(Answer):
    """What the cluster's root, and each that took its place, has signed of what is to be believed; in order."""

    statements: list[str]


class RotationPlan(Answer):
    """Who would be stranded, and why; who sleeps and would find his way; which Controllers do not say how their engines
    stand; the tokens that would be waited for.
    """

    kind: str
    stranded: dict[str, str]
    sleeping: list[str]
    silent: list[str]
    tokens: list[str]
    controllers: int
    engines: int


class Verdict(Answer):
    """What one owner of a service says."""

    owner: str
    address: str
    port: int
    allowed: bool
    why: str


class Explanation(Answer):
    """Whether a node may reach a service, at each owner, and why."""

    asking: str = Field(alias="from")
    service: str
    allowed: bool
    allow: list[str]
    owners: list[Verdict]


class Tunnel(Answer):
    """A connection between nodes."""

    peer: str
    direction: str
    user: str
    state: str
    since: str | None
    streams: int
    bytes_in: int
    bytes_out: int
    cipher: str | None
    kex: str | None
    transport: str | None
    kind: str
    address: str | None
    epoch: int


class Host(Answer):
    """Where this node finds whom."""

    address: str
    name: str
    full_name: str


class KnownHost(Answer):
    """By which SSH host key a Controller is known at one of its addresses."""

    name: str
    address: str
    port: int
    host_key: str
    fingerprint: str
    line: str
    """Of a ``known_hosts`` file."""


class Record(Answer):
    """An audit record."""

    seq: int
    time: str
    node: str
    event: str
    subject: str
    by: str
    details: dict[str, Any]
    event_id: str | None = None
    """What the public model calls it."""


class Witness(Answer):
    """What somebody holds of a chain."""

    name: str
    node: str
    seq: int
    state: str


class Verified(Answer):
    """How many records of this node's chain are good, where it ends, and what witnesses hold."""

    verified: int
    node: str
    head: str
    witnesses: list[Witness]


class Token(BaseModel):
    """A token; never its secret. ``conflict``: who came with it besides."""

    id: str
    role: str
    node: str | None
    state: str
    expires_at: str
    issued_by: str
    refusals: int
    issued_at: str
    source: str | None
    bound: bool
    used_by: str | None


class TokenHistory(Token):
    """A token, and what happened to it."""

    history: list[Record]


class Bundle(BaseModel):
    """A credential bundle, open, or sealed to who asked for it."""


class SealedBackup(Answer):
    """A backup."""

    backup: str = Field(description="The sealed file, base64: it is kept nowhere else.")
    uuid: str = Field(description="Of its record.")
    file_name: str
    time: str
    revision: int
    records: int
    checksum: str
    sha256: str


class Account(Answer):
    """An account as its owner sees it."""

    name: str
    username: str
    full_name: str
    email: str
    role: str
    local: bool
    uuid: str
    is_superuser: bool


class Welcome(BaseModel):
    """The answer to a log-in; the session is in the cookies."""

    user_initialized: bool
    version: dict[str, Any]
    user: dict[str, Any]
    tenants: list[Any]
    controller: dict[str, Any]
    session_cookie_name: str


class Empty(Answer):
    """Nothing more to say."""


class ClusterState(Answer):
    """How the cluster is."""

    state: str
    progress: int


class ClusterStatus(BaseModel):
    """Strangers are told the state only; whoever may read more is told who is a member, and who leads."""

    cluster_state: ClusterState


class Authority(Answer):
    """The root CA's certificate, PEM; two while one takes the other's place, of which the first signs."""

    ca: str


class ClientCertificate(Answer):
    """What a client of the store needs; PEM."""

    ca: str
    certificate: str
    key: str
    endpoints: list[str]


class GeneratedToken(Answer):
    """A token for an engine; it is told this once."""

    auth_token: str


class EngineRuntime(BaseModel):
    """How an engine is."""

    name: str
    uuid: str
    se_connected: bool
    oper_status: dict[str, Any]
    version: str | None
    local_ip: str
    online_since: str | None


class Connected(Answer):
    """Whether it is connected."""

    se_connected: bool


class EngineInventory(Answer):
    """An engine with how it is."""

    uuid: str
    config: dict[str, Any]
    runtime: EngineRuntime


class CloudStatus(Answer):
    """Whether a cloud is ready."""

    uuid: str
    state: str
    reason: str


class UserKey(Answer):
    """A key with which somebody may come in over SSH."""

    fingerprint: str
    comment: str
    added: str
    key: str


class ApiToken(Answer):
    """A token for automation, without its secret."""

    id: str
    owner: str
    scope: list[str]
    comment: str
    made: str
    expires: str


class NewApiToken(ApiToken):
    """The same with its text, which is shown this once."""

    token: str


class Upload(Answer):
    """How far an image has come."""

    uuid: str
    state: str
    """uploading, or verified."""
    offset: int
    """The next piece begins there."""
    size: int
    version: str | None
    """Of the software; known when it was verified."""


class UpgradeSeen(Answer):
    """The highest versions that were seen: nothing lower is taken."""

    root: int
    timestamp: int
    snapshot: int
    targets: int
    counter: int


class UpgradeRoot(Answer):
    """The root by which bundles are verified."""

    pinned: bool
    sha256: str
    """Of the root that counts now; empty where none is pinned."""
    root: str
    """The root itself, as it was signed."""
    seen: UpgradeSeen


class UpgradeRootPinned(Answer):
    """It is pinned."""

    sha256: str
