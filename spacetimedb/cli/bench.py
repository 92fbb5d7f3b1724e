"""`spacetime bench`: the project's own benchmarks, in a source checkout, and comparison with earlier ones."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "bench.py"


@click.command()
@click.option(
    "--only", default="", help="Benchmarks, with commas between: transfer,fanout,points,large-table,recovery."
)
@click.option("--seconds", type=click.IntRange(1, 3600), default=15, show_default=True, help="Length of each.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write everything measured.")
@click.option(
    "--compare",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="JSON of an earlier run, shown beside.",
)
def bench(only: str, seconds: int, json_file: Path | None, compare: Path | None) -> None:
    """Starts a server of its own, measures it with the official npm client, prints a table."""
    if not SCRIPT.is_file() or importlib.util.find_spec("rich") is None:
        raise click.ClickException(
            "the benchmarks are part of the source: run `spacetime bench` from an editable install of a checkout "
            "(scripts/setup makes one)"
        )
    if not (SCRIPT.parent / "node_modules").is_dir():
        raise click.ClickException("the npm client is missing: scripts/setup installs it")
    earlier = None if compare is None else _read(compare)
    with tempfile.TemporaryDirectory(prefix="spacetimedb-bench-") as folder:
        file = json_file or Path(folder) / "figures.json"
        command = [
            sys.executable,
            str(SCRIPT),
            "--only",
            only,
            "--seconds",
            str(seconds),
            "--json",
            str(file.resolve()),
        ]
        code = subprocess.run(command).returncode
        if code:
            sys.exit(code)
        if earlier is not None:
            show_comparison(earlier, _read(file))


def _read(path: Path) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(path.read_text())["results"]
    except (OSError, ValueError, KeyError, TypeError):
        raise click.ClickException(f"{path}: this is no JSON of `spacetime bench`") from None
    return results


def changes(earlier: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """(benchmark, figure, before, now) of all numbers that both runs have."""
    return [
        (name, figure, float(before[figure]), float(value))
        for name, figures in now.items()
        if (before := earlier.get(name))
        for figure, value in figures.items()
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in (value, before.get(figure)))
    ]


def show_comparison(earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """A table of what both runs have."""
    from rich.console import Console
    from rich.table import Table

    table = Table("benchmark", "figure", "before", "now", "change")
    for name, figure, before, value in changes(earlier, now):
        change = f"{(value - before) / before * 100:+.1f} %" if before else "–"
        table.add_row(name, figure, f"{before:,.6g}", f"{value:,.6g}", change)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
