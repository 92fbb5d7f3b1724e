"""Tables as queries see them, and who sees which.

A ``Catalog`` is what one caller may read: it gives no table that the caller may not see, so a private table and a
missing one are the same to the rest of this room.

Views come as tables, too. What a query reads is an *instance* of a view, the rows that one caller (or everybody, if it
does not depend on the caller) gets: a table with an id of its own and without hidden columns. A ``SchemaCatalog`` knows
views by the ids of their backing tables, which hold no rows; a ``CallerCatalog`` puts instances in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from spacetimedb.schema.definition import ColumnDef, ModuleDef, TableDef, ViewDef
from spacetimedb.schema.system_tables import SYSTEM_TABLES
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.layout import RowLayout
from spacetimedb.sql.parser import parse_subscription
from spacetimedb.sql.syntax import WholeRows
from spacetimedb.types.algebraic import AlgebraicType, Product
from spacetimedb.types.special import Identity

ViewKey = tuple[str, Identity | None]
"""An instance of a view: its canonical name, and whose it is (None: everybody's)."""
NO_TABLE: Final = 0
NO_PROJECTIONS: Final = "Column projections are not supported in subscriptions; Subscriptions must return a table type"


class TableRef(Struct, frozen=True, eq=False, dict=True):
    """A table or view. ``indexes`` are the column positions of each index, in index order; ``rules`` the texts of
    row-level security that bind the caller; ``is_per_caller`` is true for views that show each caller something else.
    """

    table_id: int
    name: str
    accessor_name: str
    columns: tuple[ColumnDef, ...]
    row_type: Product
    indexes: tuple[tuple[int, ...], ...] = ()
    is_event: bool = False
    is_view: bool = False
    is_system: bool = False
    is_public: bool = True
    rules: tuple[str, ...] = ()
    is_per_caller: bool = False

    @classmethod
    def of(cls, table_id: int, definition: TableDef) -> TableRef:
        """The table with this definition."""
        return cls(
            table_id,
            definition.name,
            definition.accessor_name,
            definition.columns,
            definition.row_type,
            tuple(index.columns for index in definition.indexes),
            definition.is_event,
            False,
            definition.is_system,
            definition.is_public,
        )

    @classmethod
    def of_view(cls, table_id: int, definition: ViewDef) -> TableRef:
        """The view with this definition; everybody may read it."""
        return cls(
            table_id,
            definition.name,
            definition.accessor_name,
            definition.columns,
            definition.row_type,
            () if definition.primary_key is None else ((definition.primary_key,),),
            is_view=True,
            is_per_caller=not definition.is_anonymous,
        )

    @cached_property
    def layout(self) -> RowLayout:
        """Where the columns are in a row."""
        return RowLayout(tuple(column.algebraic_type for column in self.columns))

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        positions = {column.name: position for position, column in enumerate(self.columns)}
        return positions | {column.accessor_name: position for position, column in enumerate(self.columns)}

    def column(self, name: str) -> int | None:
        """Position of the column that goes by this name: accessor names first, then canonical ones."""
        return self._positions.get(name)

    def type_of(self, column: int) -> AlgebraicType:
        """Type of the column at this position."""
        return self.columns[column].algebraic_type


class Catalog(Protocol):
    """What one caller may read."""

    def table(self, name: str) -> TableRef | None:
        """The readable table with this canonical name, else with this accessor name, else None."""

    def user_tables(self) -> Iterable[TableRef]:
        """All readable tables and views of the module (no system tables), tables first."""


class Tables:
    """The catalog over a fixed list of tables; ``public()`` is the part that callers other than the owner may read."""

    def __init__(self, tables: Iterable[TableRef]) -> None:
        self._tables = tuple(tables)
        self._by_name = {table.accessor_name: table for table in self._tables}
        self._by_name.update({table.name: table for table in self._tables})

    def all(self) -> tuple[TableRef, ...]:
        """Every table."""
        return self._tables

    def public(self, rules: Iterable[str] = ()) -> Tables:
        """Only the public tables, bound by these rules of row-level security.

        If a rule cannot be understood there is no telling what it protects, so nothing is left.
        """
        found: dict[TableRef, list[str]] = {}
        for rule in dict.fromkeys(rules):
            try:
                table = self.table(returned_name(rule))
            except SqlError:
                return Tables(())
            if table is None:
                return Tables(())
            found.setdefault(table, []).append(rule)
        return Tables(
            replace(table, rules=tuple(found[table])) if table in found else table
            for table in self._tables
            if table.is_public
        )

    def table(self, name: str) -> TableRef | None:
        """See ``Catalog``."""
        return self._by_name.get(name)

    def user_tables(self) -> list[TableRef]:
        """See ``Catalog``."""
        return sorted((table for table in self._tables if not table.is_system), key=lambda table: table.is_view)


class SchemaCatalog(Tables):
    """The catalog of a module's database: its tables, its views, and the system tables.

    A stranger does not see the private ones, and is bound by row-level security. ``table_ids`` maps canonical names of
    the module's tables, and of the backing tables of its views, to ids.
    """

    def __init__(self, definition: ModuleDef, table_ids: Mapping[str, int], owner: bool) -> None:
        own = [TableRef.of(table_ids[table.name], table) for table in definition.all_tables if table.name in table_ids]
        own += [TableRef.of_view(table_ids.get(view.name, NO_TABLE), view) for view in definition.all_views]
        system = [TableRef.of(table.table_id, table.definition) for table in SYSTEM_TABLES]
        every = Tables((*own, *system))
        if owner:
            super().__init__(every.all())
        else:
            super().__init__(every.public(definition.row_level_security).all())


class CallerCatalog:
    """A caller's catalog in which views stand for the instances that the caller reads.

    ``instance`` gives the table of an instance, from the table of the view; None if it does not exist yet, and then the
    query can be planned but not run. ``used`` and ``missing`` tell afterwards what was named.
    """

    def __init__(
        self, base: Tables, caller: Identity, instance: Callable[[ViewKey, TableRef], TableRef | None]
    ) -> None:
        self.used: dict[ViewKey, TableRef] = {}
        self.missing: dict[ViewKey, None] = {}
        self._base = base
        self._caller = caller
        self._instance = instance

    def table(self, name: str) -> TableRef | None:
        """See ``Catalog``."""
        table = self._base.table(name)
        if table is None or not table.is_view:
            return table
        key = table.name, self._caller if table.is_per_caller else None
        found = self.used.get(key)
        if found is None:
            found = self._instance(key, table)
            if found is None:
                self.missing[key] = None
                found = table
            self.used[key] = found
        return found

    def user_tables(self) -> Iterable[TableRef]:
        """See ``Catalog``; views as the base has them."""
        return self._base.user_tables()


def returned_name(rule: str) -> str:
    """The table, as written, that a query returns. Raises SqlError if it is none in the subscription language."""
    select = parse_subscription(rule)
    if not isinstance(select.projection, WholeRows):
        raise SqlError(NO_PROJECTIONS)
    alias = select.projection.table or select.table.alias
    for table in (select.table, *(join.table for join in select.joins)):
        if table.alias == alias:
            return table.name
    raise SqlError(f"`{alias}` is not in scope")
