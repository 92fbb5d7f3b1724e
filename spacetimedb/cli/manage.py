"""Commands about databases as wholes: `describe`, `list`, `delete`, `rename`."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click

from .api import require, token_identity
from .options import OptionalValues, Settings, anonymous_option, confirm, pass_settings, server_option, yes_option
from .schema import Schema, display, resolve


@click.command(cls=OptionalValues)
@click.argument("database")
@click.argument("kind", required=False, type=click.Choice(["table", "reducer"]))
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="The module's definition as JSON.")
@server_option
@yes_option
@anonymous_option
@pass_settings
def describe(
    settings: Settings,
    database: str,
    kind: str | None,
    name: str | None,
    as_json: bool,
    server: str | None,
    yes: frozenset[str],
    anonymous: bool,
) -> None:
    """Prints what DATABASE consists of: everything, or one table or reducer."""
    if (kind is None) != (name is None):
        raise click.UsageError("name what to describe: table NAME or reducer NAME")
    target = settings.connect(server, anonymous=anonymous)
    schema = Schema(target.schema(target.resolve(database)))
    if not as_json and kind is None:
        click.echo(summary(schema))
        return
    body: Any = schema.body
    if kind == "table":
        body = schema.tables[name].raw if name in schema.tables else None
    elif kind == "reducer":
        body = schema.raw_functions.get(name or "")
    if body is None:
        raise click.ClickException(f"no such {kind}: `{name}`. `spacetime describe {database}` shows all there are.")
    if as_json:
        click.echo(json.dumps(body, indent=2, ensure_ascii=False))
    else:
        click.echo(_table(schema, name or "") if kind == "table" else _function(schema, name or ""))


def summary(schema: Schema) -> str:
    """Tables with their columns, then the functions, for people."""
    tables = [_table(schema, name) for name in schema.tables]
    return "\n".join(tables + [_function(schema, name) for name in schema.functions])


def _table(schema: Schema, name: str) -> str:
    table = schema.tables[name]
    lines = [f"{'view' if table.is_view else 'table'} {table.name}" + ("" if table.is_public else "  (private)")]
    key = table.raw.get("primary_key", [])
    for n, element in enumerate(resolve(table.row_type, table.typespace)["Product"]["elements"]):
        mark = "  primary key" if [n] == list(key) else ""
        lines.append(
            f"    {element['name'].get('some', n)}: {display(element['algebraic_type'], table.typespace)}{mark}"
        )
    return "\n".join(lines)


def _function(schema: Schema, name: str) -> str:
    function = schema.functions[name]
    return f"{function.kind} {schema.signature(function)}" + ("" if function.callable else "  (not for clients)")


@click.command("list", cls=OptionalValues)
@server_option
@yes_option
@pass_settings
def list_databases(settings: Settings, server: str | None, yes: frozenset[str]) -> None:
    """Lists the databases that belong to you on the server."""
    target = settings.connect(server)
    me = token_identity(target.token or "")
    if me is None:
        raise click.ClickException("the saved login names no identity: `spacetime logout` forgets it")
    identities = require(target.request("GET", f"/v1/identity/{me}/databases"), target.url).json()["identities"]
    if not identities:
        click.echo(f"No databases found for {me}.")
        return
    rows = []
    for identity in identities:
        answer = target.request("GET", f"/v1/database/{identity}/names", authorized=False)
        rows.append((", ".join(answer.json()["names"]) if answer.ok else "", identity))
    width = max(len("Database Name(s)"), *(len(names) for names, _ in rows))
    click.echo(f"Associated databases for user {me}:\n")
    click.echo(f" {'Database Name(s)'.ljust(width)} | Identity")
    click.echo(f"{'-' * (width + 2)}+{'-' * 66}")
    for names, identity in rows:
        click.echo(f" {names.ljust(width)} | {identity}")


@click.command(cls=OptionalValues)
@click.argument("database")
@server_option
@yes_option
@pass_settings
def delete(settings: Settings, database: str, server: str | None, yes: frozenset[str]) -> None:
    """Deletes DATABASE. Its name stays yours."""
    target = settings.connect(server)
    identity = target.resolve(database)
    if yes:
        click.echo("Skipping confirmation due to --yes")
    confirm(
        f"Delete {database} ({identity}) and all its data?",
        bool(yes),
        "not deleted: nobody agreed to it (answer with --yes)",
    )
    require(target.request("DELETE", f"/v1/database/{identity}"), target.url)


@click.command(cls=OptionalValues)
@click.argument("database")
@server_option
@yes_option
@pass_settings
def lock(settings: Settings, database: str, server: str | None, yes: frozenset[str]) -> None:
    """Protects DATABASE from `delete` and `publish --delete-data`, until `unlock`."""
    target = settings.connect(server)
    identity = target.resolve(database)
    require(target.request("POST", f"/v1/database/{identity}/lock"), target.url)
    click.echo(f"Database {identity} is now locked. It cannot be deleted until unlocked.")


@click.command(cls=OptionalValues)
@click.argument("database")
@server_option
@yes_option
@pass_settings
def unlock(settings: Settings, database: str, server: str | None, yes: frozenset[str]) -> None:
    """Allows DATABASE to be deleted again."""
    target = settings.connect(server)
    identity = target.resolve(database)
    require(target.request("POST", f"/v1/database/{identity}/unlock"), target.url)
    click.echo(f"Database {identity} is now unlocked.")


@click.command(cls=OptionalValues)
@click.argument("database")
@click.option("--to", "new_name", required=True, metavar="NAME", help="The new name.")
@server_option
@yes_option
@pass_settings
def rename(settings: Settings, database: str, new_name: str, server: str | None, yes: frozenset[str]) -> None:
    """Replaces the names of DATABASE by one new name."""
    target = settings.connect(server)
    answer = target.request(
        "PUT",
        f"/v1/database/{quote(database, safe='')}/names",
        body=json.dumps([new_name]),
        headers={"content-type": "application/json"},
    )
    if answer.status == 401 and "NotYourDatabase" in answer.text:
        raise click.ClickException(f"You cannot rename {database} because it is owned by another identity.")
    require(answer, target.url)
    click.echo(f"Name set to {new_name} for identity {database}.")
