"""Generated code that cuts rows of a table apart: `splitter(row_type)` returns split(buf, at, count) -> (rows, end).

Only lengths are read: runs of fixed size are one addition, strings and arrays of fixed-size elements one u32. Values
are not checked (a bool may be 2), the log's checksums did that. Rows of one fixed size are a list of slices.

Short data shows in an `end` beyond the buffer, struct.error or IndexError; `txdata.decode_payload` turns them into
DecodeError.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any, Final, cast

from spacetimedb.log.txdata import SkipRow, Splitter
from spacetimedb.types.algebraic import AlgebraicType, Array, Primitive, Product, Ref, Sum
from spacetimedb.types.errors import DecodeError, RecursiveType
from spacetimedb.types.source import SourceBuilder, compile_source, indented

MAX_INLINE_DEPTH: Final = 5
"""Arrays and sums nested deeper than this become functions of their own."""

_FIXED: Final = {"Bool": 1, "I8": 1, "U8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
_SIZES: Final = {**_FIXED, "I128": 16, "U128": 16, "I256": 32, "U256": 32, "F32": 4, "F64": 8}


def fixed_size(t: AlgebraicType) -> int | None:
    """Bytes of every value of the type, None if they differ. The type must be inlined."""
    match t:
        case Primitive(kind):
            return _SIZES.get(kind)
        case Product(elements):
            total = 0
            for element in elements:
                size = fixed_size(element.algebraic_type)
                if size is None:
                    return None
                total += size
            return total
        case Sum(variants):
            sizes = {fixed_size(variant.algebraic_type) for variant in variants}
            only = sizes.pop() if len(sizes) == 1 else None
            return None if only is None else only + 1
        case Ref():
            raise RecursiveType("a stored row type has a reference in it")
    return None


class _Writer:
    """Lines that move `at` behind a value; `pending` bytes are not added yet."""

    def __init__(self) -> None:
        self.builder = SourceBuilder(["rows", "start", "count", "u32", "skip", "split"])
        self.builder.names["u32"] = Struct("<I").unpack_from

    def skip(self, t: AlgebraicType, depth: int) -> list[str]:
        lines, pending = self._skip(t, 0, depth)
        return [*lines, f"at += {pending}"] if pending else lines

    def _skip(self, t: AlgebraicType, pending: int, depth: int) -> tuple[list[str], int]:
        size = fixed_size(t)
        if size is not None:
            return [], pending + size
        here = f"at + {pending}" if pending else "at"
        match t:
            case Product(elements):
                lines: list[str] = []
                for element in elements:
                    more, pending = self._skip(element.algebraic_type, pending, depth)
                    lines += more
                return lines, pending
            case Primitive():  # String
                return [f"at += {4 + pending} + u32(buf, {here})[0]"], 0
            case Array(element):
                element_size = fixed_size(element)
                if element_size == 0:
                    return [], pending + 4
                if element_size is not None:
                    times = "" if element_size == 1 else f" * {element_size}"
                    return [f"at += {4 + pending} + u32(buf, {here})[0]{times}"], 0
                count = self.builder.fresh("n")
                lines = [
                    f"{count} = u32(buf, {here})[0]",
                    f"at += {4 + pending}",
                    f"if {count} > len(buf) - at:",
                    f'    raise DecodeError(f"array of {{{count}}} elements at byte {{at}} of {{len(buf)}}")',
                    f"for _ in range({count}):",
                ]
                self.builder.names["DecodeError"] = DecodeError
                return lines + indented(self._nested(element, depth)), 0
            case Sum(variants):
                tag = self.builder.fresh("tag")
                lines = [f"{tag} = buf[{here}]", f"at += {1 + pending}"]
                for number, variant in enumerate(variants):
                    lines.append(f"{'elif' if number else 'if'} {tag} == {number}:")
                    lines += indented(self._nested(variant.algebraic_type, depth))
                unknown = f'raise DecodeError(f"unknown tag {{{tag}:#x}} for sum type <unknown>")'
                lines += ["else:", f"    {unknown}"] if variants else [unknown]
                self.builder.names["DecodeError"] = DecodeError
                return lines, 0
        raise TypeError(f"{t} cannot be stored")

    def _nested(self, t: AlgebraicType, depth: int) -> list[str]:
        if depth < MAX_INLINE_DEPTH or fixed_size(t) is not None:
            return self.skip(t, depth + 1)
        return [f"at = {self.builder.bind('skip', skip_row(t))}(buf, at)"]


@lru_cache(maxsize=4096)
def skip_row(t: AlgebraicType) -> SkipRow:
    """skip(buf, at) -> end for values of an inlined type."""
    writer = _Writer()
    lines = ["def skip(buf, at):", *indented(writer.skip(t, 0)), "    return at"]
    return cast(SkipRow, compile_source("skip row", "\n".join(lines) + "\n", writer.builder.names, "skip"))


@lru_cache(maxsize=4096)
def splitter(row_type: Product) -> Splitter:
    """split(buf, at, count) -> (rows, end) for rows of an inlined type."""
    size = fixed_size(row_type)
    writer = _Writer()
    names: dict[str, Any] = writer.builder.names
    if size is not None:
        lines = [
            "def split(buf, at, count):",
            "    if count == 1:",
            f"        return [buf[at : at + {size}]], at + {size}",
            f"    end = at + count * {size}",
            "    if end > len(buf):",
            '        raise DecodeError(f"{count} rows end at byte {end} of {len(buf)}")',
            f"    return [buf[i : i + {size}] for i in range(at, end, {size})], end" if size else "",
            "    return [b''] * count, at" if not size else "",
        ]
        names["DecodeError"] = DecodeError
    else:
        lines = [
            "def split(buf, at, count):",
            "    rows = []",
            "    for _ in range(count):",
            "        start = at",
            *indented(writer.skip(row_type, 0), 2),
            "        rows.append(buf[start:at])",
            "    return rows, at",
        ]
    return cast(Splitter, compile_source("split rows", "\n".join(lines) + "\n", names, "split"))
