"""`controller init`: the first Controller of a new cluster, its root CA, its certificates and its keys.

Seed: *the Controller generates the following set of self-signed certificates: Root CA, Controller certificate (signed
by the root CA)*. ``fairlead.toml`` is written last: a folder without it is no Controller, and init may be repeated.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from fairlead.audit.log import AuditLog
from fairlead.audit.record import Entry
from fairlead.audit.witness import ENGINES
from fairlead.audit.witness import FOLDER as WITNESS
from fairlead.base import configuration
from fairlead.base.clock import Clock
from fairlead.base.errors import OperatorError
from fairlead.base.files import make_private_folder, remove, write_private
from fairlead.cluster import note as notes
from fairlead.cluster.etcd import folder as etcd_folder
from fairlead.controller import secrets as sealing
from fairlead.controller.settings import ControllerSettings
from fairlead.enrol.exchange import VERSION, CoreController
from fairlead.enrol.redeem import GENERATION, new_generation
from fairlead.enrol.trust import FILE as TRUST_FILE
from fairlead.enrol.trust import HOST_KEY, KEYS, USER_KEY, Trust, save_key
from fairlead.fleet.logs import FOLDER as LOGS
from fairlead.keys.seal import new_key
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import b64
from fairlead.nodes import records
from fairlead.nodes.address import FIRST_CONTROLLER
from fairlead.nodes.name import check_name
from fairlead.nodes.node import USERS, Node
from fairlead.nodes.records import AddressEntry, KeyEntry, NameEntry
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of, portal_name
from fairlead.store.protocol import MARK, Absent, Put, mark_value
from fairlead.store.sqlite import SQLiteStore, files_of
from fairlead.upgrade.images import FOLDER as IMAGES
from fairlead.users.accounts import USERS as ACCOUNTS
from fairlead.users.accounts import Account, account, encode, new_password
from fairlead.users.rules import Rules

STORE = "store.db"
ADMIN = "admin"
MIN_VERSION = "enrol/min_version"
COPY = "directory.json"
"""The Controllers as this one last knew them."""
PENDING = "init.pending"
_MADE = (TRUST_FILE, sealing.NODE_KEY, *(file.name for file in files_of(Path(STORE))), notes.FILE, COPY, "hosts",
         "control.sock", "uploads.json")
_FOLDERS = (KEYS, LOGS, WITNESS, ENGINES, IMAGES)


@dataclass(frozen=True, slots=True)
class Initialised:
    """What the person who ran init is told, once."""

    name: str
    cluster_uuid: str
    fingerprint: str
    password: str | None = field(repr=False)
    """None when it came from a file."""


async def initialise(state: Path, name: str, settings: ControllerSettings, password: str | None,
                     clock: Clock) -> Initialised:
    """Make a Controller in *state*. Raises FairleadError; then nothing of it is left."""
    check_name(name)
    make_private_folder(state)
    if (state / configuration.FILE).exists():
        raise OperatorError("FL-ALREADY-INITIALISED", f"there is a node in {state} already",
                            "use another --state, or `fairlead controller destroy` first")
    refuse_foreign(state)
    admin = account(ADMIN, "admin", Rules().check(password) if password is not None else (shown := new_password()))
    write_private(state / PENDING, b"")
    clear(state)
    try:
        cluster_uuid, host = await _make(state, name, settings, admin, clock)
        configuration.save(state, settings)
    except BaseException:
        clear(state)
        remove(state / PENDING)
        raise
    remove(state / PENDING)
    return Initialised(name, str(cluster_uuid), host.fingerprint, None if password is not None else shown)


async def _make(state: Path, name: str, settings: ControllerSettings, admin: Account,
                clock: Clock) -> tuple[UUID, PublicKey]:
    now, cluster_uuid, node_id = clock.now(), uuid4(), str(uuid4())
    authority = Authority.create(cluster_uuid, now)
    hosts = [host for host, _ in settings.endpoint.places]
    portal = authority.issue_portal(cluster_uuid, hosts, now)
    api = authority.issue_api(cluster_uuid, hosts, now)
    host, user = PrivateKey.generate(), PrivateKey.generate()
    node_key, cluster_key = new_key(), new_key()
    address = str(FIRST_CONTROLLER)
    node = Node(id=node_id, name=name, role="controller", state="up", internal_address=address,
                host_key=host.public.line, user_key=user.public.line, joined_at=now, endpoint=settings.endpoint)
    trust = Trust(
        cluster_uuid=cluster_uuid, node=name, node_id=node_id, role="controller", user=USERS["controller"],
        internal_address=address, ca_certificates=[b64(der_of(authority.certificate_pem))],
        tls_name=portal_name(cluster_uuid), roots=[b64(der_of(authority.certificate_pem))],
        controllers=[CoreController(name=name, address=h, portal_port=p, ssh_port=settings.ssh_port,
                                    internal_address=address, host_key=host.public.line, user_key=user.public.line,
                                    node_id=node_id) for h, p in settings.endpoint.places])
    make_private_folder(state / KEYS)
    save_key(state, HOST_KEY, host)
    save_key(state, USER_KEY, user)
    write_private(state / sealing.NODE_KEY, node_key)
    trust.save(state)
    store = SQLiteStore.open(state / STORE, clock)
    try:
        await AuditLog(store, name).append_with([Absent("cluster/uuid")], [
            Put("cluster/uuid", str(cluster_uuid).encode()),
            Put(MARK, mark_value(now)),
            Put(GENERATION, new_generation()),
            Put(MIN_VERSION, b"%d" % VERSION),
            Put(ACCOUNTS + admin.name, encode(admin)),
            sealing.wrapped(node_key, node_id, cluster_key),
            sealing.sealed(cluster_key, sealing.ROOT,
                           sealing.Certified(authority.certificate_pem, authority.key_pem)),
            sealing.sealed(cluster_key, sealing.CERTIFICATES + sealing.SECURE_CHANNEL,
                           sealing.Certified(portal.certificate_pem, portal.key_pem)),
            sealing.sealed(cluster_key, sealing.CERTIFICATES + sealing.API,
                           sealing.Certified(api.certificate_pem, api.key_pem)),
            Put(records.NODES + node_id, records.encode(node)),
            Put(records.NAMES + name, records.encode(NameEntry(node_id, "held"))),
            Put(records.ADDRESSES + address, records.encode(AddressEntry(node_id, "held"))),
            Put(records.KEYS + host.public.fingerprint,
                records.encode(KeyEntry(node_id, "host", "active", "", host.public.line))),
            Put(records.KEYS + user.public.fingerprint,
                records.encode(KeyEntry(node_id, "user", "active", "", user.public.line))),
        ], [Entry("cluster.created", name, "init", {"cluster_uuid": str(cluster_uuid),
                                                    "host_key": host.public.fingerprint, "address": address})])
    finally:
        await store.close()
    return cluster_uuid, host.public


def destroy(state: Path) -> None:
    """Remove everything that makes *state* a Controller. Raises OperatorError when there is none."""
    if not (state / configuration.FILE).exists():
        raise OperatorError("FL-STATE-MISSING", f"there is no Controller in {state}", "name its folder with --state")
    clear(state)
    remove(state / PENDING)
    remove(state / configuration.FILE)  # last: until then it can be repeated


def refuse_foreign(state: Path) -> None:
    """A folder that holds anything that init would write over is somebody's; ours carries a mark while it is made.

    Raises OperatorError FL-STATE-FOREIGN.
    """
    if (state / PENDING).exists():
        return
    found = [name for name in (*_MADE, *_FOLDERS, etcd_folder(state).name) if (state / name).exists()]
    if found:
        raise OperatorError("FL-STATE-FOREIGN", f"{state} holds {', '.join(found)} already",
                            "use an empty folder; a Controller that lost its fairlead.toml is mended, not made anew")


def clear(state: Path) -> None:
    """What an interrupted init, or a destroyed Controller, leaves: only files that fairlead itself names."""
    for name in _MADE:
        (state / name).unlink(missing_ok=True)
    for folder in _FOLDERS:
        shutil.rmtree(state / folder, ignore_errors=True)
    shutil.rmtree(etcd_folder(state), ignore_errors=True)
