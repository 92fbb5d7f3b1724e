"""`spacetime bench`: the project's own benchmarks, in a source checkout, and comparison with earlier ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

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
_FILE: Final = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.option(
    "--only",
    default="",
    help="Benchmarks, with commas between (transfer,fanout,points,large-table,recovery,scrape...). Default: all.",
)
@click.option("--seconds", type=click.IntRange(1, 3600), default=15, show_default=True, help="Length of each.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write everything measured.")
@click.option("--compare", type=_FILE, help="JSON of an earlier run, shown beside.")
@click.option("--show", type=_FILE, help="JSON of a run that is shown instead of measuring.")
def bench(only: str, seconds: int, json_file: Path | None, compare: Path | None, show: Path | None) -> None:
    """Starts a server of its own, measures it with the official npm client, prints a table.

    \b
    Two earlier runs side by side:
        spacetime bench --show new.json --compare old.json
    """
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise click.ClickException(f"{json_file}: there is no such folder")
    script = find_script()
    options = ["--only", only, "--seconds", str(seconds)]
    for name, file in (("--json", json_file), ("--compare", compare), ("--show", show)):
        if file is not None:
            options += [name, str(file.resolve())]
    if show is None:
        check_node(script.parent)
    sys.exit(subprocess.run([sys.executable, str(script), *options]).returncode)


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
