"""Read sets: what each instance of a view has looked at, and which instances a transaction's changes concern.

A *read* is (table id, index number, key) for a look-up of one whole key, and (table id, None, None) for anything wider:
a range, a scan, a count. A query over one table leaves no read of that table: its result can be kept current from the
changed rows alone, so it is kept apart as *selecting* from the table.

For each table that anybody has read there is one `_Watch`; a table that nobody has read costs one dict look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec.structs import force_setattr

from spacetimedb.store.table import Table

Read = tuple[int, int | None, Any]
W = TypeVar("W")


class RowChange(NamedTuple):
    """One row that the running transaction has really changed; None where there is no row."""

    key: Any
    old: Any
    new: Any


class Selecting(NamedTuple):
    """The changed rows of the table that an instance selects from, as BSATN: those that went and those that came."""

    gone: list[bytes]
    come: list[bytes]


def whole_table(table_id: int) -> Read:
    """The read of anything in a table."""
    return table_id, None, None


def changed_rows(table: Table) -> list[RowChange]:
    """The net change of a table that the running transaction has written to. O(rows touched).

    f32 columns of new rows are rounded on the way, as commit would do it: views then see what will be stored.
    """
    get = table.rows.get
    if table.layout.key is None:  # rows are kept by their bytes: one that is back is the same
        changes = [
            RowChange(key, old, new)
            for key, old in table.touched.items()
            if (old is None) != ((new := get(key)) is None)
        ]
    else:
        changes = [RowChange(key, old, new) for key, old in table.touched.items() if (new := get(key)) != old]
    columns = table.layout.f32_columns
    if columns:
        for change in changes:
            if change.new is not None:
                rounded = table.decode(table.encode(change.new))
                for field in columns:
                    force_setattr(change.new, field.attr, getattr(rounded, field.attr))
    return changes


class _Watch(Generic[W]):
    """Who has read what of one table."""

    __slots__ = ("points", "selecting", "whole")

    def __init__(self) -> None:
        self.whole: dict[W, None] = {}
        self.points: dict[int, dict[Any, dict[W, None]]] = {}
        self.selecting: dict[W, None] = {}

    @property
    def is_unused(self) -> bool:
        return not (self.whole or self.points or self.selecting)


class ReadSets(Generic[W]):
    """The read sets of all instances (`W`, any hashable object). `rows_at` gives the rows at refs of the heap."""

    def __init__(self, rows_at: Callable[[Iterable[int]], list[bytes]]) -> None:
        self._rows_at = rows_at
        self._watches: dict[int, _Watch[W]] = {}

    def add(self, who: W, reads: Iterable[Read], selected_table: int | None) -> None:
        """Notes what an instance has read, and the table that it selects from."""
        for table_id, index, key in reads:
            watch = self._watch(table_id)
            if index is None or key is None:
                watch.whole[who] = None
            else:
                watch.points.setdefault(index, {}).setdefault(key, {})[who] = None
        if selected_table is not None:
            self._watch(selected_table).selecting[who] = None

    def discard(self, who: W, reads: Iterable[Read], selected_table: int | None) -> None:
        """Undoes `add` with the same arguments."""
        tables = {selected_table} if selected_table is not None else set()
        for table_id, index, key in reads:
            watch = self._watches[table_id]
            tables.add(table_id)
            if index is None or key is None:
                watch.whole.pop(who, None)
                continue
            keys = watch.points[index]
            del keys[key][who]
            if not keys[key]:
                del keys[key]
                if not keys:
                    del watch.points[index]
        if selected_table is not None:
            del self._watches[selected_table].selecting[who]
        for table_id in tables:
            if self._watches[table_id].is_unused:
                del self._watches[table_id]

    def concerned(self, dirty: Iterable[Table]) -> tuple[dict[W, None], dict[W, Selecting]]:
        """(instances to run again, instances whose selection moves) for the tables that a transaction has written to.

        O(tables) if nobody has read them, else O(rows touched x indexes with look-ups).
        """
        stale: dict[W, None] = {}
        moved: dict[W, Selecting] = {}
        for table in dirty:
            watch = self._watches.get(table.table_id)
            if watch is None:
                continue
            changes = changed_rows(table)
            if not changes:
                continue
            stale.update(watch.whole)
            for index, keys in watch.points.items():
                value = attrgetter(*table.layout.indexes[index].attributes)
                for change in changes:
                    for row in (change.old, change.new):
                        found = None if row is None else keys.get(value(row))
                        if found:
                            stale.update(found)
            if watch.selecting:
                gone = self._rows_at([table.refs_by_key[change.key] for change in changes if change.old is not None])
                come = [table.encode(change.new) for change in changes if change.new is not None]
                moved.update(dict.fromkeys(watch.selecting, Selecting(gone, come)))
        return stale, moved

    def _watch(self, table_id: int) -> _Watch[W]:
        found = self._watches.get(table_id)
        if found is None:
            found = self._watches[table_id] = _Watch()
        return found

    def statistics(self) -> dict[str, int]:
        """Tables that are watched, and keys."""
        points = sum(len(keys) for watch in self._watches.values() for keys in watch.points.values())
        return {"tables": len(self._watches), "keys": points}
