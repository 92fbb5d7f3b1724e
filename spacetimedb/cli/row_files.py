"""Rows of a table as lines of text, and back: JSON lines and CSV. No bit of a row is lost on the way.

JSON lines: a row is an object with the columns' names, in the JSON of the HTTP interface (options may be null).

CSV: the first line has the columns' names. A cell of a string column is the string; of the wrapped types (Identity,
Timestamp, ...) and 256-bit integers it is the number without quotes; of every other type it is JSON.

A row that this cannot hold (a float that is no number) is `{"__bsatn__": HEX}` in JSON lines, and that text as the only
cell of a CSV line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Final, Literal

from ..types.algebraic import AlgebraicType, Array, Primitive, Product, Sum, Typespace
from ..types.bsatn import codec
from ..types.errors import DecodeError
from ..types.json_arguments import JsonValueError, from_json
from ..types.sats_json import row_to_json
from ..types.shapes import shape_of

Format = Literal["jsonl", "csv"]
RAW: Final = "__bsatn__"
csv.field_size_limit(1 << 30)


class BadRow(Exception):
    """A line that is no row: `line` counts from 1, `column` is None if the row as a whole is wrong."""

    def __init__(self, line: int, column: str | None, what: str) -> None:
        super().__init__(f"line {line}, column `{column}`: {what}" if column is not None else f"line {line}: {what}")
        self.line = line


class RowText:
    """Writes and reads the rows of one table. `row_type` may refer to types of `typespace`."""

    def __init__(self, row_type: Product, typespace: Typespace) -> None:
        self._row_type = row_type
        self._typespace = typespace
        self.columns = [element.name or str(n) for n, element in enumerate(row_type.elements)]
        self._types = [element.algebraic_type for element in row_type.elements]
        self._to_json = row_to_json(row_type, "typed", typespace)
        shape = shape_of(row_type, typespace)
        self._check: Callable[[bytes], object] = codec(shape).decode_exact
        self._may_be_lossy = _has_floats(row_type, typespace, set())
        self._kinds = [_cell_kind(t, typespace) for t in self._types]

    # -- out

    def json_line(self, row: bytes) -> str:
        """The row's line, without its end."""
        text = self._to_json(row, 0)[0]
        if self._may_be_lossy and not self._is_same(text, row):
            return json.dumps({RAW: row.hex()})
        return text

    def _is_same(self, text: str, row: bytes) -> bool:
        try:
            return from_json(self._row_type, text, self._typespace) == row
        except JsonValueError:
            return False

    def csv_cells(self, row: bytes) -> list[str]:
        """The row's cells."""
        text = self._to_json(row, 0)[0]
        if self._may_be_lossy and not self._is_same(text, row):
            return [json.dumps({RAW: row.hex()})]
        values = _members(text)
        return [_cell(values[name], kind) for name, kind in zip(self.columns, self._kinds, strict=True)]

    # -- in

    def from_json_line(self, number: int, line: str) -> bytes:
        """BSATN of the row. Raises BadRow."""
        try:
            return from_json(self._row_type, line, self._typespace)
        except JsonValueError as error:
            raw = self._raw(number, line)
            if raw is not None:
                return raw
            column, _, rest = error.path.lstrip(".").partition(".")
            column, bracket, index = column.partition("[")
            inside = f"{bracket}{index}{'.' if rest else ''}{rest}"
            reason = error.reason.replace(" at line 1 column ", " at character ")
            raise BadRow(number, column or None, f"{inside}: {reason}" if inside else reason) from None

    def _raw(self, number: int, text: str) -> bytes | None:
        """The row in a `__bsatn__` object, None if it is none."""
        if RAW not in text:
            return None
        try:
            value = json.loads(text)
        except ValueError:
            return None
        if not isinstance(value, dict) or list(value) != [RAW]:
            return None
        try:
            row = bytes.fromhex(value[RAW])
            self._check(row)
        except (ValueError, TypeError, DecodeError) as error:
            raise BadRow(number, None, f"`{RAW}` holds no row: {error}") from None
        return row

    def from_csv_cells(self, number: int, names: list[str], cells: list[str]) -> bytes:
        """BSATN of the row whose cells stand under these names. Raises BadRow."""
        if len(cells) == 1 and (raw := self._raw(number, cells[0])) is not None:
            return raw
        if len(cells) != len(names):
            raise BadRow(number, None, f"{len(cells)} cells, the first line has {len(names)}")
        found = dict(zip(names, cells, strict=True))
        parts = []
        for name, t, kind in zip(self.columns, self._types, self._kinds, strict=True):
            text = found[name] if kind == "json" else _json_of_cell(found[name], kind)
            try:
                parts.append(from_json(t, text, self._typespace))
            except JsonValueError as error:
                reason = error.reason.partition(" at line ")[0]
                inside = "" if error.path == "." else f"{error.path}: "
                raise BadRow(number, name, inside + reason) from None
        return b"".join(parts)

    def check_header(self, names: list[str]) -> None:
        """Raises BadRow unless every column has a name in the first line of a CSV file, and no other is there."""
        for name in self.columns:
            if names.count(name) != 1:
                raise BadRow(1, name, "is missing" if name not in names else "is there twice")
        for name in names:
            if name not in self.columns:
                raise BadRow(1, name, f"is no column of the table, which has {', '.join(self.columns)}")


def write_rows(out: IO[str], text: RowText, rows: Iterable[bytes], form: Format) -> Iterator[int]:
    """Writes a table; yields 1 for each row."""
    if form == "jsonl":
        for row in rows:
            out.write(text.json_line(row) + "\n")
            yield 1
        return
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(text.columns)
    for row in rows:
        writer.writerow(text.csv_cells(row))
        yield 1


def read_rows(source: IO[str], text: RowText, form: Format) -> Iterator[tuple[int, bytes]]:
    """(line number, BSATN) of each row. Raises BadRow."""
    if form == "jsonl":
        for number, line in enumerate(source, 1):
            if line.strip():
                yield number, text.from_json_line(number, line.strip())
        return
    reader = csv.reader(source, strict=True)
    names: list[str] | None = None
    number = 1
    try:
        for cells in reader:
            if names is None:
                names = cells
                text.check_header(names)
            elif cells:
                yield number, text.from_csv_cells(number, names, cells)
            number = reader.line_num + 1
    except csv.Error as error:
        raise BadRow(number, None, str(error)) from None
    if names is None:
        raise BadRow(1, None, "the names of the columns are missing")


# --- cells of CSV

_WIDE: Final = ("U256", "I256")


def _cell_kind(t: AlgebraicType, typespace: Typespace) -> str:
    """How a value of the type stands in a cell: "json", "text", "quoted", "wrapped F" or "wrapped quoted F" with the
    name of its only field."""
    t = typespace.resolve(t)
    match t:
        case Primitive("String"):
            return "text"
        case Primitive(kind) if kind in _WIDE:
            return "quoted"
        case Product((element,)) if (element.name or "").startswith("__"):
            inner = typespace.resolve(element.algebraic_type)
            quoted = isinstance(inner, Primitive) and inner.kind in _WIDE
            return f"wrapped{' quoted' if quoted else ''} {element.name}"
    return "json"


def _members(text: str) -> dict[str, str]:
    """JSON texts of the members of an object, by name."""
    decoder = json.JSONDecoder(object_pairs_hook=list)
    found: dict[str, str] = {}
    at = 1
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        _, end = decoder.raw_decode(text, at + 1)
        found[name] = text[at + 1 : end]
        at = end + (text[end] == ",")
    return found


def _cell(text: str, kind: str) -> str:
    if kind == "json":
        return text
    if kind in ("text", "quoted"):
        value = json.loads(text)
        assert isinstance(value, str)
        return value
    inner = text[text.index(":") + 1 : -1]
    return inner.strip('"')


def _json_of_cell(cell: str, kind: str) -> str:
    if kind in ("text", "quoted"):
        return json.dumps(cell)
    *how, name = kind.split(" ")
    return json.dumps({name: cell}) if "quoted" in how else f'{{"{name}":{cell}}}'


def _has_floats(t: AlgebraicType, typespace: Typespace, seen: set[AlgebraicType]) -> bool:
    t = typespace.resolve(t)
    if t in seen:
        return False
    seen.add(t)
    match t:
        case Primitive(kind):
            return kind in ("F32", "F64")
        case Array(element):
            return _has_floats(element, typespace, seen)
        case Product(elements):
            return any(_has_floats(e.algebraic_type, typespace, seen) for e in elements)
        case Sum(variants):
            return any(_has_floats(v.algebraic_type, typespace, seen) for v in variants)
    return False
