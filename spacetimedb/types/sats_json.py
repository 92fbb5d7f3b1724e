"""JSON text of values, in the four forms that the protocol has.

    | form    | product                   | sum                  | unit | where                                      |
    |---------|---------------------------|----------------------|------|--------------------------------------------|
    | row     | object by canonical names | [tag, payload]       | {}   | rows of the JSON WebSocket protocol;       |
    |         |                           |                      |      | inside an array all has the untyped form   |
    | untyped | array                     | [tag, payload]       | []   | SQL rows over HTTP, results of procedures  |
    | native  | object                    | {"Variant": payload} | []   | module definitions, protocol messages      |
    | typed   | object                    | {"Variant": payload} | {}   | documentation; never sent                  |

Integers up to 128 bits are bare numbers with all their digits, 256-bit ones are strings "0x..." in lower case without
leading zeros ("-0x..." below zero). Floats have the fewest digits that read back as the same value, f32 at its own
precision; NaN and infinities are null. Array(U8) is a hex string. Identity and friends are products of one element.

Code is generated per shape: one `"".join` of constant texts and the texts of the parts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache, partial
from json.encoder import encode_basestring as json_string
from math import isfinite
from typing import Any, Final, Literal, TypeAlias

from spacetimedb.types.algebraic import EMPTY_TYPESPACE, AlgebraicType, Array, Primitive, Product, Ref, Sum, Typespace
from spacetimedb.types.bsatn import Buffer, codec
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
    VariantShape,
    Wrapped,
    shape_of,
)
from spacetimedb.types.source import SourceBuilder, compile_source, indented

Form: TypeAlias = Literal["row", "untyped", "native", "typed"]

MAX_CACHED_WRITERS: Final = 4096
"""Generated functions kept for reuse; the least recently used goes first."""

_F32: Final = struct.Struct("<f")

_Text: TypeAlias = tuple[bool, str]
"""(True, constant text) or (False, expression of type str)."""


def to_json(
    shape_or_type: Shape | AlgebraicType, form: Form = "row", typespace: Typespace = EMPTY_TYPESPACE
) -> Callable[[Any], str]:
    """A function from a value to its JSON text.

    ValueError if the form needs names that the type does not have.
    """
    return _writer(as_shape(shape_or_type, typespace), form)


def row_to_json(
    shape_or_type: Shape | AlgebraicType, form: Form = "untyped", typespace: Typespace = EMPTY_TYPESPACE
) -> Callable[[Buffer, int], tuple[str, int]]:
    """A function (buf, at) -> (JSON text of the BSATN value at `at`, position after it); it raises DecodeError."""
    shape = as_shape(shape_or_type, typespace)
    decode, write = codec(shape).decode, _writer(shape, form)

    def read(buf: Buffer, at: int = 0) -> tuple[str, int]:
        value, end = decode(buf, at)
        return write(value), end

    return read


def as_shape(shape_or_type: Shape | AlgebraicType, typespace: Typespace) -> Shape:
    """A shape as it is, a type as its generic shape."""
    if isinstance(shape_or_type, Ref | Sum | Product | Array | Primitive):
        return shape_of(shape_or_type, typespace)
    return shape_or_type


# --- numbers ----------------------------------------------------------------------------------------------------------


def f64_text(value: float) -> str:
    """`1.0`, `0.00001`, `1e16`, `1.5e-7`, `null` for what is no number."""
    if not isfinite(value):
        return "null"
    text = repr(float(value))
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    if exponent == "-05":
        return decimal_text(mantissa, -5)
    return f"{mantissa}e{int(exponent)}"


def f32_text(value: float) -> str:
    """As `f64_text`, with the digits that suffice for an f32."""
    if not isfinite(value):
        return "null"
    if value == 0:
        return repr(float(value))
    mantissa, exponent = _shortest_f32(value).split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    scale = int(exponent)
    return decimal_text(mantissa, scale) if -6 <= scale < 13 else f"{mantissa}e{scale}"


def _shortest_f32(value: float) -> str:
    normal = abs(value) >= 1.1754943508222875e-38  # below it, f32 has fewer than six digits
    for digits in range(6 if normal else 1, 9):
        text = f"{value:.{digits - 1}e}"
        try:
            if _F32.unpack(_F32.pack(float(text)))[0] == value:
                return text
        except OverflowError:  # rounded up past the largest f32
            pass
    return f"{value:.8e}"


def decimal_text(mantissa: str, exponent: int) -> str:
    """`d.ddd` times ten to the exponent, without an exponent."""
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.lstrip("-").replace(".", "")
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    return f"{sign}{whole}.{digits[exponent + 1 :] or '0'}"


def hex_text(value: int) -> str:
    """A 256-bit integer as a JSON string."""
    return f'"{value:#x}"'


def _bool_text(value: bool) -> str:
    return "true" if value else "false"


def _bytes_text(value: bytes) -> str:
    return f'"{bytes(value).hex()}"'


def _identity_text(value: bytes) -> str:
    return f'"{int.from_bytes(value, "little"):#x}"'


def _u128_text(value: bytes) -> str:
    return str(int.from_bytes(value, "little"))


_SCALAR_TEXTS: Final[dict[str, Callable[[Any], str]]] = {
    "bool": _bool_text,
    "string": json_string,
    "bytes": _bytes_text,
    "f32": f32_text,
    "f64": f64_text,
    "u256": hex_text,
    "i256": hex_text,
}
_WRAPPED_TEXTS: Final[dict[str, Callable[[Any], str]]] = {
    "bytes32": _identity_text,
    "bytes16": _u128_text,
    "i64": int.__repr__,
}

# --- generation -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=MAX_CACHED_WRITERS)
def _writer(shape: Shape, form: Form) -> Callable[[Any], str]:
    builder = SourceBuilder()
    writer = _JsonWriter(builder, form)
    result = writer.join(writer.texts(shape, "v"))
    lines = ["def write(v):", *indented([*writer.lines, f"return {result}"])]
    return compile_source(f"{form} JSON", "\n".join(lines) + "\n", builder.names, "write")


def _write_recursive(shape: RefShape, form: Form, value: Any) -> str:
    return _writer(shape.target(), form)(value)


class _JsonWriter:
    """Collects the statements of one block."""

    def __init__(self, builder: SourceBuilder, form: Form) -> None:
        self.builder = builder
        self.form = form
        self.lines: list[str] = []

    def join(self, texts: list[_Text]) -> str:
        """One expression for all texts."""
        merged: list[_Text] = []
        for constant, text in texts:
            if constant and merged and merged[-1][0]:
                merged[-1] = (True, merged[-1][1] + text)
            else:
                merged.append((constant, text))
        parts = [repr(text) if constant else text for constant, text in merged]
        return parts[0] if len(parts) == 1 else f'"".join(({", ".join(parts)}))'

    def local(self, expression: str, hint: str) -> str:
        if expression.isidentifier():
            return expression
        name = self.builder.fresh(hint)
        self.lines.append(f"{name} = {expression}")
        return name

    def texts(self, shape: Shape, expression: str) -> list[_Text]:
        match shape:
            case Scalar(kind):
                write = _SCALAR_TEXTS.get(kind, int.__repr__)
                return [self._call(f"{kind}_text", write, expression)]
            case Wrapped(kind, cls):
                write = _WRAPPED_TEXTS[kind]
                number = self._call(f"{kind}_text", write, expression)
                return self._product([(WRAPPED_FIELD_NAMES.get(cls), [number])])
            case ArrayShape(element):
                return self._array(element, expression)
            case ProductShape(None, fields):
                names = [self.builder.fresh(field.name or field.attr) for field in fields]
                if names:
                    self.lines.append(f"({', '.join(names)},) = {expression}")
                pairs = zip(fields, names, strict=True)
                return self._product([(field.name, self.texts(field.shape, name)) for field, name in pairs])
            case ProductShape(_, fields):
                value = self.local(expression, "x")
                return self._product([(f.name, self.texts(f.shape, f"{value}.{f.attr}")) for f in fields])
            case EnumShape(_, names):
                unit = "{}" if self.form in ("row", "typed") else "[]"
                members = tuple("".join(t for _, t in self._sum(i, n, [(True, unit)])) for i, n in enumerate(names))
                return [(False, f"{self.builder.bind('enum_texts', members)}[{expression}]")]
            case OptionShape(some):
                value = self.local(expression, "x")
                unit_shape = ProductShape(None, ())
                none = (1, "none", f"{value} is None", "()", unit_shape)
                return self._choice([none, (0, "some", "True", value, some)])
            case ResultShape(ok, err):
                value = self.local(expression, "x")
                cases = [(0, "ok", f'{value}[0] == "ok"', f"{value}[1]", ok)]
                return self._choice([*cases, (1, "err", "True", f"{value}[1]", err)])
            case SumShape(_, variants):
                value = self.local(expression, "x")
                return self._choice([self._variant(tag, variant, value) for tag, variant in enumerate(variants)])
            case RefShape():
                return [self._call(f"type_{shape.index}_text", partial(_write_recursive, shape, self.form), expression)]

    def _call(self, hint: str, function: Callable[[Any], str], expression: str) -> _Text:
        return False, f"{self.builder.bind(hint, function)}({expression})"

    def _product(self, fields: list[tuple[str | None, list[_Text]]]) -> list[_Text]:
        if self.form == "untyped":
            opening, closing = "[", "]"
        elif not fields:
            opening, closing = ("[", "]") if self.form == "native" else ("{", "}")
        else:
            opening, closing = "{", "}"
        texts: list[_Text] = [(True, opening)]
        for position, (name, value) in enumerate(fields):
            if position:
                texts.append((True, ","))
            if self.form != "untyped":
                if name is None:
                    raise ValueError("tuple element has no name")
                texts.append((True, json_string(name) + ":"))
            texts += value
        return [*texts, (True, closing)]

    def _sum(self, tag: int, name: str | None, payload: list[_Text]) -> list[_Text]:
        if self.form in ("native", "typed") and name is not None:
            return [(True, "{" + json_string(name) + ":"), *payload, (True, "}")]
        return [(True, f"[{tag},"), *payload, (True, "]")]

    def _variant(self, tag: int, variant: VariantShape, value: str) -> tuple[int, str | None, str, str, Shape]:
        shape = variant.shape or ProductShape(None, ())
        if variant.cls is None:
            return tag, variant.name, f"{value}[0] == {tag}", f"{value}[1]", shape
        payload = {"unit": "()", "value": f"{value}.value", "product": value}[variant.kind]
        test = f"{value}.__class__ is {self.builder.bind(variant.cls.__name__, variant.cls)}"
        return tag, variant.name, test, payload, shape

    def _choice(self, cases: list[tuple[int, str | None, str, str, Shape]]) -> list[_Text]:
        """Cases of a sum: tag, name, test, expression and shape of the payload."""
        target = self.builder.fresh("text")
        for number, (tag, name, test, payload, shape) in enumerate(cases):
            inner = _JsonWriter(self.builder, self.form)
            made = inner.join(self._sum(tag, name, inner.texts(shape, payload)))
            head = "else:" if number and test == "True" else f"{'el' if number else ''}if {test}:"
            self.lines += [head, *indented([*inner.lines, f"{target} = {made}"])]
        if not cases or cases[-1][2] != "True":
            self.lines += ["else:", "    raise ValueError"] if cases else ["raise ValueError"]
        return [(False, target)]

    def _array(self, element: Shape, expression: str) -> list[_Text]:
        inner = _JsonWriter(self.builder, "untyped" if self.form == "row" else self.form)
        entry = self.builder.fresh("entry")
        made = inner.join(inner.texts(element, entry))
        if not inner.lines:
            joined = f'",".join([{made} for {entry} in {expression}])'
        else:
            parts = self.builder.fresh("parts")
            self.lines += [f"{parts} = []", f"for {entry} in {expression}:"]
            self.lines += indented([*inner.lines, f"{parts}.append({made})"])
            joined = f'",".join({parts})'
        return [(True, "["), (False, joined), (True, "]")]
