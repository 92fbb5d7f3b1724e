"""Generates the code that encodes values into BSATN; `bsatn` says what it looks like."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from functools import lru_cache, partial
from struct import pack
from typing import Any, Final, TypeAlias

import msgspec

from spacetimedb.types.codec_errors import explain_encode
from spacetimedb.types.layout import CODES, MAX_CACHED_CODECS, SIZES, check_variants, format_name, packer
from spacetimedb.types.shapes import (
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
)
from spacetimedb.types.source import SourceBuilder, compile_source, indented

if sys.byteorder != "little":
    raise ImportError("arrays of numbers are copied as they lie in memory: only little-endian machines are supported")

_MASK_64: Final = "0xFFFFFFFFFFFFFFFF"

_ARRAY_CODES: Final = frozenset("BHIQbhiqd")
"""Codes for which `array.array` checks ranges as `struct` does (it turns a too large f32 into infinity)."""


class _Fixed(msgspec.Struct):
    """A piece that `struct` packs: codes and the expressions for them."""

    codes: str
    arguments: list[str]


class _Bytes(msgspec.Struct):
    """A piece that is an expression of type bytes."""

    expression: str


_Piece: TypeAlias = _Fixed | _Bytes


def encode_function(shape: Shape, guarded: bool = True) -> tuple[list[str], dict[str, object]]:
    builder = SourceBuilder()
    statements, expression = encode_source(shape, "v", builder)
    body = [*statements, f"return {expression}"]
    if guarded:
        explain = builder.bind("explain_encode", partial(explain_encode, shape))
        handler = ["except Exception as error:", f"    raise {explain}(v, error) from None"]
        body = ["try:", *indented(body), *handler]
    return ["def encode(v):", *indented(body)], builder.names


def encode_source(shape: Shape, expression: str, builder: SourceBuilder) -> tuple[list[str], str]:
    """Code that encodes the value of `expression`: statements to run first, then an expression of type bytes.

    Whatever goes wrong raises some Exception, not always ValueError: call `explain_encode(shape, value, error)` then.
    """
    writer = _EncodeWriter(builder)
    pieces = writer.pieces(shape, expression)
    return writer.lines, writer.join(pieces)


class _EncodeWriter:
    """Collects the statements of one block."""

    def __init__(self, builder: SourceBuilder) -> None:
        self.builder = builder
        self.lines: list[str] = []

    def join(self, pieces: list[_Piece]) -> str:
        """One expression for all pieces; neighbours of fixed size are packed together."""
        merged: list[_Piece] = []
        for piece in pieces:
            last = merged[-1] if merged else None
            if isinstance(piece, _Fixed) and isinstance(last, _Fixed):
                merged[-1] = _Fixed(last.codes + piece.codes, last.arguments + piece.arguments)
            else:
                merged.append(piece)
        parts = [self._piece(piece) for piece in merged]
        if not parts:
            return 'b""'
        if len(parts) <= 4:
            return " + ".join(parts)
        return f'b"".join(({", ".join(parts)}))'

    def _piece(self, piece: _Piece) -> str:
        if isinstance(piece, _Bytes):
            return piece.expression
        if all(code == "B" for code in piece.codes) and all(a.isdigit() for a in piece.arguments):
            return repr(bytes(int(a) for a in piece.arguments))
        function = self.builder.bind(format_name("pack", piece.codes), packer(piece.codes))
        return f"{function}({', '.join(piece.arguments)})"

    def local(self, expression: str, hint: str) -> str:
        """A variable that holds the expression (itself, if it is a variable)."""
        if expression.isidentifier():
            return expression
        name = self.builder.fresh(hint)
        self.lines.append(f"{name} = {expression}")
        return name

    def block(self, head: str, pieces: Callable[[_EncodeWriter], list[_Piece]], target: str) -> None:
        """A nested block that assigns its bytes to `target`."""
        inner = _EncodeWriter(self.builder)
        made = pieces(inner)
        self.lines += [head, *indented([*inner.lines, f"{target} = {inner.join(made)}"])]

    def pieces(self, shape: Shape, expression: str, hint: str = "x") -> list[_Piece]:
        match shape:
            case Scalar(kind):
                return self._scalar(kind, expression, hint)
            case Wrapped("i64"):
                return [_Fixed("q", [expression])]
            case Wrapped(kind):
                value = self.local(expression, hint)
                self.lines.append(f"if len({value}) != {SIZES[kind]}: raise ValueError")
                return [_Fixed(f"{SIZES[kind]}s", [value])]
            case EnumShape(_, names):
                check_variants(len(names))
                value = self.local(expression, hint)
                self.lines.append(f"if {value} >= {len(names)}: raise ValueError")
                return [_Fixed("B", [value])]
            case ProductShape(cls, fields):
                if cls is None:
                    variables = [self.builder.fresh(field.name or field.attr) for field in fields]
                    targets = ", ".join(variables) + ("," if len(variables) == 1 else "")
                    self.lines.append(f"({targets}) = {expression}")
                    parts = zip(fields, variables, strict=True)
                    return [p for field, name in parts for p in self.pieces(field.shape, name, name)]
                if not fields:
                    return []
                value = self.local(expression, hint)
                return [p for f in fields for p in self.pieces(f.shape, f"{value}.{f.attr}", f.attr)]
            case OptionShape(some):
                value, target = self.local(expression, hint), self.builder.fresh("piece")
                self.lines += [f"if {value} is None:", f'    {target} = b"\\x01"']
                self.block("else:", lambda w: [_Fixed("B", ["0"]), *w.pieces(some, value, hint)], target)
                return [_Bytes(target)]
            case ResultShape(ok, err):
                return self._tagged(expression, hint, ((0, '"ok"', ok), (1, '"err"', err)))
            case SumShape(_, variants):
                check_variants(len(variants))
                if any(variant.cls is not None for variant in variants):
                    return self._instance(variants, expression, hint)
                cases = tuple((tag, str(tag), variant.shape) for tag, variant in enumerate(variants))
                return self._tagged(expression, hint, cases)
            case ArrayShape(element):
                return self._array(element, expression, hint)
            case RefShape():
                function = self.builder.bind(f"encode_type_{shape.index}", _recursive(shape).encode)
                return [_Bytes(f"{function}({expression})")]

    def _scalar(self, kind: str, expression: str, hint: str) -> list[_Piece]:
        if kind in CODES:
            return [_Fixed(CODES[kind], [expression])]
        if kind == "bool":
            return [_Fixed("?", [expression])]
        if kind == "string":
            raw = self.builder.fresh(hint)
            self.lines.append(f"{raw} = {expression}.encode()")
            return [_Fixed("I", [f"len({raw})"]), _Bytes(raw)]
        value = self.local(expression, hint)
        if kind == "bytes":
            # whatever else has a buffer may count its length in other units than bytes
            self.lines.append(f"if not isinstance({value}, bytes): raise ValueError")
            return [_Fixed("I", [f"len({value})"]), _Bytes(value)]
        if kind in ("u128", "i128"):
            codes = "QQ" if kind == "u128" else "Qq"
            return [_Fixed(codes, [f"{value} & {_MASK_64}", f"{value} >> 64"])]
        signed = ", signed=True" if kind == "i256" else ""
        return [_Fixed("32s", [f'{value}.to_bytes(32, "little"{signed})'])]

    def _tagged(self, expression: str, hint: str, cases: tuple[tuple[int, str, Shape | None], ...]) -> list[_Piece]:
        """A sum whose value is a pair (key of the variant, payload)."""
        key, payload, target = (self.builder.fresh(name) for name in ("key", hint, "piece"))
        self.lines.append(f"{key}, {payload} = {expression}")
        for tag, test, shape in cases:
            # what carries nothing must have () as its payload
            inner = shape if shape is not None else ProductShape(None, ())

            def case(w: _EncodeWriter, inner: Shape = inner, tag: int = tag) -> list[_Piece]:
                return [_Fixed("B", [str(tag)]), *w.pieces(inner, payload, hint)]

            self.block(f"{'el' if tag else ''}if {key} == {test}:", case, target)
        self.lines += ["else:", "    raise ValueError"] if cases else ["raise ValueError"]
        return [_Bytes(target)]

    def _instance(self, variants: tuple[VariantShape, ...], expression: str, hint: str) -> list[_Piece]:
        """A sum whose value is an instance of the variant's class."""
        value = self.local(expression, hint)
        kind, target = self.builder.fresh("kind"), self.builder.fresh("piece")
        self.lines.append(f"{kind} = {value}.__class__")
        for tag, variant in enumerate(variants):
            if variant.cls is None:
                raise ValueError("either every variant of a sum has a class or none")

            def case(w: _EncodeWriter, variant: VariantShape = variant, tag: int = tag) -> list[_Piece]:
                pieces: list[_Piece] = [_Fixed("B", [str(tag)])]
                if variant.shape is not None:
                    payload = f"{value}.value" if variant.kind == "value" else value
                    pieces += w.pieces(variant.shape, payload, hint)
                return pieces

            cls = self.builder.bind(variant.cls.__name__, variant.cls)
            self.block(f"{'el' if tag else ''}if {kind} is {cls}:", case, target)
        self.lines += ["else:", "    raise ValueError"]
        return [_Bytes(target)]

    def _array(self, element: Shape, expression: str, hint: str) -> list[_Piece]:
        code = CODES.get(element.kind, "?" if element.kind == "bool" else "") if isinstance(element, Scalar) else ""
        if code in _ARRAY_CODES and code:
            made = self.builder.fresh(hint)
            # [*...]: array takes bytes for its own memory, where they must be refused
            self.lines.append(f'{made} = {self.builder.bind("array", array)}("{code}", [*{expression}])')
            return [_Fixed("I", [f"len({made})"]), _Bytes(f"{made}.tobytes()")]
        values = self.local(expression, hint)
        if code:
            packed = f'{self.builder.bind("pack", pack)}(f"<{{len({values})}}{code}", *{values})'
            return [_Fixed("I", [f"len({values})"]), _Bytes(packed)]
        inner = _EncodeWriter(self.builder)
        entry = self.builder.fresh("entry")
        encoded = inner.join(inner.pieces(element, entry, "entry"))
        if not inner.lines:
            return [_Fixed("I", [f"len({values})"]), _Bytes(f'b"".join([{encoded} for {entry} in {values}])')]
        parts = self.builder.fresh("parts")
        self.lines += [f"{parts} = []", f"for {entry} in {values}:"]
        self.lines += indented([*inner.lines, f"{parts}.append({encoded})"])
        return [_Fixed("I", [f"len({parts})"]), _Bytes(f'b"".join({parts})')]


class _Recursive:
    """The encoder of a recursive type. It calls itself, so it is found through this object when it runs."""

    def __init__(self, shape: RefShape) -> None:
        self.shape = shape
        self.made: Callable[[Any], bytes] | None = None

    def encode(self, value: Any) -> bytes:
        if self.made is None:
            lines, names = encode_function(self.shape.target(), guarded=False)
            self.made = compile_source("encode recursive type", "\n".join(lines) + "\n", names, "encode")
        return self.made(value)


@lru_cache(maxsize=MAX_CACHED_CODECS)
def _recursive(shape: RefShape) -> _Recursive:
    return _Recursive(shape)
