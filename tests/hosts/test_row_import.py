"""Rows that an owner brings along: what goes in, what is refused, and that numbers go on behind them."""

from __future__ import annotations

from struct import pack

import pytest
from test_program_update import FIRST, OWNER, Running

from spacetimedb.hosts.database import caller
from spacetimedb.hosts.mail import ANSWER_HEAD, ROW_COUNTS, Outcome
from spacetimedb.types.special import ConnectionId

NUMBERS = 70_000
"""Far behind the numbers that a fresh sequence reserves."""


def person(number: int, name: str) -> bytes:
    return pack("<QI", number, len(name)) + name.encode()


def put(running: Running, table: str, data: bytes) -> tuple[Outcome, bytes]:
    running.database.import_rows(caller(OWNER, ConnectionId.from_int(9), 0, 9), 0, table, data)
    answer = running.take()[-1]
    outcome, length = ANSWER_HEAD.unpack_from(answer)[2], ANSWER_HEAD.unpack_from(answer)[8]
    return Outcome(outcome), bytes(answer[ANSWER_HEAD.size : ANSWER_HEAD.size + length])


def test_numbers_go_on_behind_what_was_imported_also_after_a_restart() -> None:
    running = Running(FIRST)
    running.connect(1)
    running.add("Ann")
    outcome, body = put(running, "person", person(NUMBERS, "Bob") + person(NUMBERS + 1, "Cleo") + person(1, "Ann"))
    assert (outcome, ROW_COUNTS.unpack(body)) == (Outcome.SQL_DONE, (2, 0, 0))
    running.restart()
    running.connect(2)
    running.add("Dan")
    numbers = [row[0] for row in running.rows("person")]
    assert numbers[:3] == [1, NUMBERS, NUMBERS + 1]
    assert isinstance(numbers[3], int)
    assert numbers[3] > NUMBERS + 1


def test_a_zero_stands_for_a_new_number() -> None:
    running = Running(FIRST)
    running.connect(1)
    running.add("Ann")
    assert put(running, "person", person(0, "Bob"))[0] is Outcome.SQL_DONE
    assert running.rows("person") == [(1, "Ann"), (2, "Bob")]


@pytest.mark.parametrize(
    ("table", "data", "text"),
    [
        ("person", person(5, "Eve") + person(1, "other"), "row 1: IndexError: Unique constraint violation"),
        ("person", person(5, "Eve") + person(6, "cut")[:-1], "row 1: "),
        ("nothing", b"", "no such table: `nothing`"),
        ("st_table", b"", "no such table: `st_table`"),
    ],
)
def test_a_refusal_names_the_row_and_leaves_nothing(table: str, data: bytes, text: str) -> None:
    running = Running(FIRST)
    running.connect(1)
    running.add("Ann")
    horizon = running.database.horizon
    outcome, body = put(running, table, data)
    assert outcome is Outcome.SQL_ERROR
    assert body.decode().startswith(text)
    assert running.rows("person") == [(1, "Ann")]
    assert running.database.horizon == horizon
