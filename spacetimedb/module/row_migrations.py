"""Migration functions: what a module does with the rows of a table whose columns were once others.

    class OldPlayer(Row):
        id: Pk[u64]
        full_name: str

    @m.migration("player", OldPlayer)
    def split_name(ctx: ReducerContext, old: OldPlayer) -> None:
        first, _, last = old.full_name.partition(" ")
        ctx.db[Player].insert(Player(id=old.id, first=first, last=last))

The old row class is no table of the module: it is described by itself, and nothing of it gets into the definition that
clients see.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from spacetimedb.schema.raw_structs import RawModuleDefV10
from spacetimedb.schema.validation import ModuleDefErrors, validate
from spacetimedb.types.algebraic import Product
from spacetimedb.types.shapes import ProductShape

from .check import Check
from .check_tables import TableChecks
from .context import ReducerContext
from .declared import DeclaredTable, class_line, function_place
from .describe import policy, raw_table
from .resolver import BadAnnotation, context_class, function_annotations
from .rows import Declaration, Row

NAME_OF_OLD = "old_rows"
"""Name of the table that stands for the old one while it is described."""


class DeclaredMigration(msgspec.Struct, frozen=True, eq=False):
    """As declared: canonical name of the table, class of its rows then."""

    table: str
    old: type[Any]
    function: Callable[..., object]


class MigrationSpec(msgspec.Struct, frozen=True):
    """`function(ctx, row)` takes over a row of `table` (canonical name) if the table is stored with the columns of
    `row_type` (canonical names, inlined); `shape` makes `row` of one."""

    table: str
    name: str
    function: Callable[..., object]
    shape: ProductShape
    row_type: Product


def migration_specs(check: Check, declared: list[DeclaredMigration]) -> list[MigrationSpec]:
    """Specs of a module's migration functions; what is wrong goes to `check`."""
    found: list[MigrationSpec] = []
    for migration in declared:
        _check_signature(check, migration)
        spec = _described(check, migration)
        if spec is None:
            continue
        if any(other.table == spec.table and other.row_type == spec.row_type for other in found):
            text = f"{spec.name}: another function migrates table {spec.table} from the same columns"
            check.report(function_place(migration.function), text)
        found.append(spec)
    return found


def _check_signature(check: Check, migration: DeclaredMigration) -> None:
    function, place = migration.function, function_place(migration.function)
    name, old = function.__name__, migration.old.__name__
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        check.report(place, f"{name}: a migration function is a plain def that returns nothing")
        return
    local_names = getattr(migration.old, "__declaration__").local_names  # noqa: B009
    try:
        annotations = function_annotations(function, {**local_names, old: migration.old})
    except BadAnnotation as error:
        check.report(place, str(error))
        return
    returns = annotations.pop("return", None)
    if list(map(context_class, annotations.values())) != [ReducerContext, migration.old] or returns not in (
        None,
        type(None),
    ):
        check.report(
            place, f"{name}: a migration function is written def {name}(ctx: ReducerContext, old: {old}) -> None"
        )


def _described(check: Check, migration: DeclaredMigration) -> MigrationSpec | None:
    declaration: Declaration = getattr(migration.old, "__declaration__")  # noqa: B009
    table = DeclaredTable(object(), migration.old, NAME_OF_OLD, NAME_OF_OLD, False, False, True, (), declaration)
    alone = Check(check.case, [table], [])
    spec = TableChecks(alone).table(table)
    check.problems += alone.problems
    if spec is None:
        return None
    raw = RawModuleDefV10.of(
        typespace=alone.resolver.typespace(), tables=[raw_table(spec)], case_conversion_policy=policy(check.case)
    )
    try:
        row_type = validate(raw).tables[0].row_type
    except ModuleDefErrors as error:
        check.report((declaration.file, class_line(declaration)), str(error))
        return None
    return MigrationSpec(migration.table, migration.function.__name__, migration.function, spec.shape, row_type)


def is_row_class(value: object) -> bool:
    """Whether it is a class that derives from Row."""
    return (
        isinstance(value, type)
        and issubclass(value, Row)
        and isinstance(getattr(value, "__declaration__", None), Declaration)
    )
