"""A schema out of a module definition: from the JSON that servers give, or from generated code.

Every named product becomes a `Struct`, a table's row type a `Row` (so `db["player"]` rows and query expressions look as
those of a module), a sum of units an `IntEnum`, another named sum classes for its variants. Classes and functions of
generated code are found in its name space by the names of `naming.py`; what is not there is made on the spot.
Attributes are canonical names; a Python keyword gets an underscore behind it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType, ModuleType
from typing import Any

from spacetimedb.module.rows import Row, Struct, Unit, Variant
from spacetimedb.schema.definition import ColumnDef, ModuleDef, ProcedureDef, ReducerDef, TableDef, ViewDef
from spacetimedb.schema.json import raw_v10
from spacetimedb.schema.layout import parsed
from spacetimedb.schema.names import pascal_case
from spacetimedb.schema.raw import V10_LAYOUT, decode_raw, encode_raw
from spacetimedb.schema.raw_structs import RawModuleDefV10
from spacetimedb.schema.validation import validate
from spacetimedb.schema.validation_errors import ModuleDefErrors
from spacetimedb.types.algebraic import (
    AlgebraicType,
    Array,
    Product,
    Ref,
    Sum,
    SumVariant,
    Typespace,
    is_option,
    is_unit,
)
from spacetimedb.types.errors import DecodeError
from spacetimedb.types.shapes import (
    ArrayShape,
    EnumShape,
    FieldShape,
    OptionShape,
    ProductShape,
    ResultShape,
    Shape,
    SumShape,
    VariantShape,
    shape_of,
)

from .errors import ProtocolError
from .naming import PythonNames, attribute
from .schema import FunctionType, Schema, TableType


def definition_from_json(text: bytes | str) -> ModuleDef:
    """The validated definition in the answer of the schema route, version 10. ProtocolError if it is none."""
    try:
        raw: RawModuleDefV10 = parsed(V10_LAYOUT, json.loads(text))
        return validate(raw)
    except (DecodeError, ModuleDefErrors, ValueError) as error:
        raise ProtocolError(f"the server's schema cannot be read: {error}") from None


def schema_from_json(text: bytes | str) -> Schema:
    """The schema in the answer of the schema route."""
    return schema_of_definition(definition_from_json(text))


def pack_definition(definition: ModuleDef) -> str:
    """A definition as text for generated code: BSATN, deflated, in base 64."""
    return base64.b64encode(zlib.compress(encode_raw(raw_v10(definition)), 9)).decode()


def bindings(packed: str, namespace: dict[str, Any]) -> Schema:
    """The schema of a generated module: its packed definition, and the name space with its classes and functions."""
    return schema_of_definition(validate(decode_raw(zlib.decompress(base64.b64decode(packed)))), namespace)


def schema_of_definition(definition: ModuleDef, namespace: Mapping[str, Any] = MappingProxyType({})) -> Schema:
    """Tables, views and functions of a definition, submodules (names before a dot) included."""
    schema = Schema()
    _add_level(schema, definition, "", namespace)
    return schema


def _add_level(schema: Schema, level: ModuleDef, prefix: str, namespace: Mapping[str, Any]) -> None:
    names = PythonNames(level)
    shapes = Shapes(level, names, namespace)

    def key(function: ReducerDef | ProcedureDef | ViewDef) -> object:
        return namespace.get(names.functions[function.name])

    # rows of two tables may have one class: it stands for the table that is called like it
    for table in sorted(level.tables, key=lambda t: names.types[t.type_ref] != pascal_case(t.name)):
        shape = shapes.row(table)
        unique = {column.name for column in _unique_columns(table)}
        schema.add_table(
            TableType(
                prefix + table.name,
                shape,
                key=_registered(shape, prefix + table.name),
                primary_key=table.primary_key,
                unique=unique,
                is_event=table.is_event,
                is_public=table.is_public,
            )
        )
    for view in level.views:
        shape = shapes.row(view)
        own = _registered(shape, prefix + view.name)
        view_type = TableType(
            prefix + view.name, shape, key=key(view) or own, primary_key=view.primary_key, is_view=True
        )
        schema.add_table(view_type)
        if own is not None:
            schema.tables.setdefault(own, view_type)
    for reducer in level.reducers:
        is_private = reducer.is_private or reducer.lifecycle is not None
        params = shapes.params(reducer.declared_params)
        schema.add_function(FunctionType("reducer", prefix + reducer.name, params, is_private=is_private), key(reducer))
    for procedure in level.procedures:
        returns = shapes.of(procedure.declared_return_type)
        params = shapes.params(procedure.declared_params)
        schema.add_function(
            FunctionType("procedure", prefix + procedure.name, params, returns, is_private=procedure.is_private),
            key(procedure),
        )
    for submodule in level.submodules:
        inner = namespace.get(names.submodules[submodule.namespace])
        inner_names = vars(inner) if isinstance(inner, ModuleType) else {}
        _add_level(schema, submodule.module, f"{prefix}{submodule.namespace}.", inner_names)


def _unique_columns(table: TableDef) -> list[ColumnDef]:
    return [table.columns[unique.columns[0]] for unique in table.constraints if len(unique.columns) == 1]


def _registered(shape: ProductShape, table: str) -> type[Any] | None:
    """The row class, for the first table of its rows: the class then stands for that table."""
    declaration = getattr(shape.cls, "__declaration__", None)
    if declaration is None or declaration.registered_name not in (None, table):
        return None
    declaration.registered_name = table
    return shape.cls


class Shapes:
    """Shapes with classes for the types of one module level."""

    def __init__(self, level: ModuleDef, names: PythonNames, namespace: Mapping[str, Any]) -> None:
        self._typespace: Typespace = level.typespace
        self._names = names
        self._namespace = namespace
        self._rows = {t.type_ref for t in level.tables} | {view.type_ref for view in level.views}
        self._shapes: dict[int, Shape] = {}

    def row(self, table: TableDef | ViewDef) -> ProductShape:
        """Shape of a table's rows."""
        shape = self.of(Ref(table.type_ref))
        if not isinstance(shape, ProductShape):
            raise ProtocolError(f"the rows of table {table.name} cannot be described: their type contains itself")
        return shape

    def params(self, params: Product) -> ProductShape:
        """Arguments, as a tuple."""
        fields = [
            FieldShape(attribute(e.name or f"_{n}"), attribute(e.name or f"_{n}"), self.of(e.algebraic_type))
            for n, e in enumerate(params.elements)
        ]
        return ProductShape(None, tuple(fields))

    def of(self, t: AlgebraicType) -> Shape:
        """Shape of any type; a type that contains itself keeps the generic shape."""
        if isinstance(t, Ref):
            if self._typespace.is_recursive(t) or t.index not in self._names.types:
                return shape_of(t, self._typespace)
            known = self._shapes.get(t.index)
            if known is None:
                known = self._shapes[t.index] = self._named(
                    self._names.types[t.index], self._typespace[t.index], t.index
                )
            return known
        generic = shape_of(t, self._typespace)
        match generic:
            case ArrayShape():
                return ArrayShape(self.of(t.element)) if isinstance(t, Array) else generic
            case OptionShape() if isinstance(t, Sum):
                return OptionShape(self.of(t.variants[0].algebraic_type))
            case ResultShape() if isinstance(t, Sum):
                return ResultShape(self.of(t.variants[0].algebraic_type), self.of(t.variants[1].algebraic_type))
        return generic

    def _named(self, name: str, t: AlgebraicType, index: int) -> Shape:
        generic = shape_of(t, self._typespace)
        if isinstance(generic, ProductShape) and isinstance(t, Product):
            return self._product(name, t, Row if index in self._rows else Struct)
        if isinstance(generic, EnumShape) and isinstance(t, Sum):
            members = {attribute(v.name or f"_{n}"): n for n, v in enumerate(t.variants)}
            found: Any = self._namespace.get(name) or IntEnum(name, members)
            return EnumShape(found, generic.names)
        if isinstance(generic, SumShape) and isinstance(t, Sum) and not is_option(t):
            return SumShape(name, tuple(self._variant(index, n, v) for n, v in enumerate(t.variants)))
        return generic

    def _product(self, name: str, t: Product, base: type[Any]) -> ProductShape:
        fields = tuple(
            FieldShape(attribute(e.name or f"_{n}"), e.name, self.of(e.algebraic_type))
            for n, e in enumerate(t.elements)
        )
        return ProductShape(self._class(name, base, [field.attr for field in fields]), fields)

    def _variant(self, ref: int, tag: int, variant: SumVariant) -> VariantShape:
        name, payload = self._names.variants[ref, tag], variant.algebraic_type
        if is_unit(self._typespace.resolve(payload)):
            return VariantShape(variant.name, self._class(name, Unit, []), "unit", None)
        return VariantShape(variant.name, self._class(name, Variant, []), "value", self.of(payload))

    def _class(self, name: str, base: type[Any], attributes: list[str]) -> type[Any]:
        found = self._namespace.get(name)
        if isinstance(found, type):
            return found
        metaclass: Any = type(base)
        namespace = {"__annotations__": dict.fromkeys(attributes, Any), "__module__": __name__}
        made: type[Any] = metaclass(name, (base,), namespace)
        return made
