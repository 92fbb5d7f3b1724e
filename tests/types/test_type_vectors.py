"""Every captured value and type: value to bytes and back, the bytes of the type, both JSON forms."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from naive_codec import from_typed_json, to_generic

from spacetimedb.types import Typespace, codec, decode_type, encode_type, from_json, row_to_json, shape_of, to_json
from spacetimedb.types.algebraic import type_from_json, type_to_json

VECTORS = Path(__file__).parent.parent / "vectors" / "bsatn"
VALUE_FILES = ("primitives", "arrays", "products", "sums", "special", "refs", "types")


def cases() -> Iterator[Any]:
    for name in VALUE_FILES:
        for case in json.loads((VECTORS / f"{name}.json").read_text())["cases"]:
            yield pytest.param(case, id=f"{name}-{case['name']}")


def value_cases() -> list[Any]:
    return [param for param in cases() if "bsatn" in param.values[0]]


def typespace_of(case: dict[str, Any]) -> Typespace:
    return Typespace(tuple(type_from_json(t) for t in case.get("typespace", [])))


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are the same number, NaN is null."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


@pytest.mark.parametrize("case", list(cases()))
def test_type(case: dict[str, Any]) -> None:
    t = type_from_json(case["type"])
    raw = bytes.fromhex(case["type_bsatn"])
    assert type_to_json(t) == case["type"]
    assert encode_type(t) == raw
    assert decode_type(b"\xff" + raw + b"\xff", 1) == (t, 1 + len(raw))


@pytest.mark.parametrize("case", value_cases())
def test_value(case: dict[str, Any]) -> None:
    t, typespace = type_from_json(case["type"]), typespace_of(case)
    raw = bytes.fromhex(case["bsatn"])
    made = codec(shape_of(t, typespace))
    value, end = made.decode(b"\xee\xee" + raw + b"\xee", 2)
    assert end == 2 + len(raw)
    assert made.encode(value) == raw
    for view in (memoryview(raw), memoryview(b"\xee" + raw)[1:]):
        again, end = made.decode(view)
        assert end == len(raw)
        assert made.encode(again) == raw
        assert type(again) is type(value)
    if case["value"] is not None:  # a float that is no number has no JSON
        expected = to_generic(t, from_typed_json(t, case["value"], typespace), typespace)
        assert value == expected or (isinstance(value, float) and math.isnan(value))


@pytest.mark.parametrize("case", value_cases())
def test_json(case: dict[str, Any]) -> None:
    t, typespace = type_from_json(case["type"]), typespace_of(case)
    raw = bytes.fromhex(case["bsatn"])
    untyped, end = row_to_json(t, "untyped", typespace)(raw, 0)
    assert end == len(raw)
    assert same(json.loads(untyped), case["value_untyped"])
    value = codec(shape_of(t, typespace)).decode(raw)[0]
    if case["name"] == "unnamed_tuple":
        typed = untyped
        with pytest.raises(ValueError, match="tuple element has no name"):
            to_json(t, "typed", typespace)
    else:
        typed = to_json(t, "typed", typespace)(value)
        assert same(json.loads(typed), case["value"])
    if "null" not in untyped or isinstance(case["value_untyped"], str):
        assert from_json(t, untyped, typespace) == raw
        assert from_json(t, typed, typespace) == raw


def test_vectors_hold_every_float_bit_for_bit() -> None:
    pattern = bytes.fromhex("010000000000f87f")  # a NaN with a payload
    value, _ = codec(shape_of(type_from_json({"F64": []}))).decode(pattern)
    assert codec(shape_of(type_from_json({"F64": []}))).encode(value) == pattern
    assert struct.pack("<d", value) == pattern
