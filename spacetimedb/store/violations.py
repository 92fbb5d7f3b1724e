"""The store's own form of a unique violation: it also names the index, which SQL and HTTP texts need."""

from __future__ import annotations

from spacetimedb.module.errors import UniqueViolation


class IndexViolation(UniqueViolation):
    """A unique value is taken.

    Beyond `table`, `column`, `key` and `note`: `index` is the canonical name of the index that found it, `columns` are
    the canonical column names and `positions` their places in the row, in the order of the index. `key` is one value
    for one column, else a tuple.
    """

    def __init__(
        self,
        table: str,
        index: str,
        columns: tuple[str, ...],
        positions: tuple[int, ...],
        key: object,
        note: str = "",
    ) -> None:
        super().__init__(table, ", ".join(columns), key, note)
        self.index = index
        self.columns = columns
        self.positions = positions
