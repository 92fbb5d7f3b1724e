"""What a module's decorators record, before anything is checked, and where in the source it stands."""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from .columns import IndexDeclaration
from .query import Column
from .rows import Declaration, wire_name
from .specs import Lifecycle

FunctionKind = Literal["reducer", "procedure", "view"]


class TableAlias:
    """What `add_table` returns: stands for one more table of a row class, as a key of `ctx.db` and in queries."""

    def __init__(self, row: type[Any], table_name: str) -> None:
        self.row = row
        self._own_name = table_name
        self.namespace = ""
        self.__name__ = table_name

    @property
    def table_name(self) -> str:
        """Canonical name in the database."""
        return f"{self.namespace}.{self._own_name}" if self.namespace else self._own_name

    def __call__(self, **columns: Any) -> Any:
        """A row."""
        return self.row(**columns)

    def __getattr__(self, attribute: str) -> Column[Any, Any]:
        if attribute in self.row.__struct_fields__:
            return Column(self, wire_name(attribute))
        raise AttributeError(f"table {self.table_name} has no column {attribute}")

    def __repr__(self) -> str:
        return f"<table {self.table_name}>"


class DeclaredTable(msgspec.Struct, frozen=True, eq=False):
    """A table as declared; `name` is its source name, `explicit` the canonical one if the author chose it."""

    key: object
    row: type[Any]
    name: str
    explicit: str | None
    public: bool
    event: bool
    durable: bool
    indexes: tuple[IndexDeclaration, ...]
    declaration: Declaration


class DeclaredFunction(msgspec.Struct, frozen=True, eq=False):
    """A reducer, procedure or view as declared. `schedule` is the key of a table or None.

    `name` is its source name, `explicit` the canonical one if the author chose it. `body` is what the host calls; it
    differs from `function`, whose signature counts, for `m.every`.
    """

    kind: FunctionKind
    function: Callable[..., object]
    body: Callable[..., object]
    name: str
    explicit: str | None
    local_names: Mapping[str, Any]
    lifecycle: Lifecycle | None = None
    private: bool = False
    schedule: object = None
    every: bool = False
    primary_key: str | None = None


class DeclaredRoute(msgspec.Struct, frozen=True, eq=False):
    """An HTTP route as declared."""

    method: str | None
    path: str
    function: Callable[..., object]


_CLASS: Final = re.compile(r"\s*class\s+(\w+)")
_ATTRIBUTE: Final = re.compile(r"\s+(\w+)\s*[:=]")
_FUNCTION: Final = re.compile(r"\s*(?:async\s+)?def\s+(\w+)")


def _find_line(file: str, start: int, statement: re.Pattern[str], name: str, otherwise: int) -> int:
    """First line from `start` on that is such a statement about this name; source that is gone gives `otherwise`."""
    lines = linecache.getlines(file)
    for number in range(start, len(lines) + 1):
        found = statement.match(lines[number - 1])
        if found is not None and found[1] == name:
            return number
    return otherwise


def class_line(declaration: Declaration) -> int:
    """Line of the `class` statement."""
    return _find_line(declaration.file, declaration.line, _CLASS, declaration.class_name, declaration.line)


def attribute_line(declaration: Declaration, attribute: str) -> int:
    """Line of an attribute in a class, the class's own when it has none."""
    line = class_line(declaration)
    return _find_line(declaration.file, line, _ATTRIBUTE, attribute, line) if attribute else line


def function_place(function: Callable[..., object]) -> tuple[str, int]:
    """File and line of the `def` statement."""
    code = getattr(function, "__code__", None)
    if code is None:
        return "<module>", 1
    first = code.co_firstlineno
    return code.co_filename, _find_line(code.co_filename, first, _FUNCTION, function.__name__, first)
