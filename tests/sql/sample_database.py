"""A database in memory for tests of queries, made from the schemas of the SQL vectors."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from spacetimedb.schema.definition import ColumnDef
from spacetimedb.sql.catalog import TableRef, Tables
from spacetimedb.sql.plan import DeletePlan, InsertPlan, Plan, UpdatePlan
from spacetimedb.types.algebraic import (
    BOOL,
    BYTES,
    CONNECTION_ID,
    F32,
    F64,
    IDENTITY,
    PRIMITIVE_OF_KIND,
    STRING,
    TIME_DURATION,
    TIMESTAMP,
    U8,
    U64,
    UNIT,
    UUID,
    AlgebraicType,
    Array,
    Primitive,
    Product,
    ProductElement,
    Sum,
    SumVariant,
    option,
)
from spacetimedb.types.special import Identity

VECTORS = Path(__file__).parent.parent / "vectors" / "sql"
FIRST_USER_TABLE = 4096
SPECIAL: dict[str, AlgebraicType] = {
    "Identity": IDENTITY,
    "ConnectionId": CONNECTION_ID,
    "Timestamp": TIMESTAMP,
    "TimeDuration": TIME_DURATION,
    "Uuid": UUID,
    "Bytes": BYTES,
}


@cache
def vectors(name: str) -> Any:
    """A vector file, parsed."""
    return json.loads((VECTORS / f"{name}.json").read_text())


def identity_of(caller: str) -> Identity:
    """The identity of a symbolic caller."""
    return Identity.from_hex(vectors("schemas")["identities"][caller])


def type_of(text: str) -> AlgebraicType:
    """The type that a schema names: ``U32``, ``Array<String>``, ``Product(x: F32)``, ``Enum(red, green)``."""
    if text in SPECIAL:
        return SPECIAL[text]
    if text in PRIMITIVE_OF_KIND:
        return PRIMITIVE_OF_KIND[text]
    head, _, rest = text.partition("<" if "<" in text else "(")
    inner = rest[:-1]
    match head:
        case "Array":
            return Array(type_of(inner))
        case "Option":
            return option(type_of(inner))
        case "Enum":
            return Sum(tuple(SumVariant(name.strip(), UNIT) for name in inner.split(",")))
        case "Product":
            fields = [field.split(":") for field in inner.split(",")]
            return Product(tuple(ProductElement(name.strip(), type_of(kind.strip())) for name, kind in fields))
    raise ValueError(text)


def encode(t: AlgebraicType, value: Any) -> bytes:
    """BSATN of a value as the vectors write it."""
    match t:
        case Primitive("Bool"):
            return bytes((value,))
        case Primitive("String"):
            data = value.encode()
            return struct.pack("<I", len(data)) + bytes(data)
        case Primitive("F32" | "F64" as kind):
            return struct.pack("<f" if kind == "F32" else "<d", float(value))
        case Primitive(kind):
            size = int(kind[1:]) // 8
            number = int(value, 16) if isinstance(value, str) else value
            return int(number).to_bytes(size, "little", signed=kind[0] == "I")
        case Array(element) if element == U8:
            data = bytes.fromhex(value[2:])
            return struct.pack("<I", len(data)) + data
        case Array(element):
            return struct.pack("<I", len(value)) + b"".join(encode(element, item) for item in value)
        case Product(elements):
            values = value if isinstance(value, list | tuple) else [value]
            pairs = zip(elements, values, strict=True)
            return b"".join(encode(element.algebraic_type, item) for element, item in pairs)
        case Sum(variants):
            if value is None:
                return b"\x01"
            if isinstance(value, str):
                return bytes(([variant.name for variant in variants].index(value),))
            return b"\0" + encode(variants[0].algebraic_type, value)
    raise TypeError(t)


def row_bytes(types: Iterable[AlgebraicType], values: Iterable[Any]) -> bytes:
    """A row from values as the vectors write them."""
    return b"".join(encode(t, value) for t, value in zip(types, values, strict=True))


def default_value(t: AlgebraicType) -> Any:
    """Some value of the type."""
    if t == BOOL:
        return False
    if t == STRING:
        return ""
    if t in (F32, F64):
        return 0.0
    match t:
        case Primitive():
            return 0
        case Array(element):
            return "0x" if element == U8 else []
        case Product(elements):
            return [default_value(element.algebraic_type) for element in elements]
        case Sum(variants):
            return None if variants[0].name == "some" else variants[0].name
    raise TypeError(t)


class SampleDatabase:
    """Tables and rows of one schema; it is its own ``RowSource``."""

    def __init__(self, schema: dict[str, Any]) -> None:
        entries = sorted(schema["tables"], key=lambda entry: ("view" in entry, entry["name"]))
        self.tables = {entry["name"]: _table(FIRST_USER_TABLE + number, entry) for number, entry in enumerate(entries)}
        self.rules = [rule for entry in entries for rule in entry.get("rules", ())]
        self.stored: dict[int, dict[bytes, None]] = {table.table_id: {} for table in self.tables.values()}
        for name, rows in schema["rows"].items():
            table = self.tables[name]
            self.stored[table.table_id] = dict.fromkeys(self.encode(table, row) for row in rows)

    def catalog(self, is_owner: bool) -> Tables:
        """What the owner, or anybody else, may read."""
        every = Tables([*self.tables.values(), VARIABLES])
        return every if is_owner else every.public(self.rules)

    def encode(self, table: TableRef, values: list[Any]) -> bytes:
        """A row of the table."""
        return row_bytes((column.algebraic_type for column in table.columns), values)

    def rows(self, table_id: int) -> list[bytes]:
        """See RowSource."""
        return list(self.stored.get(table_id, ()))

    def row_count(self, table_id: int) -> int:
        """See RowSource."""
        return len(self.stored.get(table_id, ()))

    def find(self, table_id: int, column: int, key: bytes) -> None:
        """There are no indexes to look into."""

    def apply(self, plan: Plan) -> None:
        """Runs a DML plan."""
        assert isinstance(plan, InsertPlan | DeletePlan | UpdatePlan)
        stored = self.stored[plan.table.table_id]
        if isinstance(plan, InsertPlan):
            stored.update(dict.fromkeys(plan.rows))
            return
        matched = [row for row in stored if plan.matches is None or plan.matches(row)]
        for row in matched:
            del stored[row]
        if isinstance(plan, UpdatePlan):
            stored.update(dict.fromkeys(map(plan.replace, matched)))


def _table(table_id: int, entry: dict[str, Any]) -> TableRef:
    columns = tuple(
        ColumnDef(column[0], column[2] if len(column) > 2 else column[0], type_of(column[1]))
        for column in entry["cols"]
    )
    names = [column.name for column in columns]
    view = entry.get("view")
    indexes = [tuple(names.index(name) for name in index) for index in entry.get("indexes", [])]
    if view and view.get("pk"):
        indexes.append((names.index(view["pk"]),))
    return TableRef(
        table_id,
        entry["name"],
        entry.get("accessor", entry["name"]),
        columns,
        Product(tuple(ProductElement(column.name, column.algebraic_type) for column in columns)),
        tuple(indexes),
        entry.get("event", False),
        view is not None,
        False,
        entry.get("access") != "private",
    )


VARIABLES = TableRef(
    8,
    "st_var",
    "st_var",
    (ColumnDef("name", "name", STRING), ColumnDef("value", "value", Sum((SumVariant("U64", U64),)))),
    Product((ProductElement("name", STRING), ProductElement("value", Sum((SumVariant("U64", U64),))))),
    ((0,),),
    is_system=True,
)


def read_u32(data: bytes, at: int) -> tuple[int, int]:
    """(number, position behind it)."""
    return int.from_bytes(data[at : at + 4], "little"), at + 4


def read_row_list(data: bytes, at: int) -> tuple[list[bytes], int]:
    """(rows of a BsatnRowList, position behind it); refuses lists that clients could not read."""
    tag = data[at]
    at += 1
    if tag == 0:
        size = int.from_bytes(data[at : at + 2], "little")
        assert size > 0
        length, at = read_u32(data, at + 2)
        assert length > 0
        assert length % size == 0
        return [data[at + n : at + n + size] for n in range(0, length, size)], at + length
    assert tag == 1
    count, at = read_u32(data, at)
    offsets = list(struct.unpack_from(f"<{count}Q", data, at))
    length, at = read_u32(data, at + 8 * count)
    ends = [*offsets[1:], length] if offsets else []
    return [data[at + start : at + end] for start, end in zip(offsets, ends, strict=True)], at + length


def read_string(data: bytes, at: int) -> tuple[str, int]:
    """(text, position behind it)."""
    length, at = read_u32(data, at)
    return data[at : at + length].decode(), at + length


def read_table_rows(data: bytes) -> tuple[str, list[bytes]]:
    """(table name, rows) of a whole SingleTableRows."""
    name, at = read_string(data, 0)
    rows, at = read_row_list(data, at)
    assert at == len(data)
    return name, rows


def read_update(data: bytes) -> dict[int, list[tuple[str, list[tuple[list[bytes], list[bytes] | None]]]]]:
    """array<QuerySetUpdate>: set id to [(table, [(inserts, deletes or None for events)])], in the order sent."""
    count, at = read_u32(data, 0)
    out: dict[int, list[tuple[str, list[tuple[list[bytes], list[bytes] | None]]]]] = {}
    for _ in range(count):
        number, at = read_u32(data, at)
        table_count, at = read_u32(data, at)
        tables: list[tuple[str, list[tuple[list[bytes], list[bytes] | None]]]] = []
        for _ in range(table_count):
            name, at = read_string(data, at)
            block_count, at = read_u32(data, at)
            blocks: list[tuple[list[bytes], list[bytes] | None]] = []
            for _ in range(block_count):
                tag = data[at]
                inserts, at = read_row_list(data, at + 1)
                deletes: list[bytes] | None = None
                if tag == 0:
                    deletes, at = read_row_list(data, at)
                blocks.append((inserts, deletes))
            tables.append((name, blocks))
        assert number not in out
        out[number] = tables
    assert at == len(data)
    return out
