"""Where the columns of a table are in the bytes of a row, as source for generated functions.

A row is its columns back to back. Columns of fixed size (numbers, booleans, products of such) have a constant offset up
to the first column of variable size (strings, arrays, sums); behind that, positions have to be computed from the row.
All generated code works on expressions only, so that it fits into comprehensions: a position is kept with ``:=`` in a
condition that is always true.

Generated source refers to constants by parameters, so queries that differ in constants only share one compiled source;
``SOURCES`` of them are kept.
"""

from __future__ import annotations

import linecache
from itertools import count
from struct import Struct as Format
from typing import Any, Final

from spacetimedb.sql.literals import INNER, INTEGER_BITS, float_key
from spacetimedb.types.algebraic import (
    BOOL,
    BYTES,
    F32,
    F64,
    STRING,
    U8,
    AlgebraicType,
    Array,
    Primitive,
    Product,
    Sum,
)

_FORMATS: Final = {
    "I8": "b",
    "I16": "h",
    "U16": "H",
    "I32": "i",
    "U32": "I",
    "I64": "q",
    "U64": "Q",
    "F32": "f",
    "F64": "d",
}
_SIZES: Final = {BOOL: 1, F32: 4, F64: 8} | {t: bits // 8 for t, (bits, _) in INTEGER_BITS.items()}
_numbers = count()


def _order_float(value: float) -> tuple[bool, float]:
    """A key that orders floats with NaN equal to itself and above infinity."""
    return (True, 0.0) if value != value else (False, value)


SOURCES: Final = 4096
_NAMESPACE: Final[dict[str, Any]] = {
    **{f"read_{kind}": Format("<" + letter).unpack_from for kind, letter in _FORMATS.items()},
    "int_from": int.from_bytes,
    "float_key": float_key,
    "order_float": _order_float,
}


_compiled: dict[str, tuple[str, Any]] = {}


def generate(title: str, lines: list[str], result: str, names: dict[str, Any]) -> Any:
    """Runs generated source and gives the value of the expression ``result`` after it; tracebacks show it.

    ``lines`` may refer to ``names`` and to what this module defines for them. Its functions are their own.
    """
    body = "".join(f"    {line}\n" for line in lines)
    source = f"def make({', '.join(names)}):\n{body}    return {result}\n"
    found = _compiled.get(source)
    if found is None:
        if len(_compiled) >= SOURCES:
            linecache.cache.pop(_compiled.pop(next(iter(_compiled)))[0], None)
        filename = f"<{title} {next(_numbers)}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        scope = dict(_NAMESPACE)
        exec(compile(source, filename, "exec"), scope)
        found = _compiled[source] = filename, scope["make"]
    return found[1](**names)


def fixed_size(t: AlgebraicType) -> int | None:
    """Bytes of every value of the type, None if they differ (sums always count as different)."""
    match t:
        case Primitive():
            return _SIZES.get(t)
        case Product(elements):
            total = 0
            for element in elements:
                size = fixed_size(element.algebraic_type)
                if size is None:
                    return None
                total += size
            return total
    return None


class Place:
    """A position in a row: a base (an expression, '' for the start of the bytes) and a constant offset."""

    def __init__(self, base: str, offset: int) -> None:
        self.base = base
        self.offset = offset

    def plus(self, offset: int) -> str:
        """The position ``offset`` bytes further on, as an expression."""
        total = self.offset + offset
        if not self.base:
            return str(total)
        return f"{self.base} + {total}" if total else self.base


class RowLayout:
    """The layout of one table's rows."""

    def __init__(self, types: tuple[AlgebraicType, ...]) -> None:
        self.types = types
        self.sizes = tuple(map(fixed_size, types))
        self.skips: dict[int, Any] = {}
        total: int | None = 0
        for size in self.sizes:
            total = None if total is None or size is None else total + size
        self.row_size = total
        """Bytes of every row, None if they differ."""

    def skip(self, column: int) -> Any:
        """``skip(row, at)``: the position behind the column's value at ``at``."""
        found = self.skips.get(column)
        if found is None:
            found = self.skips[column] = _skip_function(self.types[column])
        return found


class RowReader:
    """Source for reading one row: ``buffer`` is the name of the bytes, ``base`` where the row starts in them.

    ``steps`` collects the conditions (always true) that compute positions; they have to run before the expressions that
    use them. ``names`` collects what the source needs in its globals.
    """

    def __init__(self, layout: RowLayout, buffer: str, base: str, prefix: str, names: dict[str, Any]) -> None:
        self.layout = layout
        self.buffer = buffer
        self.prefix = prefix
        self.names = names
        self.steps: list[str] = []
        self._places: list[Place] = [Place(base, 0)]

    def place(self, column: int) -> Place:
        """Where the column starts; ``column`` may be the number of columns, for the end of the row."""
        while len(self._places) <= column:
            at = len(self._places) - 1
            place = self._places[at]
            size = self.layout.sizes[at]
            if size is not None:
                self._places.append(Place(place.base, place.offset + size))
                continue
            variable = f"{self.prefix}p{at + 1}"
            start = place.plus(0)
            t = self.layout.types[at]
            if t == STRING or (isinstance(t, Array) and (fixed_size(t.element) or 0) > 0):
                each = 1 if t == STRING else fixed_size(t.element) if isinstance(t, Array) else 1
                times = f" * {each}" if each != 1 else ""
                self.steps.append(f"({variable} := {place.plus(4)} + read_U32({self.buffer}, {start})[0]{times})")
            else:
                skip = f"{self.prefix}skip{at}"
                self.names[skip] = self.layout.skip(at)
                self.steps.append(f"({variable} := {skip}({self.buffer}, {start}))")
            self._places.append(Place(variable, 0))
        return self._places[column]

    def slice(self, first: int, last: int) -> str:
        """The encoded bytes of the columns ``first`` up to and including ``last``."""
        start, end = self.place(first), self.place(last + 1)
        return f"{self.buffer}[{start.plus(0)}:{end.plus(0)}]"

    def fixed_slice(self, column: int, size: int) -> str:
        """The first ``size`` bytes of the column."""
        place = self.place(column)
        return f"{self.buffer}[{place.plus(0)}:{place.plus(size)}]"

    def value(self, column: int) -> str:
        """The column as generated code compares it: int, float, or bytes for strings and byte arrays."""
        t = self.layout.types[column]
        place = self.place(column)
        start = place.plus(0)
        if t in (STRING, BYTES):
            return f"{self.buffer}[{place.plus(4)}:{place.plus(4)} + read_U32({self.buffer}, {start})[0]]"
        inner = INNER.get(t, t)
        if inner in (BOOL, U8):
            return f"{self.buffer}[{start}]"
        assert isinstance(inner, Primitive)
        if inner.kind in _FORMATS:
            return f"read_{inner.kind}({self.buffer}, {start})[0]"
        bits, signed = INTEGER_BITS[inner]
        tail = ", signed=True" if signed else ""
        return f'int_from({self.buffer}[{start}:{place.plus(bits // 8)}], "little"{tail})'

    def key(self, column: int) -> str:
        """The column as index key (see ``literals``)."""
        t = self.layout.types[column]
        if t in (STRING, BYTES):
            return self.value(column)
        size = fixed_size(t)
        assert size is not None
        raw = self.fixed_slice(column, size)
        return f"float_key({raw})" if t in (F32, F64) else raw


def _skip_function(t: AlgebraicType) -> Any:
    """Generated ``skip(row, at) -> at`` for one type of variable size."""
    lines = ["def skip(row, at):"]
    names = count()

    def emit(t: AlgebraicType, indent: str) -> None:
        size = fixed_size(t)
        if size is not None:
            if size:
                lines.append(f"{indent}at += {size}")
            return
        match t:
            case Array(element):
                each = fixed_size(element)
                if each is not None:
                    lines.append(f"{indent}at += 4 + {each} * read_U32(row, at)[0]")
                    return
                n = f"n{next(names)}"
                lines.append(f"{indent}{n} = read_U32(row, at)[0]")
                lines.append(f"{indent}at += 4")
                lines.append(f"{indent}for _ in range({n}):")
                emit(element, indent + "    ")
            case Product(elements):
                for element_ in elements:
                    emit(element_.algebraic_type, indent)
            case Sum(variants):
                tag = f"t{next(names)}"
                lines.append(f"{indent}{tag} = row[at]")
                lines.append(f"{indent}at += 1")
                word = "if"
                for number, variant in enumerate(variants):
                    if fixed_size(variant.algebraic_type) == 0:
                        continue
                    lines.append(f"{indent}{word} {tag} == {number}:")
                    emit(variant.algebraic_type, indent + "    ")
                    word = "elif"
            case _:
                lines.append(f"{indent}at += 4 + read_U32(row, at)[0]")

    emit(t, "    ")
    lines.append("    return at")
    return generate("skip", lines, "skip", {})
