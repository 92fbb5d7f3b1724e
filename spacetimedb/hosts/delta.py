"""What a transaction changed, as rows of the module's own classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

R = TypeVar("R")


class Changes(msgspec.Struct, Generic[R]):
    """What happened to one table. Rows that were updated are in both lists; events are inserts."""

    inserts: list[R]
    deletes: list[R]


class Delta(dict[Any, Any]):
    """Changes by table (row class, or what `add_table` returned); a table without changes has empty lists."""

    if TYPE_CHECKING:

        def __getitem__(self, table: type[R]) -> Changes[R]: ...

    def __missing__(self, table: object) -> Changes[Any]:
        return Changes([], [])
