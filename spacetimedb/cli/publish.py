"""`spacetime publish`: uploads a module, asks before anything is lost, and shows what is wrong with it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import click

from .api import Answer, Server, is_identity, refused
from .local_key import act_as_publisher
from .options import (
    OptionalValues,
    Settings,
    anonymous_option,
    confirm,
    pass_settings,
    project_options,
    server_option,
    yes_option,
)
from .packaging import find_module, program_bytes
from .project import Target, load_project

NAME_RULE = "use lower-case letters, digits and single hyphens between them, e.g. `my-game`"
MIGRATION_ADVICE = (
    "To keep the rows of a table whose columns are renamed, removed or of another type, write a migration function: "
    "@m.migration, see docs/modules.md, Changing a module."
)
UNDER_THE_TITLE = "━"
ROUTE_MISSING = (404, 405, 501)


@click.command(cls=OptionalValues)
@click.argument("name", required=False)
@server_option
@click.option(
    "-p", "--module-path", type=click.Path(path_type=Path), help="Module: a .py file, or a directory that holds one."
)
@click.option("-b", "--bin-path", type=click.Path(path_type=Path), help="A file to upload as it is (e.g. a zip).")
@click.option(
    "-c",
    "--delete-data",
    metavar="[=always,on-conflict,never]",
    type=click.Choice(["always", "on-conflict", "never"]),
    help="Throw all data of the database away: always, or only if the change cannot be migrated.",
)
@click.option("--break-clients", is_flag=True, help="Allow changes after which connected clients must be rebuilt.")
@click.option("--num-replicas", type=int, hidden=True)
@project_options
@yes_option
@anonymous_option
@pass_settings
def publish(
    settings: Settings,
    name: str | None,
    server: str | None,
    module_path: Path | None,
    bin_path: Path | None,
    delete_data: str | None,
    break_clients: bool,
    num_replicas: int | None,
    env: str | None,
    no_config: bool,
    yes: frozenset[str],
    anonymous: bool,
) -> None:
    """Uploads a module to the database NAME, which is made if it does not exist.

    Without --module-path the module is looked for in the current directory. Of a project with a spacetime.json NAME is
    one of its databases, or a pattern (`game-*`); without NAME all are published.
    """
    project = None if no_config else load_project(env)
    targets = [] if project is None else project.matching(name)
    if project is not None and not targets and name is not None:
        click.echo(f"{name} is not in {project.file}, which is not looked at.")
    if len(targets) > 1 and (module_path or bin_path):
        raise click.UsageError(f"which of {', '.join(t.name or '' for t in targets)} is made of this module? Give NAME")
    for target in targets or [Target(name, None, None, False, False, ())]:
        given = bin_path or module_path or target.source or Path(".")
        _publish_one(
            settings,
            target.name,
            server or target.server,
            given if bin_path is not None else find_module(given),
            delete_data,
            break_clients or target.break_clients,
            num_replicas,
            yes,
            anonymous or target.anonymous,
        )


def _publish_one(
    settings: Settings,
    name: str | None,
    server: str | None,
    source: Path,
    delete_data: str | None,
    break_clients: bool,
    num_replicas: int | None,
    yes: frozenset[str],
    anonymous: bool,
) -> None:
    """Publishes one module to one database, made anew without a name."""
    check_name(name)
    if not source.exists():
        raise click.ClickException(f"no such file: {source}")
    program = program_bytes(source)
    target = settings.connect(server, anonymous=anonymous)
    act_as_publisher(target, settings.paths.key_dir)
    click.echo(f"Uploading {_shown(source)} to {target.url}")
    query: dict[str, str | None] = {"num_replicas": None if num_replicas is None else str(num_replicas)}
    if name is None:
        if delete_data == "always":
            raise click.UsageError("--delete-data needs the NAME of a database")
        finish(target.request("POST", "/v1/database", query=query, body=program), target, source, None)
        return
    path = f"/v1/database/{quote(name, safe='')}"
    if delete_data == "always":
        _confirm_loss(name, yes)
        query["clear"] = "true"
    else:
        query |= _checked(target, path, program, name, source, delete_data, break_clients, yes)
    click.echo("Publishing module...")
    finish(target.request("PUT", path, query=query, body=program), target, source, name)


def agree_to_change(
    target: Server,
    path: str,
    program: bytes,
    name: str,
    source: Path,
    yes: frozenset[str],
    pointless: Callable[[], bool],
) -> dict[str, str | None]:
    """Shows what an update would do and asks whatever must be asked; returns the query to publish with.

    Raises Pointless when `pointless` becomes true before the answer.
    """
    return _checked(target, path, program, name, source, "ask", False, yes, pointless)


def _checked(
    target: Server,
    path: str,
    program: bytes,
    name: str,
    source: Path,
    delete_data: str | None,
    break_clients: bool,
    yes: frozenset[str],
    pointless: Callable[[], bool] | None = None,
) -> dict[str, str | None]:
    """Asks the server what the update would do; returns the query parameters to publish with."""
    plan = target.request("POST", f"{path}/pre_publish", query={"style": _style()}, body=program)
    if plan.status in ROUTE_MISSING:  # a new database, or a server without plans: it will refuse what it cannot do
        return {}
    if not plan.ok:
        raise module_refused(plan, target, name, source)
    answer = plan.json()
    if "ManualMigrate" in answer:
        reason = answer["ManualMigrate"]["reason"].rstrip()
        click.echo(reason)
        if "requires a default value annotation" in reason:
            click.echo("A new column stands last and needs a value for the rows that exist, e.g. `likes: u32 = 0`.")
        click.echo(MIGRATION_ADVICE)
        if delete_data == "on-conflict":
            click.echo("Proceeding with database clear due to --delete-data=on-conflict.")
        elif delete_data != "ask":
            raise click.ClickException(
                "this change needs a manual migration. Write a migration function, publish under another name, "
                "or give up the data with --delete-data."
            )
        _confirm_loss(name, yes, pointless)
        return {"clear": "true"}
    migration = answer["AutoMigrate"]
    shown = migration["migrate_plan"].rstrip()
    if shown and not click.unstyle(shown).endswith(UNDER_THE_TITLE):  # otherwise there is no change of tables
        click.echo(shown)
    if migration["break_clients"]:
        confirm(
            "This change disconnects all clients, which must be rebuilt. Go on?",
            break_clients or "break-clients" in yes,
            "Publishing aborted: clients would break. Allow it with --break-clients or --yes.",
            pointless,
        )
    return {"token": migration["token"], "policy": "BreakClients"}


def _style() -> str:
    return "NoColor" if os.environ.get("NO_COLOR") or not sys.stdout.isatty() else "AnsiColor"


def _confirm_loss(name: str, yes: frozenset[str], pointless: Callable[[], bool] | None = None) -> None:
    click.echo(f"This will DESTROY the current {name} module, and ALL corresponding data.")
    confirm(
        f"Are you sure you want to proceed? [deleting {name}]",
        "delete-data" in yes,
        "Publishing aborted: nobody agreed to the loss of the data (answer with --yes).",
        pointless,
    )


def finish(answer: Answer, target: Server, source: Path, name: str | None) -> None:
    """Reports a publish: the line of a success, or why it was refused."""
    if not answer.ok:
        raise module_refused(answer, target, name, source)
    success = answer.json()["Success"]
    done = "Created new" if success["op"] == "created" else "Updated"
    domain, identity = success.get("domain"), success["database_identity"]
    named = f"name: {domain}, identity: {identity}" if domain else f"identity: {identity}"
    click.echo(f"{done} database with {named}")


def module_refused(answer: Answer, target: Server, name: str | None, source: Path) -> click.ClickException:
    """Why a publish failed, in words for the module's author.

    The server knows a single file by its name alone: positions are shown with the path by which it was published.
    """
    text = answer.text.strip()
    if answer.status == 401 and "PermissionDenied" in text:
        return click.ClickException(
            f"the name `{name}` belongs to another identity on {target.url}. Choose another name, "
            "or log in as its owner (`spacetime login --token TOKEN`)."
        )
    if answer.status == 500 and text:
        if source.is_file():
            text = re.sub(rf"(?<![\w/.]){re.escape(source.name)}(?=:|\W+line \d)", lambda _: _shown(source), text)
        return click.ClickException(f"the module was not accepted:\n{text}")
    return refused(answer, target.url)


def check_name(name: str | None) -> None:
    """Database names are checked before anything is sent; texts as the server's."""
    if name is None or is_identity(name):
        return
    if not name:
        raise click.ClickException(f"database names cannot be empty: {NAME_RULE}")
    if not re.fullmatch("[a-z0-9-]+", name):
        raise click.ClickException(f"invalid characters in database name `{name}`: {NAME_RULE}")
    if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name):
        raise click.ClickException(f"invalid hyphen in database name `{name}`: {NAME_RULE}")


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd())) or "."
    except ValueError:
        return str(path)
