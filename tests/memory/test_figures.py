"""Boards of figures: what a scrape reads is what the writer counted, whatever the labels."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spacetimedb.memory import control
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.figures import COUNTER, GAUGE, HISTOGRAM, Board, Family, figures
from spacetimedb.memory.region import Region

CALLS = Family("calls", COUNTER, "Calls.", ("name",))
LEVEL = Family("level", GAUGE, "Level.")
TIME = Family("time", HISTOGRAM, "Time.", ("name",), 1e-6, (10, 100, 1000))

names = st.text(st.characters(exclude_characters="\x1f\0", exclude_categories=["Cs"]), max_size=20)


def board_words(size: int = 4096) -> memoryview:
    return memoryview(bytearray(8 * size)).cast("Q")


@given(st.lists(st.tuples(names, st.integers(0, 2000)), max_size=30), st.integers(-(2**60), 2**60))
def test_what_is_counted_is_read(observed: list[tuple[str, int]], level: int) -> None:
    words = board_words()
    board = Board(words, 5, 4000)
    board.counter(LEVEL).set(level)
    for name, value in observed:
        board.counter(CALLS, name).add()
        board.histogram(TIME, name).observe(value)
    found = {(figure.family, *figure.labels): figure.values for figure in figures(words, 5, 4000)}
    expected: dict[tuple[str, ...], tuple[int, ...]] = {("level",): (level,)}
    for name in {name for name, _ in observed}:
        values = [value for other, value in observed if other == name]
        expected["calls", name] = (len(values),)
        counts = [sum(low < v <= high for v in values) for low, high in ((-1, 10), (10, 100), (100, 1000), (1000, 1e9))]
        expected["time", name] = (sum(values), *counts)
    assert found == expected


@given(st.lists(st.integers(0, 2000), max_size=50), st.lists(st.integers(0, 2000), max_size=5))
def test_values_that_wait_are_counted_as_if_they_had_not(observed: list[int], before: list[int]) -> None:
    board, other = Board(board_words(), 0, 4000), Board(board_words(), 0, 4000)
    at_once, later = board.histogram(TIME, "a"), other.histogram(TIME, "a")
    for value in [*before, *observed]:
        at_once.observe(value)
    for value in before:
        later.observe(value)
    later.later.extend(observed)
    later.settle()
    later.settle()
    assert board.words.tolist() == other.words.tolist()


def test_a_process_that_starts_again_goes_on_counting() -> None:
    words = board_words()
    Board(words, 0, 4096).counter(CALLS, "a").add(3)
    again = Board(words, 0, 4096)
    again.counter(CALLS, "a").add(4)
    again.counter(CALLS, "b").add(1)
    assert [figure.values for figure in figures(words, 0, 4096)] == [(7,), (1,)]


def test_a_full_board_loses_only_what_does_not_fit() -> None:
    words = board_words(100)
    board = Board(words, 0, 32)
    for number in range(50):
        board.counter(CALLS, f"name {number}").add(number + 1)
    found = list(figures(words, 0, 32))
    assert board.is_full
    assert 0 < len(found) < 10
    assert [figure.values for figure in found] == [(number + 1,) for number in range(len(found))]
    assert not any(words[32:])


def test_boards_of_a_control_block_do_not_overlap() -> None:
    block = ControlBlock.create(Region.private(control.SIZE))
    boards = [block.actor_board(), block.log_keeper_board(), *map(block.reader_board, range(control.READER_SLOTS))]
    for number, board in enumerate(boards):
        while not board.is_full:
            board.counter(CALLS, f"{number} {len(board._known)}").add(number + 1)
    seen = list(block.figures())
    assert len(seen) == sum(len(board._known) - 1 for board in boards)
    assert all(figure.values[0] == int(figure.labels[0].split()[0]) + 1 for figure in seen)
