"""Prometheus' text format, and the text of what stands on a database's boards.

    # HELP name text
    # TYPE name counter|gauge|histogram
    name{label="value",...} number

Texts of labels are made once for each series, as templates for its numbers; the text of a database is made again only
when a word of its boards has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from spacetimedb.hosts.figures import ELAPSED, FAILED
from spacetimedb.memory.figures import HISTOGRAM, Family, places
from spacetimedb.workers.metric_families import FAMILIES

if TYPE_CHECKING:
    from spacetimedb.memory.control import ControlBlock

TRANSACTIONS: Final = "spacetime_num_txns_total"
"""Counted by the histogram of their durations, and by the failures."""
_SIGN: Final = 1 << 63


def header(name: str, kind: str, help_text: str) -> str:
    """What stands before the series of a metric. `help_text`: without backslashes and line ends."""
    return f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"


def labels(values: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """Labels without the braces."""
    pairs = values.items() if isinstance(values, Mapping) else values
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


class _Series:
    """One family and values of its labels. `places`: index of its first word on every board that has it."""

    __slots__ = ("count", "family", "labels", "places", "template")

    def __init__(self, family: Family, identity: str, values: tuple[str, ...]) -> None:
        self.family = family
        self.labels = values
        self.places: list[int] = []
        self.count = len(family.bounds) + 2 if family.kind == HISTOGRAM else 1
        name = family.name
        named = [(family.database, identity), *zip(family.labels, values, strict=True)]
        text = labels(named).replace("%", "%%")
        if family.kind == HISTOGRAM:
            bounds = [*(format(bound * family.scale, ".10g") for bound in family.bounds), "+Inf"]
            lines = [f'{name}_bucket{{{text},le="{bound}"}} %d\n' for bound in bounds]
            self.template = "".join(lines) + f"{name}_count{{{text}}} %d\n{name}_sum{{{text}}} %.15g\n"
        else:
            self.template = f"{name}{{{text}}} {'%d' if family.scale == 1 else '%.15g'}\n"

    def values(self, words: memoryview) -> list[int]:
        """The words, added up over the boards."""
        first, *others = (words[at : at + self.count].tolist() for at in self.places)
        for other in others:
            first = [a + b for a, b in zip(first, other, strict=True)]
        return first

    def text(self, values: list[int]) -> str:
        if self.family.kind != HISTOGRAM:
            value = values[0]
            return self.template % ((value - 2 * _SIGN if value >= _SIGN else value) * self.family.scale)
        buckets = list(accumulate(values[1:]))
        return self.template % (*buckets, buckets[-1], values[0] * self.family.scale)


class BoardText:
    """The text of one database's boards."""

    def __init__(self, control: ControlBlock, identity: str) -> None:
        self._control = control
        self._identity = identity
        self._boards = control.boards()
        self._used: list[int] = []
        self._content: list[bytes] = []
        self._series: list[_Series] = []
        self._transactions: dict[tuple[str, str, bool], str] = {}
        """What stands before the number, by kind of transaction, function, and whether it was committed."""
        self._texts: dict[str, str] = {}

    def texts(self) -> dict[str, str]:
        """Lines by name of their metric; some of `NAMES`."""
        words = self._control.words
        used = [min(words[first], size) for first, size in self._boards]
        content = [words[first : first + count].tobytes() for (first, _), count in zip(self._boards, used, strict=True)]
        if content != self._content:
            if used != self._used:
                self._find_series(words)
                self._used = used
            self._texts = self._text(words)
            self._content = content
        return self._texts

    def _find_series(self, words: memoryview) -> None:
        found: dict[tuple[str, ...], _Series] = {}
        for first, size in self._boards:
            for at, figure in places(words, first, size):
                key = (figure.family, *figure.labels)
                series = found.get(key)
                if series is None:
                    family = FAMILIES.get(figure.family)
                    # A module that got out of its sandbox may have written anything here.
                    if family is None or len(figure.labels) != len(family.labels):
                        continue
                    series = found[key] = _Series(family, self._identity, figure.labels)
                if series.count == len(figure.values):
                    series.places.append(at)
        self._series = [series for series in found.values() if series.places]
        self._transactions.clear()

    def _text(self, words: memoryview) -> dict[str, str]:
        lines: dict[str, list[str]] = {}
        transactions: dict[tuple[str, str, bool], int] = {}
        for series in self._series:
            values = series.values(words)
            lines.setdefault(series.family.name, []).append(series.text(values))
            if series.family is ELAPSED:
                kind, function = series.labels
                transactions[kind, function, True] = sum(values[1:])
            elif series.family is FAILED:
                key = "Reducer", series.labels[0], False
                transactions[key] = transactions.get(key, 0) + values[0]
        lines[TRANSACTIONS] = [f"{self._transaction(*key)}{count}\n" for key, count in transactions.items()]
        return {name: "".join(found) for name, found in lines.items()}

    def _transaction(self, kind: str, function: str, is_committed: bool) -> str:
        key = kind, function, is_committed
        text = self._transactions.get(key)
        if text is None:
            named = {
                "db": self._identity,
                "txn_type": kind,
                "reducer": function,
                "committed": "true" if is_committed else "false",
            }
            text = self._transactions[key] = f"{TRANSACTIONS}{{{labels(named)}}} "
        return text


NAMES: Final = {
    **{family.name: header(family.name, family.kind_name, family.help) for family in FAMILIES.values()},
    TRANSACTIONS: header(TRANSACTIONS, "counter", "Transactions since the actor started."),
}
"""Metrics of the boards with what stands before their series."""
