"""Random types and values: generated codecs against the naive one, JSON there and back, damaged bytes."""

import contextlib
import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_codec import encode as naive_encode
from naive_codec import names_of, to_generic

from spacetimedb.types import (
    AlgebraicType,
    Array,
    DecodeError,
    Primitive,
    Product,
    ProductElement,
    Ref,
    Sum,
    SumVariant,
    Typespace,
    codec,
    decode_type,
    display,
    encode_type,
    from_json,
    row_to_json,
    satn_text,
    shape_of,
    to_json,
)
from spacetimedb.types.algebraic import PRIMITIVES, SPECIAL_TYPES, UNIT, option, result, type_from_json, type_to_json
from spacetimedb.types.codec_errors import explain_decode

TYPESPACE = Typespace(
    (
        Product((ProductElement("x", Primitive("F32")), ProductElement("name", Primitive("String")))),
        Sum((SumVariant("leaf", Primitive("I64")), SumVariant("node", Array(Ref(1))))),
        Sum((SumVariant("red", UNIT), SumVariant("green", UNIT))),
        option(Product((ProductElement("value", Primitive("U8")), ProductElement("next", Ref(3))))),
    )
)
NAMES = st.text(string.ascii_lowercase + "_", min_size=1, max_size=5) | st.sampled_from(["class", "len", "at", "v"])


def _product(types: list[AlgebraicType], names: list[str]) -> AlgebraicType:
    return Product(tuple(ProductElement(n, t) for n, t in zip(names, types, strict=False)))


def _sum(types: list[AlgebraicType], names: list[str]) -> AlgebraicType:
    variants = tuple(SumVariant(n, t) for n, t in zip(names, types, strict=False))
    return Sum(variants) if variants else UNIT


def _composite(inner: st.SearchStrategy[AlgebraicType]) -> st.SearchStrategy[AlgebraicType]:
    lists = st.lists(inner, max_size=5)
    names = st.lists(NAMES, min_size=5, max_size=5, unique=True)
    return (
        st.builds(_product, lists, names)
        | st.builds(_sum, lists, names)
        | st.builds(Array, inner)
        | st.builds(option, inner)
        | st.builds(result, inner, inner)
    )


LEAVES: st.SearchStrategy[AlgebraicType] = (
    st.sampled_from(PRIMITIVES) | st.sampled_from(list(SPECIAL_TYPES)) | st.builds(Ref, st.integers(0, 3))
)
TYPES = st.recursive(LEAVES, _composite, max_leaves=8)


def values(t: AlgebraicType, depth: int = 0) -> st.SearchStrategy[Any]:
    if isinstance(t, Ref):
        return st.deferred(lambda: values(TYPESPACE.types[t.index], depth + 1))
    if isinstance(t, Array):
        if t.element == Primitive("U8"):
            return st.binary(max_size=6)
        return st.lists(values(t.element, depth + 1), max_size=3 if depth < 4 else 0)
    if isinstance(t, Product):
        parts = zip(names_of(t), t.elements, strict=True)
        return st.fixed_dictionaries({name: values(e.algebraic_type, depth + 1) for name, e in parts})
    if isinstance(t, Sum):
        cases = [
            st.fixed_dictionaries({name: values(v.algebraic_type, depth + 1)})
            for name, v in zip(names_of(t), t.variants, strict=True)
            if depth < 6 or v.algebraic_type == UNIT or not isinstance(v.algebraic_type, Product)
        ]
        return st.one_of(cases) if cases else st.just({names_of(t)[0]: {}})
    return scalars(t.kind)


def scalars(kind: str) -> st.SearchStrategy[Any]:
    match kind:
        case "Bool":
            return st.booleans()
        case "String":
            return st.text(max_size=6)
        case "F32":
            return st.floats(width=32, allow_nan=False)
        case "F64":
            return st.floats(allow_nan=False)
    bits = int(kind[1:])
    return st.integers(0, (1 << bits) - 1) if kind[0] == "U" else st.integers(-1 << (bits - 1), (1 << (bits - 1)) - 1)


TYPES_AND_VALUES = TYPES.flatmap(lambda t: st.tuples(st.just(t), values(t)))


@given(TYPES)
def test_types_there_and_back(t: AlgebraicType) -> None:
    raw = encode_type(t)
    assert decode_type(raw) == (t, len(raw))
    assert type_from_json(json.loads(json.dumps(type_to_json(t)))) == t
    for size in range(len(raw)):
        with pytest.raises(DecodeError, match="data too short"):
            decode_type(raw[:size])


@settings(max_examples=200, deadline=None)
@given(TYPES_AND_VALUES)
def test_codec_does_what_the_naive_one_does(case: tuple[AlgebraicType, Any]) -> None:
    t, plain = case
    expected = naive_encode(t, plain, TYPESPACE)
    generic = to_generic(t, plain, TYPESPACE)
    made = codec(shape_of(t, TYPESPACE))
    assert made.encode(generic) == expected
    assert made.decode(expected) == (generic, len(expected))
    assert made.decode(b"\x01\x02\x03" + expected + b"\x00", 3) == (generic, 3 + len(expected))
    assert made.decode(memoryview(b"\x07" + expected), 1) == (generic, 1 + len(expected))
    assert made.fixed_size in (None, len(expected))
    explain_decode(shape_of(t, TYPESPACE), expected, 0)  # nothing is wrong with them


def assert_same_bytes(t: AlgebraicType, encoded: bytes, raw: bytes) -> None:
    """Equal, but a signalling NaN of an f32 comes back as a quiet one: Python's floats are doubles."""
    if "F32" in display(t) or "&" in display(t):
        assert len(encoded) == len(raw)
    else:
        assert encoded == raw


@settings(max_examples=200, deadline=None)
@given(TYPES_AND_VALUES, st.data())
def test_damaged_bytes_are_a_decode_error_or_a_value(case: tuple[AlgebraicType, Any], data: st.DataObject) -> None:
    t, plain = case
    raw = naive_encode(t, plain, TYPESPACE)
    made = codec(shape_of(t, TYPESPACE))
    for size in range(len(raw)):
        for cut in (raw[:size], memoryview(raw)[:size]):
            with pytest.raises(DecodeError, match="data too short for "):
                made.decode(cut)
    if raw:
        damaged = bytearray(raw)
        damaged[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(DecodeError):
            value, end = made.decode(bytes(damaged))
            assert end <= len(damaged)
            assert_same_bytes(t, made.encode(value), bytes(damaged[:end]))


@settings(max_examples=200, deadline=None)
@given(TYPES, st.binary(max_size=40))
def test_any_bytes(t: AlgebraicType, raw: bytes) -> None:
    shape = shape_of(t, TYPESPACE)
    try:
        value, end = codec(shape).decode(raw)
    except DecodeError:
        return
    assert_same_bytes(t, codec(shape).encode(value), raw[:end])
    row_to_json(shape, "untyped")(raw, 0)
    row_to_json(shape, "row")(raw, 0)
    satn_text(shape)(value)


@settings(max_examples=300, deadline=None)
@given(TYPES_AND_VALUES)
def test_json_there_and_back(case: tuple[AlgebraicType, Any]) -> None:
    t, plain = case
    raw = naive_encode(t, plain, TYPESPACE)
    value = codec(shape_of(t, TYPESPACE)).decode(raw)[0]
    for form in ("row", "untyped", "native", "typed"):
        text = to_json(t, form, TYPESPACE)(value)
        json.loads(text)
        if "null" not in text:  # infinities have no JSON
            assert from_json(t, text, TYPESPACE) == raw
            assert from_json(t, text.encode(), TYPESPACE) == raw


@settings(max_examples=300, deadline=None)
@given(TYPES, st.text('[]{}",:0123456789.eE-xnulltrue \n\\', max_size=20))
def test_any_text_is_a_decode_error_or_a_value(t: AlgebraicType, text: str) -> None:
    try:
        raw = from_json(t, text, TYPESPACE)
    except DecodeError:
        return
    assert codec(shape_of(t, TYPESPACE)).decode(raw)[1] == len(raw)
