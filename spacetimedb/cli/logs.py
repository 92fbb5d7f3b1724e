"""`spacetime logs`: the module's log, one record per line."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from .options import OptionalValues, Settings, pass_settings, project_options, server_option, yes_option
from .project import load_project

LEVELS = ("trace", "debug", "info", "warn", "error", "panic")
COLOURS = {"warn": "yellow", "error": "red", "panic": "red", "debug": "bright_black", "trace": "bright_black"}
SYSTEM = "__spacetimedb__"
LINES_BEFORE_FOLLOWING = 10
CTRL_C_LOOK_S = 0.5


@click.command(cls=OptionalValues)
@click.argument("database", required=False)
@server_option
@click.option("-n", "--num-lines", type=click.IntRange(0), help="Only the last so many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on, until Ctrl-C.")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("-l", "--level", type=click.Choice(LEVELS), help="Only records of this level or worse.")
@click.option("--level-exact", is_flag=True, help="With --level: only records of just this level.")
@project_options
@yes_option
@pass_settings
def logs(
    settings: Settings,
    database: str | None,
    server: str | None,
    num_lines: int | None,
    follow: bool,
    style: str,
    level: str | None,
    level_exact: bool,
    env: str | None,
    no_config: bool,
    yes: frozenset[str],
) -> None:
    """Prints the log of DATABASE (its owner's to read); in a project it may be left out."""
    project = None if no_config else load_project(env)
    if project is not None:
        chosen = project.database(database)
        database, server = chosen.name, server or chosen.server
    if database is None:
        raise click.UsageError("which DATABASE? (there is no spacetime.json either)")
    target = settings.connect(server)
    identity = target.resolve(database)
    if follow and num_lines is None:
        num_lines = LINES_BEFORE_FOLLOWING
    query = {"num_lines": None if num_lines is None else str(num_lines), "follow": str(follow).lower()}
    try:
        with _ends_at_ctrl_c():
            for line in target.lines(f"/v1/database/{identity}/logs", query):
                record = json.loads(line)
                if _wanted(record, level, level_exact):
                    click.echo(line.decode("utf-8", "replace").rstrip("\n") if style == "json" else record_text(record))
    except KeyboardInterrupt:
        return  # how one ends --follow


@contextmanager
def _ends_at_ctrl_c() -> Iterator[None]:
    """Python notices a Ctrl-C that comes in the instant before it blocks only when the call is interrupted once more;
    where nothing more is logged that would be never. So a timer interrupts it again and again."""
    before = signal.signal(signal.SIGALRM, lambda _signal, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, CTRL_C_LOOK_S, CTRL_C_LOOK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _wanted(record: dict[str, Any], level: str | None, exact: bool) -> bool:
    if level is None:
        return True
    rank = LEVELS.index(str(record["level"]).lower())
    return rank == LEVELS.index(level) if exact else rank >= LEVELS.index(level)


def record_text(record: dict[str, Any]) -> str:
    """`TIME LEVEL: function file:line: message`; the host's own records have no location. Frames follow, indented."""
    moment = datetime.fromtimestamp(record["ts"] // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    level = str(record["level"]).upper()
    text = f"{moment}.{record['ts'] % 1_000_000:06d}Z {click.style(level.rjust(5), fg=COLOURS.get(level.lower()))}: "
    if record.get("filename") != SYSTEM:
        if record.get("function"):
            text += f"{record['function']} "
        if record.get("filename"):
            line = f":{record['line_number']}" if "line_number" in record else ""
            text += f"{record['filename']}{line}: "
    text += str(record["message"])
    for frame in record.get("trace", ()):
        text += f"\n    in {frame.get('module_name', '')} :: {frame.get('func_name', '')}"
    return text
