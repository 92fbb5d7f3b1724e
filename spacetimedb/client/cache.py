"""A client's copy of the rows it is subscribed to, and the callbacks that hear of changes.

A row is known by its key: the bytes of its primary key, or all its bytes where the table has none. `rows` maps keys to
row bytes; rows become objects only when somebody looks (`objects` keeps those that were made, by row bytes). One row
may be held by several queries: it is sent once for each and stays until it is deleted once for each. `extra` counts
what is above one.

Changes of a whole message are applied to all tables before anybody hears of them (`Table.apply` gives what happened,
the core tells it). Within a table inserts and updates come in order of arrival, then deletes. A key that is deleted
and inserted in one message is an update; if its bytes stay the same, nothing has happened.

Where a second thread reads (the blocking face), `lock` guards the indexes; the rest are single steps on dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Generic, TypeVar, overload

from spacetimedb.module.query import Column, Query
from spacetimedb.types.bsatn import codec

from .events import Event
from .schema import Schema, TableType

R = TypeVar("R")
V = TypeVar("V")

Row = bytes
Happened = list[tuple[Row | None, Row | None]]
"""(old, new) of every change in order: old None is an insert, new None a delete, both an update."""

UNLOCKED: Final[AbstractContextManager[object]] = nullcontext()
"""Where one thread does everything."""

_NOTHING: Final[Happened] = []
_ABSENT: Final = object()

InsertCallback = Callable[[Event, R], object]
DeleteCallback = Callable[[Event, R], object]
UpdateCallback = Callable[[Event, R, R], object]


class Table(Generic[R]):
    """The rows of one table, read only. Iteration, `count` and look-ups see the state after the last whole message."""

    __slots__ = ("_deletes", "_indexes", "_inserts", "_lock", "_updates", "extra", "objects", "rows", "type")

    def __init__(self, table: TableType, lock: AbstractContextManager[object] = UNLOCKED) -> None:
        self.type = table
        self._lock = lock
        self.rows: dict[bytes, Row] = {}
        self.extra: dict[bytes, int] = {}
        self.objects: dict[bytes, R] = {}
        self._indexes: dict[int, dict[object, dict[bytes, None]]] | None = None
        self._inserts: tuple[InsertCallback[R], ...] = ()
        self._deletes: tuple[DeleteCallback[R], ...] = ()
        self._updates: tuple[UpdateCallback[R], ...] = ()

    # -- reading

    def __iter__(self) -> Iterator[R]:
        """All rows as of now; changes during the loop do not disturb it."""
        objects = self.objects
        for row in list(self.rows.values()):
            found = objects.get(row)
            yield self._object(row) if found is None else found

    def iter(self) -> Iterator[R]:
        """All rows as of now."""
        return iter(self)

    def count(self) -> int:
        """Number of rows; 0 for event tables."""
        return len(self.rows)

    __len__ = count

    def __bool__(self) -> bool:
        """Always true, as of any object: an empty table is still a table."""
        return True

    def find(self, column: Column[R, V] | str, value: V) -> R | None:
        """The row with this value in a unique column (any of them, if there are several), or None."""
        position = self._position(column)
        if position == self.type.primary_key:
            key = codec(self.type.shape.fields[position].shape).encode(value)
            row = self.rows.get(key)
            return None if row is None else self._object(row)
        return next(self.filter(column, value), None)

    def filter(self, column: Column[R, V] | str, value: V) -> Iterator[R]:
        """The rows with this value in a column. The first look-up in a column makes an index of it."""
        position = self._position(column)
        with self._lock:
            if self._indexes is None or position not in self._indexes:
                self._make_index(position)
            assert self._indexes is not None
            rows = list(self._indexes[position].get(_hashable(value), ()))
        return map(self._object, rows)

    def _position(self, column: Column[R, Any] | str) -> int:
        return self.type.column(column if isinstance(column, str) else column.name)

    def _object(self, row: Row) -> R:
        found = self.objects.get(row)
        if found is None:
            found = self.objects[row] = self.type.decode(row)
        return found

    # -- callbacks

    def on_insert(self, callback: InsertCallback[R]) -> Callable[[], None]:
        """`callback(event, row)` for every row that comes; returns a function that ends it."""
        self._inserts = (*self._inserts, callback)
        return lambda: self._forget("_inserts", callback)

    def on_delete(self, callback: DeleteCallback[R]) -> Callable[[], None]:
        """`callback(event, row)` for every row that goes."""
        self._deletes = (*self._deletes, callback)
        return lambda: self._forget("_deletes", callback)

    def on_update(self, callback: UpdateCallback[R]) -> Callable[[], None]:
        """`callback(event, old, new)` for every row that changes under its primary key. TypeError without one."""
        if self.type.primary_key is None:
            raise TypeError(f"table {self.type.name} has no primary key: its rows are deleted and inserted")
        self._updates = (*self._updates, callback)
        return lambda: self._forget("_updates", callback)

    def _forget(self, kind: str, callback: object) -> None:
        left = list(getattr(self, kind))
        if callback in left:
            left.remove(callback)
            setattr(self, kind, tuple(left))

    @property
    def has_listeners(self) -> bool:
        return bool(self._inserts or self._deletes or self._updates)

    def tell(self, event: Event, happened: Happened, before: TableType | None = None) -> None:
        """Runs the callbacks for changes that `apply` or `become` gave. `before`: the type of old rows, if it was
        another."""
        decode = (before or self.type).decode
        inserts, deletes, updates = self._inserts, self._deletes, self._updates
        for old, new in happened:
            if old is None:
                if inserts and new is not None:
                    row = self._current(new)
                    for callback in inserts:
                        callback(event, row)
            elif new is None:
                if deletes:
                    row = decode(old)
                    for callback in deletes:
                        callback(event, row)
            elif updates:
                was, now = decode(old), self._current(new)
                for update in updates:
                    update(event, was, now)

    def _current(self, row: Row) -> R:
        """The object of a row that has just come, the same that a look-up gives."""
        key = row if self.type.key_of is None else self.type.key_of(row)
        if self.rows.get(key) is row:
            return self._object(row)
        made: R = self.type.decode(row)
        return made

    # -- applying

    def apply(self, inserts: list[Row], deletes: list[Row]) -> Happened:
        """Applies what one message says of this table; returns what happened, empty if nobody would hear of it."""
        if self.type.is_event:
            return [(None, row) for row in inserts] if self._inserts else _NOTHING
        key_of = self.type.key_of
        if not deletes:
            return self._insert_all(inserts, inserts if key_of is None else list(map(key_of, inserts)))
        if key_of is None:
            return self._apply(inserts, inserts, deletes, deletes)
        return self._apply(inserts, list(map(key_of, inserts)), deletes, list(map(key_of, deletes)))

    def _insert_all(self, inserts: list[Row], keys: list[bytes]) -> Happened:
        rows = self.rows
        if not rows and len(fresh := dict(zip(keys, inserts, strict=True))) == len(keys):
            rows.update(fresh)
            new = inserts
        else:
            new = []
            for key, row in zip(keys, inserts, strict=True):
                if key in rows:
                    self.extra[key] = self.extra.get(key, 0) + 1
                else:
                    rows[key] = row
                    new.append(row)
        if self._indexes is not None:
            for row in new:
                self._index(row)
        return [(None, row) for row in new] if self._inserts else _NOTHING

    def _apply(self, inserts: list[Row], in_keys: list[bytes], deletes: list[Row], out_keys: list[bytes]) -> Happened:
        rows, extra = self.rows, self.extra
        if in_keys == out_keys and not extra:
            fresh = dict(zip(in_keys, inserts, strict=True))
            if len(fresh) == len(in_keys) and fresh.keys() <= rows.keys():
                return self._update_all(fresh)
        net: dict[bytes, int] = {}
        for key in in_keys:
            net[key] = net.get(key, 0) + 1
        gone: dict[bytes, None] = {}
        for key in out_keys:
            net[key] = net.get(key, 0) - 1
            gone[key] = None
        happened: Happened = []
        for key, row in zip(in_keys, inserts, strict=True):
            change = net.pop(key, None)
            if change is None:
                continue  # the same key once more
            old = rows.get(key)
            count = change if old is None else 1 + extra.get(key, 0) + change
            if count <= 0:
                net[key] = change  # deleted more often than inserted: below
                continue
            self._set_count(key, count)
            if old is None:
                rows[key] = row
            elif key not in gone or old == row:
                continue
            else:
                rows[key] = row
            happened.append((old, row))
        for key, change in net.items():
            old = rows.get(key)
            if old is None:
                continue  # nothing here to delete
            count = 1 + extra.get(key, 0) + change
            if count > 0:
                self._set_count(key, count)
                continue
            self._set_count(key, 1)
            del rows[key]
            happened.append((old, None))
        self._forget_old(happened)
        return happened if self.has_listeners else _NOTHING

    def _update_all(self, fresh: dict[bytes, Row]) -> Happened:
        """Updates of rows that are here, each held by one query: what most messages bring."""
        rows = self.rows
        if self._indexes is None and not self.objects and not self.has_listeners:
            rows.update(fresh)
            return _NOTHING
        happened: Happened = [(rows[key], row) for key, row in fresh.items() if rows[key] != row]
        rows.update(fresh)
        self._forget_old(happened)
        return happened if self.has_listeners else _NOTHING

    def _forget_old(self, happened: Happened) -> None:
        """Indexes and objects follow."""
        if self._indexes is not None:
            for old, new in happened:
                if old is not None:
                    self._unindex(old)
                if new is not None:
                    self._index(new)
        if self.objects:
            for old, _ in happened:
                if old is not None:
                    self.objects.pop(old, None)

    def _set_count(self, key: bytes, count: int) -> None:
        if count > 1:
            self.extra[key] = count - 1
        elif self.extra:
            self.extra.pop(key, None)

    def become(self, other: Table[Any]) -> Happened:
        """Takes over the rows, and the type, of another copy of the same table; returns what is different."""
        before, after = self.rows, other.rows
        self.type = other.type
        happened: Happened = [(before.get(key), row) for key, row in after.items() if before.get(key, _ABSENT) != row]
        happened += [(row, None) for key, row in before.items() if key not in after]
        self.rows, self.extra = after, other.extra
        self.objects.clear()
        self._indexes = None
        return happened

    # -- indexes: column -> value -> rows

    def _make_index(self, position: int) -> None:
        if self._indexes is None:
            self._indexes = {}
        attribute = self.type.shape.fields[position].attr
        index = self._indexes[position] = {}
        for row in self.rows.values():
            index.setdefault(_hashable(getattr(self._object(row), attribute)), {})[row] = None

    def _index(self, row: Row) -> None:
        assert self._indexes is not None
        found = self._object(row)
        for position, index in self._indexes.items():
            value = _hashable(getattr(found, self.type.shape.fields[position].attr))
            index.setdefault(value, {})[row] = None

    def _unindex(self, row: Row) -> None:
        assert self._indexes is not None
        found = self._object(row)
        for position, index in self._indexes.items():
            value = _hashable(getattr(found, self.type.shape.fields[position].attr))
            rows = index.get(value)
            if rows is not None:
                rows.pop(row, None)
                if not rows:
                    del index[value]

    def __repr__(self) -> str:
        return f"<table {self.type.name}, {len(self.rows)} rows>"


def _hashable(value: object) -> object:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


class Database:
    """`conn.db`: the tables by row class, view function or name: `db[Player]`, `db["player"]`, `db.player`."""

    __slots__ = ("_lock", "_schema", "_tables")

    def __init__(self, schema: Schema, lock: AbstractContextManager[object] = UNLOCKED) -> None:
        self._schema = schema
        self._lock = lock
        self._tables: dict[object, Table[Any]] = {}

    @overload
    def __getitem__(self, key: type[R]) -> Table[R]: ...
    @overload
    def __getitem__(self, key: str) -> Table[Any]: ...
    @overload
    def __getitem__(self, key: Callable[[Any], list[R]]) -> Table[R]: ...
    @overload
    def __getitem__(self, key: Callable[[Any], Query[R]]) -> Table[R]: ...
    @overload
    def __getitem__(self, key: Callable[[Any], R | None]) -> Table[R]: ...
    def __getitem__(self, key: Any) -> Table[Any]:
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = self.of_type(self._schema.table(key))
        return table

    def __getattr__(self, name: str) -> Table[Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except LookupError as error:
            raise AttributeError(str(error)) from None

    def of_type(self, table: TableType) -> Table[Any]:
        """The one copy of a table."""
        found = self._tables.get(table.wire_name)
        if found is None:
            found = self._tables[table.wire_name] = Table(table, self._lock)
        return found

    def of_name(self, wire_name: bytes) -> Table[Any]:
        """A table that is known."""
        return self._tables[wire_name]

    def follow(self, schema: Schema) -> None:
        """Another version of the module; tables that are known keep their type until they `become` others."""
        self._schema = schema

    def known(self) -> Iterable[Table[Any]]:
        """The tables that have been looked at or have had rows."""
        return [table for key, table in list(self._tables.items()) if isinstance(key, bytes)]
