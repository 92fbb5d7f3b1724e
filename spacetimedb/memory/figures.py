"""Figures: counters, gauges and histograms of one process, in shared words that a scrape reads while they change.

A board is a part of a region with one writer. It describes itself, so that a reader needs no list of what is in it.

Layout of a board (u64 words, native order)

    word 0      words used, this one included; stored last when an entry is added, 0: an empty board
    word 1..    entries, one behind the other:
                  head     bits 0-15 words of the entry, 16-31 bytes of the key, 32-39 kind, 40-47 number of bounds
                  key      UTF-8, zero bytes up to a multiple of 8: the family's name and the values of its labels,
                           separated by 0x1F
                  values   counter, gauge: one word (a gauge is signed)
                           histogram: the sum, then a count for each bound (values up to and including it), then the
                           count of what is above all bounds; counts are not cumulative

Words never tear. A scrape may see a histogram's count without its sum: off by one observation, right the next time.
Figures are whole numbers in a small unit (microseconds, bytes); `Family.scale` gives the unit that is shown.

A process that is started again finds its entries and goes on counting. A full board takes no more entries: what has
none is counted in a word that nobody reads.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from .region import publish_fence

COUNTER, GAUGE, HISTOGRAM = 0, 1, 2
DB: Final = "db"
"""The label for the database in those of SpacetimeDB's metrics that do not call it `database_identity`."""
_KIND_NAMES: Final = ("counter", "gauge", "histogram")
_SEPARATOR: Final = "\x1f"
MAX_KEY_BYTES: Final = 1024
"""Longer keys are cut."""
MAX_BOUNDS: Final = 32
MAX_LATER: Final = 1 << 16
"""Values of a histogram that may wait; of more only the last count."""
_SIGN: Final = 1 << 63


class Family(msgspec.Struct, frozen=True):
    """Metrics of one name. `labels` names the values of an entry's key in order, `database` the database's identity;
    `bounds` are in the stored unit."""

    name: str
    kind: int
    help: str
    labels: tuple[str, ...] = ()
    scale: float = 1
    bounds: tuple[int, ...] = ()
    database: str = "database_identity"

    @property
    def kind_name(self) -> str:
        """As Prometheus calls it."""
        return _KIND_NAMES[self.kind]


class Figure(NamedTuple):
    """One entry as a scrape finds it. `values`: see the layout of the board."""

    family: str
    labels: tuple[str, ...]
    values: tuple[int, ...]


class Histogram:
    """Where observations go. `observe` costs about 0.2 us, `later.append` a tenth of that."""

    __slots__ = ("_bounds", "_first", "_words", "later")

    def __init__(self, words: memoryview, first: int, bounds: tuple[int, ...]) -> None:
        self._words = words
        self._first = first
        self._bounds = bounds
        self.later: deque[int] = deque(maxlen=MAX_LATER)
        """Values that `settle` is to count."""

    def settle(self) -> None:
        """Counts the values in `later`. O(values) in C."""
        if not self.later:
            return
        values = sorted(self.later)
        self.later.clear()
        words, first = self._words, self._first
        begin = 0
        try:
            words[first] += sum(values)
            for at, bound in enumerate(self._bounds, first + 1):
                end = bisect_right(values, bound, begin)
                words[at] += end - begin
                begin = end
            words[first + 1 + len(self._bounds)] += len(values) - begin
        except ValueError:
            pass  # more than a word holds: somebody else has written there

    def observe(self, value: int) -> None:
        """Counts a value >= 0 in the family's stored unit."""
        words, first = self._words, self._first
        try:
            words[first] += value
            words[first + 1 + bisect_left(self._bounds, value)] += 1
        except ValueError:  # more than a word holds: somebody else has written there
            pass

    def observe_all(self, counts: Mapping[int, int]) -> None:
        """Counts values >= 0, each so many times. O(different values)."""
        for value, count in counts.items():
            try:
                self._words[self._first] += value * count
                self._words[self._first + 1 + bisect_left(self._bounds, value)] += count
            except ValueError:
                pass  # as in `observe`


class Board:
    """The writer's end of `size` words from `first` on; see the head of the module."""

    def __init__(self, words: memoryview, first: int, size: int) -> None:
        self.words = words
        self._first = first
        self._size = size
        self._spare = memoryview(bytearray(8 * (MAX_BOUNDS + 2))).cast("Q")
        self._known: dict[tuple[str, ...], tuple[memoryview, int]] = {}
        self.is_full = False
        for at, figure in places(words, first, size):
            self._known[figure.family, *figure.labels] = (words, at)

    @classmethod
    def private(cls, size: int = 8192) -> Board:
        """Of a process that nobody scrapes."""
        return cls(memoryview(bytearray(8 * size)).cast("Q"), 0, size)

    def counter(self, family: Family, *labels: str) -> Counter:
        """A counter or gauge of the family, made when it is asked for the first time."""
        words, at = self._find(family, labels, 1)
        return Counter(words, at)

    def histogram(self, family: Family, *labels: str) -> Histogram:
        """A histogram of the family, made when it is asked for the first time."""
        words, at = self._find(family, labels, len(family.bounds) + 2)
        return Histogram(words, at, family.bounds)

    def _find(self, family: Family, labels: tuple[str, ...], values: int) -> tuple[memoryview, int]:
        assert len(labels) == len(family.labels), family.name
        found = self._known.get((family.name, *labels))
        if found is None:
            found = self._known[family.name, *labels] = self._add(family, labels, values)
        return found

    def _add(self, family: Family, labels: tuple[str, ...], values: int) -> tuple[memoryview, int]:
        assert values <= MAX_BOUNDS + 2, family.name
        key = _SEPARATOR.join((family.name, *labels)).encode("utf-8", "replace")[:MAX_KEY_BYTES]
        key_words = -(-len(key) // 8)
        length = 1 + key_words + values
        used = max(self.words[self._first], 1)
        if used + length > self._size:
            self.is_full = True
            return self._spare, 0
        at = self._first + used
        padded = memoryview(key.ljust(8 * key_words, b"\0")).cast("Q")
        self.words[at] = length | len(key) << 16 | family.kind << 32 | len(family.bounds) << 40
        self.words[at + 1 : at + 1 + key_words] = padded
        publish_fence()
        self.words[self._first] = used + length
        return self.words, at + 1 + key_words


class Counter:
    """A word of a counter or a gauge."""

    __slots__ = ("_at", "_words")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at = at

    def add(self, value: int = 1) -> None:
        """Counts on."""
        try:
            self._words[self._at] += value
        except ValueError:
            pass  # as in `Histogram.observe`

    def set(self, value: int) -> None:
        """Of a gauge; may be negative."""
        self._words[self._at] = value % (2 * _SIGN)

    def get(self) -> int:
        """The value now."""
        return _signed(self._words[self._at])


def figures(words: memoryview, first: int, size: int) -> Iterator[Figure]:
    """All entries of a board as they are now; the writer need not stop."""
    for _at, figure in places(words, first, size):
        yield figure


def places(words: memoryview, first: int, size: int) -> Iterator[tuple[int, Figure]]:
    """The same, each with the index of its first value; entries never move."""
    used = min(words[first], size)
    at = first + 1
    while at < first + used:
        head = words[at]
        length, key_bytes, kind = head & 0xFFFF, head >> 16 & 0xFFFF, head >> 32 & 0xFF
        values_at = at + 1 + -(-key_bytes // 8)
        if not values_at < at + length <= first + used:
            return  # no board of this format
        key = words[at + 1 : values_at].tobytes()[:key_bytes].decode("utf-8", "replace")
        name, *labels = key.split(_SEPARATOR)
        values = tuple(words[values_at : at + length])
        if kind == GAUGE:
            values = (_signed(values[0]),)
        yield values_at, Figure(name, tuple(labels), values)
        at += length


def _signed(word: int) -> int:
    return word - 2 * _SIGN if word >= _SIGN else word
