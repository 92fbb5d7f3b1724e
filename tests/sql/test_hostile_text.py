"""Texts that are meant to hurt: refused with a SqlError, quickly, whatever they are."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.literals import parse
from spacetimedb.sql.parser import MAX_QUERY_BYTES, parse_sql, parse_subscription
from spacetimedb.types.algebraic import BYTES, F32, F64, I8, IDENTITY, STRING, TIMESTAMP, U64, U256, UUID

LONGEST_SECONDS = 8.0
WHERE = "select * from t where "
REPEATED = {
    "parentheses": (WHERE, "("),
    "closed parentheses": (WHERE, "()"),
    "not": (WHERE, "not "),
    "minus": (WHERE, "- "),
    "index": (WHERE, "a["),
    "case": (WHERE, "case when "),
    "call": (WHERE, "f("),
    "cast": (WHERE + "a", "::int"),
    "is null": (WHERE + "a", " is null"),
    "in": (WHERE + "a", " in (1)"),
    "between": (WHERE + "a", " between 1 and 2"),
    "plus": (WHERE + "a", "+a"),
    "comparisons": (WHERE + "a", "=a"),
    "power": (WHERE + "a", " or a and a = a + a * a"),
    "exists": (WHERE, "exists (select * from t where "),
    "in select": (WHERE, "a in (select * from t where "),
    "subquery": ("select * from ", "(select * from "),
    "table parentheses": ("select * from ", "("),
    "query parentheses": ("", "("),
    "union": ("select * from t", " union select * from t"),
    "joins": ("select * from t", " join t"),
    "explain": ("", "explain "),
    "with": ("with ", "a as ("),
    "names": ("select * from a", ".a"),
    "comment": ("", "/*"),
    "statements": ("", "begin;"),
    "rows": ("insert into t (a) values (1)", ",(1)"),
    "call rows": ("insert into t (a) values (1)", ",(f(1))"),
    "assignments": ("update t set a = 1", ", a = 1"),
    "digits": (WHERE + "a = 1", "0"),
    "quotes": (WHERE + "a = '", "''"),
}


@pytest.mark.parametrize("name", REPEATED)
@pytest.mark.parametrize("times", [46, 47, 48, 51, 400, MAX_QUERY_BYTES])
def test_repetition(name: str, times: int) -> None:
    start, piece = REPEATED[name]
    text = start + piece * min(times, (MAX_QUERY_BYTES - len(start)) // len(piece))
    before = time.process_time()
    for parser in (parse_sql, parse_subscription):
        with contextlib.suppress(SqlError):
            parser(text)
    assert time.process_time() - before < LONGEST_SECONDS


PIECES = """
    select * from t where a = 1 and or ( ) , . ; not in is null between like case when then else end exists join on left
    cross natural using as limit offset order by group having union all distinct insert into values update set delete
    show :sender : :: ' " -- /* */ 0x X'ab' N'a' E'b' $$ $1 ? + - / % || [ ] { } @ # ! \\ ` ~ & | ^ <> != <= >= ==
    cast interval timestamp '2020' "q" 1.5e3 .5 1L _x x$y \u00e4 any top fetch first rows only for with
"""
WORDS = st.sampled_from(PIECES.split())


@settings(deadline=None, max_examples=500)
@given(
    st.one_of(
        st.text(max_size=60), st.lists(WORDS, max_size=30).map(" ".join), st.lists(WORDS, max_size=30).map("".join)
    )
)
@example("select \x00")
@example("\ud800")
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parser in (parse_sql, parse_subscription):
        with contextlib.suppress(SqlError):
            parser(text)


@settings(deadline=None, max_examples=500)
@given(st.text(st.sampled_from("0123456789+-eE._xabTZ: {}'"), max_size=45))
@example("1e" + "9" * 4000)
@example("1" * 5000)
@example("1e-" + "9" * 4000)
@example("0000-02-29T23:59:60Z")
@example("9999-12-31T23:59:60-23:59")
def test_any_literal_has_a_value_in_range_or_none(text: str) -> None:
    for t in (I8, U64, U256, F32, F64, BYTES, IDENTITY, UUID, TIMESTAMP, STRING):
        found = parse(text, t)
        assert found is None or found.algebraic_type == t
