"""`spacetime call` and `spacetime sql`."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from ..types.special import TimeDuration, Timestamp, Uuid
from .api import refused, require
from .options import OptionalValues, Settings, anonymous_option, pass_settings, server_option, yes_option
from .schema import Function, JsonType, Schema, resolve

REDUCER_FAILED = 530
HEX_NAMES = ("__identity__", "__connection_id__")
"""Elements of the special types that people know as hex digits."""
SPECIAL_TEXTS: dict[str, Callable[[int], str]] = {
    "__identity__": lambda number: f"0x{number:064x}",
    "__connection_id__": lambda number: f"0x{number:032x}",
    "__uuid__": lambda number: f'"{Uuid.from_int(number)}"',
    "__timestamp_micros_since_unix_epoch__": lambda micros: str(Timestamp(micros)),
    "__time_duration_micros__": lambda micros: str(TimeDuration(micros)),
}
"""What a table shows of the special types, by the name of their element."""
MAX_SHOWN = 10
"""Functions that are listed when there is none of the name."""


@click.command(cls=OptionalValues, context_settings={"ignore_unknown_options": True})
@click.argument("database")
@click.argument("function")
@click.argument("arguments", nargs=-1)
@server_option
@yes_option
@anonymous_option
@pass_settings
def call(
    settings: Settings,
    database: str,
    function: str,
    arguments: tuple[str, ...],
    server: str | None,
    yes: frozenset[str],
    anonymous: bool,
) -> None:
    """Calls FUNCTION with ARGUMENTS, each as JSON; texts may stand without quotes.

    A reducer that succeeds prints nothing, a procedure its result.
    """
    target = settings.connect(server, anonymous=anonymous)
    identity = target.resolve(database)
    schema = Schema(target.schema(identity))
    found = schema.functions.get(function)
    if found is None:
        raise click.ClickException(_unknown_function(schema, function, database, identity))
    answer = target.request(
        "POST",
        f"/v1/database/{identity}/call/{function}",
        body=arguments_json(found, arguments),
        headers={"content-type": "application/json"},
    )
    if answer.ok:
        if answer.body and found.kind == "procedure":
            click.echo(answer.text)
        return
    if answer.status == 400:
        takes, given = len(found.parameters), len(arguments)
        count = "" if takes == given else f"It takes {takes} argument{'s' * (takes != 1)}, {given} given.\n"
        raise click.ClickException(
            f"Invalid arguments provided for {found.kind} `{function}` for database `{database}` resolving to identity "
            f"`{identity}`.\n\nThe {found.kind} has the following signature:\n\t{schema.signature(found)}\n\n"
            + count
            + answer.text.strip()
        )
    if answer.status == REDUCER_FAILED:
        text = answer.text.strip()
        hint = f"\n`spacetime logs {database}` tells more." if text.endswith("encountered a fatal error.") else ""
        raise click.ClickException(f"Response text: {text}{hint}")
    require(answer, target.url)


def arguments_json(function: Function, arguments: Sequence[str]) -> str:
    """JSON array of the arguments as typed; a word for a string parameter that is no JSON string is quoted, and hex
    digits for an identity are made one."""
    written = []
    for n, argument in enumerate(arguments):
        kind = function.parameters[n][1] if n < len(function.parameters) else None
        written.append(_argument(kind and resolve(kind, function.typespace), argument))
    return "[" + ", ".join(written) + "]"


def _argument(kind: JsonType | None, text: str) -> str:
    if kind is None:
        return text
    if _element_name(kind) in HEX_NAMES and (digits := re.fullmatch(r'"?(?:0x)?([0-9a-f]+)"?', text)):
        return f'["0x{digits[1]}"]'
    if "String" not in kind:
        return text
    try:
        is_text = isinstance(json.loads(text), str)
    except ValueError:
        is_text = False
    return text if is_text else json.dumps(text, ensure_ascii=False)


def _element_name(kind: JsonType) -> str | None:
    """Name of a product's only element."""
    elements = kind["Product"]["elements"] if "Product" in kind else []
    return elements[0]["name"].get("some") if len(elements) == 1 else None


def _unknown_function(schema: Schema, name: str, database: str, identity: str) -> str:
    lines = [f"No such reducer OR procedure `{name}` for database `{database}` resolving to identity `{identity}`."]
    near = difflib.get_close_matches(name, schema.functions, 1)
    if near:
        lines += ["", f"Did you mean `{near[0]}`?"]
    for kind in ("reducer", "procedure"):
        known = [f for f in schema.functions.values() if f.kind == kind and f.callable]
        if not known:
            lines += ["", f"The database has no {kind}s."]
            continue
        shown, more = known[:MAX_SHOWN], len(known) - MAX_SHOWN
        lines += ["", f"Here are some existing {kind}s:", *(f"- {schema.signature(function)}" for function in shown)]
        if more > 0:
            lines.append(f"... ({more} {kind}{'s' * (more > 1)} not shown)")
    return "\n".join(lines)


@click.command(cls=OptionalValues)
@click.argument("database")
@click.argument("query")
@server_option
@click.option("--confirmed", type=bool, help="false: answer before the result is safe on disk.")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@yes_option
@anonymous_option
@pass_settings
def sql(
    settings: Settings,
    database: str,
    query: str,
    server: str | None,
    confirmed: bool | None,
    style: str,
    yes: frozenset[str],
    anonymous: bool,
) -> None:
    """Runs QUERY and prints the rows as a table, or the answer as it came with --format json."""
    target = settings.connect(server, anonymous=anonymous)
    identity = target.resolve(database)
    parameters = None if confirmed is None else {"confirmed": str(confirmed).lower()}
    answer = target.request("POST", f"/v1/database/{identity}/sql", query=parameters, body=query)
    if not answer.ok:
        error = refused(answer, target.url)
        advice = [text for part, text in SQL_ADVICE.items() if part in error.message]
        raise click.ClickException("\n".join([error.message, *advice]))
    if style == "json":
        click.echo(answer.text)
        return
    for result in answer.json():
        click.echo(result_table(result))


def result_table(result: dict[str, Any]) -> str:
    """One statement's rows in columns; DML has none, and then the counts of what changed are shown."""
    elements = result["schema"]["elements"]
    if not elements:
        stats = result.get("stats", {})
        done = [f"{stats[key]} {what}" for key, what in STATISTICS if stats.get(key)]
        return ", ".join(done)
    header = [element["name"].get("some", f"column {n}") for n, element in enumerate(elements)]
    types = [element["algebraic_type"] for element in elements]
    body = [[shown(value, kind) for value, kind in zip(row, types, strict=True)] for row in result["rows"]]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [
        " " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in [header, *body]
    ]
    lines.insert(1, "+".join("-" * (width + 2) for width in widths))
    return "\n".join(line.rstrip() for line in lines)


SQL_ADVICE = {
    "is not in scope": "No table of the query has such a column. Text stands in single quotes: 'Ann'.",
    "in the INSERT does not match": "INSERT names every column: INSERT INTO note (id, text) VALUES (0, 'Hello').",
}
"""What a beginner has probably meant, by a part of the server's refusal, whose text is upstream's."""

STATISTICS = (("rows_inserted", "inserted"), ("rows_updated", "updated"), ("rows_deleted", "deleted"))


def shown(value: Any, kind: JsonType) -> str:
    """A positional JSON value as SQL text: strings quoted, specials bare, products `(a = 1)`, sums `(tag = value)`."""
    if "Product" in kind:
        elements = kind["Product"]["elements"]
        names = [element["name"].get("some") for element in elements]
        if len(names) == 1 and names[0] in SPECIAL_TEXTS:
            return SPECIAL_TEXTS[names[0]](int(str(value[0]), 0))
        parts = [shown(part, element["algebraic_type"]) for part, element in zip(value, elements, strict=True)]
        named = [f"{name} = {part}" if name else part for name, part in zip(names, parts, strict=True)]
        return "(" + ", ".join(named) + ")"
    if "Sum" in kind:
        tag, payload = value
        variant = kind["Sum"]["variants"][tag]
        name = variant["name"].get("some", str(tag))
        unit = "Product" in variant["algebraic_type"] and not variant["algebraic_type"]["Product"]["elements"]
        return f"({name} = ())" if unit else f"({name} = {shown(payload, variant['algebraic_type'])})"
    if "Array" in kind:
        if isinstance(value, str):
            return f"0x{value}"
        return "[" + ", ".join(shown(part, kind["Array"]) for part in value) + "]"
    if "U256" in kind or "I256" in kind:  # hex in JSON
        return str(int(str(value), 0))
    if isinstance(value, str) and "String" not in kind:
        return value
    return json.dumps(value, ensure_ascii=False)
