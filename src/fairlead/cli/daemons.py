"""Commands that make, run and end nodes; the only file that imports the daemons, but for `rescue`.

What a command needs is imported when it is called: `fairlead status` should not wait for a Controller's libraries.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.base import files
from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError, OperatorError
from fairlead.base.version import installed
from fairlead.cli import output
from fairlead.cli.options import State, control, folder, read
from fairlead.cli.options import password as password_in
from fairlead.cli.program import visitor

AVICNTRL, AUTHTOKEN, CLUSTER = "AVICNTRL", "AVICNTRL_AUTHTOKEN", "AVICNTRL_CLUSTERUUID"
STOP_S = 10.0
TRIAL_S = 60.0
LIFE = ("documents", "files", "haproxy", "images", "spool", "witness")
"""Folders of an engine that belong to its life in one cluster; of one that it has left it holds nothing."""

View = Annotated[str | None, typer.Option("--view", metavar="NET", help="See internal addresses in this network: for "
                                          "several nodes on one host.")]
Name = Annotated[str, typer.Option("--name", help="The node's name.")]
Keep = Annotated[bool, typer.Option("--keep-bundle", help="Do not delete the bundle once it is spent.")]


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    controller = typer.Typer(no_args_is_help=True, help="A Controller on this machine.")
    controller.command("init")(controller_init)
    controller.command("join")(controller_join)
    controller.command("run")(controller_run)
    controller.command("destroy")(controller_destroy)
    engine = typer.Typer(no_args_is_help=True, help="A Service Engine on this machine.")
    engine.command("join")(engine_join)
    engine.command("run")(engine_run)
    engine.command("leave")(engine_leave)
    app.add_typer(controller, name="controller")
    app.add_typer(engine, name="engine")


Address = Annotated[list[str], typer.Option("--address", metavar="HOST[:PORT]", help=(
    "Where nodes and people find this Controller; repeatable, tried in order. PORT is the portal's, where a NAT gives "
    "it another."))]
Listen = Annotated[list[str] | None, typer.Option("--listen", metavar="IP", help=(
    "Listen on this address of the host only; repeatable. Else on all, IPv4 and IPv6."))]
ApiPort = Annotated[int, typer.Option("--api-port")]
PortalPort = Annotated[int, typer.Option("--portal-port")]
SshPort = Annotated[int, typer.Option("--ssh-port", help="5098 is the custom where sshd has 22.")]


def controller_init(
        context: typer.Context, name: Name, address: Address, listen: Listen = None, api_port: ApiPort = 443,
        portal_port: PortalPort = 8443, ssh_port: SshPort = 22, view: View = None,
        password_file: Annotated[str | None, typer.Option(
            "--admin-password-file", metavar="F", help="Read the admin password from this file (or -).")] = None,
        state: State = None) -> None:
    """Make the first Controller of a new cluster: root CA, certificates, keys."""
    from fairlead.controller.initialise import initialise
    from fairlead.controller.settings import ControllerSettings
    where = folder(context, state)
    password = None
    if password_file is not None:
        password = password_in(password_file)
    settings = checked_settings(ControllerSettings, addresses=address, listen=listen or [], api_port=api_port,
                         portal_port=portal_port, ssh_port=ssh_port, view=view)
    made = finish(initialise(where, name, settings, password, SystemClock()))
    output.say(f"made the Controller {made.name} in {where}")
    output.say(f"  cluster  {made.cluster_uuid}")
    output.say(f"  host key {made.fingerprint}")
    if made.password is not None:
        output.say(f"  the admin password, shown this once: {made.password}")
    option = f" --state {where}"
    output.say("next:")
    output.line(f"  fairlead controller run{option}")
    output.line(f"  fairlead bundle export{option} --role engine --output se-1.bundle")
    output.line("  fairlead engine join se-1.bundle --name se-1        (on the engine; then: fairlead engine run)")


def controller_join(
        context: typer.Context, bundle: Annotated[str, typer.Argument(help="The credential bundle, or - for standard "
                                                                           "input.")],
        name: Name, address: Address, listen: Listen = None, api_port: ApiPort = 443, portal_port: PortalPort = 8443,
        ssh_port: SshPort = 22, view: View = None, keep_bundle: Keep = False, state: State = None) -> None:
    """Join this machine to a cluster as a Controller that follows; `controller run` then brings it in."""
    from fairlead.controller import join as joining
    from fairlead.controller.settings import ControllerSettings
    from fairlead.enrol import bundle as bundles
    from fairlead.nodes.name import check_name
    where = folder(context, state)
    settings = checked_settings(ControllerSettings, addresses=address, listen=listen or [], api_port=api_port,
                         portal_port=portal_port, ssh_port=ssh_port, view=view)
    check_name(name)
    data = read(bundle, "bundle", bundles.MOST_BYTES)
    files.make_private_folder(where)
    joining.preflight(where, settings, output.say)
    trust = finish(joining.join(
        where, name, settings, lambda joiner: joiner.unseal(data) if bundles.is_sealed(data) else bundles.decode(data),
        lambda: _forget(bundle, keep=keep_bundle), SystemClock(), output.say))
    output.say(f"{trust.node} has joined the cluster {trust.cluster_uuid} as {trust.internal_address}; it votes once "
               "it runs and has all of the store")
    output.say("next:")
    output.line(f"  fairlead controller run --state {where}")


def controller_run(context: typer.Context, state: State = None) -> None:
    """Run the Controller in the foreground, in the version that stands."""
    from fairlead.base import logs
    where = folder(context, state)
    files.check_private_folder(where)
    refuse_role(where, "controller")
    launch(where, "controller")
    from fairlead.controller import daemon

    async def work() -> bool:
        logs.start(_name(where), daemon.load_settings(where).log_level)
        return await daemon.run(where, installed(), SystemClock(), visitor())

    run(where, "controller", work)


def controller_destroy(
        context: typer.Context, state: State = None,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """End this Controller for good; with the only Controller the whole cluster ends."""
    from fairlead.controller.initialise import destroy
    where = folder(context, state)
    files.check_private_folder(where)
    refuse_role(where, "controller")
    refuse_running(where)
    if not yes:
        typer.confirm(f"remove the Controller in {where}, with its root CA and all its engines' trust?", abort=True,
                      err=True)
    _forget_upgrades(where)
    destroy(where)
    output.say(f"the Controller in {where} is gone")


def engine_join(
        context: typer.Context, name: Name,
        bundle: Annotated[str | None, typer.Argument(help="The credential bundle, or - for standard input.")] = None,
        from_env: Annotated[bool, typer.Option("--from-env", help=(
            f"Join by {AVICNTRL}, {AUTHTOKEN}, {CLUSTER} in the environment."))] = False,
        view: View = None, keep_bundle: Keep = False, state: State = None) -> None:
    """Join this machine to a cluster as a Service Engine; returns when it is committed."""
    from fairlead.base import configuration
    from fairlead.engine.settings import EngineSettings
    from fairlead.enrol import bundle as bundles
    from fairlead.enrol.join import Joiner
    from fairlead.nodes.name import check_name
    if (bundle is None) == (not from_env):
        raise typer.BadParameter("give a BUNDLE, or --from-env", param_hint="BUNDLE")
    where = folder(context, state)
    settings = checked_settings(EngineSettings, view=view)
    if (where / configuration.FILE).exists() and not (where / "trust.json").exists():
        configuration.load(where, EngineSettings)  # a Controller's folder is not an engine's
    joiner = Joiner(where, "engine", check_name(name), SystemClock(), progress=output.say)
    data = b"" if bundle is None else read(bundle, "bundle", bundles.MOST_BYTES)
    files.make_private_folder(where)

    async def join() -> str:
        if bundle is None:
            made = await joiner.find(*_environment())
        else:
            made = joiner.unseal(data) if bundles.is_sealed(data) else bundles.decode(data)
        trust = await joiner.join(made, lambda: _forget(bundle, keep=keep_bundle),
                                  lambda: _settle(where, settings))
        return f"{trust.node} has joined the cluster {trust.cluster_uuid} as {trust.internal_address}"

    output.say(finish(join()))
    output.say("next:")
    output.line(f"  fairlead engine run --state {where}")


def engine_run(context: typer.Context, state: State = None) -> None:
    """Run the engine in the foreground, in the version that stands."""
    from fairlead.base import logs
    where = folder(context, state)
    files.check_private_folder(where)
    refuse_role(where, "engine")
    launch(where, "engine")
    from fairlead.engine import daemon

    async def work() -> bool:
        logs.start(_name(where), daemon.load_settings(where).log_level)
        return await daemon.run(where, installed(), SystemClock())

    run(where, "engine", work)


def engine_leave(
        context: typer.Context, state: State = None,
        local_only: Annotated[bool, typer.Option("--local-only", help=(
            "Only forget the cluster here; its operator must remove the node there."))] = False) -> None:
    """Take this engine out of the cluster, and forget the cluster here."""
    from fairlead.base import configuration
    from fairlead.enrol import signed
    from fairlead.enrol.trust import USER_KEY, load, load_key
    where = folder(context, state)
    files.check_private_folder(where)
    trust = load(where)
    refuse_role(where, "engine")
    if not local_only and not trust.removed:
        try:
            finish(signed.call(trust, load_key(where, USER_KEY), SystemClock().now(), {"v": 1, "op": "leave"}))
        except OperatorError as error:
            raise OperatorError("FL-LEAVE-UNREACHABLE", f"no Controller could be told: {error.message}",
                                f"`fairlead node remove {trust.node}` on a Controller, then leave again with "
                                "--local-only") from None
        except FairleadError as error:
            if error.code != "FL-NODE-REMOVED":
                raise
        with contextlib.suppress(OperatorError):  # a full disk keeps nobody here
            trust.but(removed=True).save(where)  # from here on leaving can be repeated without the keys
    _stop(where)
    for inner in ("keys", "pending", *LIFE):
        shutil.rmtree(where / inner, ignore_errors=True)
    _forget_upgrades(where)
    # trust last: until then it can be repeated
    for file in ("plan.json", "hosts", configuration.FILE, "trust.json"):
        files.remove(where / file)
    output.say(f"{trust.node} has left the cluster; {where} keeps its audit record only")


def _environment() -> tuple[Any, list[tuple[str, int]], str]:
    """Token, Controllers and cluster of the environment. Raises OperatorError FL-ENV, or Refused."""
    from fairlead.enrol.token import Token
    from fairlead.nodes.node import split_address
    missing = [v for v in (AVICNTRL, AUTHTOKEN, CLUSTER) if not os.environ.get(v)]
    if missing:
        raise OperatorError("FL-ENV", f"{', '.join(missing)} is not set", "set all three from one bundle")
    token = Token.decode(os.environ[AUTHTOKEN])
    return token, [split_address(part.strip(), 8443) for part in os.environ[AVICNTRL].split(",") if part.strip()], \
        os.environ[CLUSTER]


def _settle(where: Path, settings: Any) -> None:
    """A new life of the folder begins: its settings; the plan and the record of an earlier one are not its own."""
    from fairlead.base import configuration
    for file in ("plan.json", "hosts"):
        files.remove(where / file)
    for inner in LIFE:
        shutil.rmtree(where / inner, ignore_errors=True)
    _forget_upgrades(where)
    record = where / "audit.jsonl"
    if record.exists():
        record.rename(where / f"audit-{time.time_ns()}.jsonl")
    configuration.save(where, settings)


def launch(state: Path, role: str) -> None:
    """Have the version run that stands; returns when that is this process, as it is. Raises OperatorError.

    What `fairlead.toml` says is read without being judged: it may be meant for a newer version than the base.
    """
    from fairlead.base import logs
    from fairlead.upgrade import launch
    logs.start(_name(state))
    launch.start(launch.versions_of(state), role, state, _trial_s(state), SystemClock())


def _trial_s(state: Path) -> float:
    import tomllib

    from fairlead.base import configuration
    try:
        said = tomllib.loads(files.read_private(state / configuration.FILE).decode()).get("upgrade_trial_s")
    except (OSError, ValueError, RecursionError, OperatorError):  # the daemon says what is wrong
        said = None
    return float(said) if isinstance(said, int | float) and 5 <= said <= 3600 else TRIAL_S


def run(state: Path, role: str, daemon: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Run *daemon* to its end, then do what it has ended for. Raises FairleadError."""
    from fairlead.upgrade import launch
    try:
        again = finish(daemon(), fast=True)
    except FairleadError as error:
        if launch.guarded():
            launch.versions_of(state).explain(error.line())
        raise
    launch.ended(state, role, again=again)


def _forget_upgrades(state: Path) -> None:
    """Whose bundles are believed, and which were seen, belongs to the life in one cluster; the versions stay."""
    from fairlead.upgrade.launch import versions_of
    versions_of(state).forget()


def _forget(bundle: str | None, *, keep: bool) -> None:
    if bundle is not None and bundle != "-" and not keep:
        Path(bundle).unlink(missing_ok=True)


def checked_settings(kind: Any, **fields: Any) -> Any:
    """Settings from flags. Raises OperatorError FL-FLAG."""
    from pydantic import ValidationError
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("addresses", "address").replace("_", "-")
        raise OperatorError("FL-FLAG", f"{flag}: {first['msg']}", "see --help") from None


def _name(state: Path) -> str:
    """The node's name for its log lines, before anything else is known to be right."""
    from fairlead.enrol.trust import load
    try:
        return load(state).node
    except FairleadError:
        return ""


def refuse_role(state: Path, role: str) -> None:
    """Whose folder this is comes before what its settings say. Raises OperatorError FL-ROLE."""
    from fairlead.enrol.trust import load
    try:
        found = load(state).role
    except FairleadError:
        return  # the daemon says what is wrong
    if found != role:
        raise OperatorError("FL-ROLE", f"the node in {state} is of the role {found}",
                            f"`fairlead {found} run` runs it")


def refuse_running(state: Path) -> None:
    try:
        control(state).get("/api/version")
    except OperatorError as error:
        if error.code == "FL-DAEMON-DOWN":
            return
        raise
    raise OperatorError("FL-RUNNING", f"the daemon in {state} is running", "stop it first")


def _stop(state: Path) -> None:
    """End the daemon in *state*, if one runs, and wait until it has. Raises OperatorError FL-RUNNING."""
    end = time.monotonic() + STOP_S
    try:
        control(state).post("/api/stop")
        while time.monotonic() < end:
            control(state).get("/api/version")
            time.sleep(0.05)
    except OperatorError as error:
        if error.code == "FL-DAEMON-DOWN":
            return
        raise
    raise OperatorError("FL-RUNNING", f"the daemon in {state} does not end", "stop it, then leave again")


def finish(work: Coroutine[Any, Any, Any], *, fast: bool = False) -> Any:
    """Run *work* to its end; of several failures at once, the one that a person can act on is raised."""
    import asyncio

    import uvloop

    from fairlead.base.garbage import collect_seldom
    if fast:
        collect_seldom()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if fast else None) as runner:
            return runner.run(work)
    except BaseExceptionGroup as group:
        matched, _ = group.split(FairleadError)
        if matched is None:
            raise
        error: BaseException = matched
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
