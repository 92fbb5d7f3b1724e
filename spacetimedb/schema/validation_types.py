"""The types of a definition: conversion of their names and the rules for what clients can be given.

A *definition* is a product or sum that has a name (or is the row of a table): all its parts are named, and each is a
*use*: a primitive, an array, option or result of uses, a special type, unit, never, or a reference to a definition. A
reference to something without a name counts as what it refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from spacetimedb.schema.names import camel_case, identifier_problem, snake_case
from spacetimedb.schema.validation_errors import Kind, Problems
from spacetimedb.types.algebraic import (
    AlgebraicType,
    Array,
    Primitive,
    Product,
    ProductElement,
    Ref,
    Sum,
    SumVariant,
    Typespace,
    display,
    is_option,
    is_result,
    is_special,
    is_unit,
)

MAX_ALIAS_DEPTH: Final = 64
"""How many types without a name may refer to each other in a row."""

_INVALID_REF: Final = "internal codegen error: invalid AlgebraicTypeRef"


def canonical_type(t: AlgebraicType) -> AlgebraicType:
    """The type with snake_case fields and camelCase variants; special types stay as they are, with all they hold."""
    if is_special(t):
        return t
    if isinstance(t, Product):
        return Product(
            tuple(ProductElement(_convert(e.name, snake_case), canonical_type(e.algebraic_type)) for e in t.elements)
        )
    if isinstance(t, Sum):
        return Sum(
            tuple(SumVariant(_convert(v.name, camel_case), canonical_type(v.algebraic_type)) for v in t.variants)
        )
    if isinstance(t, Array):
        return Array(canonical_type(t.element))
    return t


def _convert(name: str | None, conversion: Callable[[str], str]) -> str | None:
    return None if name is None else conversion(name)


class TypeUses:
    """Checks uses and definitions against a typespace (source names); ``defined`` are the indexes that have a name."""

    def __init__(self, typespace: Typespace, defined: Iterable[int], problems: Problems) -> None:
        self._typespace = typespace
        self._defined = frozenset(defined)
        self._problems = problems
        self._aliases: dict[int, str | None] = {}
        """What keeps an alias from being used; while it is being looked at, that it would be one of itself."""

    def check_use(self, t: AlgebraicType, location: str) -> None:
        """Note what keeps ``t`` from being used at ``location`` (as printed, e.g. "reducer `r` argument 0 (`x`)")."""
        problem = self._use_problem(t)
        if problem is not None:
            self._note(location, problem)

    def check_params(self, params: Product, function: str) -> None:
        """Check the parameters of ``function`` (as printed, e.g. "reducer `r`")."""
        for position, element in enumerate(params.elements):
            if element.name is None:
                self._note(
                    f"{function} argument {position}", "internal codegen error: all reducer parameters require names"
                )
            else:
                self.check_use(element.algebraic_type, f"{function} argument {position} (`{element.name}`)")

    def check_definition(self, index: int) -> None:
        """Check the type at ``index`` as a definition."""
        location = f"typespace ref `&{index}`"
        t = self._typespace[index]
        if not isinstance(t, Product | Sum):
            self._note(location, f"internal codegen error: type {display(t)} is not valid for generating a definition")
            return
        for part in t.elements if isinstance(t, Product) else t.variants:
            if part.name is None:
                self._note(location, f"internal codegen error: all type elements require names: {display(t)}")
            else:
                problem = identifier_problem(part.name)
                if problem is not None:
                    self._note(location, f"type {display(t)} contains identifier error {problem}")
            if isinstance(t, Sum) and is_unit(part.algebraic_type):
                continue
            self.check_use(part.algebraic_type, location)

    def _note(self, location: str, problem: str) -> None:
        self._problems.add(Kind.TYPE_USE, f"error at {location}: {problem}", location, problem)

    def _use_problem(self, t: AlgebraicType, depth: int = 0) -> str | None:
        """What keeps ``t`` from being used; ``depth`` is how many aliases it was reached through."""
        if isinstance(t, Primitive):
            return None
        if isinstance(t, Array):
            return self._use_problem(t.element, depth)
        if isinstance(t, Ref):
            if t.index in self._defined and t.index < len(self._typespace):
                return None
            if t.index >= len(self._typespace) or depth >= MAX_ALIAS_DEPTH:
                return _INVALID_REF
            if t.index not in self._aliases:
                self._aliases[t.index] = _INVALID_REF
                self._aliases[t.index] = self._use_problem(self._typespace[t.index], depth + 1)
            return self._aliases[t.index]
        if is_option(t):
            return self._use_problem(t.variants[0].algebraic_type, depth)
        if is_result(t):
            ok, err = (variant.algebraic_type for variant in t.variants)
            return self._use_problem(ok, depth) or self._use_problem(err, depth)
        if is_special(t) or not (t.elements if isinstance(t, Product) else t.variants):
            return None
        return (
            f"internal codegen error: non-special product or sum type {display(t)} "
            "cannot be used to generate a client type use"
        )


def inlined_or_same(typespace: Typespace, t: AlgebraicType) -> AlgebraicType:
    """``t`` inlined; itself when it holds itself or is too large when inlined (parameters may be so)."""
    try:
        return typespace.inline(t)
    except ValueError:
        return t


def debug_type(t: AlgebraicType) -> str:
    """The type in the debug form that one message uses: ``Sum(SumType {"Interval": U64})``."""
    if isinstance(t, Primitive):
        return t.kind
    if isinstance(t, Ref):
        return f"Ref(AlgebraicTypeRef({t.index}))"
    if isinstance(t, Array):
        return f"Array(ArrayType {{ elem_ty: {debug_type(t.element)} }})"
    if isinstance(t, Product):
        return f"Product({debug_product(t)})"
    return f"Sum(SumType {{{_debug_parts((v.name, v.algebraic_type) for v in t.variants)}}})"


def debug_product(t: Product) -> str:
    """``ProductType {"a": U8}``."""
    return f"ProductType {{{_debug_parts((e.name, e.algebraic_type) for e in t.elements)}}}"


def _debug_parts(parts: Iterable[tuple[str | None, AlgebraicType]]) -> str:
    return ", ".join(
        f"{position if name is None else _quoted(name)}: {debug_type(t)}" for position, (name, t) in enumerate(parts)
    )


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
