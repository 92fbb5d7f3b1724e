"""A check for developers: every reducer runs twice, and both runs must do the same.

A reducer may depend on its arguments, its context and the tables, on nothing else: not on what an earlier call left in
a global, on the order of a set, or on an object's address. So the first run is undone, with the numbers that it took
from sequences, and its changes and its exception are compared with those of the second, which is the one that counts.
What the first run logs is left out.

Reducers that run inside a transaction of the server's own (`init`, those that greet and dismiss clients) and the
transactions of procedures run once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spacetimedb.hosts.database import Database
    from spacetimedb.store.table import Table

TableChanges = Mapping[Any, bytes | None]
"""By key: the row as the transaction leaves it, None if it is gone; keys that end as they began are absent."""


class NotDeterministic(Exception):
    """Two runs of a reducer with the same input did different things; the text says what."""


def run_twice(database: Database, name: str, function: Callable[..., object]) -> Callable[..., None]:
    """The reducer's function with the check around it, which raises NotDeterministic."""

    def checked(context: Any, *values: Any) -> None:
        store, log = database.store, database.log
        arguments, first_context = deepcopy(values), copy(context)
        mark = store.mark()
        first_error: Exception | None = None
        log.is_muted = True
        try:
            function(first_context, *arguments)
        except Exception as error:
            first_error = error
        finally:
            log.is_muted = False
        first = _changes(database)
        store.go_back(mark)
        database.budget.begin()
        try:
            function(context, *values)
        except Exception as error:
            _compare(name, database, first, _changes(database), first_error, error)
            raise
        _compare(name, database, first, _changes(database), first_error, None)

    return checked


def _changes(database: Database) -> Mapping[int, TableChanges]:
    """What the running transaction has changed so far, by table id."""
    found: dict[int, TableChanges] = {}
    for table in database.store.dirty:
        changed = {}
        for key, old in table.touched.items():
            row = table.rows.get(key)
            image = None if row is None else table.encode(row)
            if image != (None if old is None else table.encode(old)):
                changed[key] = image
        if changed:
            found[table.table_id] = changed
    return found


def _compare(
    name: str,
    database: Database,
    first: Mapping[int, TableChanges],
    second: Mapping[int, TableChanges],
    first_error: Exception | None,
    second_error: Exception | None,
) -> None:
    errors = [
        "returned" if error is None else f"raised {type(error).__name__}: {error}"
        for error in (first_error, second_error)
    ]
    if errors[0] != errors[1]:
        raise NotDeterministic(_text(name, f"one {errors[0]}, the other {errors[1]}")) from second_error
    for table_id in sorted(first.keys() | second.keys()):
        table = database.store.tables[table_id]
        one, other = first.get(table_id, {}), second.get(table_id, {})
        for key in (*one, *other):
            if one.get(key) != other.get(key) or (key in one) != (key in other):
                rows = f"{_shown(table, key, one)}, the other {_shown(table, key, other)}"
                raise NotDeterministic(_text(name, f"in table `{table.name}` one {rows}")) from second_error


def _text(name: str, what: str) -> str:
    return f"`{name}` is not deterministic: of two runs with the same input, {what}"


def _shown(table: Table, key: Any, changes: TableChanges) -> str:
    if key not in changes:
        return f"did not touch the row with key {key!r}"
    image = changes[key]
    return f"deleted the row with key {key!r}" if image is None else f"left {table.decode(image)!r}"
