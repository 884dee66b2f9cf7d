"""Commands that operate a running node, through its control socket; and those that only read a file."""

import json as encoding
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from fairlead.base import files
from fairlead.base.clock import SystemClock
from fairlead.base.errors import OperatorError, Refused
from fairlead.base.version import installed
from fairlead.cli import hosts as hosts_file
from fairlead.cli import output, rescue
from fairlead.cli.options import Json, State, client, folder, read, seconds

NODE_COLUMNS = ("name", "role", "state", "internal_address", "address", "labels", "joined_at", "fingerprint")
TOKEN_COLUMNS = ("id", "role", "node", "state", "expires_at", "issued_by", "refusals")
SERVICE_COLUMNS = ("name", "owner", "port", "target", "allow", "scrape")
TUNNEL_COLUMNS = ("peer", "kind", "direction", "user", "state", "since", "streams", "bytes_in", "bytes_out", "cipher",
                  "kex", "transport")
MEMBER_COLUMNS = ("name", "role", "state", "internal_address", "address", "lag", "size", "version")
MOST_EXPORT = 1 << 30
LOOK_AGAIN_S = 0.25
WITNESS_COLUMNS = ("name", "node", "seq", "state")
EVENT_COLUMNS = ("time", "state", "before")
AUDIT_COLUMNS = ("seq", "time", "event", "subject", "by", "details")


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.command()(status)
    app.command()(version)
    app.command()(hosts)
    for name, text, commands in (
            ("bundle", "Credential bundles.", {"export": bundle_export, "request": bundle_request,
                                               "show": bundle_show}),
            ("token", "One-time tokens.", {"list": token_list, "show": token_show, "revoke": token_revoke}),
            ("node", "Nodes of the cluster.", {
                "list": node_list, "show": node_show, "events": node_events, "remove": node_remove,
                "release": node_release, "label": node_label, "drain": node_drain, "command": node_command}),
            ("cluster", "The Controllers of the cluster.", {
                "status": cluster_status, "ca": cluster_ca, "client-certificate": rescue.client_certificate,
                "recover": rescue.recover}),
            ("backup", "Sealed copies of the cluster.", {
                "key": rescue.backup_key, "create": rescue.backup_create, "show": rescue.backup_show,
                "restore": rescue.backup_restore}),
            ("service", "Services that are reached through the mesh.", {
                "add": service_add, "list": service_list, "remove": service_remove}),
            ("policy", "Who may reach what.", {"explain": policy_explain}),
            ("tunnel", "Live connections between nodes.", {"list": tunnel_list}),
            ("audit", "The record of trust decisions.", {
                "list": audit_list, "verify": audit_verify, "export": audit_export})):
        group = typer.Typer(no_args_is_help=True, help=text)
        for command, function in commands.items():
            group.command(command)(cast("Callable[..., None]", function))
        app.add_typer(group, name=name)


def status(context: typer.Context, state: State = None, json: Json = False) -> None:
    """How this node is; exit code 1 when its daemon does not answer."""
    found = client(context, state).get("/api/status")
    if json:
        output.as_json(found)
        return
    shown = dict(found)
    for problem in shown.pop("problems"):
        output.say(f"problem: {problem}")
    shown["controllers"] = [f"{c['name']} ({c['state']})" for c in found["controllers"]]
    output.facts(shown)


def cluster_status(context: typer.Context, state: State = None, json: Json = False) -> None:
    """Who is a member of the store, who leads, and how many may fail; exit code 1 when there is no quorum."""
    found = client(context, state).get("/api/cluster/status")
    if json:
        output.as_json(found)
    else:
        output.facts({name: value for name, value in found.items() if name != "members"})
        output.table(found["members"], MEMBER_COLUMNS, "no members")
    if not found["quorum"]:
        raise OperatorError("FL-CLUSTER-QUORUM", "most members of the store do not answer: nothing can be changed",
                            "start the Controllers that are down, or mend the way to them")


def cluster_ca(context: typer.Context, state: State = None) -> None:
    """The cluster's CA certificate, PEM: what `fairlead login` needs of it."""
    output.text(client(context, state).get("/api/cluster/ca")["ca"])


def version(json: Json = False) -> None:
    """Which fairlead this is."""
    if json:
        output.as_json({"product": "fairlead", "version": installed()})
    else:
        output.line(f"fairlead {installed()}")


def hosts(context: typer.Context, state: State = None,
          install: Annotated[bool, typer.Option("--install", help="Write a marked block into /etc/hosts.")] = False,
          known: Annotated[bool, typer.Option("--known-hosts", help=(
              "By which SSH host keys the Controllers are known, as lines of known_hosts."))] = False,
          json: Json = False) -> None:
    """Where this node finds whom, as lines of a hosts file."""
    if known:
        found = client(context, state).get("/api/hosts/known")["results"]
        if json:
            output.as_json(found)
        else:
            for row in found:
                output.line(row["line"])
        return
    try:
        rows = client(context, state).get("/api/hosts")["results"]
    except OperatorError as error:
        if error.code != "FL-DAEMON-DOWN":
            raise
        rows = _last_hosts(folder(context, state), error)
    lines = "".join(f"{row['address']}  {row['full_name']} {row['name']}\n" for row in rows)
    if install:
        hosts_file.install(lines, str(folder(context, state)))
        output.say(f"wrote {len(rows)} names into {hosts_file.SYSTEM}")
    elif json:
        output.as_json(rows)
    else:
        for line in lines.splitlines():
            output.line(line)


def _last_hosts(state: Path, down: OperatorError) -> list[dict[str, str]]:
    """What the daemon rendered when it last ran."""
    try:
        rows = [line.split() for line in files.read_private(state / "hosts").decode().splitlines()]
    except FileNotFoundError:
        raise down from None
    return [{"address": row[0], "name": row[2], "full_name": row[1]} for row in rows]


# -- bundles and tokens -----------------------------------------------------------------------------------------------

def bundle_export(
        context: typer.Context, state: State = None,
        role: Annotated[str | None, typer.Option(help="controller or engine.")] = None,
        node: Annotated[str | None, typer.Option(help="Only a node of this name may use it.")] = None,
        source: Annotated[str | None, typer.Option(help="Only from this network, such as 192.0.2.0/24.")] = None,
        request: Annotated[str | None, typer.Option(
            "--for", metavar="REQUEST", help="Bind and seal it to the keys of this join request (file or -).")] = None,
        ttl: Annotated[str, typer.Option(help="Life of the token, at most 10m.")] = "10m",
        out: Annotated[Path | None, typer.Option("--output", help="File to write, mode 0600; else standard output."),
                       ] = None) -> None:
    """Make a credential bundle: everything that a new node needs to join, once, within ten minutes."""
    body: dict[str, Any] = {"role": role, "node": node, "source": source, "lifetime_s": seconds(ttl)}
    if request is not None:
        from fairlead.enrol import request as requests
        data = read(request, "join request", requests.MOST_BYTES)
        asked = requests.decode(data)
        if role not in (None, asked.role) or node not in (None, asked.node):
            raise OperatorError("FL-REQUEST", f"the request is of the {asked.role} {asked.node}",
                                "leave out --role and --node, or name the same")
        body |= {"role": asked.role, "node": asked.node, "request": data.decode()}
        output.say(f"request of the {asked.role} {asked.node}: fingerprint {asked.fingerprint}")
        output.say("compare it with what `fairlead bundle request` printed on that machine")
    elif role not in ("controller", "engine"):
        raise typer.BadParameter("give --role controller or --role engine", param_hint="--role")
    made = client(context, state).post("/api/bundle", body)
    text = encoding.dumps(made, indent=1).encode() + b"\n"
    if out is None:
        typer.get_binary_stream("stdout").write(text)
        return
    files.write_private(out.absolute(), text)
    output.say(f"wrote {out}; it joins one {body['role']} within {ttl}. Next, on that machine:")
    output.say(f"  fairlead {body['role']} join {out.name} --name {body['node'] or 'NAME'}")


def bundle_request(context: typer.Context, role: Annotated[str, typer.Option(help="controller or engine.")],
                   name: Annotated[str, typer.Option(help="The node's name.")], state: State = None) -> None:
    """Make this node's keys first and ask for a bundle that nobody else can use; prints the request."""
    from fairlead.enrol.join import Joiner
    from fairlead.nodes.name import check_name
    if role not in ("controller", "engine"):
        raise typer.BadParameter("give controller or engine", param_hint="--role")
    asked = Joiner(folder(context, state), "engine" if role == "engine" else "controller", check_name(name),
                   SystemClock()).request()
    typer.get_binary_stream("stdout").write(asked.file())
    output.say(f"fingerprint {asked.fingerprint}")
    output.say("next, on the leader: fairlead bundle export --for REQUEST --output BUNDLE")


def bundle_show(file: Annotated[str, typer.Argument(help="The bundle, or - for standard input.")],
                json: Json = False) -> None:
    """What is in a bundle, but for its secret."""
    from fairlead.enrol import bundle as bundles
    data = read(file, "bundle", bundles.MOST_BYTES)
    shown = {"sealed": True} if bundles.is_sealed(data) else bundles.summary(bundles.decode(data))
    if json:
        output.as_json(shown)
    else:
        output.facts(shown)


def token_list(context: typer.Context, state: State = None, json: Json = False) -> None:
    """All tokens of the last thirty days."""
    _list(context, state, "/api/token", TOKEN_COLUMNS, "no tokens", json=json)


def token_show(context: typer.Context, token_id: str, state: State = None, json: Json = False) -> None:
    """One token and everything that happened to it."""
    found = client(context, state).get(_path("token", token_id))
    if json:
        output.as_json(found)
        return
    history = found.pop("history")
    output.facts(found)
    output.table(history, AUDIT_COLUMNS, "nothing happened to it")


def token_revoke(context: typer.Context, token_id: str, state: State = None) -> None:
    """Make an open or reserved token worthless."""
    found = client(context, state).delete(_path("token", token_id))
    output.say(f"token {found['id']} is {found['state']}")


# -- nodes ------------------------------------------------------------------------------------------------------------

def node_list(context: typer.Context, state: State = None, json: Json = False) -> None:
    """All nodes."""
    _list(context, state, "/api/node", NODE_COLUMNS, "no nodes", json=json)


def node_show(context: typer.Context, name: str, state: State = None, json: Json = False) -> None:
    """One node."""
    found = client(context, state).get(_path("node", name))
    output.as_json(found) if json else output.facts(found)


def node_events(context: typer.Context, name: str, state: State = None, json: Json = False) -> None:
    """When an engine came, was late and went, as this Controller saw it; newest first."""
    _list(context, state, _path("node", name) + "/events", EVENT_COLUMNS, "nothing since this Controller started",
          json=json)


def node_remove(context: typer.Context, name: str, state: State = None) -> None:
    """Take a node out of the cluster: its keys are revoked, its connections cut."""
    client(context, state).delete(_path("node", name))
    output.say(f"{name} is removed")


def node_release(context: typer.Context, name: str,
                 fingerprint: Annotated[str, typer.Option(help="As read on the node's own console.")],
                 state: State = None) -> None:
    """Let a frozen node back in, after its keys were compared."""
    client(context, state).post(_path("node", name) + "/release", {"fingerprint": fingerprint})
    output.say(f"{name} is released")


def node_label(context: typer.Context, name: str,
               labels: Annotated[list[str], typer.Argument(help="KEY=VALUE to set, KEY- to take away.")],
               state: State = None) -> None:
    """Label a node, for policies."""
    found = client(context, state).post(_path("node", name) + "/label", {"labels": labels})
    output.say(f"{name}: {', '.join(f'{k}={v}' for k, v in found['labels'].items()) or 'no labels'}")


# -- services ---------------------------------------------------------------------------------------------------------

def node_drain(context: typer.Context, name: str,
               undo: Annotated[bool, typer.Option("--undo", help="Let things begin there again.")] = False,
               wait: Annotated[bool, typer.Option("--wait", help="Return when its last stream has ended.")] = False,
               timeout: Annotated[str, typer.Option(help="So long --wait waits.")] = "60s",
               state: State = None) -> None:
    """Have nothing new begin at an engine or from it; streams that are open go on."""
    patience, api = seconds(timeout), client(context, state)
    api.post(f"{_path('node', name)}/drain", {"drained": not undo})
    end = time.monotonic() + patience
    while wait and not undo:
        found = api.get(f"{_path('node', name)}/streams")
        if not found["streams"] and not found["unheard"]:
            break
        if time.monotonic() > end:
            silent = f"; {', '.join(found['unheard'])} does not say how many it has" if found["unheard"] else ""
            raise OperatorError("FL-DRAIN-LATE", f"{name} has {found['streams']} streams after {patience} s{silent}",
                                "they go on; wait longer, or remove the node to cut them")
        time.sleep(LOOK_AGAIN_S)
    output.say(f"{name} is drained" if not undo else f"{name} is no longer drained")


def node_command(context: typer.Context, name: str,
                 command: Annotated[str, typer.Argument(help="status, reload, rotate-logs or diagnostics.")],
                 timeout: Annotated[str, typer.Option(help="For the engine's answer.")] = "10s",
                 state: State = None) -> None:
    """Have an engine do something of a fixed catalogue; prints its answer as JSON."""
    output.as_json(client(context, state).post(f"{_path('node', name)}/command", {
        "command": command, "deadline_s": seconds(timeout)})["result"])


def service_add(
        context: typer.Context, name: str,
        port: Annotated[int, typer.Option(help="At the owner's internal address.")],
        allow: Annotated[list[str], typer.Option(
            help="A node, engines, controllers, or a label KEY=VALUE; repeatable.")],
        node: Annotated[str | None, typer.Option(help="The node that owns it.")] = None,
        role: Annotated[str | None, typer.Option(help="Every node of this role owns one.")] = None,
        target: Annotated[str | None, typer.Option(
            metavar="HOST:PORT", help="Where the owner connects to; 127.0.0.1:PORT unless said.")] = None,
        scrape: Annotated[str | None, typer.Option(
            metavar="PATH", help="An engine's exporter, which Prometheus finds; its metrics are at this path.")] = None,
        state: State = None) -> None:
    """Declare a service: whatever is not declared does not exist."""
    if (node is None) == (role is None):
        raise typer.BadParameter("give one of --node and --role", param_hint="--node / --role")
    client(context, state).post("/api/service", {"name": name, "node": node, "role": role, "port": port,
                                                 "target": target, "allow": allow, "scrape": scrape})
    output.say(f"{name} is declared")


def service_list(context: typer.Context, state: State = None, json: Json = False) -> None:
    """All services."""
    _list(context, state, "/api/service", SERVICE_COLUMNS, "no services", json=json)


def service_remove(context: typer.Context, name: str, state: State = None) -> None:
    """Take a declaration back."""
    client(context, state).delete(_path("service", name))
    output.say(f"{name} is no longer declared")


def policy_explain(context: typer.Context, source: Annotated[str, typer.Argument(metavar="FROM")], service: str,
                   state: State = None, json: Json = False) -> None:
    """Whether a node may reach a service, and why; exit code 1 when it may not."""
    found = client(context, state).get("/api/policy", node=source, service=service)
    if json:
        output.as_json(found)
    else:
        for owner in found["owners"]:
            verdict = "may" if owner["allowed"] else "may not"
            output.line(f"{found['from']} {verdict} reach {found['service']} at {owner['address']}:{owner['port']} "
                        f"({owner['owner']}): {owner['why']}")
        if not found["owners"]:
            output.line(f"no node owns {found['service']} now")
    if not found["allowed"]:
        raise Refused("FL-POLICY", f"{found['from']} may not reach {found['service']}",
                      "declare the service again with another --allow, if it should")


def tunnel_list(context: typer.Context, state: State = None, json: Json = False) -> None:
    """The live connections of this node."""
    _list(context, state, "/api/tunnel", TUNNEL_COLUMNS, "no tunnels", json=json)


def audit_list(context: typer.Context, state: State = None, json: Json = False,
               limit: Annotated[int, typer.Option(help="How many of the newest.")] = 100) -> None:
    """The newest trust decisions of this Controller."""
    found = client(context, state).get("/api/audit", limit=limit)["results"]
    output.as_json(found) if json else output.table(found, AUDIT_COLUMNS, "no records")


def audit_export(context: typer.Context, state: State = None,
                 out: Annotated[Path | None, typer.Option("--output", help="File to write, mode 0600; else standard "
                                                                           "output.")] = None) -> None:
    """All records and the signed heads, one a line, JSON: `audit verify --file` checks them anywhere."""
    text = str(client(context, state).get("/api/audit/export")).encode()
    if out is None:
        typer.get_binary_stream("stdout").write(text)
    else:
        files.write_private(out.absolute(), text)


def audit_verify(context: typer.Context, state: State = None, json: Json = False,
                 file: Annotated[str | None, typer.Option(help="An export to check instead, or -.")] = None) -> None:
    """Check that no record was changed, removed or cut off, also by what other nodes were shown."""
    if file is not None:
        from fairlead.audit.export import verify_export
        for node, (head, signer) in verify_export(read(file, "export", MOST_EXPORT)).items():
            output.line(f"{head.seq} records of {node}, unbroken; signed by {signer or 'nobody'}")
        return
    found = client(context, state).get("/api/audit/verify")
    if json:
        output.as_json(found)
        return
    output.say(f"{found['verified']} records of {found['node']}, unbroken; the last one is {found['head']}")
    output.table(found["witnesses"], WITNESS_COLUMNS, "no node was shown any of it yet")
    if any(witness["state"] == "earlier" for witness in found["witnesses"]):
        output.say("earlier: of before a restore or a recovery, which took these records back; if there was none, "
                   "somebody else did")


def _path(kind: str, name: str) -> str:
    """The path of one object. What cannot be a name gets into no path. Raises Refused FL-NAME."""
    from fairlead.nodes.name import check_name
    return f"/api/{kind}/{check_name(name, kind)}"


def _list(context: typer.Context, state: Path | None, path: str, columns: tuple[str, ...], empty: str, *,
          json: bool) -> None:
    found = client(context, state).get(path)["results"]
    if json:
        output.as_json(found)
    else:
        output.table(found, columns, empty)

