"""Keys of an index in order, for range scans.

An index is a dict; what orders its keys is built by the first range scan and then kept current lazily: writers note
keys that came or went in a set, the next scan sorts them in (or sorts everything afresh when they are many). A table
that is never scanned in order pays one comparison with None per write.

Single-column keys are the column's values, multi-column keys tuples. Identities, connection ids and UUIDs compare as
numbers although they are little-endian bytes, so they are ordered by their reversed bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sortedcontainers import SortedKeyList, SortedList  # type: ignore[import-untyped]

MISSING: Any = type("Missing", (), {"__slots__": (), "__repr__": lambda self: "MISSING"})()
"""Default of an optional key, for which None might be a value."""


class _Top:
    """Greater than every value: ends the range of all keys that begin with a prefix."""

    __slots__ = ()

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True


_TOP = _Top()


def _reversed(value: bytes) -> bytes:
    return value[::-1]


class OrderedKeys:
    """The keys of `index` in order. `reverse_bytes` says for each column whether its order is that of the reversed
    bytes.

    `index` maps keys to rows, or, with `is_unique` False, to buckets {row key: row}.
    """

    __slots__ = ("_columns", "_index", "_is_unique", "_key", "_keys", "_order")

    def __init__(self, index: Mapping[Any, Any], is_unique: bool, reverse_bytes: tuple[bool, ...]) -> None:
        self._index = index
        self._is_unique = is_unique
        self._columns = len(reverse_bytes)
        self._order: tuple[Callable[[Any], Any] | None, ...] = tuple(_reversed if r else None for r in reverse_bytes)
        self._key: Callable[[Any], Any] | None = None
        if any(reverse_bytes):
            self._key = _reversed if self._columns == 1 else self._tuple_key
        self._keys: Any = None

    def _tuple_key(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([v if order is None else order(v) for v, order in zip(key, self._order, strict=True)])

    def drop(self) -> None:
        """Forgets the sorted keys; the next scan sorts again."""
        self._keys = None

    def refresh(self, changed: set[Any] | None) -> set[Any]:
        """Makes the sorted keys those of the index, of which `changed` may have come or gone since the last time.

        Returns an empty set to note later changes in. Raises TypeError when two keys cannot be compared.
        """
        keys, index = self._keys, self._index
        if keys is not None and changed is not None and len(changed) <= 16 + len(index) // 16:
            self._keys = None
            for key in changed:
                if key in index:
                    if key not in keys:
                        keys.add(key)
                else:
                    keys.discard(key)
            self._keys = keys
        else:
            self._keys = None
            self._keys = SortedList(index) if self._key is None else SortedKeyList(index, self._key)
        return set()

    def select(
        self, prefix: tuple[Any, ...], ge: Any, gt: Any, le: Any, lt: Any, reverse: bool, limit: int | None
    ) -> list[Any]:
        """Rows whose key begins with `prefix` and whose next column lies between the bounds (None: no bound), by key.

        The prefix must leave a column: whole keys are looked up in the index itself.
        Needs `refresh` first. Raises TypeError for bounds that exclude each other's use or have no column.
        """
        if (ge is not None and gt is not None) or (le is not None and lt is not None):
            raise TypeError("give one lower and one upper bound at most")
        if limit is not None and limit <= 0:
            return []
        keys = self._between(prefix, ge, gt, le, lt, reverse)
        index = self._index
        if self._is_unique:
            if limit is None:
                return [index[key] for key in keys]
            return [index[key] for key, _ in zip(keys, range(limit), strict=False)]
        rows: list[Any] = []
        for key in keys:
            rows.extend(index[key].values())
            if limit is not None and len(rows) >= limit:
                return rows[:limit]
        return rows

    def _between(self, prefix: tuple[Any, ...], ge: Any, gt: Any, le: Any, lt: Any, reverse: bool) -> Iterator[Any]:
        at = len(prefix)
        if at >= self._columns:
            raise TypeError(f"the index has {self._columns} columns: too many keys, or a bound after the last one")
        order = self._order[at]
        low = gt if ge is None else ge
        high = lt if le is None else le
        if order is not None:
            low = None if low is None else order(low)
            high = None if high is None else order(high)
        if self._columns == 1:
            return self._range(low, high, (gt is None, lt is None), reverse)
        head = tuple([v if o is None else o(v) for v, o in zip(prefix, self._order, strict=False)])
        # A tuple is less than any longer one that begins with it, so (*head, v) stands before all keys with that head
        # and v, and (*head, v, TOP) behind them.
        lower = head if low is None else (*head, low) if gt is None else (*head, low, _TOP)
        upper = (*head, _TOP) if high is None else (*head, high) if le is None else (*head, high, _TOP)
        # An exclusive bound on the last column meets whole keys: there the tuple itself is the excluded key.
        return self._range(lower, upper, (True, lt is None), reverse)

    def _range(self, lower: Any, upper: Any, inclusive: tuple[bool, bool], reverse: bool) -> Iterator[Any]:
        if self._key is None:
            found: Iterator[Any] = self._keys.irange(lower, upper, inclusive, reverse)
        else:
            found = self._keys.irange_key(lower, upper, inclusive, reverse)
        return found

    def check(self, changed: set[Any] | None) -> None:
        """Raises AssertionError unless the keys equal those of the index, apart from noted changes."""
        if self._keys is not None and changed is not None:
            wrong = set(self._keys) ^ set(self._index)
            if not wrong <= changed:
                raise AssertionError(f"sorted keys miss changes of {wrong - changed!r}")
