"""Puts the text of a table's code together; see `table_template` for what it looks like and why."""

from __future__ import annotations

from spacetimedb.types.source import SourceBuilder, indented

from .index_template import IndexTemplate
from .layout import TableLayout
from .table_template import TableTemplate, function, reserved_names

_EXPORTED = """
    rows touched refs encode prepare finish rollback adopt discard discard_all check_order recording
"""


def table_source(layout: TableLayout, flags: int) -> tuple[str, dict[str, object]]:
    """Source of `build()` and the constants of the encoder inside it, which its globals must have.

    `build()` returns a dict: the state ("rows", "touched", "refs", "indexes": a dict per index), the functions of the
    table, "writers" and "readers": method name -> function, for the table under None and for each index under its
    number, and "recording": a function that makes such readers for a callable that is told what they read.
    """
    builder = SourceBuilder(reserved_names(layout))
    table = TableTemplate(layout, builder, flags)
    indexes = [IndexTemplate(table, index) for index in layout.indexes]
    body = table.state()
    body += ["", "# The table itself"]
    body += table.encode() + table.copy_function() + table.insert() + table.try_insert() + table.remove()
    body += table.delete() + table.clear() + table_readers(table)
    for index in indexes:
        body += ["", f"# Index {index.index.name}: {', '.join(index.index.attributes)}", *index.functions()]
    body += ["", "# Transactions"]
    body += table.prepare() + table.finish() + table.rollback()
    body += ["", "# Recovery"]
    body += table.adopt() + table.discard() + table.discard_all() + table.check_order()
    body += ["", "# For views", *recording(table, indexes)]
    body += ["", *exports(table, indexes)]
    head = [f"# Table {layout.definition.name}, id {layout.table_id}", "def build():"]
    lines = [line.rstrip() for line in [*head, *indented(body)]]
    return "\n".join(lines) + "\n", builder.names


def table_readers(table: TableTemplate) -> list[str]:
    """`iter` and `count` of the whole table."""
    rows = "list(rows.values())"
    every = f"iter({rows})" if table.is_shared else f"map(copier, {rows})"
    return function("iter_rows()", [f"return {every}"]) + function("count()", ["return len(rows)"])


def recording(table: TableTemplate, indexes: list[IndexTemplate]) -> list[str]:
    whole = f"record(({table.layout.table_id}, None, None))"
    body = function("recorded_iter()", [whole, "return iter_rows()"])
    body += function("recorded_count()", [whole, "return len(rows)"])
    for index in indexes:
        body += index.recording()
    entries = ['None: {"iter": recorded_iter, "count": recorded_count},']
    for index in indexes:
        names = {name: f"recorded_{text}" for name, text in index.names(writing=False).items()}
        entries.append(f"{index.n}: {_dict(names)},")
    return function("recording(record)", [*body, "", "return {", *indented(entries), "}"])


def exports(table: TableTemplate, indexes: list[IndexTemplate]) -> list[str]:
    """The value of `build()`."""
    reading = {"iter": "iter_rows", "count": "count"}
    writing = reading | {name: name for name in ("insert", "try_insert", "delete", "clear")}
    lines = [f'"{name}": {name},' for name in _EXPORTED.split()]
    lines.append(f'"indexes": {{{", ".join(f"{i.n}: by_{i.n}" for i in indexes)}}},')
    for title, is_writing, own in (("writers", True, writing), ("readers", False, reading)):
        lines.append(f'"{title}": {{')
        lines += [f"    None: {_dict(own)},"]
        lines += [f"    {index.n}: {_dict(index.names(is_writing))}," for index in indexes]
        lines.append("},")
    return ["return {", *indented(lines), "}"]


def _dict(names: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{name}": {function_name}' for name, function_name in names.items()) + "}"
