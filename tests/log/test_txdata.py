"""Transaction payloads: the format's worked examples, integers of variable length, damage, generated row splitters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetimedb.hosts.database import log_name
from spacetimedb.log.row_splitter import fixed_size, skip_row, splitter
from spacetimedb.log.txdata import (
    Inputs,
    Transaction,
    decode_payload,
    decode_vint,
)
from spacetimedb.store.commit_record import leb128
from spacetimedb.types.algebraic import (
    BOOL,
    BYTES,
    F64,
    I32,
    I64,
    I128,
    IDENTITY,
    STRING,
    U8,
    U16,
    U32,
    U256,
    UNIT,
    AlgebraicType,
    Array,
    Product,
    ProductElement,
    Ref,
    Sum,
    SumVariant,
    option,
    product,
    sum_of,
)
from spacetimedb.types.bsatn import codec
from spacetimedb.types.errors import DecodeError, RecursiveType
from spacetimedb.types.shapes import shape_of

from .payloads import encode_payload

SMALLEST = bytes.fromhex("20 01 00100000 01 05000000 0000000000000000 00 00")
TRANSFER = bytes.fromhex(
    "a0 51000000 08 7472616e73666572"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 000102030405060708090a0b0c0d0e0f"
    "00401e18240a0600 01000000 02000000 0a00000000000000"
    "01 00100000 02 01000000 de03000000000000 02000000 f203000000000000"
    "01 00100000 02 01000000 e803000000000000 02000000 e803000000000000"
    "00"
)
ACCOUNT = product(id=U32, balance=I64)


def account(number: int, balance: int) -> bytes:
    return number.to_bytes(4, "little") + balance.to_bytes(8, "little")


def decode(data: bytes, row_type: Product = ACCOUNT) -> Transaction:
    transaction, end = decode_payload(data, 0, lambda _: splitter(row_type))
    assert end == len(data)
    return transaction


def test_worked_examples() -> None:
    assert encode_payload(None, [(4096, 1, account(5, 0))], [], []) == SMALLEST
    assert decode(SMALLEST) == Transaction(None, None, [(4096, [account(5, 0)])], [], [])
    args = bytes(range(32)) + bytes(range(16)) + (1_700_000_000_000_000).to_bytes(8, "little")
    args += account(1, 0)[:4] + account(2, 10)
    inserts, deletes = [account(1, 990), account(2, 1010)], [account(1, 1000), account(2, 1000)]
    inputs = Inputs("transfer", args)
    groups = [(4096, 2, b"".join(inserts))], [(4096, 2, b"".join(deletes))]
    assert encode_payload(inputs, *groups, []) == TRANSFER
    assert decode(TRANSFER) == Transaction(inputs, None, [(4096, inserts)], [(4096, deletes)], [])


def test_outputs_truncates_and_reserved_flags() -> None:
    data = bytes.fromhex("7f 03 616263 00 00 02 07000000 0b000000")
    assert decode(data) == Transaction(None, b"abc", [], [], [7, 11])
    assert decode(b"\x00") == Transaction(None, None, [], [], [])
    assert encode_payload(Inputs("x", b""), [], [], [7, 11]) == bytes.fromhex(
        "a0 02000000 01 78 00 00 02 07000000 0b000000"
    )


@given(st.integers(0, 2**64 - 1))
def test_vint_round_trip(n: int) -> None:
    data = leb128(n)
    assert decode_vint(data + b"\xff", 0) == (n, len(data))


def test_vint_limits() -> None:
    assert leb128(300) == bytes.fromhex("ac02")
    for bad in (b"", b"\x80", b"\x80" * 10 + b"\x01", b"\xff" * 9 + b"\x02"):
        with pytest.raises(DecodeError):
            decode_vint(bad, 0)


def test_many_rows_and_tables() -> None:
    rows = [account(i, i) for i in range(1000)]
    groups = [(4096 + i, 1000, b"".join(rows)) for i in range(200)]
    transaction = decode(encode_payload(None, groups, [], list(range(300))))
    assert [table_id for table_id, _ in transaction.inserts] == list(range(4096, 4296))
    assert all(got == rows for _, got in transaction.inserts)
    assert transaction.truncates == list(range(300))


def test_long_names_are_cut_at_a_character() -> None:
    assert log_name("ä" * 128) == bytes((254,)) + ("ä" * 127).encode()


def test_inserted_rows_are_reported_before_the_next_table() -> None:
    known: dict[int, Product] = {1: product(a=U8)}

    def inserted(table_id: int, rows: list[bytes]) -> None:
        if table_id == 1:
            known[rows[0][0]] = product(s=STRING)

    data = encode_payload(None, [(1, 1, b"\x09"), (9, 1, b"\x01\0\0\0x")], [(9, 1, b"\0\0\0\0")], [])
    transaction, _ = decode_payload(data, 0, lambda table_id: splitter(known[table_id]), inserted)
    assert transaction.inserts == [(1, [b"\x09"]), (9, [b"\x01\0\0\0x"])]
    assert transaction.deletes == [(9, [b"\0\0\0\0"])]


@pytest.mark.parametrize("payload", [SMALLEST, TRANSFER])
def test_every_cut_is_an_error(payload: bytes) -> None:
    for size in range(len(payload)):
        with pytest.raises(DecodeError):
            decode_payload(payload[:size], 0, lambda _: splitter(ACCOUNT))
    rows = b"\x03\0\0\0abc"
    variable = encode_payload(None, [(4096, 2, rows + rows)], [], [])
    for size in range(len(variable)):
        with pytest.raises(DecodeError):
            decode_payload(variable[:size], 0, lambda _: splitter(product(s=STRING)))


@pytest.mark.parametrize(
    "payload",
    [
        "a0 01000000 05 6162636465 00 00 00",  # the name is longer than the inputs
        "a0 ffffffff 01 61 00 00 00",
        "a0 02000000 01 ff 00 00 00",  # not UTF-8
        "20 01 00100000 ffffffff0f 00",  # four billion rows
        "20 00 00 ff7f 00000000",  # 16383 truncates
        "20 00 00 ffffffffffffffffffffff01",
    ],
)
def test_nonsense_is_an_error(payload: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(payload))


# Generated splitters


def named(types: list[AlgebraicType]) -> list[tuple[str, AlgebraicType]]:
    return [(f"f{i}", t) for i, t in enumerate(types)]


def products(children: st.SearchStrategy[AlgebraicType], least: int = 0) -> st.SearchStrategy[Product]:
    parts = st.lists(children, min_size=least, max_size=4)
    return parts.map(lambda types: Product(tuple(ProductElement(n, t) for n, t in named(types))))


def sums(children: st.SearchStrategy[AlgebraicType]) -> st.SearchStrategy[AlgebraicType]:
    parts = st.lists(children, min_size=2, max_size=4)
    return parts.map(lambda types: Sum(tuple(SumVariant(n, t) for n, t in named(types))))


TYPES: st.SearchStrategy[AlgebraicType] = st.recursive(
    st.sampled_from([BOOL, U8, U16, I32, I64, I128, U256, F64, STRING, BYTES, IDENTITY, UNIT]),
    lambda children: st.one_of(children.map(Array), products(children), sums(children), children.map(option)),
    max_leaves=12,
)


def value_bytes(t: AlgebraicType, draw: Any) -> bytes:
    """A random value of the type in BSATN."""
    size = fixed_size(t)
    match t:
        case Sum(variants):
            tag = draw(st.integers(0, len(variants) - 1))
            return bytes([tag]) + value_bytes(variants[tag].algebraic_type, draw)
        case Product(elements):
            return b"".join(value_bytes(element.algebraic_type, draw) for element in elements)
        case Array(element):
            values = [value_bytes(element, draw) for _ in range(draw(st.integers(0, 3)))]
            return len(values).to_bytes(4, "little") + b"".join(values)
    if size is not None:
        return bytes(draw(st.binary(min_size=size, max_size=size)))
    text: bytes = draw(st.text(max_size=10)).encode()
    return len(text).to_bytes(4, "little") + text


@settings(max_examples=150, deadline=None)
@given(products(TYPES, 1), st.data())
def test_splitters_of_any_type(row_type: Product, data: st.DataObject) -> None:
    rows = [value_bytes(row_type, data.draw) for _ in range(data.draw(st.integers(0, 4)))]
    buf = b"\xff" + b"".join(rows) + b"\xff" * 3
    assert splitter(row_type)(buf, 1, len(rows)) == (rows, len(buf) - 3)
    if rows:
        assert skip_row(row_type)(buf, 1) == 1 + len(rows[0])


def test_splitters_agree_with_the_codec() -> None:
    row_type = product(a=U32, s=STRING, o=option(Array(STRING)), k=sum_of(x=UNIT, y=product(p=I64, q=BYTES)), b=BOOL)
    encode = codec(shape_of(row_type)).encode
    values: list[Any] = [(1, "ä", ["x", ""], (1, (5, b"123")), True), (2, "", None, (0, ()), False)]
    rows = [encode(value) for value in values]
    assert splitter(row_type)(b"".join(rows), 0, 2) == (rows, sum(map(len, rows)))


def test_deep_types() -> None:
    deep: AlgebraicType = STRING
    for _ in range(60):
        deep = Array(option(deep))
    row = b"\x01\0\0\0\0" * 60 + b"\x02\0\0\0xy"
    assert splitter(product(v=deep))(row, 0, 1) == ([row], len(row))


def test_types_that_cannot_be_stored() -> None:
    with pytest.raises(RecursiveType):
        splitter(product(v=Ref(0)))
    with pytest.raises(DecodeError, match="unknown tag 0x2 for sum type <unknown>"):
        splitter(product(v=option(STRING)))(b"\x02", 0, 1)
