"""Python bindings: row classes, types and functions of a module, for `connect(module=...)`.

A package, `__init__.py`, with one more inside for each submodule. Row classes carry the markers of their keys, so query
expressions and look-ups are typed as in the module itself; functions are declarations with the exact parameters. The
definition stands at the end (BSATN, zlib, base 64); codecs are made from it when the package is imported, so nothing
about the wire is generated.

    import module_bindings as game
    async with connect(url, "game", module=game) as conn:
        await conn.subscribe(game.Player.level > 3)
        await conn.call(game.enter_game, "Ann")
"""

from __future__ import annotations

import json
from typing import Final

from spacetimedb.client.definition import pack_definition
from spacetimedb.client.naming import IMPORTED, SCHEMA, PythonNames, attribute, variants_of
from spacetimedb.schema.definition import ModuleDef, ProcedureDef, ReducerDef, TableDef, ViewDef
from spacetimedb.types.algebraic import (
    AlgebraicType,
    Array,
    Primitive,
    Product,
    ProductElement,
    Ref,
    Sum,
    is_bytes,
    is_option,
    is_result,
    is_unit,
)
from spacetimedb.types.shapes import SCHEDULE_AT_SHAPE, EnumShape, SumShape, Wrapped, shape_of

from .files import head

_PRIMITIVES: Final = {"Bool": "bool", "String": "str", "F64": "float"}
_STANDARD: Final = {"Any": "typing", "Literal": "typing", "TypeAlias": "typing", "IntEnum": "enum"}
_COLUMNS: Final = 120
_LINE: Final = 100


def python_files(definition: ModuleDef, include_private: bool = False) -> dict[str, str]:
    """Paths and texts of the package."""
    files: dict[str, str] = {}
    _add_level(files, definition, "", include_private)
    return files


def _add_level(files: dict[str, str], level: ModuleDef, path: str, include_private: bool) -> None:
    names = PythonNames(level)
    for submodule in level.submodules:
        _add_level(files, submodule.module, f"{path}{names.submodules[submodule.namespace]}/", include_private)
    files[f"{path}__init__.py"] = _Level(level, names, include_private).text(is_root=not path)


class _Level:
    """The text of one file."""

    def __init__(self, level: ModuleDef, names: PythonNames, include_private: bool) -> None:
        self.level = level
        self.names = names
        self.include_private = include_private
        self.used: set[str] = set()

    def text(self, is_root: bool) -> str:
        rows = self._rows()
        parts = [self._type(ref) for ref in sorted(self.names.types) if ref not in rows]
        parts += [self._row(ref, table) for ref, table in sorted(rows.items(), key=lambda r: self.names.types[r[0]])]
        parts += [self._function(r, "ReducerContext", "None") for r in self.level.reducers if self._is_shown(r)]
        parts += [
            self._function(p, "ProcedureContext", self._annotation(p.declared_return_type))
            for p in self.level.procedures
            if self._is_shown(p)
        ]
        parts += [self._view(view) for view in self.level.views]
        if is_root:
            parts.append(self._definition())
        aliases = [alias for ref in sorted(self.names.types) if (alias := self._alias(ref))]
        body = "\n\n\n".join(part for part in parts[: len(parts) - is_root] if part)
        tail = f"\n\n\n{parts[-1]}" if is_root else ""
        alias_text = "\n\n\n" + "\n".join(aliases) if aliases else ""
        return (
            f"{head('#')}# ruff: noqa\n"
            f'"""Tables and functions of a module, for `connect(module=...)` of spacetimedb.client."""\n\n'
            f"from __future__ import annotations\n\n{self._imports()}\n\n\n{body}{alias_text}{tail}\n"
        )

    def _is_shown(self, function: ReducerDef | ProcedureDef) -> bool:
        if isinstance(function, ReducerDef) and function.lifecycle is not None:
            return False
        return self.include_private or not function.is_private

    def _rows(self) -> dict[int, TableDef | ViewDef]:
        """Row types with the table that says most about them: one of the type's own name, else the first."""
        rows: dict[int, TableDef | ViewDef] = {view.type_ref: view for view in reversed(self.level.views)}
        for table in sorted(self.level.tables, key=lambda t: attribute(t.name) == self.names.types[t.type_ref].lower()):
            rows[table.type_ref] = table
        return rows

    def _imports(self) -> str:
        lines: list[str] = []
        for module in ("enum", "typing"):
            found = sorted(name for name, home in _STANDARD.items() if home == module and name in self.used)
            if found:
                lines.append(f"from {module} import {', '.join(found)}")
        own = sorted(name for name in self.used if name in IMPORTED and name not in (*_STANDARD, "bindings"))
        if own:
            lines.append("\nfrom spacetimedb import (\n" + "".join(f"    {name},\n" for name in own) + ")")
        if "bindings" in self.used:
            lines.append("from spacetimedb.client.definition import bindings")
        submodules = sorted(self.names.submodules.values())
        if submodules:
            lines.append(f"\nfrom . import {', '.join(submodules)}")
        return "\n".join(lines).lstrip("\n")

    def _use(self, name: str) -> str:
        self.used.add(name)
        return name

    # -- types

    def _type(self, ref: int) -> str:
        t, name = self.level.typespace[ref], self.names.types[ref]
        shape = shape_of(Ref(ref), self.level.typespace)
        if (
            isinstance(t, Product)
            and not isinstance(shape, Wrapped)
            and not self.level.typespace.is_recursive(Ref(ref))
        ):
            return self._class(name, self._use("Struct"), [self._field(e, n, "") for n, e in enumerate(t.elements)])
        if isinstance(t, Sum) and isinstance(shape, EnumShape):
            members = [f"{attribute(v.name or f'_{n}')} = {n}" for n, v in enumerate(t.variants)]
            return self._class(name, self._use("IntEnum"), members)
        if not variants_of(self.level.typespace, ref) or not isinstance(t, Sum):
            return ""
        classes = []
        for tag, variant in enumerate(t.variants):
            if is_unit(self.level.typespace.resolve(variant.algebraic_type)):
                base = self._use("Unit")
            else:
                base = f"{self._use('Variant')}[{self._quoted(variant.algebraic_type)}]"
            classes.append(self._class(self.names.variants[ref, tag], base, []))
        return "\n\n\n".join(classes)

    def _quoted(self, t: AlgebraicType) -> str:
        """An annotation in the bases of a class, which is evaluated: what stands below is not there yet."""
        text = self._annotation(t)
        return text if isinstance(t, Primitive) else json.dumps(text)

    def _alias(self, ref: int) -> str:
        t, name = self.level.typespace[ref], self.names.types[ref]
        if self.level.typespace.is_recursive(Ref(ref)):
            return f"{name}: {self._use('TypeAlias')} = {self._use('Any')}  # contains itself: tuples"
        if variants := variants_of(self.level.typespace, ref):
            union = " | ".join(self.names.variants[ref, tag] for tag in range(len(variants)))
            return f"{name}: {self._use('TypeAlias')} = {union}"
        shape = shape_of(Ref(ref), self.level.typespace)
        if isinstance(shape, Wrapped) or (isinstance(t, Sum) and not isinstance(shape, EnumShape)):
            return f"{name}: {self._use('TypeAlias')} = {json.dumps(self._annotation(t))}"
        if not isinstance(t, Product | Sum):
            return f"{name}: {self._use('TypeAlias')} = {json.dumps(self._annotation(t))}"
        return ""

    def _class(self, name: str, base: str, lines: list[str]) -> str:
        return f"class {name}({base}):\n" + "".join(f"    {line}\n" for line in lines or ["pass"]).rstrip("\n")

    def _field(self, element: ProductElement, number: int, marker: str) -> str:
        text = self._annotation(element.algebraic_type)
        return f"{attribute(element.name or f'_{number}')}: {f'{self._use(marker)}[{text}]' if marker else text}"

    def _annotation(self, t: AlgebraicType) -> str:
        """The type as Python writes it."""
        if isinstance(t, Ref):
            named = t.index in self.names.types
            return self.names.types[t.index] if named else self._annotation(self.level.typespace.resolve(t))
        shape = shape_of(t, self.level.typespace)
        if isinstance(shape, Wrapped):
            return self._use(shape.cls.__name__)
        if shape == SCHEDULE_AT_SHAPE:
            return self._use("ScheduleAt")
        if isinstance(t, Primitive):
            return _PRIMITIVES.get(t.kind) or self._use(t.kind.lower())
        if isinstance(t, Array):
            return "bytes" if is_bytes(t) else f"list[{self._annotation(t.element)}]"
        if isinstance(t, Sum):
            if is_option(t) and not isinstance(shape, SumShape):
                return f"{self._annotation(t.variants[0].algebraic_type)} | None"
            if is_result(t):
                return " | ".join(
                    f'tuple[{self._use("Literal")}["{key}"], {self._annotation(variant.algebraic_type)}]'
                    for key, variant in zip(("ok", "err"), t.variants, strict=True)
                )
            return "int" if isinstance(shape, EnumShape) else f"tuple[int, {self._use('Any')}]"
        if is_unit(t):
            return "None"
        assert isinstance(t, Product)
        return f"tuple[{', '.join(self._annotation(e.algebraic_type) for e in t.elements)}]"

    # -- tables and functions

    def _row(self, ref: int, table: TableDef | ViewDef) -> str:
        row = self.level.typespace[ref]
        assert isinstance(row, Product)
        markers = self._markers(table)
        fields = [self._field(e, n, markers[n]) for n, e in enumerate(row.elements)]
        users = [t.name for t in self.level.tables if t.type_ref == ref]
        users += [v.name for v in self.level.views if v.type_ref == ref]
        text = f'"""Rows of {", ".join(users)}."""'
        return self._class(self.names.types[ref], self._use("Row"), [text, *fields]).replace('."""\n', '."""\n\n', 1)

    def _markers(self, table: TableDef | ViewDef) -> list[str]:
        markers = ["Col"] * len(table.columns)
        if isinstance(table, TableDef):
            for index in table.indexes:
                if len(index.columns) == 1:
                    markers[index.columns[0]] = "HashIndex" if index.algorithm == "hash" else "Index"
            for constraint in table.constraints:
                if len(constraint.columns) == 1:
                    markers[constraint.columns[0]] = "Unique"
        if table.primary_key is not None:
            markers[table.primary_key] = "Pk"
        return markers

    def _function(self, function: ReducerDef | ProcedureDef, context: str, returns: str) -> str:
        parameters = [f"ctx: {self._use(context)}"]
        parameters += [self._field(e, n, "") for n, e in enumerate(function.declared_params.elements)]
        line = f"def {self.names.functions[function.name]}({', '.join(parameters)}) -> {returns}: ..."
        if len(line) > _COLUMNS:
            inner = "".join(f"    {parameter},\n" for parameter in parameters)
            line = f"def {self.names.functions[function.name]}(\n{inner}) -> {returns}: ..."
        return line.replace(": ...", ":\n    raise NotImplementedError  # runs in the database")

    def _view(self, view: ViewDef) -> str:
        context = self._use("AnonymousViewContext" if view.is_anonymous else "ViewContext")
        row = self.names.types[view.type_ref]
        return (
            f"def {self.names.functions[view.name]}(ctx: {context}) -> list[{row}]:\n"
            "    raise NotImplementedError  # runs in the database"
        )

    def _definition(self) -> str:
        text = pack_definition(self.level)
        lines = [f'    "{text[at : at + _LINE]}"\n' for at in range(0, len(text), _LINE)]
        return f"{SCHEMA} = {self._use('bindings')}(\n{''.join(lines)},\n    globals(),\n)".replace('"\n,', '",')
