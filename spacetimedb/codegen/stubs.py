"""Type stubs of a module's tables, so that checkers know `ctx.db.player`: `spacetime stubs game.py`.

Writes `game_tables.pyi` beside the module (inside it, if it is a package) with a class `Tables`. The module says

    if TYPE_CHECKING:
        from game_tables import Tables

    def rename(ctx: ReducerContext["Tables"], name: str) -> None: ...

At run time the stub does not exist, and `ctx.db.player` works anyway. The text depends on nothing but the module's
tables, so a stub is out of date exactly if its text is another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

from spacetimedb.hosts.program import PROGRAM_NAME
from spacetimedb.module import Module, Row, Schedule
from spacetimedb.module.specs import TableSpec

_OF_DICT: Final = frozenset(dir(dict)) | {"insert", "bind"}
"""Names that mean something else in `ctx.db` for a checker; the table wins, as at run time."""


def stub_name(name: str) -> str:
    """File name of the stub of a module (name of its file without suffix, or of its directory)."""
    return f"{name}_tables.pyi"


def stub_text(module: Module, name: str, *, is_package: bool) -> str:
    """The stub of a module that was loaded from a file or package of this name."""
    imports: dict[str, set[str]] = {"spacetimedb": {"Db"}}
    classes: list[str] = []
    _write("Tables", "Db", "", module.tables, _Rows(name, is_package, imports), classes)
    lines = ["# Written by `spacetime stubs`. Tables as ctx.db knows them; write it anew when they have changed.", ""]
    lines += [f"from {source} import {', '.join(sorted(names))}" for source, names in sorted(imports.items())]
    return "\n".join([*lines, "", *classes])


class _Rows:
    """How the stub refers to row classes."""

    def __init__(self, name: str, is_package: bool, imports: dict[str, set[str]]) -> None:
        self._name = name
        self._is_package = is_package
        self._imports = imports

    def type_of(self, table: TableSpec) -> str:
        """`type[...]` of the class; of a base if the class has no name at the top of its file."""
        row: type[Any] = table.row
        home = sys.modules.get(row.__module__)
        if getattr(home, row.__name__, None) is not row:
            row = Schedule if issubclass(row, Schedule) else Row
        self._imports.setdefault(self._source(row.__module__), set()).add(row.__name__)
        return f"type[{row.__name__}]"

    def _source(self, module: str) -> str:
        if module.startswith("spacetimedb."):
            return "spacetimedb"
        inside = module.removeprefix(PROGRAM_NAME)
        return (inside or ".") if self._is_package else f"{self._name}{inside}"


def _write(name: str, base: str, prefix: str, tables: Iterable[TableSpec], rows: _Rows, classes: list[str]) -> None:
    """Adds a class, those of mounted modules before it."""
    lines = [f"class {name}({base}):" if base else f"class {name}:"]
    inner: dict[str, list[TableSpec]] = {}
    for table in tables:
        accessor, _, rest = table.source_name.removeprefix(prefix).partition(".")
        if rest:
            inner.setdefault(accessor, []).append(table)
            continue
        ignore = "  # type: ignore[assignment]" if base and accessor in _OF_DICT else ""
        lines.append(f"    {accessor}: {rows.type_of(table)}{ignore}")
    for namespace, those in inner.items():
        inner_name = f"{name}_{namespace}"
        _write(inner_name, "", f"{prefix}{namespace}.", those, rows, classes)
        lines.append(f"    {namespace}: {inner_name}")
    if len(lines) == 1:
        lines.append("    pass")
    classes += [*lines, ""]
