"""Thresholds like `call.p99 < 50ms`: what must hold of a run's figures.

    call.p99 < 50ms      call.steer.p99 < 50ms      task.walk.mean < 1s      age.p99 < 100ms      age.circle.max < 2s
    failed < 1%          failed == 0                lost == 0                calls.rate >= 1000   rows.rate > 60000
    clients >= 5000

`call`, `task`, `age` have p50, p90, p95, p99, p999, mean, max, alone or of one reducer, task or table. A figure that
the run does not have (no call of that name) makes the condition fail. `clients` is the smallest number of bots
connected at the end of any second behind the warm-up.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Final

import msgspec

from .figures import PERCENTILES, Histograms, Totals, summary_ms

_FORM: Final = re.compile(r"\s*([\w.]+)\s*(<=|>=|==|<|>)\s*([\d.]+)\s*(us|ms|s|%)?\s*")
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_TO_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_STATISTICS: Final = (*PERCENTILES, "mean", "max")
_COUNTS: Final = ("sent", "failed", "lost", "calls.rate", "rows.rate", "clients")


class ConditionError(ValueError):
    """The text is no condition."""


class Condition(msgspec.Struct, frozen=True):
    """One threshold. `limit` in milliseconds, per cent of the calls, or a plain number."""

    text: str
    figure: str
    comparison: str
    limit: float
    unit: str

    def value(self, totals: Totals) -> float | None:
        """The figure in this condition's unit; None if the run has none."""
        kind, _, rest = self.figure.partition(".")
        if kind in ("call", "task", "age"):
            name, _, statistic = rest.rpartition(".")
            histograms: Histograms = {"call": totals.calls, "task": totals.tasks, "age": totals.ages}[kind]
            found = histograms.by_name.get(name) if name else histograms.merged()
            return None if found is None else summary_ms(found).get(statistic)
        if self.figure == "calls.rate":
            return totals.answered / totals.seconds if totals.seconds else None
        if self.figure == "rows.rate":
            return totals.rows / totals.seconds if totals.seconds else None
        if self.figure == "clients":
            return totals.clients
        number = float({"sent": totals.sent, "failed": totals.failed, "lost": totals.lost}[kind])
        return number * 100 / max(1, totals.sent) if self.unit == "%" else number

    def shown(self, value: float | None) -> str:
        """A value for people: with its unit, times in milliseconds."""
        if value is None:
            return "nothing was measured"
        return f"{value:,.4g} {'ms' if self.unit in _TO_MS else self.unit}".rstrip()

    def holds(self, totals: Totals) -> bool:
        value = self.value(totals)
        return value is not None and _COMPARE[self.comparison](value, self.limit)


def parse_condition(text: str) -> Condition:
    """ConditionError says what is wrong."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConditionError(f"{text!r} is no condition; write for instance 'call.p99 < 50ms' or 'failed < 1%'")
    figure, comparison, number, unit = found[1], found[2], found[3], found[4] or ""
    kind, _, rest = figure.partition(".")
    if kind in ("call", "task", "age"):
        statistic = rest.rpartition(".")[2]
        if statistic not in _STATISTICS:
            raise ConditionError(f"{text!r}: {figure} must end in one of {', '.join(_STATISTICS)}")
        if unit not in _TO_MS:
            raise ConditionError(f"{text!r}: a time needs a unit: us, ms or s")
    elif figure not in _COUNTS:
        raise ConditionError(f"{text!r}: {figure} is none of call, task, age (with .p99 ...), {', '.join(_COUNTS)}")
    elif unit not in ("", "%") or (unit == "%" and figure not in ("failed", "lost")):
        raise ConditionError(f"{text!r}: {figure} has no unit {unit}")
    try:
        limit = float(number) * _TO_MS.get(unit, 1.0)
    except ValueError:
        raise ConditionError(f"{text!r}: {number} is no number") from None
    return Condition(text.strip(), figure, comparison, limit, unit)
