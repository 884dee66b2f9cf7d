"""Commands for bad days: backups, a cluster that has lost its majority, and a look into etcd with its own tools.

What needs no daemon works on the state folder of one that does not run.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.base import files
from fairlead.base.clock import SystemClock, rfc3339
from fairlead.base.errors import OperatorError, Refused
from fairlead.cli import output
from fairlead.cli.daemons import Listen, View, checked_settings, finish, refuse_role, refuse_running
from fairlead.cli.options import Json, State, client, folder, read

MOST_BYTES = 4 * 1024 * 1024 * 1024
NODE_COLUMNS = ("name", "role", "state", "internal_address", "fingerprint")

Output = Annotated[Path, typer.Option("--output", metavar="FILE", help="File to write, mode 0600.")]
Identity = Annotated[str | None, typer.Option("--identity", metavar="FILE", help=(
    "The file of `fairlead backup key`, for a backup that is sealed to its recipient."))]
PassphraseFile = Annotated[str | None, typer.Option("--passphrase-file", metavar="F", help=(
    "Read the passphrase from this file (or -)."))]
Removed = Annotated[list[str] | None, typer.Option("--removed", metavar="NAME", help=(
    "A node that was removed meanwhile; repeatable. Its keys are revoked again."))]


# -- etcd's own tools -------------------------------------------------------------------------------------------------

def client_certificate(
        context: typer.Context,
        out: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder to write, mode 0700.")],
        state: State = None) -> None:
    """A certificate for etcdctl. Who holds its key reads and writes all of the store."""
    where = out.absolute()
    files.make_private_folder(where)
    made = client(context, state).post("/api/cluster/client-certificate")
    for name, text in (("ca.pem", "ca"), ("client.pem", "certificate"), ("client.key", "key")):
        files.write_private(where / name, made[text].encode())
    output.say(f"wrote ca.pem, client.pem and client.key into {where}; its key opens all of the store: remove it "
               "when you are done")
    output.say("next, on this machine:")
    output.line(f"  ETCDCTL_API=3 etcdctl --cacert {where / 'ca.pem'} --cert {where / 'client.pem'} "
                f"--key {where / 'client.key'} --endpoints {','.join(made['endpoints'])} endpoint status -w table")


# -- backups ----------------------------------------------------------------------------------------------------------

def backup_key(out: Output) -> None:
    """Make an identity, and print the recipient that backups are sealed to. Keep the identity away from Controllers."""
    from fairlead.cluster import backup as backups
    where = out.absolute()
    if where.exists():
        raise OperatorError("FL-FILE", f"{where} exists already: backups may need it", "choose another --output")
    identity, recipient = backups.new_identity()
    files.write_private(where, identity)
    output.say(f"wrote the identity {where}; whoever has it opens the backups that are sealed to this recipient:")
    output.line(recipient)


def backup_create(
        context: typer.Context, out: Output,
        recipient: Annotated[str | None, typer.Option(metavar="KEY", help=(
            "Seal it to this recipient, which `fairlead backup key` has printed."))] = None,
        passphrase_file: PassphraseFile = None, state: State = None) -> None:
    """A sealed copy of the cluster at one moment, with what this Controller needs to be made anew from it."""
    from fairlead.keys.wire import from_b64
    passphrase = _passphrase(passphrase_file)
    if (recipient is None) == (passphrase is None):
        raise typer.BadParameter("give one of --recipient and --passphrase-file",
                                 param_hint="--recipient / --passphrase-file")
    made = client(context, state).post("/api/backup", {"recipient": recipient, "passphrase": passphrase})
    sealed = from_b64(made["backup"])
    files.write_private(out.absolute(), sealed)
    output.say(f"wrote {out}: {made['records']} records at revision {made['revision']}, {made['time']}, "
               f"{len(sealed)} bytes")
    output.say("its sum, by which you know it again when it is restored:")
    output.line(made["checksum"])


def backup_show(file: Annotated[str, typer.Argument(help="The backup, or - for standard input.")],
                identity: Identity = None, passphrase_file: PassphraseFile = None, json: Json = False) -> None:
    """What a backup says in the clear; with what opens it, also the nodes that it would bring back."""
    from fairlead.cluster import backup as backups
    data = read(file, "backup", MOST_BYTES)
    head = backups.header(data)
    shown: dict[str, Any] = {"cluster_uuid": str(head.cluster_uuid), "created": head.created, "sealed": head.sealed,
                             "recipient": head.to if head.sealed == "recipient" else None}
    if identity is None and passphrase_file is None:
        output.as_json(shown) if json else output.facts(shown)
        return
    from fairlead.controller import restore as restoring
    found = finish(restoring.examine(_opened(data, identity, passphrase_file)))
    nodes = [_row(node) for node in restoring.nodes_of(found)]
    shown |= {"controller": found.me.name, "revision": found.backup.revision, "records": len(found.backup.records),
              "checksum": found.backup.checksum}
    if json:
        output.as_json(shown | {"nodes": nodes})
    else:
        output.facts(shown)
        output.table(nodes, NODE_COLUMNS, "no nodes")


def backup_restore(
        context: typer.Context, file: Annotated[str, typer.Argument(help="The backup, or - for standard input.")],
        identity: Identity = None, passphrase_file: PassphraseFile = None,
        cluster: Annotated[str | None, typer.Option(metavar="UUID", help="Restore only if it is this cluster.")] = None,
        removed: Removed = None,
        address: Annotated[list[str] | None, typer.Option("--address", metavar="HOST[:PORT]", help=(
            "Where the Controller is found; else where it was found. Repeatable."))] = None,
        listen: Listen = None, api_port: Annotated[int | None, typer.Option("--api-port")] = None,
        portal_port: Annotated[int | None, typer.Option("--portal-port")] = None,
        ssh_port: Annotated[int | None, typer.Option("--ssh-port")] = None, view: View = None,
        state: State = None) -> None:
    """Make the Controller that made the backup anew, in an empty folder; the other Controllers are removed."""
    from fairlead.cluster import backup as backups
    from fairlead.controller import restore as restoring
    from fairlead.controller.settings import ControllerSettings
    where = folder(context, state)
    data = read(file, "backup", MOST_BYTES)
    head = backups.header(data)
    if cluster is not None and cluster.lower() != str(head.cluster_uuid):
        raise Refused("FL-BACKUP-CLUSTER", f"the backup is of the cluster {head.cluster_uuid}",
                      "name another file, or that cluster")
    found = finish(restoring.examine(_opened(data, identity, passphrase_file)))
    place = restoring.endpoint_of(found)
    settings = checked_settings(
        ControllerSettings, addresses=address or list(place.addresses), listen=listen or [], view=view,
        api_port=place.api_port if api_port is None else api_port,
        portal_port=place.portal_port if portal_port is None else portal_port,
        ssh_port=place.ssh_port if ssh_port is None else ssh_port)
    anew = finish(restoring.restore(where, found, settings, removed or [], SystemClock()))
    output.say(f"made the Controller {found.me.name} in {where} out of the backup of {rfc3339(found.backup.time)}")
    output.say(f"  cluster  {found.backup.cluster_uuid}")
    output.say(f"  sum      {found.backup.checksum}")
    _tell(anew, f"the backup of {rfc3339(found.backup.time)}")
    output.say("next:")
    output.line(f"  fairlead controller run --state {where}")


def _opened(data: bytes, identity: str | None, passphrase_file: str | None) -> Any:
    from fairlead.cluster import backup as backups
    key = backups.read_identity(read(identity, "identity", 4096)) if identity is not None else None
    return backups.open_with(data, identity=key, passphrase=_passphrase(passphrase_file))


def _passphrase(path: str | None) -> str | None:
    if path is None:
        return None
    data = read(path, "passphrase file", 4096)
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise OperatorError("FL-FILE", f"the passphrase file {path} is not UTF-8", "write it as text") from None


def _tell(anew: Any, since: str) -> None:
    """What was changed, and what only the operator can know."""
    output.say(f"  tokens that are revoked: {anew.revoked}; bundles of before join nobody")
    output.say(f"  nodes that are removed: {', '.join(anew.removed) or 'none'}")
    output.say(f"these may log in. Is one among them that was removed since {since}? Then `fairlead node remove` it "
               "before anything else, or do this again with --removed NAME:")
    output.table([_row(node) for node in anew.left], NODE_COLUMNS, "no nodes")


def _row(node: Any) -> dict[str, Any]:
    from fairlead.keys.ssh import PublicKey
    return {"name": node.name, "role": node.role, "state": node.state, "internal_address": node.internal_address,
            "fingerprint": PublicKey.from_line(node.host_key).fingerprint}


# -- the majority is lost ---------------------------------------------------------------------------------------------

def recover(context: typer.Context, removed: Removed = None,
            reset_clock: Annotated[bool, typer.Option("--reset-clock", help=(
                "Set the cluster's time to this machine's clock, when it has run far ahead."))] = False,
            yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, state: State = None) -> None:
    """Go on with this Controller alone, when most of the others are lost for good."""
    from fairlead.base import logs
    from fairlead.controller import recover as recovering
    where = folder(context, state)
    files.check_private_folder(where)
    refuse_role(where, "controller")
    refuse_running(where)
    plan = recovering.examine(where)
    output.say(f"{plan.me} goes on alone. What only the lost Controllers had written is gone, and they never come "
               f"back: {', '.join(plan.others) or 'there are none'}. If most of them can still be started, start them "
               "instead.")
    if not yes:
        typer.confirm("go on?", abort=True, err=True)
    logs.start(plan.me, "error")  # etcd says much; what fails is told by the command
    anew = finish(recovering.recover(where, plan, removed or [], SystemClock(), output.say, reset_clock=reset_clock))
    _tell(anew, "this Controller last heard from the others")
    output.say("next:")
    output.line(f"  fairlead controller run --state {where}")
