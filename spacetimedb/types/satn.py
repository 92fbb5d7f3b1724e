"""SATN: the text form of values in error messages and logs.

    (a = 1, b = "x")    product (position where there is no name)      ()     unit
    (Name = value)      sum, ( = value) where there is no name         [1, 2] array
    "text"              string, not escaped                            0xff   bytes

Integers are decimal whatever their size. Nothing reads this form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any

from spacetimedb.types.algebraic import EMPTY_TYPESPACE, AlgebraicType, Typespace
from spacetimedb.types.sats_json import as_shape, decimal_text, f32_text, f64_text
from spacetimedb.types.shapes import (
    WRAPPED_FIELD_NAMES,
    ArrayShape,
    EnumShape,
    OptionShape,
    ProductShape,
    RefShape,
    ResultShape,
    Scalar,
    Shape,
    SumShape,
    Wrapped,
)


def satn_text(shape_or_type: Shape | AlgebraicType, typespace: Typespace = EMPTY_TYPESPACE) -> Callable[[Any], str]:
    """A function from a value to the text that error messages and logs show: `(a = 1, b = "x")`, `(some = [1, 2])`."""
    return partial(_satn, as_shape(shape_or_type, typespace))


def _satn(shape: Shape, value: Any) -> str:
    match shape:
        case Scalar(kind):
            return _satn_scalar(kind, value)
        case Wrapped(kind, cls):
            number = int.from_bytes(value, "little") if kind != "i64" else int(value)
            return f"({WRAPPED_FIELD_NAMES.get(cls, 0)} = {number})"
        case ArrayShape(element):
            return f"[{', '.join([_satn(element, entry) for entry in value])}]"
        case OptionShape(some):
            return "(none = ())" if value is None else f"(some = {_satn(some, value)})"
        case ResultShape(ok, err):
            return f"({value[0]} = {_satn(ok if value[0] == 'ok' else err, value[1])})"
        case EnumShape(_, names):
            return f"({names[value] or ''} = ())"
        case RefShape():
            return _satn(shape.target(), value)
        case ProductShape(cls, fields):
            values = value if cls is None else [getattr(value, field.attr) for field in fields]
            triples = zip(range(len(fields)), fields, values, strict=True)
            return f"({', '.join([f'{i if f.name is None else f.name} = {_satn(f.shape, x)}' for i, f, x in triples])})"
        case SumShape(_, variants):
            for tag, variant in enumerate(variants):
                if value[0] != tag if variant.cls is None else type(value) is not variant.cls:
                    continue
                payload = value[1] if variant.cls is None else value.value if variant.kind == "value" else value
                return f"({variant.name or ''} = {_satn(variant.shape, payload) if variant.shape else '()'})"
            raise ValueError(f"{value!r} is not a {shape.name or 'variant'}")


def _satn_scalar(kind: str, value: Any) -> str:
    match kind:
        case "bool":
            return "true" if value else "false"
        case "string":
            return f'"{value}"'
        case "bytes":
            return f"0x{bytes(value).hex()}"
        case "f32" | "f64":
            return plain_float_text(value, kind)
        case _:
            return int.__repr__(value)


def plain_float_text(value: float, kind: str = "f64") -> str:
    """Never with an exponent and without `.0`: `1`, `0.5`, `NaN`, `inf`."""
    if value != value:
        return "NaN"
    if not isfinite(value):
        return "inf" if value > 0 else "-inf"
    text = f32_text(value) if kind == "f32" else f64_text(value)
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = decimal_text(mantissa, int(exponent))
    return text.removesuffix(".0")
