"""Stable sorting in steps, so that whoever has other things to do can stop between two of them.

Runs of RUN_ROWS are sorted each by itself. To merge them every block of a run, about ROUND_ROWS / runs long, is
represented by its last value. These are put in order, too, and every so many of them, as many as there are runs, one is
a *cut*: all that comes before it, found in each run by bisection, is put together and into order by Python's own sort,
which makes use of what is in order already. Between two cuts there are those blocks, and of every other run less than
one: 2 x ROUND_ROWS at most, whatever the values are.

Numbers with equal values stand in the order of their runs; a cut is a place in that order, not just a value.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Generator, Sequence
from typing import Any, Final

RUN_ROWS: Final = 4096
"""What is sorted, copied or let go of at once: a millisecond or two."""
ROUND_ROWS: Final = 4096
LEAST_BLOCK: Final = 16
_Run = tuple[list[int], list[Any]]
"""Numbers in the order of their values, and these."""


def sorted_numbers(
    columns: Sequence[tuple[Sequence[Any], bool]], count: int, wanted: int
) -> Generator[None, None, list[int]]:
    """The numbers 0..count-1 in the order of (values by number, is descending), the first column counting most; numbers
    that no column tells apart in their own. Only the first `wanted` of them."""
    if count <= RUN_ROWS:
        order = list(range(count))
        for values, is_descending in reversed(columns):
            order.sort(key=values.__getitem__, reverse=is_descending)
        del order[wanted:]
        return order
    order = []
    for at in range(0, count, RUN_ROWS):
        order += range(at, min(at + RUN_ROWS, count))
        yield
    for values, is_descending in reversed(columns):
        # Backwards before and after: equals keep their order.
        runs = yield from _runs(order, values, is_descending)
        order = yield from _merged(runs, values)
        yield from let_go(runs, 1)
        if is_descending:
            order.reverse()
    while len(order) > wanted:
        del order[max(wanted, len(order) - RUN_ROWS) :]
        yield
    return order


def _runs(order: list[int], values: Sequence[Any], is_backwards: bool) -> Generator[None, None, list[_Run]]:
    """The numbers, forwards or backwards, sorted piece by piece. `order` is used up: letting go takes time, too."""
    runs: list[_Run] = []
    while order:
        run = order[-RUN_ROWS:]
        del order[-RUN_ROWS:]
        if is_backwards:
            run.reverse()
        run.sort(key=values.__getitem__)
        runs.append((run, [values[number] for number in run]))
        yield
    if not is_backwards:
        runs.reverse()
    return runs


def _merged(runs: list[_Run], values: Sequence[Any]) -> Generator[None, None, list[int]]:
    """The numbers of all runs; equals in the order of the runs."""
    block = max(ROUND_ROWS // len(runs), LEAST_BLOCK)
    ends: list[tuple[int, int]] = []
    """Of blocks: number of the run, place behind the last of the block."""
    lasts: list[Any] = []
    for number, (_, keys) in enumerate(runs):
        ends += [(number, end) for end in range(block, len(keys) + 1, block)]
        lasts += keys[block - 1 :: block]
        yield
    blocks = yield from sorted_numbers([(lasts, False)], len(lasts), len(lasts))
    out: list[int] = []
    starts = [0] * len(runs)
    for place in blocks[len(runs) - 1 :: len(runs)]:
        cut, (of, end) = lasts[place], ends[place]
        stops = [
            end if number == of else (bisect_right if number < of else bisect_left)(keys, cut, start)
            for number, ((_, keys), start) in enumerate(zip(runs, starts, strict=True))
        ]
        out += _between(runs, starts, stops, values)
        starts = stops
        yield
    out += _between(runs, starts, [len(run) for run, _ in runs], values)
    return out


def _between(runs: list[_Run], starts: list[int], stops: list[int], values: Sequence[Any]) -> list[int]:
    taken: list[int] = []
    for (run, _), start, stop in zip(runs, starts, stops, strict=True):
        taken += run[start:stop]
    taken.sort(key=values.__getitem__)
    return taken


def in_order(items: list[Any], order: Sequence[int]) -> Generator[None, None, list[Any]]:
    """The items with these numbers. `items` is used up."""
    out: list[Any] = []
    for at in range(0, len(order), RUN_ROWS):
        if at:
            yield
        out += [items[number] for number in order[at : at + RUN_ROWS]]
    yield from let_go(items)
    return out


def let_go(items: list[Any], at_once: int = RUN_ROWS) -> Generator[None, None, None]:
    """Empties a list."""
    while len(items) > at_once:
        del items[-at_once:]
        yield
    items.clear()
