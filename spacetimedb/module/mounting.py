"""Modules mounted in a module: `m.mount("auth", auth.m)`.

Tables and functions of a mounted module are called `auth.user` outside, deeper ones `auth.log.entry`; inside nothing
changes, `ctx.db[auth.User]` is the table in every function of the whole. Order: own ones first, then those of each
mounted module, depth first in the order of mounting. That is how the definition numbers them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from spacetimedb.schema.names import NAMESPACE_LIMIT, identifier_problem

from .errors import Problem

if TYPE_CHECKING:
    from .module import Module

RESERVED: Final = ("public", "st", "spacetimedb")
_NAMES: Final = ("name", "source_name", "scheduled_function", "schedule_table", "table")
"""Fields of specs that hold names of the module's tables and functions."""

Spec = TypeVar("Spec", bound=msgspec.Struct)


class Mounted(NamedTuple):
    """A mounted module, and where `mount` was called."""

    namespace: str
    module: Module
    file: str
    line: int


def prefixed(namespace: str, spec: Spec) -> Spec:
    """The spec of a table, function, repetition or migration as the whole knows it."""
    names: dict[str, Any] = {
        field: f"{namespace}.{getattr(spec, field)}" for field in _NAMES if getattr(spec, field, None) is not None
    }
    if "table" in names and "name" in names:
        del names["name"]  # a migration function has no name outside
    return replace(spec, **names)


def descendants(module: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """All mounted modules with their whole namespaces."""
    for mounted in module.mounted:
        namespace = f"{prefix}{mounted.namespace}"
        yield namespace, mounted.module
        yield from descendants(mounted.module, f"{namespace}.")


def mounting_problems(module: Module) -> list[Problem]:
    """What is wrong with how modules are mounted in this one."""
    problems: list[Problem] = []
    seen: dict[int, str] = {id(module): "the module itself"}
    names: set[str] = set()
    for namespace, inner, file, line in module.mounted:

        def report(text: str, file: str = file, line: int = line) -> None:
            problems.append(Problem(file, line, text))

        shown = f"mount({namespace!r}, ...)"
        identifier = identifier_problem(namespace)
        if identifier is not None:
            report(f"{shown}: {identifier}")
        if len(namespace.encode()) > NAMESPACE_LIMIT:
            report(f"{shown}: a namespace has at most {NAMESPACE_LIMIT} bytes")
        if namespace in RESERVED or namespace.startswith("pg_"):
            report(f"{shown}: this name is reserved; choose another one")
        if namespace in names:
            report(f"{shown}: there is another module under this name")
        names.add(namespace)
        for path, one in [(namespace, inner), *descendants(inner, f"{namespace}.")]:
            if id(one) in seen:
                report(f"{shown}: {path} is mounted twice ({seen[id(one)]}); a module has its tables once")
            seen[id(one)] = path
        if inner.row_filters:
            report(f"{shown}: row filters can only be declared in the module that is published")
        if any(reducer.lifecycle for reducer in inner.build().reducers):
            report(f"{shown}: init, client_connected and client_disconnected can only be declared in the root module")
    return problems
