"""Names in Python for the types and functions of a definition. Generated code and what reads it agree on them.

A type keeps its name, a variant gets its own in PascalCase, behind the sum's name if that is taken; a function its
canonical name. What is a keyword, a builtin or a name that generated code imports gets an underscore behind it.
"""

from __future__ import annotations

import builtins
import keyword
import re
from typing import Final

from spacetimedb.schema.definition import ModuleDef
from spacetimedb.schema.names import pascal_case
from spacetimedb.types.algebraic import Ref, Sum, Typespace, is_special
from spacetimedb.types.shapes import SumShape, shape_of

IMPORTED: Final = (
    *("AnonymousViewContext", "Any", "Col", "ConnectionId", "HashIndex", "Identity", "Index", "IntEnum", "Literal"),
    *("Pk", "ProcedureContext", "Query", "ReducerContext", "Row", "ScheduleAt", "Struct", "TimeDuration", "Timestamp"),
    *("TypeAlias", "Unique", "Unit", "Uuid", "Variant", "ViewContext", "annotations", "bindings", "f32"),
    *(f"{sign}{bits}" for sign in "ui" for bits in (8, 16, 32, 64, 128, 256)),
)
"""What generated code may import: at most these."""
SCHEMA: Final = "SCHEMA"
"""The name of a generated module's `Schema`."""


def attribute(name: str) -> str:
    """Name of an attribute or parameter in Python."""
    cleaned = re.sub(r"\W", "_", name)
    if not cleaned or cleaned[0].isdigit():
        cleaned = f"_{cleaned}"
    return f"{cleaned}_" if keyword.iskeyword(cleaned) else cleaned


class PythonNames:
    """Names for one level of a definition: `types` by reference, `variants` by (reference, tag), `functions` by
    canonical name (reducers, procedures, views), `submodules` by namespace."""

    def __init__(self, level: ModuleDef) -> None:
        self._taken = {*keyword.kwlist, *dir(builtins), *IMPORTED, SCHEMA}
        self.types: dict[int, str] = {}
        self.variants: dict[tuple[int, int], str] = {}
        self.functions: dict[str, str] = {}
        self.submodules = {s.namespace: attribute(s.namespace) for s in level.submodules}
        self._taken.update(self.submodules.values())
        for named in level.types:
            self.types[named.type_ref] = self._take(attribute("".join((*named.scope, named.name))))
        rows = [(t.type_ref, t.name) for t in level.tables] + [(view.type_ref, view.name) for view in level.views]
        for ref, name in rows:
            if ref >= 0 and ref not in self.types:
                self.types[ref] = self._take(pascal_case(name))
        for named in level.types:
            for tag, name in enumerate(variants_of(level.typespace, named.type_ref)):
                wanted = attribute(pascal_case(name))
                if wanted in self._taken:
                    wanted = f"{self.types[named.type_ref]}{wanted}"
                self.variants[named.type_ref, tag] = self._take(wanted)
        functions = (
            [r.name for r in level.reducers] + [p.name for p in level.procedures] + [v.name for v in level.views]
        )
        for name in functions:
            self.functions[name] = self._take(attribute(name))

    def _take(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def variants_of(typespace: Typespace, ref: int) -> list[str]:
    """Names of the variants that get classes of their own; none for enums, what contains itself, and what is no sum."""
    t = typespace[ref]
    if not isinstance(t, Sum) or is_special(t) or not isinstance(shape_of(Ref(ref), typespace), SumShape):
        return []
    return [variant.name or f"variant_{tag}" for tag, variant in enumerate(t.variants)]
