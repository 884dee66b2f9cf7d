"""`fairlead bench`: measure the product on this machine. Figures go to standard output, progress to standard error."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fairlead.base.errors import OperatorError
from fairlead.cli import output
from fairlead.cli.options import Json, Outside


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    bench = typer.Typer(no_args_is_help=True, help="Measure on this machine, with daemons of its own.")
    bench.command()(failover)
    bench.command()(tunnel)
    bench.command()(handshake)
    bench.command()(api)
    bench.command()(fleet)
    app.add_typer(bench, name="bench")


def failover(rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help=(
                 "How often the leader is killed."))] = 5, json: Json = False, outside: Outside = "") -> None:
    """How long the loss of a leader and the coming of a follower take, and what idle Controllers use.

    Three Controllers and an engine run in network namespaces, 20 ms between Controllers and 70 ms to the engine. Needs
    etcd and /dev/net/tun, and root or user namespaces. Five rounds take some minutes.
    """
    from fairlead.cli.bench.failover import measure, town_on
    from fairlead.cli.netns.enter import enter
    enter(outside, "bench", "failover", "--rounds", str(rounds), *(["--json"] if json else []))
    with _folder() as (folder, at_the_end):
        town = town_on(folder)
        at_the_end(town.close)
        found = measure(town, rounds, output.say)
    if json:
        output.as_json(found.as_json())
    else:
        found.show()


def tunnel(seconds: Annotated[float | None, typer.Option("--seconds", min=0.05, max=3600, help=(
               "How long each figure is measured in a round; 1, over links 5."))] = None,
           rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="How often.")] = 5,
           more: Annotated[bool, typer.Option("--more", help=(
               "More than one stream: 4 and 16, the other direction, round trips, new connections, memory."))] = False,
           links: Annotated[bool, typer.Option("--links", help=(
               "Over links instead: 70 ms, with 1 % loss, with 10 Mbit/s; one stream, and round trips beside it."))
               ] = False,
           row: Annotated[list[str] | None, typer.Option("--row", help=(
               "Only this row of the table; may be given several times."))] = None,
           plot: Annotated[Path | None, typer.Option("--plot", help="Draw the one stream into this SVG file.")] = None,
           json: Json = False, outside: Outside = "") -> None:
    """How fast streams are through the tunnel, beside OpenSSH and others, in interleaved rounds on this machine.

    One stream from client to server through: nothing (raw), two haproxy without encryption (relay), `ssh -L` as
    installed and with its best cipher, stunnel, nginx, and a Controller and an engine. All processes, loads too, share
    this machine. What is not installed is named and left out. The daemons of fairlead-stock keep to the
    SSH library's own channels. --links needs what `bench failover` needs, but for etcd.
    """
    from fairlead.cli.bench.rows import ROWS
    rows = row or list(ROWS)
    if unknown := [name for name in rows if name not in ROWS]:
        raise typer.BadParameter(f"there is no row {unknown[0]}: {', '.join(ROWS)}")
    if links:
        if more or plot is not None:
            raise typer.BadParameter("--more and --plot are for this machine, without --links")
        _links(seconds or 5.0, rounds, rows, outside, json=json)
        return
    from fairlead.cli.bench.peers import Ground
    from fairlead.cli.bench.tunnel import WARM_S, Bench
    from fairlead.cli.stage.machine import free_ports, free_views
    from fairlead.cli.stage.processes import Processes
    with _folder() as (folder, at_the_end):
        length = seconds or 1.0
        bench = Bench(Ground(folder, Processes(folder), free_ports(), free_views()), length, output.say,
                      min(WARM_S, length))
        at_the_end(bench.close)
        bench.start(rows)
        for number in range(rounds):
            output.say(f"round {number + 1} of {rounds}")
            bench.round(number, more=more)
        found = bench.found(rounds=rounds)
    if plot is not None:
        try:
            plot.write_text(found.picture())
        except OSError as error:
            raise OperatorError("FL-FILE", f"{plot} cannot be written: {error.strerror}",
                                "check the path and its permissions") from None
    if json:
        output.as_json(found.as_json())
    else:
        found.show()


def _links(seconds: float, rounds: int, rows: list[str], outside: str, *, json: bool) -> None:
    from fairlead.cli.bench.links import Links, as_json
    from fairlead.cli.netns.enter import enter
    enter(outside, "bench", "tunnel", "--links", "--seconds", str(seconds), "--rounds", str(rounds),
          *(part for name in rows for part in ("--row", name)), *(["--json"] if json else []))
    with _folder() as (folder, at_the_end):
        bench = Links(folder, seconds, output.say)
        at_the_end(bench.close)
        bench.start(rows)
        found = bench.measure(rounds)
    if json:
        output.as_json(as_json(found, rounds=rounds))
        return
    for weather, one in found.items():
        output.line(f"-- {weather}")
        one.show()


def fleet(engines: Annotated[int, typer.Option("--engines", min=1, max=20_000, help="How many.")] = 100,
          processes: Annotated[int, typer.Option("--processes", min=1, max=64, help=(
              "Processes of engines; the weight of one is known from two on."))] = 2,
          rotate: Annotated[list[str] | None, typer.Option("--rotate", metavar="KIND", help=(
              "In place of all but the joining: this rotation with all engines linked; may be repeated."))] = None,
          json: Json = False) -> None:
    """A fleet at one Controller: joining all at once, a document for all, coming back after its restart, being idle.

    Real engines, many to a process, each with keys, a folder in memory and a loopback address of its own; a real
    Controller on the disk of this machine, which they all share. Every 30 seconds a heartbeat.
    """
    from fairlead.cli.bench.fleet import Bench
    from fairlead.cli.stage.processes import Processes
    from fairlead.cli.stage.stage import Stage
    with _folder() as (folder, at_the_end):
        bench = Bench(Stage(folder, Processes(folder)), engines, processes, output.say)
        at_the_end(bench.close)
        found = bench.rotate(rotate) if rotate else bench.measure()
    output.as_json(found) if json else output.facts(found)


def handshake(seconds: Annotated[float, typer.Option("--seconds", min=0.05, max=3600, help=(
                  "How long handshakes are counted in a round."))] = 2.0,
              rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="How often.")] = 3,
              clients: Annotated[int, typer.Option("--clients", min=0, max=10_000, help=(
                  "How many come within one second, once."))] = 1000,
              connections: Annotated[int, typer.Option("--connections", min=16, max=10_000, help=(
                  "How many stay, to see what an idle one weighs; for every eight an engine joins first."))] = 1000,
              json: Json = False) -> None:
    """How many SSH handshakes a Controller does, beside sshd, and what an idle connection weighs.

    The same clients come to both: the dialler of the engines, with keys of engines that have joined a real Controller,
    or a key of sshd's. Clients and server share this machine.
    """
    from fairlead.cli.bench.handshake import Bench
    from fairlead.cli.bench.peers import Ground
    from fairlead.cli.stage.machine import free_ports, free_views
    from fairlead.cli.stage.processes import Processes
    with _folder() as (folder, at_the_end):
        bench = Bench(Ground(folder, Processes(folder), free_ports(), free_views()), seconds, output.say)
        at_the_end(bench.close)
        bench.start(connections)
        bench.idle()  # first: a storm leaves room in the heap, and the connections after it would weigh nothing
        for number in range(rounds):
            output.say(f"round {number + 1} of {rounds}")
            bench.round(number)
        if clients:
            bench.storm(clients)
    if json:
        output.as_json(bench.as_json(rounds=rounds))
    else:
        bench.show()


def api(seconds: Annotated[float, typer.Option("--seconds", min=0.05, max=600, help=(
            "How long each figure is measured in a round."))] = 1.0,
        rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="How often.")] = 5,
        engines: Annotated[int, typer.Option("--engines", min=1, max=1000, help="How many the Controller has.")] = 1000,
        json: Json = False) -> None:
    """How many requests and log-ins a Controller with 1,000 engines answers, and how late beside a bulk stream.

    The same clients come to nginx with the same answers as files, and to the web framework alone; log-ins stand beside
    bare comparisons of a password. All of it, the clients too, shares this machine. A round takes about a minute.
    """
    from fairlead.cli.bench.api import Bench
    from fairlead.cli.bench.peers import Ground
    from fairlead.cli.stage.machine import free_ports, free_views
    from fairlead.cli.stage.processes import Processes
    with _folder() as (folder, at_the_end):
        bench = Bench(Ground(folder, Processes(folder), free_ports(), free_views()), seconds, output.say, engines)
        at_the_end(bench.close)
        bench.start()
        for number in range(rounds):
            output.say(f"round {number + 1} of {rounds}")
            bench.round(number)
        found = bench.found(rounds=rounds)
    if json:
        output.as_json(found.as_json())
    else:
        found.show()


@contextmanager
def _folder() -> "Iterator[tuple[Path, Callable[[Callable[[], object]], None]]]":
    """A folder for one measurement, and how to say what ends what it starts; kept, with the logs, when it fails."""
    from fairlead.cli.stage import interrupts
    from fairlead.cli.stage.processes import Failed
    interrupts.heed()
    folder, kept, ends = Path(tempfile.mkdtemp(prefix="fairlead-bench-")), False, list[Callable[[], object]]()
    try:
        yield folder, ends.append
    except (Failed, TimeoutError) as reason:
        kept = True
        raise OperatorError("FL-BENCH", f"the measurement came to no end: {reason or 'something took too long'}",
                            f"the logs of what it started are kept in {folder}") from None
    finally:
        interrupts.ignore()
        for end in ends:
            end()
        if not kept:
            shutil.rmtree(folder)
