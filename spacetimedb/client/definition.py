"""A schema out of a module definition: from the JSON that servers give, with classes made on the spot.

Every named product becomes a `Struct`, a table's row type a `Row` (so `db["player"]` rows and query expressions look as
those of a module), a sum of units an `IntEnum`, another named sum classes for its variants, called as the variants.
Attributes are canonical names; a Python keyword gets an underscore behind it.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from spacetimedb.module.rows import Row, Struct, Unit, Variant
from spacetimedb.schema.definition import ColumnDef, ModuleDef, TableDef, ViewDef
from spacetimedb.schema.layout import parsed
from spacetimedb.schema.names import pascal_case
from spacetimedb.schema.raw import V10_LAYOUT, RawModuleDefV10
from spacetimedb.schema.validation import validate
from spacetimedb.schema.validation_errors import ModuleDefErrors
from spacetimedb.types.algebraic import AlgebraicType, Array, Product, Ref, Sum, Typespace, is_option, is_unit
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


def attribute(name: str) -> str:
    """Name of an attribute or parameter in Python."""
    return f"{name}_" if keyword.iskeyword(name) else name


def schema_of_definition(definition: ModuleDef) -> Schema:
    """Tables, views and callable functions of a definition, submodules (names before a dot) included."""
    schema = Schema()
    _add_level(schema, definition, "")
    return schema


def _add_level(schema: Schema, level: ModuleDef, prefix: str) -> None:
    shapes = Shapes(level)
    for table in level.tables:
        unique = {level_column.name for level_column in _unique_columns(table)}
        shape = shapes.row(table, table.name)
        made = TableType(
            prefix + table.name,
            shape,
            key=shapes.key(table.type_ref),
            primary_key=table.primary_key,
            unique=unique,
            is_event=table.is_event,
            is_public=table.is_public,
        )
        _register(made, shape)
        schema.add_table(made)
    for view in level.views:
        shape = shapes.row(view, view.name)
        made = TableType(prefix + view.name, shape, primary_key=view.primary_key, is_view=True)
        _register(made, shape)
        schema.add_table(made)
    for reducer in level.reducers:
        is_private = reducer.is_private or reducer.lifecycle is not None
        params = shapes.params(reducer.declared_params)
        schema.add_function(FunctionType("reducer", prefix + reducer.name, params, is_private=is_private))
    for procedure in level.procedures:
        returns = shapes.of(procedure.declared_return_type)
        params = shapes.params(procedure.declared_params)
        is_private = procedure.is_private
        schema.add_function(FunctionType("procedure", prefix + procedure.name, params, returns, is_private=is_private))
    for submodule in level.submodules:
        _add_level(schema, submodule.module, f"{prefix}{submodule.namespace}.")


def _unique_columns(table: TableDef) -> list[ColumnDef]:
    return [table.columns[unique.columns[0]] for unique in table.constraints if len(unique.columns) == 1]


def _register(table: TableType, shape: ProductShape) -> None:
    declaration = getattr(shape.cls, "__declaration__", None)
    if declaration is not None and declaration.registered_name is None:
        declaration.registered_name = table.name


class Shapes:
    """Shapes with classes for the types of one module level."""

    def __init__(self, level: ModuleDef) -> None:
        self._typespace: Typespace = level.typespace
        self._names: Mapping[int, str] = {t.type_ref: "".join((*t.scope, t.name)) for t in level.types}
        self._rows = {t.type_ref for t in level.tables} | {view.type_ref for view in level.views}
        self._shapes: dict[int, Shape] = {}
        self._keys: dict[int, object] = {}

    def row(self, table: TableDef | ViewDef, name: str) -> ProductShape:
        """Shape of a table's rows; `name` is used if the type has none."""
        shape = self._shapes.get(table.type_ref)
        if isinstance(shape, ProductShape):
            return shape
        row_type = self._typespace[table.type_ref] if table.type_ref >= 0 else table.row_type
        assert isinstance(row_type, Product)
        made = self._product(self._names.get(table.type_ref, pascal_case(name)), row_type, Row)
        self._shapes[table.type_ref] = made
        return made

    def key(self, type_ref: int) -> object:
        """The row class of a type, for the first table that asks."""
        shape = self._shapes.get(type_ref)
        if type_ref in self._keys or not isinstance(shape, ProductShape):
            return None
        self._keys[type_ref] = shape.cls
        return shape.cls

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
            if self._typespace.is_recursive(t) or t.index not in self._names:
                return shape_of(t, self._typespace)
            known = self._shapes.get(t.index)
            if known is None:
                known = self._shapes[t.index] = self._named(self._names[t.index], self._typespace.resolve(t), t.index)
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
            made: Any = IntEnum(name, members)  # type: ignore[misc]  # the members are known at run time only
            return EnumShape(made, generic.names)
        if isinstance(generic, SumShape) and isinstance(t, Sum) and not is_option(t):
            return SumShape(name, tuple(self._variant(n, v.name, v.algebraic_type) for n, v in enumerate(t.variants)))
        return generic

    def _product(self, name: str, t: Product, base: type[Any]) -> ProductShape:
        fields = tuple(
            FieldShape(attribute(e.name or f"_{n}"), e.name, self.of(e.algebraic_type))
            for n, e in enumerate(t.elements)
        )
        return ProductShape(_made(name, base, [field.attr for field in fields]), fields)

    def _variant(self, number: int, name: str | None, payload: AlgebraicType) -> VariantShape:
        class_name = pascal_case(name) if name else f"Variant{number}"
        if is_unit(self._typespace.resolve(payload) if isinstance(payload, Ref) else payload):
            return VariantShape(name, _made(class_name, Unit, []), "unit", None)
        return VariantShape(name, _made(class_name, Variant, []), "value", self.of(payload))


def _made(name: str, base: type[Any], attributes: list[str]) -> type[Any]:
    metaclass: Any = type(base)
    namespace = {"__annotations__": dict.fromkeys(attributes, Any), "__module__": __name__}
    made: type[Any] = metaclass(name, (base,), namespace)
    return made
