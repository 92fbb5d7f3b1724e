"""What bots measure: counters and histograms (HdrHistogram, microseconds, three digits, up to an hour).

A worker records into one `Figures`; every second it hands on what came since (`take`) and starts anew. The conductor
adds these up. Between processes histograms travel in HdrHistogram's own compressed form.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from hdrh.histogram import HdrHistogram

LONGEST_US: Final = 3_600_000_000
PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}
ERRORS_KEPT: Final = 50
"""Different texts; what comes beyond is counted together."""
OTHERS: Final = "(other texts)"


class Portion(msgspec.Struct):
    """Figures of one worker since its last portion. `calls`, `tasks`, `ages`: histograms by name, encoded.

    `sent` counts calls; each ends up in `failed`, in `lost` (no answer) or among the rest, which were answered.
    `cpu_s` of the worker and `resident` bytes are as of now, the rest since the last portion.
    """

    number: int
    clients: int = 0
    sent: int = 0
    failed: int = 0
    lost: int = 0
    rows: int = 0
    calls: dict[str, bytes] = {}
    tasks: dict[str, bytes] = {}
    ages: dict[str, bytes] = {}
    errors: dict[str, int] = {}
    cpu_s: float = 0.0
    resident: int = 0
    trace: str = ""
    """Traceback of the first mistake of the scenario itself."""


def histogram() -> HdrHistogram:
    return HdrHistogram(1, LONGEST_US, 3)


class Recorder:
    """Values by name, kept as how often each was seen until they are taken: a recorder is told of every call.

    Values are cut to their first 11 bits, which is as exact as a histogram of three digits is.
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, int]] = {}

    def record(self, name: str, seconds: float, count: int = 1) -> None:
        counts = self._counts.get(name)
        if counts is None:
            counts = self._counts[name] = {}
        value = int(seconds * 1e6)
        if value > 2047:
            cut = value.bit_length() - 11
            value = value >> cut << cut
        counts[value] = counts.get(value, 0) + count

    def take(self) -> dict[str, bytes]:
        """All there is, as encoded histograms; then there is nothing."""
        taken: dict[str, bytes] = {}
        for name, counts in self._counts.items():
            found = histogram()
            for value, count in counts.items():
                found.record_value(min(LONGEST_US, max(1, value)), count)
            taken[name] = found.encode()
        self._counts.clear()
        return taken


class Histograms:
    """Histograms by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, HdrHistogram] = {}

    def add(self, encoded: dict[str, bytes]) -> None:
        for name, data in encoded.items():
            if name not in self.by_name:
                self.by_name[name] = histogram()
            self.by_name[name].decode_and_add(data)

    def merged(self) -> HdrHistogram:
        total = histogram()
        for found in self.by_name.values():
            total.add(found)
        return total


class Errors:
    """How often by text, a bounded number of texts."""

    def __init__(self) -> None:
        self.by_text: dict[str, int] = {}

    def count(self, text: str, times: int = 1) -> None:
        text = text[:300]
        if text not in self.by_text and len(self.by_text) >= ERRORS_KEPT:
            text = OTHERS
        self.by_text[text] = self.by_text.get(text, 0) + times


class Figures:
    """What one worker measures."""

    def __init__(self) -> None:
        self.calls, self.tasks, self.ages = Recorder(), Recorder(), Recorder()
        self.errors = Errors()
        self.sent = self.failed = self.lost = self.rows = 0
        self.trace = ""

    def take(self, number: int) -> Portion:
        portion = Portion(
            number,
            sent=self.sent,
            failed=self.failed,
            lost=self.lost,
            rows=self.rows,
            calls=self.calls.take(),
            tasks=self.tasks.take(),
            ages=self.ages.take(),
            errors=self.errors.by_text,
            trace=self.trace,
        )
        self.errors = Errors()
        self.sent = self.failed = self.lost = self.rows = 0
        self.trace = ""
        return portion


class Totals:
    """Sums of portions over some time. `clients`: the fewest that were connected, None if nobody has looked."""

    def __init__(self) -> None:
        self.calls, self.tasks, self.ages = Histograms(), Histograms(), Histograms()
        self.errors = Errors()
        self.sent = self.failed = self.lost = self.rows = 0
        self.seconds = 0.0
        self.clients: int | None = None

    def saw(self, clients: int) -> None:
        """So many bots are connected now."""
        self.clients = clients if self.clients is None else min(self.clients, clients)

    def add(self, portions: Iterable[Portion], seconds: float) -> None:
        self.seconds += seconds
        for portion in portions:
            self.sent += portion.sent
            self.failed += portion.failed
            self.lost += portion.lost
            self.rows += portion.rows
            self.calls.add(portion.calls)
            self.tasks.add(portion.tasks)
            self.ages.add(portion.ages)
            for text, times in portion.errors.items():
                self.errors.count(text, times)

    @property
    def answered(self) -> int:
        """Calls that have an answer, also a refusal."""
        return sum(found.get_total_count() for found in self.calls.by_name.values())


def summary_ms(found: HdrHistogram) -> dict[str, float]:
    """Count, mean, percentiles and maximum in milliseconds; {} for an empty histogram."""
    count = found.get_total_count()
    if not count:
        return {}
    figures = {name: found.get_value_at_percentile(share) / 1000 for name, share in PERCENTILES.items()}
    mean, longest = found.get_mean_value() / 1000, found.get_max_value() / 1000
    return {"count": count, "mean": round(mean, 3), **figures, "max": longest}
