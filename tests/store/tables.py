"""Tables for the store's tests: row classes, definitions built from a few words, and a store around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.region import Region
from spacetimedb.module.rows import Row
from spacetimedb.schema.definition import ColumnDef, IndexAlgorithm, IndexDef, SequenceDef, TableDef, UniqueDef
from spacetimedb.store.store import Store
from spacetimedb.store.table import Table
from spacetimedb.types.algebraic import Product, ProductElement
from spacetimedb.types.shapes import FieldShape, ProductShape, Scalar, ScalarKind, Shape

U8, U16, U32, U64, I8, I16, I64 = (Scalar(k) for k in ("u8", "u16", "u32", "u64", "i8", "i16", "i64"))
BOOL, F32, F64, STRING, BYTES = (Scalar(k) for k in ("bool", "f32", "f64", "string", "bytes"))
UNIT = Product(())


class Index(msgspec.Struct, frozen=True):
    """An index of a test table over columns separated by spaces."""

    columns: str
    algorithm: IndexAlgorithm = "btree"
    is_unique: bool = False
    accessor: str | None = None


def unique(columns: str, algorithm: IndexAlgorithm = "btree", accessor: str | None = None) -> Index:
    return Index(columns, algorithm, True, accessor)


def shape_from(cls: type[Any] | None, columns: Mapping[str, Shape]) -> ProductShape:
    return ProductShape(cls, tuple(FieldShape(name, name, shape) for name, shape in columns.items()))


def define(
    name: str,
    columns: Mapping[str, Shape],
    *indexes: Index,
    key: str | None = None,
    sequences: tuple[SequenceDef, ...] = (),
    is_event: bool = False,
) -> TableDef:
    """The definition of a table. Column types are not looked at by the store and are all unit here."""
    names = list(columns)
    made = []
    for index in indexes:
        positions = tuple(names.index(column) for column in index.columns.split())
        title = f"{name}_{'_'.join(index.columns.split())}_idx_{index.algorithm}"
        made.append(IndexDef(title, title, index.accessor, index.algorithm, positions, index.is_unique))
    return TableDef(
        name=name,
        accessor_name=name,
        columns=tuple(ColumnDef(column, column, UNIT) for column in names),
        row_type=Product(tuple(ProductElement(column, UNIT) for column in names)),
        type_ref=0,
        primary_key=None if key is None else names.index(key),
        indexes=tuple(made),
        constraints=tuple(
            UniqueDef(index.name.replace("_idx_btree", "_key"), index.columns) for index in made if index.is_unique
        ),
        sequences=sequences,
        is_event=is_event,
    )


def new_store(**limits: int) -> Store:
    return Store(RowHeap(Region.private(1 << 28)), **limits)


def check(store: Store) -> None:
    """Tables, indexes, refs and the heap's blocks all agree."""
    store._check()
    live = [ref for table in store.tables.values() for ref in table.refs_by_key.values()]
    assert isinstance(store.heap, RowHeap)
    store.heap._check(live)


class Player(Row):
    """The usual case: key, another unique column, an ordered index, text."""

    id: int
    name: str
    level: int = 0
    note: str = ""


PLAYER_COLUMNS: dict[str, Shape] = {"id": U32, "name": STRING, "level": I16, "note": STRING}
PLAYER = define("player", PLAYER_COLUMNS, unique("id"), unique("name"), Index("level"), key="id")


class Account(Row):
    """Two columns of fixed size."""

    id: int
    balance: int


ACCOUNT_COLUMNS: dict[str, Shape] = {"id": U32, "balance": I64}
ACCOUNT = define("account", ACCOUNT_COLUMNS, unique("id"), key="id")


def player_table(store: Store, table_id: int = 4096) -> Table:
    return store.add_table(table_id, PLAYER, shape_from(Player, PLAYER_COLUMNS))


def account_table(store: Store, table_id: int = 4100) -> Table:
    return store.add_table(table_id, ACCOUNT, shape_from(Account, ACCOUNT_COLUMNS))


def integer_kind(bits: int, is_signed: bool) -> ScalarKind:
    kinds: dict[tuple[int, bool], ScalarKind] = {(8, False): "u8", (8, True): "i8", (64, False): "u64"}
    return kinds[bits, is_signed]
