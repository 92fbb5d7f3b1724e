"""What a client knows of a database: its tables and functions with their codecs.

A `Schema` is built once and shared by any number of connections. It comes from a module (row classes and functions are
then the module's own: `schema_of`), or from the definition that the server gives (`definition.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

from spacetimedb.module import Module
from spacetimedb.module.mounting import descendants
from spacetimedb.schema.names import snake_case
from spacetimedb.types.bsatn import codec, fixed_size
from spacetimedb.types.shapes import ProductShape, Scalar, Shape, is_unit_shape

from .naming import SCHEMA

_U32: Final = struct.Struct("<I")

FunctionKind = Literal["reducer", "procedure"]
_CALLED_WITH: Final[dict[FunctionKind, str]] = {"reducer": "call", "procedure": "procedure"}


class TableType:
    """A table or view.

    `key`: what the table is asked for with, beside its name: row class, alias or view function (None: by name only).
    `key_of(row bytes)` gives the bytes that a row is known by in the cache, those of the primary key; None: the whole
    row is its own key. `primary_key` is a column number. `decode(bytes)` gives the row object.
    """

    __slots__ = (
        "columns",
        "decode",
        "is_event",
        "is_public",
        "is_view",
        "key",
        "key_of",
        "name",
        "primary_key",
        "row_class",
        "shape",
        "unique",
        "wire_name",
    )

    def __init__(
        self,
        name: str,
        shape: ProductShape,
        *,
        key: object = None,
        primary_key: int | None = None,
        unique: Iterable[str] = (),
        is_event: bool = False,
        is_public: bool = True,
        is_view: bool = False,
    ) -> None:
        self.name = name
        self.wire_name = name.encode()
        self.shape = shape
        self.row_class = shape.cls
        self.key = key
        self.primary_key = primary_key
        self.columns = {field.name or field.attr: position for position, field in enumerate(shape.fields)}
        self.unique = frozenset(unique)
        self.is_event = is_event
        self.is_public = is_public
        self.is_view = is_view
        self.decode = _row_decoder(shape)
        self.key_of = None if primary_key is None else key_slicer(shape, primary_key)

    def column(self, name: str) -> int:
        """Position of a column by name; LookupError with the names there are."""
        position = self.columns.get(name)
        if position is None:
            raise LookupError(f"table {self.name} has no column {name!r}; it has {', '.join(self.columns)}")
        return position

    def __repr__(self) -> str:
        return f"<table {self.name}>"


class FunctionType:
    """A reducer or procedure. `shape` is that of its arguments, a tuple. `returns` decodes a procedure's value; None
    for unit and for reducers. `is_private`: clients cannot call it (lifecycle, schedules)."""

    __slots__ = ("encode", "is_private", "kind", "name", "parameters", "returns", "shape", "wire_name")

    def __init__(
        self,
        kind: FunctionKind,
        name: str,
        params: ProductShape,
        returns: Shape | None = None,
        *,
        is_private: bool = False,
    ) -> None:
        self.kind: FunctionKind = kind
        self.name = name
        self.shape = params
        self.is_private = is_private
        raw = name.encode()
        self.wire_name = _U32.pack(len(raw)) + raw
        self.parameters = tuple(field.name or field.attr for field in params.fields)
        self.encode: Callable[[tuple[Any, ...]], bytes] = codec(params).encode
        self.returns = None if returns is None or is_unit_shape(returns) else codec(returns).decode_exact

    def bind(self, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments by position. TypeError for missing or unknown ones."""
        if not named and len(positional) == len(self.parameters):
            return positional
        signature = f"{self.name}({', '.join(self.parameters)})"
        if len(positional) > len(self.parameters):
            raise TypeError(f"{signature} takes {len(self.parameters)} arguments, {len(positional)} were given")
        rest = self.parameters[len(positional) :]
        unknown, missing = [name for name in named if name not in rest], [name for name in rest if name not in named]
        if unknown or missing:
            texts = [f"unknown argument {name}" for name in unknown] + [f"{name} is missing" for name in missing]
            raise TypeError(f"{signature}: {', '.join(texts)}")
        return positional + tuple(named[name] for name in rest)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"


class Schema:
    """Tables, reducers and procedures by name, and by the Python objects that stand for them."""

    __slots__ = ("by_wire_name", "procedures", "reducers", "tables")

    def __init__(self) -> None:
        self.tables: dict[object, TableType] = {}
        self.by_wire_name: dict[bytes, TableType] = {}
        self.reducers: dict[object, FunctionType] = {}
        self.procedures: dict[object, FunctionType] = {}

    def add_table(self, table: TableType) -> None:
        self.tables[table.name] = table
        self.by_wire_name[table.wire_name] = table
        if table.key is not None:
            self.tables[table.key] = table

    def add_function(self, function: FunctionType, key: object = None) -> None:
        functions = self.reducers if function.kind == "reducer" else self.procedures
        functions[function.name] = function
        if key is not None:
            functions[key] = function

    def table(self, key: object) -> TableType:
        """By name, row class, alias or view; LookupError with the names there are."""
        found = self.tables.get(key)
        if found is None and isinstance(key, str):
            found = self.tables.get(snake_case(key))
        if found is None:
            raise LookupError(f"there is no table {_named(key)}; there are {_names(self.tables) or 'none'}")
        return found

    def function(self, kind: FunctionKind, key: object) -> FunctionType:
        """By name or Python function; LookupError with the names there are."""
        functions = self.reducers if kind == "reducer" else self.procedures
        found = functions.get(key)
        if found is None and isinstance(key, str):
            found = functions.get(snake_case(key))
        if found is None:
            others = self.procedures if kind == "reducer" else self.reducers
            if key in others:
                raise LookupError(
                    f"{_named(key)} is no {kind}: call it with conn.{_CALLED_WITH[others[key].kind]}(...)"
                )
            callable_ones = {name: function for name, function in functions.items() if not function.is_private}
            raise LookupError(f"there is no {kind} {_named(key)}; there are {_names(callable_ones) or 'none'}")
        return found


def schema_of(module: Module | ModuleType | Schema) -> Schema:
    """The schema of a `Module`, or of a Python module that has one or was generated. TypeError if it is something
    else."""
    if isinstance(module, Schema):
        return module
    if isinstance(module, ModuleType):
        generated = vars(module).get(SCHEMA)
        if isinstance(generated, Schema):
            return generated
        found = {id(value): value for value in vars(module).values() if isinstance(value, Module)}
        inner = {id(mounted) for outer in found.values() for _, mounted in descendants(outer)}
        found = {key: value for key, value in found.items() if key not in inner}
        if len(found) != 1:
            raise TypeError(f"{module.__name__} must have exactly one `Module()` at its top level, not {len(found)}")
        module = next(iter(found.values()))
    if not isinstance(module, Module):
        raise TypeError(f"a module, its Module object or a Schema is needed, not {module!r}")
    built = module.build()
    known = _schemas.get(module)
    if known is None or known[0] is not built:
        known = _schemas[module] = built, _of_module(module)
    return known[1]


_schemas: WeakKeyDictionary[Module, tuple[object, Schema]] = WeakKeyDictionary()
"""Schemas of modules, each with the build that it is of: a module may still grow."""


def _of_module(module: Module) -> Schema:
    schema = Schema()
    for table in module.tables:
        unique = {column.name for column in table.columns if column.is_unique}
        schema.add_table(
            TableType(
                table.name,
                table.shape,
                key=table.key,
                primary_key=table.primary_key,
                unique=unique,
                is_event=table.is_event,
                is_public=table.is_public,
            )
        )
    keys = {table.row: table.primary_key for table in module.tables}
    for view in module.views:
        key = view.primary_key
        if key is None and view.form == "query":
            key = keys.get(view.row)  # its rows are a table's
        schema.add_table(TableType(view.name, view.shape, key=view.function, primary_key=key, is_view=True))
    for reducer in module.reducers:
        is_private = reducer.is_private or reducer.lifecycle is not None
        function = FunctionType("reducer", reducer.name, reducer.params, is_private=is_private)
        schema.add_function(function, reducer.function)
    for procedure in module.procedures:
        function = FunctionType(
            "procedure", procedure.name, procedure.params, procedure.returns, is_private=procedure.is_private
        )
        schema.add_function(function, procedure.function)
    return schema


def _row_decoder(shape: ProductShape) -> Callable[[bytes], Any]:
    decode = codec(shape).decode

    def row(data: bytes) -> Any:
        return decode(data)[0]

    return row


def key_slicer(shape: ProductShape, position: int) -> Callable[[bytes], bytes]:
    """A function that cuts the bytes of one column out of a row's."""
    before = [fixed_size(field.shape) for field in shape.fields[:position]]
    column = shape.fields[position].shape
    if None not in before:
        start = sum(size for size in before if size is not None)
        size = fixed_size(column)
        if size is not None:
            cut = slice(start, start + size)
            return lambda row: row[cut]
        if column == Scalar("string"):
            text = start + 4
            length_at = _U32.unpack_from
            return lambda row: row[start : text + length_at(row, start)[0]]
    skip = codec(ProductShape(None, shape.fields[:position])).decode
    read = codec(column).decode

    def sliced(row: bytes) -> bytes:
        begin = skip(row, 0)[1]
        return row[begin : read(row, begin)[1]]

    return sliced


def _named(key: object) -> str:
    return repr(key) if isinstance(key, str) else str(getattr(key, "__name__", key))


def _names(entries: dict[object, Any]) -> str:
    return ", ".join(sorted(name for name in entries if isinstance(name, str)))
