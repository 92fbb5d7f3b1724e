"""Tables as queries see them, and who sees which.

A ``Catalog`` is what one caller may read: it gives no table that the caller may not see, so a private table and a
missing one are the same to the rest of this room. Views come as tables, too: ``table_id`` is then that of the caller's
instance, whose rows have no hidden columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Protocol

from msgspec import Struct

from spacetimedb.schema.definition import ColumnDef, ModuleDef, TableDef
from spacetimedb.schema.system_tables import SYSTEM_TABLES
from spacetimedb.sql.layout import RowLayout
from spacetimedb.types.algebraic import AlgebraicType, Product


class TableRef(Struct, frozen=True, eq=False, dict=True):
    """A table or view. ``indexes`` are the column positions of each index, in index order."""

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

    def public(self) -> Tables:
        """Only the public tables."""
        return Tables(table for table in self._tables if table.is_public)

    def table(self, name: str) -> TableRef | None:
        """See ``Catalog``."""
        return self._by_name.get(name)

    def user_tables(self) -> list[TableRef]:
        """See ``Catalog``."""
        return sorted((table for table in self._tables if not table.is_system), key=lambda table: table.is_view)


class SchemaCatalog(Tables):
    """The catalog of a module's database: its tables and the system tables, without the private ones for a stranger.

    ``table_ids`` maps canonical names of the module's tables to ids. Views are not in it yet.
    """

    def __init__(self, definition: ModuleDef, table_ids: Mapping[str, int], owner: bool) -> None:
        own = [TableRef.of(table_ids[table.name], table) for table in definition.all_tables if table.name in table_ids]
        system = [TableRef.of(table.table_id, table.definition) for table in SYSTEM_TABLES]
        super().__init__(table for table in (*own, *system) if owner or table.is_public)
