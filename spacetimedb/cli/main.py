"""The `spacetime` command. Exit codes: 0 done, 1 failed (`Error: ...` on stderr), 2 wrong usage.

Commands are imported when they run: `spacetime --help` needs none of them, and `spacetime sql` none of the others.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final

import click

COMMANDS: Final = {
    "init": ("init:init", "Make a new project: module, tests, page."),
    "dev": ("dev:dev", "Publish at every save, show the log, serve the page."),
    "start": ("start:start", "Run a server in the foreground."),
    "publish": ("publish:publish", "Upload a module: creates the database or updates it."),
    "call": ("queries:call", "Call a reducer or procedure."),
    "sql": ("queries:sql", "Run one SQL statement."),
    "subscribe": ("subscribe:subscribe", "Print changes as they happen."),
    "logs": ("logs:logs", "Show what a module logged."),
    "describe": ("manage:describe", "Show tables and functions of a database."),
    "generate": ("generate:generate", "Generate bindings for clients."),
    "extract-schema": ("generate:extract_schema", "Print what a module defines, for the official generator."),
    "stubs": ("stubs:stubs", "Write type stubs of a module's tables."),
    "list": ("manage:list_databases", "List your databases."),
    "delete": ("manage:delete", "Delete a database with all its data."),
    "rename": ("manage:rename", "Give a database another name."),
    "backup": ("backup:backup", "Write a backup of a running database into a file."),
    "restore": ("backup:restore", "Make a database of a backup."),
    "export": ("transfer:export_tables", "Write the rows of tables into text files."),
    "import": ("transfer:import_table", "Insert rows from a text file into a table."),
    "snapshot": ("durability:snapshot", "Write a snapshot of a database now."),
    "log": ("durability:commit_log", "Check or repair the commit log of a stopped server."),
    "login": ("account:login", "Show or set the identity that commands act as."),
    "logout": ("account:logout", "Forget the saved identity."),
    "server": ("account:server", "Servers known by nickname."),
    "lock": ("manage:lock", "Protect a database from deletion."),
    "unlock": ("manage:unlock", "Undo `lock`."),
    "loadtest": ("loadtest:loadtest", "Let many bots play a scenario and measure."),
    "version": ("version:print_version", "Print the version."),
    "bench": ("bench:bench", "Run the project's benchmarks (in a source checkout)."),
}
"""By name: the module of this folder that holds the command, and what `spacetime --help` says about it."""


class Commands(click.Group):
    """The commands of `COMMANDS`, each imported when it is asked for by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--root-dir", type=click.Path(path_type=Path, file_okay=False), help="Keep everything below this directory."
)
@click.option("--config-path", type=click.Path(path_type=Path, dir_okay=False), help="Another cli.toml.")
@click.version_option(package_name="spacetimedb", prog_name="spacetime")
@click.pass_context
def main(ctx: click.Context, root_dir: Path | None, config_path: Path | None) -> None:
    """A relational database that is also the server, with modules written in Python."""
    from .config import Paths
    from .options import Settings

    ctx.obj = Settings(Paths.locate(root_dir, config_path))


if __name__ == "__main__":
    main()
