"""`spacetime loadtest`: bots play a scenario; a live view, a summary, JSON and a report."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Settings, pass_settings, server_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..loadtest.run import Options

ENOUGH_BOTS = 100
"""So many make the memory of one stand out."""


@click.command()
@click.argument("scenario", required=False, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("-d", "--database", help="Database; default: the scenario's DATABASE.")
@click.option("--auto", metavar="NAME", help="No scenario: use this database's public tables and reducers.")
@server_option
@click.option("-c", "--clients", type=click.IntRange(0, 1_000_000), default=10, show_default=True, help="Bots.")
@click.option(
    "--seconds", type=click.FloatRange(0.5, 86_400), default=10.0, show_default=True, help="Length after --ramp."
)
@click.option("--ramp", type=click.FloatRange(0, 86_400), default=0.0, help="Seconds until all bots are there.")
@click.option("--stage", "stages", multiple=True, metavar="DURATION:CLIENTS", help="Instead of these three; 60s:1000.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Open loop: tasks per second (with --find: per bot)."
)
@click.option("--think", type=click.FloatRange(0), help="Seconds between a bot's tasks instead of the scenario's.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes; default: one per core.")
@click.option(
    "--connect-rate", type=click.FloatRange(1), default=200.0, show_default=True, help="Connections per second."
)
@click.option("--seed", default="1", show_default=True, help="Same seed, same decisions of the bots.")
@click.option(
    "--confirmed/--unconfirmed", default=None, help="Whether updates wait for the disk; default: the server's."
)
@click.option("--clock", "clocks", multiple=True, metavar="TABLE.COLUMN", help="Column with the transaction's time.")
@click.option("--warm-up", type=click.FloatRange(0), default=0.0, help="Seconds that the totals leave out.")
@click.option(
    "--require", "required", multiple=True, metavar="CONDITION", help="'call.p99 < 50ms'; else exit status 1."
)
@click.option(
    "--find", metavar="CONDITION", help="Look for the number of bots up to which it holds, at most --clients."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures.")
@click.option("--html", "html_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots.")
@pass_settings
def loadtest(settings: Settings, /, scenario: Path | None, auto: str | None, server: str | None, **given: Any) -> None:
    """Connects bots that play SCENARIO, a Python file, and says what they saw.

    Exit status 1 if a --require does not hold, or the scenario itself has raised.
    """
    import trio

    from ..client.address import Address
    from ..client.errors import ClientError
    from ..loadtest.run import RunError, play, search
    from ..loadtest.scenario import ScenarioError
    from ..loadtest.stages import Stage, StageError, parse_stage

    if (scenario is None) == (auto is None):
        raise click.UsageError("give either a scenario's file or --auto NAME")
    try:
        stages = [parse_stage(text) for text in given["stages"]]
    except StageError as error:
        raise click.UsageError(str(error)) from None
    if not stages:
        stages = [Stage(given["ramp"], given["clients"]), Stage(given["seconds"], given["clients"])]
    conditions, target = _conditions(given["required"]), _conditions((given["find"],) if given["find"] else ())
    clocks = dict(_clock(text) for text in given["clocks"])
    url = settings.connect(server).url
    try:
        options = _options(url, scenario, auto, given, conditions, clocks, Address)
        view = _View(options.name)
        begun = time.strftime("%Y-%m-%d %H:%M:%S")
        with view:
            if target:
                first = max(1, min(50, given["clients"] // 4))
                conductor, found = trio.run(search, options, target[0], first, given["clients"], view.show)
            else:
                conductor, found = trio.run(play, options, stages, view.show), None
    except (ScenarioError, RunError, ClientError) as error:
        raise click.ClickException(str(error)) from None
    _finish(conductor, begun, given | {"stages": [[s.seconds, s.clients] for s in stages]}, found)


def _options(
    url: str,
    scenario: Path | None,
    auto: str | None,
    given: dict[str, Any],
    conditions: tuple[Any, ...],
    clocks: dict[str, str],
    address: Any,
) -> Options:
    from ..client.definition import schema_from_json
    from ..loadtest.bot import Clocks
    from ..loadtest.crowd import Settings as CrowdSettings
    from ..loadtest.run import Options
    from ..loadtest.scenario import load_scenario

    loaded = None if scenario is None else load_scenario(scenario)
    database = given["database"] or auto or (loaded.database if loaded else None)
    if database is None:
        raise click.UsageError("which database? give --database, or DATABASE = ... in the scenario")
    definition = address.parse(url, database).fetch_definition()
    try:
        Clocks(schema_from_json(definition), clocks)
    except LookupError as error:
        raise click.UsageError(f"--clock: {error}") from None
    workers = given["workers"] or os.cpu_count() or 1
    return Options(
        settings=CrowdSettings(
            url=url,
            database=database,
            seed=given["seed"],
            connect_rate=given["connect_rate"] / workers,
            confirmed=given["confirmed"],
            is_open=given["rate"] is not None,
            think=given["think"],
        ),
        name=loaded.name if loaded else f"auto:{database}",
        scenario=None if scenario is None else str(scenario.resolve()),
        definition=definition.decode(),
        workers=workers,
        rate=given["rate"],
        warm_up_s=given["warm_up"],
        clocks=clocks,
        conditions=conditions,
    )


def _conditions(texts: tuple[str, ...]) -> tuple[Any, ...]:
    from ..loadtest.conditions import ConditionError, parse_condition

    try:
        return tuple(map(parse_condition, texts))
    except ConditionError as error:
        raise click.UsageError(str(error)) from None


def _clock(text: str) -> tuple[str, str]:
    table, _, column = text.rpartition(".")
    if not table:
        raise click.UsageError(f"--clock {text}: write TABLE.COLUMN")
    return table, column


def _finish(conductor: Any, begun: str, given: dict[str, Any], found: Any) -> None:
    """Files, summary, and the exit status."""
    from ..loadtest.report import html_report, report

    shown = {
        name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value is not None
    }
    run = report(conductor, begun, shown, found)
    try:
        if given["json_file"]:
            given["json_file"].write_text(json.dumps(run, indent=1) + "\n")
        if given["html_file"]:
            given["html_file"].write_text(html_report(run))
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    _print_summary(run)
    if conductor.trace:
        click.echo(f"The scenario raised:\n{conductor.trace}", err=True)
    broken = [text for text, judged in run["required"].items() if not judged["holds"]]
    for text in broken:
        click.echo(f"Does not hold: {text} ({run['required'][text]['shown']})", err=True)
    if broken or conductor.trace:
        sys.exit(1)


def _print_summary(run: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    totals, bots = run["totals"], run["bots"]
    memory = f"{bots['memory_kb_per_bot']} KB per bot, " if bots["most"] >= ENOUGH_BOTS else ""
    console.print(
        f"{run['scenario']}: {bots['most']:,} bots, {run['seconds']:.0f} s; {totals['answered']:,} calls "
        f"({totals['calls_per_s']:,.0f}/s), {totals['failed']:,} failed, {totals['lost']:,} lost; "
        f"{totals['rows']:,} rows ({totals['rows_per_s']:,.0f}/s); "
        f"{memory}{bots['cpu_s']} CPU s of the bots in all"
    )
    for title, key in (("call", "calls"), ("task", "tasks"), ("update age", "ages")):
        if run[key]:
            table = Table(f"{title}, ms", *next(iter(run[key].values())))
            for name, figures in run[key].items():
                table.add_row(name, *(f"{v:,}" if isinstance(v, int) else f"{v:,.2f}" for v in figures.values()))
            console.print(table)
    if run["errors"]:
        console.print("errors and refusals, by their text")
    for text, times in list(run["errors"].items())[:20]:
        console.print(f"{times:>8}  {text}", markup=False)
    if run["found"]:
        for clients, value, held in run["found"]["steps"]:
            shown = "-" if value is None else f"{value:.1f}"
            console.print(f"{clients:>8} bots: {shown} {'holds' if held else 'does not hold'}", markup=False)
        console.print(f"It holds up to {run['found']['clients']:,} bots.")


class _View:
    """The live view of a terminal; nothing elsewhere."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._name = name
        console = Console(stderr=True)
        self._live = Live(console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> _View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, point: dict[str, Any], errors: dict[str, int]) -> None:
        if self._live is not None:
            self._live.update(self._drawn(point, errors), refresh=True)

    def _drawn(self, point: dict[str, Any], errors: dict[str, int]) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self._name}, {point['t']:.0f} s", show_header=False, min_width=60)
        table.add_row("clients", f"{point['clients']:,} of {point['target_clients']:,}")
        table.add_row("calls/s", f"{point['calls_per_s']:,.0f}, {point['failed']:,} failed, {point['lost']:,} lost")
        table.add_row("rows/s in", f"{point['rows_per_s']:,.0f}")
        for title, key in (("latency ms", "latency_ms"), ("update age ms", "age_ms")):
            shown = (f"{name} {point[key][name]:,.1f}" for name in ("p50", "p90", "p99", "max") if name in point[key])
            table.add_row(title, ", ".join(shown) or "–")
        table.add_row("server", ", ".join(f"{name} {value:,.0f}" for name, value in point["server"].items()) or "–")
        table.add_row("bots", f"CPU {point['bots_cpu_percent']:.0f} %, {point['bots_memory_mb']:.0f} MB")
        for text, times in sorted(errors.items(), key=lambda item: -item[1])[:5]:
            table.add_row(Text(f"{times:,} x", style="red"), Text(text))
        return table
