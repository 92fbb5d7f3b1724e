"""Which canonical name each object of a raw definition gets.

Version 10: an explicit name if the module chose one, else the source name converted to snake_case, unless the policy
is to convert nothing. Names of indexes without explicit name, of unique constraints and schedules are made from
canonical table and column names and not converted again. Version 9 converts nothing and takes given names of objects as
they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from spacetimedb.schema.names import index_name, pascal_case, schedule_name, sequence_name, snake_case, unique_name
from spacetimedb.schema.raw_structs import CaseConversionPolicy, RawModuleDefV10
from spacetimedb.schema.validation_types import canonical_type
from spacetimedb.types.algebraic import AlgebraicType


class Naming:
    """The rules for one definition; ``raw`` is in the form of version 10 also when ``version`` is 9."""

    def __init__(self, raw: RawModuleDefV10, version: int) -> None:
        self._verbatim = version == 9
        self.converts = raw.case_conversion_policy is not CaseConversionPolicy.NONE
        explicit = {(name.kind, name.source_name): name.canonical_name for name in raw.explicit_names}
        self._explicit = explicit

    def table(self, source: str) -> str:
        """Of a table."""
        return self._explicit.get(("Table", source)) or self._convert(source)

    def function(self, source: str) -> str:
        """Of a reducer, procedure, view or HTTP handler."""
        return self._explicit.get(("Function", source)) or self._convert(source)

    def column(self, source: str) -> str:
        """Of a column or parameter."""
        return self._convert(source)

    def type_name(self, source: str) -> str:
        """Of a type, or of one segment of its scope."""
        return pascal_case(source) if self.converts else source

    def types(self, types: Sequence[AlgebraicType]) -> tuple[AlgebraicType, ...]:
        """The typespace with canonical field and variant names."""
        return tuple(canonical_type(t) for t in types) if self.converts else tuple(types)

    def explicit_index(self, source: str | None) -> str | None:
        """The name the module chose for an index, if it did."""
        return None if source is None else self._explicit.get(("Index", source))

    def index(self, source: str | None, table: str, columns: Sequence[str], algorithm: str) -> str:
        """Of an index; ``columns`` and ``table`` are canonical."""
        if self._verbatim and source is not None:
            return source
        return self.explicit_index(source) or index_name(table, columns, algorithm)

    def constraint(self, source: str | None, table: str, columns: Sequence[str]) -> str:
        """Of a unique constraint."""
        return source if self._verbatim and source is not None else unique_name(table, columns)

    def sequence(self, source: str | None, table: str, column: str) -> str:
        """Of a sequence: the one place where version 10, too, takes a given name as it is."""
        return source if source is not None else sequence_name(table, column)

    def schedule(self, source: str | None, table: str) -> str:
        """Of a schedule."""
        return source if self._verbatim and source is not None else schedule_name(table)

    def _convert(self, source: str) -> str:
        return snake_case(source) if self.converts else source
