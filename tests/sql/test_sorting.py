"""Sorting in steps: the order is that of a plain stable sort, and no step looks at many values."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetimedb.sql import sorting
from spacetimedb.sql.sorting import ROUND_ROWS, RUN_ROWS, in_order, sorted_numbers

T = TypeVar("T")
ROWS = 8 * RUN_ROWS + 5


class Counted(list[int]):
    """Values that count how often they are looked at."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return super().__getitem__(at)


def result_of(steps: Generator[None, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


def plain(columns: Sequence[tuple[Sequence[Any], bool]], count: int) -> list[int]:
    order = list(range(count))
    for values, is_descending in reversed(columns):
        order.sort(key=values.__getitem__, reverse=is_descending)
    return order


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.text("ab", max_size=3), st.integers())),
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=3),
    st.integers(0, 60),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_as_a_plain_sort(
    rows: list[tuple[int, str, int]], by: list[tuple[int, bool]], wanted: int, run_rows: int, round_rows: int
) -> None:
    columns = [([row[column] for row in rows], is_descending) for column, is_descending in by]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "RUN_ROWS", run_rows)
        patch.setattr(sorting, "ROUND_ROWS", round_rows)
        patch.setattr(sorting, "LEAST_BLOCK", 2)
        order = result_of(sorted_numbers(columns, len(rows), wanted))
        assert order == plain(columns, len(rows))[:wanted]
        items = list(rows)
        assert result_of(in_order(items, order)) == [rows[number] for number in order]
        assert not items or not order


@pytest.mark.parametrize(
    "values",
    [
        [number * 7919 % ROWS for number in range(ROWS)],
        [number * 7919 % 3 for number in range(ROWS)],
        [1] * ROWS,
        list(range(ROWS)),
        list(range(ROWS, 0, -1)),
        [number // 1000 if number % 5 else number for number in range(ROWS)],
    ],
    ids=["random", "few", "same", "up", "down", "mixed"],
)
@pytest.mark.parametrize("is_descending", [False, True])
def test_no_step_looks_at_many_values(values: list[int], is_descending: bool) -> None:
    counted = Counted(values)
    steps = sorted_numbers([(counted, is_descending)], ROWS, ROWS)
    most, count = 0, 0
    while True:
        before = counted.looks
        try:
            next(steps)
        except StopIteration as end:
            order = end.value
            break
        most = max(most, counted.looks - before)
        count += 1
    assert order == plain([(values, is_descending)], ROWS)
    assert most <= 2 * max(RUN_ROWS, ROUND_ROWS)
    assert count <= 8 * ROWS / RUN_ROWS
