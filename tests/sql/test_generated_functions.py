"""Generated conditions, keys, projections and replacements against plain evaluation of decoded values."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetimedb.schema.definition import ColumnDef
from spacetimedb.sql.catalog import TableRef, Tables
from spacetimedb.sql.layout import RowLayout
from spacetimedb.sql.literals import INTEGER_BITS
from spacetimedb.sql.plan import plan_subscription
from spacetimedb.sql.predicate import compile_projection, compile_replacement, key_functions
from spacetimedb.sql.resolve import ColumnRef
from spacetimedb.types.algebraic import (
    BOOL,
    BYTES,
    CONNECTION_ID,
    F32,
    F64,
    IDENTITY,
    STRING,
    TIMESTAMP,
    U8,
    U16,
    U32,
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
from sql.sample_database import default_value, encode, identity_of, row_bytes

OWNER = identity_of("owner")
SCALARS: list[AlgebraicType] = [*INTEGER_BITS, BOOL, F32, F64, STRING, BYTES, IDENTITY, CONNECTION_ID, TIMESTAMP, UUID]
TYPES = st.recursive(
    st.sampled_from([*SCALARS, UNIT]),
    lambda inner: st.one_of(
        inner.map(Array),
        inner.map(option),
        st.lists(inner, max_size=3).map(
            lambda ts: Product(tuple(ProductElement(f"f{n}", t) for n, t in enumerate(ts)))
        ),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda ts: Sum(tuple(SumVariant(f"v{n}", t) for n, t in enumerate(ts)))
        ),
    ),
    max_leaves=5,
)


@st.composite
def encodings(draw: st.DrawFn, t: AlgebraicType) -> bytes:
    """BSATN of some value of the type."""
    match t:
        case Primitive("Bool"):
            return bytes((draw(st.integers(0, 1)),))
        case Primitive("String"):
            return encode(STRING, draw(st.text(max_size=5)))
        case Primitive("F32" | "F64" as kind):
            return struct.pack("<f" if kind == "F32" else "<d", draw(st.floats(width=32)))
        case Primitive(kind):
            size = int(kind[1:]) // 8
            return draw(st.binary(min_size=size, max_size=size))
        case Array(element):
            items = draw(st.lists(encodings(element), max_size=3))
            return struct.pack("<I", len(items)) + b"".join(items)
        case Product(elements):
            return b"".join(draw(encodings(element.algebraic_type)) for element in elements)
        case Sum(variants):
            tag = draw(st.integers(0, len(variants) - 1))
            return bytes((tag,)) + draw(encodings(variants[tag].algebraic_type))
    raise TypeError(t)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_columns_are_found_whatever_stands_before_them(data: st.DataObject) -> None:
    types = data.draw(st.lists(TYPES, min_size=1, max_size=6))
    columns = [data.draw(encodings(t)) for t in types]
    row = b"".join(columns)
    layout = RowLayout(tuple(types))
    assert layout.row_size is None or layout.row_size == len(row)
    order = data.draw(st.lists(st.integers(0, len(types) - 1), min_size=1, max_size=8))
    project = compile_projection({0: layout}, [ColumnRef(0, column, types[column]) for column in order])
    assert project((row,)) == b"".join(columns[column] for column in order)
    changed = data.draw(st.dictionaries(st.integers(0, len(types) - 1), st.binary(max_size=4)))
    replace = compile_replacement(layout, changed)
    assert replace(row) == b"".join(changed.get(n, column) for n, column in enumerate(columns))
    for number, t in enumerate(types):
        if t in SCALARS and t not in (F32, F64):
            key, keys = key_functions(layout, number)
            expected = columns[number][4:] if t in (STRING, BYTES) else columns[number]
            assert key(row) == expected
            assert keys([row, row]) == [expected, expected]


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def ordered(t: AlgebraicType, encoded: bytes) -> Any:
    """A Python value that orders as the type does."""
    if t in (F32, F64):
        (value,) = struct.unpack("<f" if t == F32 else "<d", encoded)
        return (1, 0.0) if math.isnan(value) else (0, value)
    if t in (STRING, BYTES):
        return encoded[4:]
    signed = t == TIMESTAMP or (isinstance(t, Primitive) and t.kind.startswith("I"))
    return int.from_bytes(encoded, "little", signed=signed)


def literal_of(t: AlgebraicType, encoded: bytes) -> str | None:
    """Text that means the value, None if there is none."""
    value = ordered(t, encoded)
    if t == BOOL:
        return "true" if value else "false"
    if t in (F32, F64):
        return None if value[0] else repr(value[1]).replace("inf", "1e999")
    if t == STRING:
        text = value.decode().replace("'", "''")
        return f"'{text}'"
    if t == BYTES:
        return f"X'{value.hex()}'"
    if t in (IDENTITY, CONNECTION_ID, UUID):
        return "0x" + encoded[::-1].hex()
    if t == TIMESTAMP:
        return None
    return str(value)


LEADS: list[AlgebraicType] = [U8, STRING, option(STRING), Array(Array(U16))]
SOME = {t: encodings(t) for t in SCALARS}


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_comparisons(data: st.DataObject) -> None:
    t = data.draw(st.sampled_from(SCALARS))
    lead = data.draw(st.sampled_from(LEADS))
    types: list[AlgebraicType] = [lead, t, U32, t]
    columns = tuple(ColumnDef(f"c{n}", f"c{n}", kind) for n, kind in enumerate(types))
    table = TableRef(4096, "t", "t", columns, Product(()))
    first = data.draw(SOME[t])
    second = data.draw(st.one_of(st.just(first), SOME[t]))
    row = row_bytes([lead], [default_value(lead)]) + first + b"\0\0\0\0" + second
    name = data.draw(st.sampled_from(sorted(OPERATORS)))
    right = "c3"
    if data.draw(st.booleans()):
        right = literal_of(t, second) or "c3"
    expected = OPERATORS[name](ordered(t, first), ordered(t, second))
    text = f"select * from t where c1 {name} {right}"
    for form, result in (
        (text, expected),
        (f"{text} and c2 = 0", expected),
        (f"{text} and c1 {name} {right}", expected),
        (f"select * from t where (c1 {name} {right}) = true", expected),
        (f"select * from t where c1 {name} {right} = false", not expected),
        (f"select * from t where c2 > 0 or c1 {name} {right}", expected),
        (f"select * from t where c2 <> 0 or (true = (c1 {name} {right}))", expected),
    ):
        plan = plan_subscription(form, Tables([table]), OWNER)
        assert plan.filter is not None
        assert plan.filter[0](row) is result
        assert plan.filter[1]([row, row]) == ([row, row] if result else [])


@pytest.mark.parametrize("depth", [1, 20, 799])
def test_long_chain_of_comparisons(depth: int) -> None:
    table = TableRef(4096, "t", "t", (ColumnDef("flag", "flag", BOOL),), Product(()))
    plan = plan_subscription("select * from t where flag" + " = flag" * depth, Tables([table]), OWNER)
    assert plan.filter is not None
    for flag in (False, True):
        value = flag
        for _ in range(depth):
            value = value == flag
        assert plan.filter[0](bytes((flag,))) == value


def test_deep_mixed_condition() -> None:
    table = TableRef(4096, "t", "t", (ColumnDef("n", "n", U8),), Product(()))
    text = "n = 1"
    for level in range(46):
        text = f"({text} {'or' if level % 2 else 'and'} n = {level})"
    plan = plan_subscription(f"select * from t where {text}", Tables([table]), OWNER)
    assert plan.filter is not None
    assert plan.filter[0](bytes((45,)))
    assert not plan.filter[0](bytes((99,)))
