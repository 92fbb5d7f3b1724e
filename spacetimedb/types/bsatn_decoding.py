"""Generates the code that decodes values from BSATN; `bsatn` says what it looks like."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

from spacetimedb.types.codec_errors import MAX_ZERO_SIZED_ELEMENTS, explain_decode
from spacetimedb.types.layout import (
    CODES,
    MAX_CACHED_CODECS,
    SIZES,
    Buffer,
    check_variants,
    fixed_size,
    format_name,
    iter_unpacker,
    smallest_size,
    title_of,
    unpacker,
)
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

_BOOLS: Final = (False, True)


def decode_function(shape: Shape, view: bool = False) -> tuple[list[str], dict[str, object]]:
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
    lines, names = decode_function(shape, view=True)
    return compile_source(f"decode {title_of(shape)} in memoryview", "\n".join(lines) + "\n", names, "decode")


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
            function = self.builder.bind(format_name("unpack", codes), unpacker(codes))
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
                size = SIZES[kind]
                self.read("q" if kind == "i64" else f"{size}s", size, name)
                wrap = self.builder.bind(cls.__name__, cls)
                if kind != "i64":  # past the constructor, which checks what needs no check here
                    return f"{self.builder.bind('bytes_new', bytes.__new__)}({wrap}, {name})"
                return f"{wrap}({name})"
            case EnumShape(cls, names):
                check_variants(len(names))
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
                check_variants(len(variants))
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
        if kind in CODES:
            self.read(CODES[kind], SIZES[kind], name)
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
        if isinstance(element, Scalar) and element.kind in CODES:
            code = CODES[element.kind]
            self.lines.append(f'{name} = {self.builder.bind("array", array)}("{code}")')
            self.lines.append(f"{name}.frombytes({raw})")
            return f"{name}.tolist()"
        made = inner.value(element, "entry")
        targets = ", ".join(inner.targets)
        if inner.codes == ["B"]:
            self.lines.append(f"{name} = [{made} for {targets} in {raw}]")
            return name
        codes = "".join(inner.codes)
        unpack = self.builder.bind(format_name("iter_unpack", codes), iter_unpacker(codes))
        self.lines.append(f"{name} = [{made} for {targets}{',' if len(inner.targets) == 1 else ''} in {unpack}({raw})]")
        return name

    def _loop(self, element: Shape, count: str, name: str) -> str:
        """An array whose elements have no fixed size."""
        self.finish()
        start = self.builder.fresh("entry_at")
        self.lines += [
            f"{start} = {self.position}",
            f"if {count} * {smallest_size(element)} > len({self.buf}) - {start}: raise IndexError",
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


class _Recursive:
    """The decoders of a recursive type. They call themselves, so they are found through this object when they run."""

    def __init__(self, shape: RefShape) -> None:
        self.shape = shape
        self.made: dict[bool, Callable[[Any, int], tuple[Any, int]]] = {}

    def decode(self, buf: Buffer, at: int) -> tuple[Any, int]:
        view = isinstance(buf, memoryview)
        made = self.made.get(view)
        if made is None:
            builder = SourceBuilder()
            statements, value, end = decode_source(self.shape.target(), builder, view=view)
            lines = ["def decode(buf, at):", *indented([*statements, f"return {value}, {end}"])]
            made = compile_source("decode recursive type", "\n".join(lines) + "\n", builder.names, "decode")
            self.made[view] = made
        return made(buf, at)


@lru_cache(maxsize=MAX_CACHED_CODECS)
def _recursive(shape: RefShape) -> _Recursive:
    return _Recursive(shape)
