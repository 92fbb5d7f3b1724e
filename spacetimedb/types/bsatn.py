"""BSATN: the binary form of values. Codecs are Python code generated per shape.

Positional, no padding, integers little-endian:

    bool                 1 byte, 00 or 01
    u8..u256, i8..i256   1 to 32 bytes, two's complement
    f32, f64             IEEE 754 bits (a signalling NaN of an f32 becomes a quiet one: Python's floats are doubles)
    string, bytes        u32 byte length, bytes (string: UTF-8)
    array                u32 count, elements
    product              elements in order
    sum                  u8 tag, payload (an option is a sum: 00 some, 01 none)

Generated code. `encode` reads the fields of the value, then builds the bytes from as few pieces as possible: fields of
fixed size that follow each other, lengths and tags included, become one call of a precompiled `struct.Struct`:

    def encode(v):
        try:
            name = v.name.encode()
            return pack_QI(v.id, len(name)) + name + pack_H(v.level)
        except Exception as error:
            raise explain_encode(shape, v, error) from None

`decode` does the reverse. It does not check sizes where it need not: a slice past the end is harmless as long as a
later read at a position behind it fails, so only the last one is compared with the size of the buffer:

    def decode(buf, at=0):
        try:
            id_1, n = unpack_QI(buf, at)
            start = at + 12
            end = start + n
            name = buf[start:end].decode()
            (level,) = unpack_H(buf, end)
            return Player(id=id_1, name=name, level=level), end + 2
        except Exception:
            explain_decode(shape, buf, at)
            raise

When anything goes wrong a slow walk (`interpreted`) finds out what, so exact error texts cost nothing on the way.
`encode_source` and `decode_source` give the same code as text, for generators that put it into functions of their own.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from functools import lru_cache, partial
from mmap import mmap
from struct import Struct as Format
from struct import pack
from typing import Any, Final, TypeAlias

import msgspec

from spacetimedb.types.errors import DecodeError
from spacetimedb.types.interpreted import INTEGER_BITS, MAX_ZERO_SIZED_ELEMENTS, explain_decode, explain_encode
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

Buffer: TypeAlias = bytes | memoryview | mmap

MAX_CACHED_CODECS: Final = 4096
"""Codecs kept for reuse; the least recently used goes first."""

MAX_VARIANTS: Final = 256

_MASK_64: Final = "0xFFFFFFFFFFFFFFFF"
_BOOLS: Final = (False, True)

_CODES: Final[dict[str, str]] = dict(
    zip(("u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64"), "BHIQbhiqfd", strict=True)
)
"""Scalars that are one `struct` code as they are."""

_ARRAY_CODES: Final = frozenset("BHIQbhiqd")
"""Codes for which `array.array` checks ranges as `struct` does (it turns a too large f32 into infinity)."""

_SIZES: Final[dict[str, int]] = {kind: bits // 8 for kind, bits in INTEGER_BITS.items()}
_SIZES.update(bool=1, f32=4, f64=8, bytes16=16, bytes32=32)


class Codec:
    """Encoder and decoder for the values of one shape.

    encode(value) -> bytes; ValueError naming field and value if it is no value of the shape.
    decode(buf, at=0) -> (value, position after it); DecodeError if there is none. Bytes after it are ignored.
    Both are plain functions: bind them to local names in hot code. `source` is their text.
    `fixed_size` is the size in bytes if it is the same for all values, else None.
    """

    __slots__ = ("decode", "encode", "fixed_size", "shape", "source")

    def __init__(self, shape: Shape) -> None:
        title = _title(shape)
        encode_lines, encode_names = _encode_function(shape)
        decode_lines, decode_names = _decode_function(shape)
        encode_text, decode_text = "\n".join(encode_lines) + "\n", "\n".join(decode_lines) + "\n"
        self.shape = shape
        self.fixed_size = fixed_size(shape)
        self.source = encode_text + "\n\n" + decode_text
        self.encode: Callable[[Any], bytes] = compile_source(f"encode {title}", encode_text, encode_names, "encode")
        self.decode: Callable[..., tuple[Any, int]] = compile_source(
            f"decode {title}", decode_text, decode_names, "decode"
        )

    def decode_exact(self, buf: Buffer, at: int = 0) -> Any:
        """The value that fills the rest of `buf`; DecodeError if bytes are left over."""
        value, end = self.decode(buf, at)
        if end != len(buf):
            raise DecodeError(f"unexpected data length: Expected {end - at}, given {len(buf) - at}")
        return value

    def __repr__(self) -> str:
        return f"<Codec {_title(self.shape)}>"


@lru_cache(maxsize=MAX_CACHED_CODECS)
def codec(shape: Shape) -> Codec:
    """The codec of a shape, generated when first asked for."""
    return Codec(shape)


def fixed_size(shape: Shape) -> int | None:
    """Bytes that every value takes, None if values differ."""
    match shape:
        case Scalar(kind) | Wrapped(kind):
            return _SIZES.get(kind)
        case EnumShape():
            return 1
        case ProductShape(_, fields):
            total = 0
            for field in fields:
                size = fixed_size(field.shape)
                if size is None:
                    return None
                total += size
            return total
        case _:
            return None


def _smallest_size(shape: Shape) -> int:
    """Bytes that any value takes at least."""
    match shape:
        case Scalar(kind) | Wrapped(kind):
            return _SIZES.get(kind, 4)
        case ProductShape(_, fields):
            return sum(_smallest_size(field.shape) for field in fields)
        case ArrayShape():
            return 4
        case _:
            return 1  # a tag; a recursive type has one somewhere, else it would have no values


def _title(shape: Shape) -> str:
    match shape:
        case ProductShape(cls):
            return cls.__name__ if cls is not None else "product"
        case Scalar(kind):
            return kind
        case Wrapped(_, cls):
            return cls.__name__
        case SumShape(name):
            return name or "sum"
        case _:
            return type(shape).__name__.removesuffix("Shape").lower()


def _format_name(kind: str, codes: str) -> str:
    return f"{kind}_{codes.replace('?', 'o')}"


# --- encoding ---------------------------------------------------------------------------------------------------------


class _Fixed(msgspec.Struct):
    """A piece that `struct` packs: codes and the expressions for them."""

    codes: str
    arguments: list[str]


class _Bytes(msgspec.Struct):
    """A piece that is an expression of type bytes."""

    expression: str


_Piece: TypeAlias = _Fixed | _Bytes


def _encode_function(shape: Shape, guarded: bool = True) -> tuple[list[str], dict[str, object]]:
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
        function = self.builder.bind(_format_name("pack", piece.codes), _packer(piece.codes))
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
                self.lines.append(f"if len({value}) != {_SIZES[kind]}: raise ValueError")
                return [_Fixed(f"{_SIZES[kind]}s", [value])]
            case EnumShape(_, names):
                _check_variants(len(names))
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
                _check_variants(len(variants))
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
        if kind in _CODES:
            return [_Fixed(_CODES[kind], [expression])]
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
        code = _CODES.get(element.kind, "?" if element.kind == "bool" else "") if isinstance(element, Scalar) else ""
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


def _check_variants(count: int) -> None:
    if count > MAX_VARIANTS:
        raise ValueError(f"a sum has at most {MAX_VARIANTS} variants")


@lru_cache(maxsize=1024)
def _packer(codes: str) -> Callable[..., bytes]:
    return Format("<" + codes).pack


@lru_cache(maxsize=1024)
def _unpacker(codes: str) -> Callable[..., tuple[Any, ...]]:
    return Format("<" + codes).unpack_from


@lru_cache(maxsize=1024)
def _iter_unpacker(codes: str) -> Callable[..., Any]:
    return Format("<" + codes).iter_unpack


# --- decoding ---------------------------------------------------------------------------------------------------------


def _decode_function(shape: Shape, view: bool = False) -> tuple[list[str], dict[str, object]]:
    """The function `decode`, with `view` the one for memoryviews, whose slices must be turned into bytes."""
    builder = SourceBuilder()
    statements, value, end = decode_source(shape, builder, view=view)
    explain = builder.bind("explain_decode", partial(explain_decode, shape))
    to_view: list[str] = []
    if not view and _holds(shape, ("string", "bytes")):
        for_views = builder.bind("decode_view", partial(_decode_view, shape))
        to_view = ["if buf.__class__ is memoryview:", f"    return {for_views}(buf, at)"]
    body = ["try:", *indented([*statements, f"return {value}, {end}"]), "except Exception:"]
    if _holds(shape, ("bytes",)):
        body = [*to_view, *body]
    else:
        body += indented(to_view)  # a slice of a memoryview has no `decode`, so strings end up here
    body += [f"    {explain}(buf, at)", "    raise"]
    return ["def decode(buf, at=0):", *indented(body)], builder.names


@lru_cache(maxsize=MAX_CACHED_CODECS)
def _view_decoder(shape: Shape) -> Callable[[memoryview, int], tuple[Any, int]]:
    lines, names = _decode_function(shape, view=True)
    return compile_source(f"decode {_title(shape)} in memoryview", "\n".join(lines) + "\n", names, "decode")


def _decode_view(shape: Shape, buf: memoryview, at: int) -> tuple[Any, int]:
    return _view_decoder(shape)(buf, at)


def _holds(shape: Shape, kinds: tuple[str, ...]) -> bool:
    """True if a scalar of one of the kinds is anywhere in the shape."""
    match shape:
        case Scalar(kind):
            return kind in kinds
        case ArrayShape(element):
            return _holds(element, kinds)
        case OptionShape(some):
            return _holds(some, kinds)
        case ResultShape(ok, err):
            return _holds(ok, kinds) or _holds(err, kinds)
        case ProductShape(_, fields):
            return any(_holds(field.shape, kinds) for field in fields)
        case SumShape(_, variants):
            return any(variant.shape is not None and _holds(variant.shape, kinds) for variant in variants)
        case _:
            return False  # recursive types look at the kind of buffer themselves


def decode_source(
    shape: Shape, builder: SourceBuilder, buf: str = "buf", at: str = "at", view: bool = False
) -> tuple[list[str], str, str]:
    """Code that decodes a value: statements to run first, then expressions for the value and for the position after it.

    `buf` and `at` are variables with the buffer (bytes or mmap; a memoryview only with `view`) and the position. They
    are not assigned to. Whatever goes wrong raises some Exception: call `explain_decode(shape, buf, at)` then.
    """
    writer = _DecodeWriter(builder, buf, at, view)
    value = writer.value(shape)
    writer.finish()
    return writer.lines, value, writer.position


class _DecodeWriter:
    """Collects the statements of one block.

    The position is `base` (a variable) plus `offset` (a number). Reads of fixed size wait in `pending` until something
    else must be read; `unchecked` says that a slice may have gone past the end of the buffer without anyone noticing.
    """

    def __init__(self, builder: SourceBuilder, buf: str, at: str, view: bool) -> None:
        self.builder = builder
        self.buf = buf
        self.base = at
        self.offset = 0
        self.view = view
        self.lines: list[str] = []
        self.codes: list[str] = []
        self.targets: list[str] = []
        self.pending_size = 0
        self.unchecked = False

    @property
    def position(self) -> str:
        return f"{self.base} + {self.offset}" if self.offset else self.base

    def read(self, codes: str, size: int, *targets: str) -> None:
        self.codes.append(codes)
        self.targets += targets
        self.pending_size += size

    def flush(self) -> None:
        """Emits the reads that wait."""
        if not self.codes:
            return
        codes = "".join(self.codes)
        if codes == "B":
            self.lines.append(f"{self.targets[0]} = {self.buf}[{self.position}]")
        else:
            function = self.builder.bind(_format_name("unpack", codes), _unpacker(codes))
            targets = ", ".join(self.targets) if len(self.targets) > 1 else f"({self.targets[0]},)"
            self.lines.append(f"{targets} = {function}({self.buf}, {self.position})")
        self.offset += self.pending_size
        self.codes, self.targets, self.pending_size = [], [], 0
        self.unchecked = False

    def finish(self) -> None:
        """Emits what is left, so that everything up to the position is known to exist."""
        self.flush()
        if self.unchecked:
            self.lines.append(f"if {self.position} > len({self.buf}): raise IndexError")
            self.unchecked = False

    def move_to(self, variable: str) -> None:
        self.base, self.offset = variable, 0

    def nested(self) -> _DecodeWriter:
        inner = _DecodeWriter(self.builder, self.buf, self.base, self.view)
        inner.offset = self.offset
        return inner

    def slice(self, count: str, element_size: int, hint: str) -> str:
        """Moves over `count` elements that follow; gives the expression of their bytes."""
        self.flush()
        start, end = self.builder.fresh(f"{hint}_at"), self.builder.fresh(f"{hint}_end")
        size = count if element_size == 1 else f"{count} * {element_size}"
        self.lines += [f"{start} = {self.position}", f"{end} = {start} + {size}"]
        self.move_to(end)
        self.unchecked = True
        return f"{self.buf}[{start}:{end}]"

    def value(self, shape: Shape, hint: str = "x") -> str:
        """Reads a value; the expression for it is to be evaluated after the statements so far and a `flush`."""
        match shape:
            case Scalar(kind):
                return self._scalar(kind, hint)
            case Wrapped(kind, cls):
                name = self.builder.fresh(hint)
                size = _SIZES[kind]
                self.read("q" if kind == "i64" else f"{size}s", size, name)
                wrap = self.builder.bind(cls.__name__, cls)
                if kind != "i64":  # past the constructor, which checks what needs no check here
                    return f"{self.builder.bind('bytes_new', bytes.__new__)}({wrap}, {name})"
                return f"{wrap}({name})"
            case EnumShape(cls, names):
                _check_variants(len(names))
                name = self.builder.fresh(hint)
                self.read("B", 1, name)
                members: tuple[int, ...] = (
                    tuple(range(len(names))) if cls is None else tuple(map(cls, range(len(names))))
                )
                return f"{self.builder.bind(cls.__name__ + '_members' if cls else 'tags', members)}[{name}]"
            case ProductShape(cls, fields):
                values = [self.value(field.shape, field.attr if cls else field.name or field.attr) for field in fields]
                if cls is None:
                    return f"({', '.join(values)}{',' if len(values) == 1 else ''})"
                made = self.builder.bind(cls.__name__, cls)
                pairs = zip(fields, values, strict=True)
                return f"{made}({', '.join(f'{field.attr}={value}' for field, value in pairs)})"
            case OptionShape(some):
                return self._branches(hint, (("", some), ("None", None)))
            case ResultShape(ok, err):
                return self._branches(hint, (('("ok", {})', ok), ('("err", {})', err)))
            case SumShape(_, variants):
                _check_variants(len(variants))
                return self._branches(hint, tuple(self._variant(*numbered) for numbered in enumerate(variants)))
            case ArrayShape(element):
                return self._array(element, hint)
            case RefShape():
                self.finish()
                function = self.builder.bind(f"decode_type_{shape.index}", _recursive(shape).decode)
                value, end = self.builder.fresh(hint), self.builder.fresh("end")
                self.lines.append(f"{value}, {end} = {function}({self.buf}, {self.position})")
                self.move_to(end)
                return value

    def _scalar(self, kind: str, hint: str) -> str:
        name = self.builder.fresh(hint)
        if kind in _CODES:
            self.read(_CODES[kind], _SIZES[kind], name)
            return name
        if kind == "bool":
            self.read("B", 1, name)
            return f"{self.builder.bind('bools', _BOOLS)}[{name}]"  # any other byte: IndexError
        if kind in ("u128", "i128"):
            high = self.builder.fresh(f"{hint}_high")
            self.read("QQ" if kind == "u128" else "Qq", 16, name, high)
            return f"({name} | {high} << 64)"
        if kind in ("u256", "i256"):
            self.read("32s", 32, name)
            signed = ", signed=True" if kind == "i256" else ""
            return f'{self.builder.bind("from_bytes", int.from_bytes)}({name}, "little"{signed})'
        length = self.builder.fresh(f"{hint}_size")
        self.read("I", 4, length)
        raw = self.slice(length, 1, hint)
        if self.view:
            raw = f"bytes({raw})"
        self.lines.append(f"{name} = {raw}.decode()" if kind == "string" else f"{name} = {raw}")
        return name

    def _variant(self, tag: int, variant: VariantShape) -> tuple[str, Shape | None]:
        """Template of the variant's value, with {} for the payload, and the shape of the payload."""
        if variant.cls is None:
            return (f"({tag}, ())", None) if variant.shape is None else (f"({tag}, {{}})", variant.shape)
        made = self.builder.bind(variant.cls.__name__, variant.cls)
        if variant.kind == "unit":
            return f"{made}()", None
        return ("", variant.shape) if variant.kind == "product" else (f"{made}({{}})", variant.shape)

    def _branches(self, hint: str, cases: tuple[tuple[str, Shape | None], ...]) -> str:
        """Reads a tag, then what belongs to it; a case is a template for the value and the shape of the payload."""
        tag, value, end = self.builder.fresh("tag"), self.builder.fresh(hint), self.builder.fresh("end")
        self.read("B", 1, tag)
        self.flush()
        unchecked = False
        for number, (template, shape) in enumerate(cases):
            inner = self.nested()
            payload = inner.value(shape, hint) if shape is not None else ""
            inner.flush()
            made = template.format(payload) if template else payload
            unchecked |= inner.unchecked
            body = [*inner.lines, f"{value} = {made}", f"{end} = {inner.position}"]
            self.lines += [f"{'el' if number else ''}if {tag} == {number}:", *indented(body)]
        self.lines += ["else:", "    raise IndexError"] if cases else ["raise IndexError"]
        self.move_to(end)
        self.unchecked = unchecked
        return value

    def _array(self, element: Shape, hint: str) -> str:
        count = self.builder.fresh(f"{hint}_count")
        self.read("I", 4, count)
        size = fixed_size(element)
        name = self.builder.fresh(hint)
        if size is None:
            return self._loop(element, count, name)
        if size == 0:
            self.flush()
            self.lines.append(f"if {count} > {MAX_ZERO_SIZED_ELEMENTS}: raise IndexError")
            self.lines.append(f"{name} = [{self.value(element)} for _ in range({count})]")
            return name
        raw = self.slice(count, size, hint)
        self.finish()
        inner = self.nested()
        if isinstance(element, Scalar) and element.kind in _CODES:
            code = _CODES[element.kind]
            self.lines.append(f'{name} = {self.builder.bind("array", array)}("{code}")')
            self.lines.append(f"{name}.frombytes({raw})")
            return f"{name}.tolist()"
        made = inner.value(element, "entry")
        targets = ", ".join(inner.targets)
        if inner.codes == ["B"]:
            self.lines.append(f"{name} = [{made} for {targets} in {raw}]")
            return name
        codes = "".join(inner.codes)
        unpack = self.builder.bind(_format_name("iter_unpack", codes), _iter_unpacker(codes))
        self.lines.append(f"{name} = [{made} for {targets}{',' if len(inner.targets) == 1 else ''} in {unpack}({raw})]")
        return name

    def _loop(self, element: Shape, count: str, name: str) -> str:
        """An array whose elements have no fixed size."""
        self.finish()
        start = self.builder.fresh("entry_at")
        self.lines += [
            f"{start} = {self.position}",
            f"if {count} * {_smallest_size(element)} > len({self.buf}) - {start}: raise IndexError",
            f"{name} = []",
            f"for _ in range({count}):",
        ]
        self.move_to(start)
        inner = self.nested()
        made = inner.value(element, "entry")
        inner.flush()
        self.lines += indented([*inner.lines, f"{name}.append({made})", f"{start} = {inner.position}"])
        self.unchecked = inner.unchecked
        return name


# --- recursive types --------------------------------------------------------------------------------------------------


class _Recursive:
    """Functions for a recursive type. They call themselves, so they are found through this object when they run."""

    def __init__(self, shape: RefShape) -> None:
        self.shape = shape
        self.made_encode: Callable[[Any], bytes] | None = None
        self.made_decode: dict[bool, Callable[[Any, int], tuple[Any, int]]] = {}

    def encode(self, value: Any) -> bytes:
        if self.made_encode is None:
            lines, names = _encode_function(self.shape.target(), guarded=False)
            self.made_encode = compile_source("encode recursive type", "\n".join(lines), names, "encode")
        return self.made_encode(value)

    def decode(self, buf: Buffer, at: int) -> tuple[Any, int]:
        view = isinstance(buf, memoryview)
        made = self.made_decode.get(view)
        if made is None:
            builder = SourceBuilder()
            statements, value, end = decode_source(self.shape.target(), builder, view=view)
            lines = ["def decode(buf, at):", *indented([*statements, f"return {value}, {end}"])]
            made = compile_source("decode recursive type", "\n".join(lines), builder.names, "decode")
            self.made_decode[view] = made
        return made(buf, at)


@lru_cache(maxsize=MAX_CACHED_CODECS)
def _recursive(shape: RefShape) -> _Recursive:
    return _Recursive(shape)
