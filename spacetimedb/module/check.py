"""The state of checking one module: its types, what it declares, and the problems found so far."""

from __future__ import annotations

from spacetimedb.schema.names import snake_case

from .declared import DeclaredFunction, DeclaredTable, attribute_line
from .errors import Problem
from .resolver import BadAnnotation, Case, Resolver

KEYS = "a key is an integer, bool, str, Identity, ConnectionId, Timestamp, Uuid or an enum"


class Check:
    """Shared by the checks of tables, functions and routes."""

    def __init__(self, case: Case, tables: list[DeclaredTable], functions: list[DeclaredFunction]) -> None:
        self.case: Case = case
        self.tables = tables
        self.functions = functions
        self.resolver = Resolver(case)
        self.problems: list[Problem] = []

    def report(self, place: tuple[str, int], text: str) -> None:
        self.problems.append(Problem(*place, text))

    def report_annotation(self, error: BadAnnotation, place: tuple[str, int], prefix: str) -> None:
        """An error inside a class is reported where the class says it, one in a signature at the function."""
        if error.at is not None:
            declaration, attr = error.at
            self.report((declaration.file, attribute_line(declaration, attr)), str(error))
        else:
            self.report(place, f"{prefix}: {error}")
        for other in error.others:
            self.report_annotation(other, place, prefix)

    def canonical(self, function: DeclaredFunction) -> str:
        """Canonical name of a function."""
        return function.explicit or (function.name if self.case == "none" else snake_case(function.name))
