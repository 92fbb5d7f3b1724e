"""What the code generator must know about a table, worked out from its definition and its row shape."""

from __future__ import annotations

from typing import Any

import msgspec

from spacetimedb.schema.definition import SequenceDef, TableDef
from spacetimedb.types.shapes import (
    ArrayShape,
    EnumShape,
    FieldShape,
    OptionShape,
    ProductShape,
    ResultShape,
    Scalar,
    Shape,
    SumShape,
    Wrapped,
)

from .copying import is_frozen, is_mutable

_INTEGER_BITS = {f"{sign}{bits}": bits for sign in "ui" for bits in (8, 16, 32, 64, 128, 256)}


class IndexLayout(msgspec.Struct, frozen=True):
    """One index. `number` is its position in the definition; `columns` are positions, `attributes` Python names.

    `is_ordered`: can be scanned by range. `reverse_bytes`: per column, whether it is ordered by its reversed bytes.
    `accessors`: the names that module code may use for it, the best first.
    """

    number: int
    name: str
    columns: tuple[int, ...]
    attributes: tuple[str, ...]
    is_unique: bool
    is_ordered: bool
    reverse_bytes: tuple[bool, ...]
    accessors: tuple[str, ...]


class SequenceLayout(msgspec.Struct, frozen=True):
    """One auto-increment column: `bits` wide, two's complement if `is_signed`."""

    definition: SequenceDef
    attribute: str
    bits: int
    is_signed: bool


class TableLayout(msgspec.Struct, frozen=True):
    """A table as the generator sees it.

    `key` is the index whose dict holds the rows themselves: that of the primary key, else the first unique one, else
    None and rows are kept by their BSATN. `deep` are the columns that a flat copy would share although they can be
    changed. `f32_columns` contain an f32 somewhere; `has_floats` is true for f64, too: such rows are the same only if
    their bytes are.
    """

    table_id: int
    definition: TableDef
    shape: ProductShape
    row_class: type[Any]
    is_frozen: bool
    key: IndexLayout | None
    indexes: tuple[IndexLayout, ...]
    sequences: tuple[SequenceLayout, ...]
    deep: tuple[FieldShape, ...]
    f32_columns: tuple[FieldShape, ...]
    has_floats: bool

    @property
    def secondary(self) -> tuple[IndexLayout, ...]:
        """The indexes that have a dict of their own."""
        return tuple(index for index in self.indexes if index is not self.key)


def table_layout(table_id: int, definition: TableDef, shape: ProductShape) -> TableLayout:
    """Raises ValueError if an index or sequence is on a column whose values cannot serve."""
    if len(shape.fields) != len(definition.columns):
        raise ValueError(f"table {definition.name}: {len(definition.columns)} columns, {len(shape.fields)} fields")
    if shape.cls is None:
        shape = ProductShape(_row_class(definition, shape), shape.fields)
    assert shape.cls is not None
    indexes = tuple(_index_layout(number, definition, shape) for number in range(len(definition.indexes)))
    unique = [index for index in indexes if index.is_unique]
    preferred = (definition.primary_key,)
    key = next((index for index in unique if index.columns == preferred), unique[0] if unique else None)
    return TableLayout(
        table_id=table_id,
        definition=definition,
        shape=shape,
        row_class=shape.cls,
        is_frozen=is_frozen(shape.cls),
        key=key,
        indexes=indexes,
        sequences=tuple(_sequence_layout(sequence, definition, shape) for sequence in definition.sequences),
        deep=tuple(field for field in shape.fields if is_mutable(field.shape)),
        f32_columns=tuple(field for field in shape.fields if _contains(field.shape, ("f32",))),
        has_floats=any(_contains(field.shape, ("f32", "f64")) for field in shape.fields),
    )


def _row_class(definition: TableDef, shape: ProductShape) -> type[Any]:
    """Rows of a module in another language have no class: they get a frozen one whose attributes are the shape's."""
    fields = [field.attr for field in shape.fields]
    return msgspec.defstruct(f"Row_{definition.name}", fields, frozen=True, gc=False, kw_only=True)


def _index_layout(number: int, definition: TableDef, shape: ProductShape) -> IndexLayout:
    index = definition.indexes[number]
    fields = [shape.fields[position] for position in index.columns]
    for field in fields:
        if not _is_key(field.shape):
            raise ValueError(f"table {definition.name}: column {field.name} cannot be the key of index {index.name}")
    accessors: list[str] = []
    if len(index.columns) == 1:
        accessors = [fields[0].attr, definition.columns[index.columns[0]].accessor_name]
    if index.accessor_name is not None:
        accessors.append(index.accessor_name)
    return IndexLayout(
        number=number,
        name=index.name,
        columns=index.columns,
        attributes=tuple(field.attr for field in fields),
        is_unique=index.is_unique,
        is_ordered=index.algorithm != "hash",
        reverse_bytes=tuple(isinstance(f.shape, Wrapped) and f.shape.kind != "i64" for f in fields),
        accessors=tuple(name for name in dict.fromkeys(accessors) if name.isidentifier()),
    )


def _is_key(shape: Shape) -> bool:
    """Whether values are hashable and equal exactly when their bytes are."""
    match shape:
        case Scalar(kind):
            return kind not in ("f32", "f64")
        case Wrapped() | EnumShape():
            return True
        case OptionShape(some):
            return _is_key(some)
        case ProductShape(None, fields):
            return all(_is_key(field.shape) for field in fields)
        case _:
            return False


def _sequence_layout(sequence: SequenceDef, definition: TableDef, shape: ProductShape) -> SequenceLayout:
    field = shape.fields[sequence.column]
    bits = _INTEGER_BITS.get(field.shape.kind) if isinstance(field.shape, Scalar) else None
    if bits is None or not isinstance(field.shape, Scalar):
        raise ValueError(f"table {definition.name}: column {field.name} of sequence {sequence.name} is no integer")
    return SequenceLayout(sequence, field.attr, bits, field.shape.kind.startswith("i"))


def _contains(shape: Shape, kinds: tuple[str, ...]) -> bool:
    match shape:
        case Scalar(kind):
            return kind in kinds
        case Wrapped() | EnumShape():
            return False
        case ArrayShape(element):
            return _contains(element, kinds)
        case OptionShape(some):
            return _contains(some, kinds)
        case ResultShape(ok, err):
            return _contains(ok, kinds) or _contains(err, kinds)
        case ProductShape(_, fields):
            return any(_contains(field.shape, kinds) for field in fields)
        case SumShape(_, variants):
            return any(v.shape is not None and _contains(v.shape, kinds) for v in variants)
        case _:
            return True
