"""Column markers (`Pk[u32]`, `Index[str]`, ...), column defaults, and the typed face of table indexes.

For a type checker a marker is a descriptor: read on the class (which is what `ctx.db[Player]` looks like to it) it is
an index object, read on a row it is the value. At run time a marker is inert text in `__annotations__`; rows keep
plain slots, and `ctx.db[Player].id` is an object that the store generated. The index classes below are therefore
descriptions for checkers; on the row class itself a column is just a `Column` of query expressions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, overload

from .query import Column

R = TypeVar("R")
T = TypeVar("T")


if TYPE_CHECKING:

    class UniqueIndex(Column[R, T]):
        """Index of a primary key or unique column: at most one row per key."""

        def find(self, key: T) -> R | None:
            """The row with this key, a copy unless the row class is frozen."""

        def get(self, key: T) -> R:
            """The row with this key; raises ReducerError when there is none."""

        def update(self, row: R) -> R:
            """Replaces the row that has this row's key. Raises NoSuchRow or UniqueViolation."""

        def upsert(self, row: R) -> R:
            """Replaces the row that has this row's key, or inserts it."""

        def delete(self, key: T) -> bool:
            """Whether there was a row to delete."""

        def __contains__(self, key: T) -> bool: ...

    class RangeIndex(Column[R, T]):
        """Ordered index of one column. Results are sorted by key, unmoved by later writes."""

        @overload
        def filter(self, key: T, /, *, reverse: bool = False, limit: int | None = None) -> Iterator[R]: ...
        @overload
        def filter(
            self,
            *,
            ge: T | None = None,
            gt: T | None = None,
            le: T | None = None,
            lt: T | None = None,
            reverse: bool = False,
            limit: int | None = None,
        ) -> Iterator[R]: ...
        def filter(self, *key: Any, **bounds: Any) -> Iterator[R]:
            """Rows with this key, or with a key between the bounds; an empty or reversed range has none."""

        @overload
        def delete(self, key: T, /) -> int: ...
        @overload
        def delete(
            self, *, ge: T | None = None, gt: T | None = None, le: T | None = None, lt: T | None = None
        ) -> int: ...
        def delete(self, *key: Any, **bounds: Any) -> int:
            """Deletes what `filter` would give; how many rows that were."""

        @overload
        def count(self, key: T, /) -> int: ...
        @overload
        def count(
            self, *, ge: T | None = None, gt: T | None = None, le: T | None = None, lt: T | None = None
        ) -> int: ...
        def count(self, *key: Any, **bounds: Any) -> int:
            """How many rows `filter` would give."""

    class PointIndex(Column[R, T]):
        """Hash index of one column: exact keys only."""

        def filter(self, key: T) -> Iterator[R]: ...

        def delete(self, key: T) -> int: ...

        def count(self, key: T) -> int: ...

    class MultiIndex(Column[R, Any]):
        """Index over several columns: leading columns by value, then a range of the next one."""

        def filter(
            self,
            *prefix: Any,
            ge: Any = None,
            gt: Any = None,
            le: Any = None,
            lt: Any = None,
            reverse: bool = False,
            limit: int | None = None,
        ) -> Iterator[R]: ...

        def delete(self, *prefix: Any, ge: Any = None, gt: Any = None, le: Any = None, lt: Any = None) -> int: ...

        def count(self, *prefix: Any, ge: Any = None, gt: Any = None, le: Any = None, lt: Any = None) -> int: ...

    class _Marker(Generic[T]):
        def __set__(self, instance: object, value: T) -> None: ...

    class Pk(_Marker[T]):
        @overload
        def __get__(self, instance: None, owner: type[R]) -> UniqueIndex[R, T]: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> T: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    class Unique(_Marker[T]):
        @overload
        def __get__(self, instance: None, owner: type[R]) -> UniqueIndex[R, T]: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> T: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    class DirectIndex(_Marker[T]):
        @overload
        def __get__(self, instance: None, owner: type[R]) -> UniqueIndex[R, T]: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> T: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    class Index(_Marker[T]):
        @overload
        def __get__(self, instance: None, owner: type[R]) -> RangeIndex[R, T]: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> T: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    class HashIndex(_Marker[T]):
        @overload
        def __get__(self, instance: None, owner: type[R]) -> PointIndex[R, T]: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> T: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    class Col(_Marker[T]):
        @overload
        def __get__(self, instance: None, owner: type[R]) -> Column[R, T]: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> T: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    class MultiIndexMarker:
        @overload
        def __get__(self, instance: None, owner: type[R]) -> MultiIndex[R]: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> NoReturn: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

else:

    class Pk(Generic[T]):
        """Primary key: at most one column of a table; has a unique ordered index."""

    class Unique(Generic[T]):
        """No two rows have the same value; has an ordered index."""

    class Index(Generic[T]):
        """Ordered (btree) index."""

    class HashIndex(Generic[T]):
        """Hash index: look-ups by exact value only."""

    class DirectIndex(Generic[T]):
        """Unique index for small dense numbers (u8 to u64) and payload-free enums."""

    class Col(Generic[T]):
        """No index; makes the column usable in query expressions under a type checker."""

    class MultiIndexMarker:
        """What `btree` and `hash_index` leave in a row class."""


MARKERS: dict[object, tuple[str | None, bool]] = {
    # marker: index algorithm, whether unique
    Pk: ("btree", True),
    Unique: ("btree", True),
    Index: ("btree", False),
    HashIndex: ("hash", False),
    DirectIndex: ("direct", True),
    Col: (None, False),
}


class IndexDeclaration(MultiIndexMarker):
    """An index over named columns. `name` is the accessor: the class attribute, or in `indexes=[...]` `name=`."""

    def __init__(self, algorithm: str, columns: tuple[str, ...], name: str | None) -> None:
        self.algorithm = algorithm
        self.columns = columns
        self.name = name


class AutoIncrement:
    """Left by `auto_inc()` in a class body: constructor default 0, which the store replaces by the next number."""


class Default:
    """Left by `default(value)` in a class body."""

    def __init__(self, value: object) -> None:
        self.value = value


# Both are declared to return Any: a call that is not a field specifier counts as a default for type checkers.
def auto_inc() -> Any:
    """The column gets the next number of its sequence when a row is inserted or updated with 0 in it."""
    return AutoIncrement()


def default(value: object) -> Any:
    """Constructor default; also fills the column in old rows when an update of the module adds it."""
    return Default(value)


def btree(*columns: str, name: str | None = None) -> MultiIndexMarker:
    """Ordered index over several columns. In a class body the attribute is its name; else give `name=`."""
    return IndexDeclaration("btree", columns, name)


def hash_index(*columns: str, name: str | None = None) -> MultiIndexMarker:
    """Hash index over several columns: exact values of all of them."""
    return IndexDeclaration("hash", columns, name)
