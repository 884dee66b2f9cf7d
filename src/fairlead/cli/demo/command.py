"""`fairlead demo`: the product's main work on this machine, attacks included, with a report.

It is an operator with a shell: it starts commands and daemons as processes and looks at what they do.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairlead.cli.options import Outside

if TYPE_CHECKING:
    from fairlead.cli.demo.report import Report
    from fairlead.cli.stage.processes import Started
    from fairlead.cli.stage.stage import Stage
    from fairlead.cli.stage.town import Town

Checks = dict[str, "Callable[[Stage], str]"]


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command()(demo)


def demo(cluster: Annotated[bool, typer.Option("--cluster", help=(
             "Three Controllers, each in a network namespace; needs root, or user namespaces."))] = False,
         keep: Annotated[bool, typer.Option("--keep", help="Leave the folder with states and logs.")] = False,
         outside: Outside = "") -> None:
    """Run a Controller and engines on this machine, do real work through the tunnels, attack it, and report."""
    from fairlead.cli.demo.cluster import town_on
    from fairlead.cli.demo.report import Report
    from fairlead.cli.netns.enter import enter
    from fairlead.cli.stage import interrupts
    from fairlead.cli.stage.postgres import Postgres
    from fairlead.cli.stage.processes import Processes
    from fairlead.cli.stage.stage import Stage
    from fairlead.cli.stage.town import Town
    if cluster:
        enter(outside, "demo", "--cluster", *(["--keep"] if keep else []))
    interrupts.heed()
    report, began = Report(), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="fairlead-demo-"))
    report.say(f"fairlead demo: everything runs on this machine, in {folder}")
    stage = town_on(folder) if cluster else Stage(folder, Processes(folder), Postgres.find(folder))
    whole = False
    try:
        if isinstance(stage, Town):
            _perform_cluster(report, stage)
        else:
            _perform(report, stage)
        whole = True
    finally:
        interrupts.ignore()
        count = len(stage.processes.running)
        stubborn = stage.close()
        if whole:
            report.check("end", lambda: _ended(count, stubborn, time.monotonic() - began))
        if keep or report.failed:
            report.say(f"states and logs are kept in {folder}; the logs: {folder}/*.log")
        else:
            shutil.rmtree(folder)
        if not whole:
            report.say("demo: interrupted; everything that it started has ended")
    report.total()
    if report.failed:
        raise typer.Exit(1)


def _perform(report: "Report", stage: "Stage") -> None:
    from fairlead.cli.demo import attacks, failures, fleet, metrics, work
    if not report.check("controller", lambda: work.controller(stage)):
        return
    _one_by_one(report, stage, {
        "bundle": work.bundle, "environment": work.environment, "database": work.database,
        "large file": work.large_file, "new service": work.new_service, "open ports": work.open_ports,
        "balancer": fleet.balancer})
    _side_by_side(report, stage, {
        "used token": attacks.used_token, "expired token": attacks.expired_token,
        "forbidden service": attacks.forbidden_service, "strange SSH users": attacks.strange_users,
        "killed engine": failures.killed,
        "Prometheus": metrics.prometheus})
    _one_by_one(report, stage, {
        "released engine": failures.released, "headless engine": failures.headless,
        "foreign CA": attacks.foreign_certificate, "Controller back": failures.returned,
        "removed engine": failures.removed, "books": failures.books})


def _perform_cluster(report: "Report", town: "Town") -> None:
    from fairlead.cli.demo import cluster, outages, rotation
    for title, check in {"first Controller": cluster.first, "three Controllers": cluster.controllers,
                         "engines": cluster.engines}.items():
        if not report.check(title, partial(check, town)):
            return
    for title, check in {
            "database": cluster.database, "open ports": cluster.open_ports, "used bundle": cluster.used_bundle,
            "killed leader": outages.leader_killed, "partition": outages.partition, "removed engine": outages.removed,
            "power cut": outages.power_cut, "books": outages.books,
            "rotation": rotation.certificate}.items():
        report.check(title, partial(check, town))


def _one_by_one(report: "Report", stage: "Stage", checks: Checks) -> None:
    for title, check in checks.items():
        report.check(title, partial(check, stage))


def _side_by_side(report: "Report", stage: "Stage", checks: Checks) -> None:
    """Checks that do not disturb each other; reported in their order."""
    begun = {title: stage.checks.submit(check, stage) for title, check in checks.items()}
    for title, seen in begun.items():
        report.check(title, seen.result)


def _ended(count: int, stubborn: "list[Started]", seconds: float) -> str:
    """What the end looked like. Raises Failed when something did not end in order."""
    from fairlead.cli.stage.processes import Failed
    if stubborn:
        raise Failed(f"killed, because they did not end when told to: {', '.join(s.name for s in stubborn)}")
    return f"{count} processes ended when told to; {seconds:.0f} s in all"
