"""The `spacetime` command. Exit codes: 0 done, 1 failed (`Error: ...` on stderr), 2 wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .account import login, logout, server
from .api import version
from .backup import backup, restore
from .bench import bench
from .config import Paths
from .dev import dev
from .durability import commit_log, snapshot
from .generate import generate
from .init import init
from .loadtest import loadtest
from .logs import logs
from .manage import delete, describe, list_databases, lock, rename, unlock
from .options import Settings
from .publish import publish
from .queries import call, sql
from .start import start
from .stubs import stubs
from .subscribe import subscribe
from .transfer import export_tables, import_table


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--root-dir", type=click.Path(path_type=Path, file_okay=False), help="Keep everything below this directory."
)
@click.option("--config-path", type=click.Path(path_type=Path, dir_okay=False), help="Another cli.toml.")
@click.version_option(version(), prog_name="spacetime")
@click.pass_context
def main(ctx: click.Context, root_dir: Path | None, config_path: Path | None) -> None:
    """A relational database that is also the server, with modules written in Python."""
    ctx.obj = Settings(Paths.locate(root_dir, config_path))


@main.command(short_help="Print the version.")
def version_command() -> None:
    """Prints the version of this program."""
    click.echo(f"spacetime {version()} (Python {sys.version.split()[0]})")


version_command.name = "version"
for command in (
    init,
    dev,
    start,
    publish,
    call,
    sql,
    subscribe,
    logs,
    describe,
    generate,
    stubs,
    list_databases,
    delete,
    rename,
    backup,
    restore,
    export_tables,
    import_table,
    snapshot,
    commit_log,
    login,
    logout,
    server,
    lock,
    unlock,
    loadtest,
    bench,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
