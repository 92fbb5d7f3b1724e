"""`spacetime bench`: the project's own benchmarks, in a source checkout, and comparison with earlier ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click

OWN_CHECKOUT: Final = Path(__file__).resolve().parents[2]
SCRIPT: Final = Path("scripts", "bench", "bench.py")
NODE_MAJOR: Final = 20
NO_SOURCE: Final = (
    "the benchmarks are part of the source. Run `spacetime bench` in a checkout of it (the folder that has "
    "scripts/bench), or below: what is installed here is measured then."
)
NO_NODE: Final = (
    f"the benchmarks drive the server with the official npm client, and need Node {NODE_MAJOR} or newer{{found}}: "
    "https://nodejs.org, or `apt-get install nodejs npm`."
)


@click.command()
@click.option(
    "--only",
    default="",
    help="Benchmarks, with commas between (transfer,fanout,points,large-table,recovery,scrape...). Default: all.",
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
    earlier = None if compare is None else _read(compare)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise click.ClickException(f"{json_file}: there is no such folder")
    script = find_script()
    check_node(script.parent)
    with tempfile.TemporaryDirectory(prefix="spacetimedb-bench-") as folder:
        file = json_file or Path(folder) / "figures.json"
        options = ["--only", only, "--seconds", str(seconds), "--json", str(file.resolve())]
        code = subprocess.run([sys.executable, str(script), *options]).returncode
        if code:
            sys.exit(code)
        if earlier is not None:
            show_comparison(earlier, _read(file))


def find_script() -> Path:
    """The program that measures: of the checkout that this package stands in, or of the one around the working
    directory. Raises ClickException."""
    here = Path.cwd()
    for root in (OWN_CHECKOUT, here, *here.parents):
        if (root / SCRIPT).is_file():
            return root / SCRIPT
    raise click.ClickException(NO_SOURCE)


def check_node(folder: Path) -> None:
    """Raises ClickException if there is no Node, or it is too old; installs the npm client into `folder` if it is
    missing there."""
    node = shutil.which("node")
    if node is None:
        raise click.ClickException(NO_NODE.format(found=""))
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    major = version.lstrip("v").partition(".")[0]
    if not major.isdigit() or int(major) < NODE_MAJOR:
        raise click.ClickException(NO_NODE.format(found=f" (this is {version or 'none that runs'})"))
    if (folder / "node_modules").is_dir():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise click.ClickException(
            f"the npm client is missing in {folder}, and there is no npm to install it: `apt-get install npm`, "
            "or whatever your Node came from."
        )
    click.echo(f"Installing the npm client into {folder}", err=True)
    if subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder).returncode:
        raise click.ClickException(f"`npm ci` in {folder} failed")


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
