"""Columns, parameters and returned values of the type `Result[T, E]`."""

from __future__ import annotations

from spacetimedb import Module, Pk, ProcedureContext, ReducerContext, Result, Row, Struct, TestHost, i32, u8
from spacetimedb.types import algebraic

m = Module()
ALICE = TestHost.identity("alice")


class Point(Struct):
    x: i32


@m.table(public=True)
class Try(Row):
    id: Pk[u8]
    outcome: Result[list[Point], str] = ("err", "not yet")
    maybe: Result[Point | None, i32] | None = None


@m.reducer
def store(ctx: ReducerContext, id: u8, outcome: Result[list[Point], str]) -> None:
    ctx.db[Try].insert(Try(id=id, outcome=outcome, maybe=("ok", None)))


@m.procedure
def half(ctx: ProcedureContext, number: u8) -> Result[u8, str]:
    return ("err", "odd") if number % 2 else ("ok", number // 2)


def test_the_type_is_upstreams() -> None:
    raw = m.describe()
    row = raw.typespace[0]
    assert isinstance(row, algebraic.Product)
    point = algebraic.Ref(1)
    assert row.elements[1].algebraic_type == algebraic.result(algebraic.Array(point), algebraic.STRING)
    assert row.elements[2].algebraic_type == algebraic.option(algebraic.result(algebraic.option(point), algebraic.I32))


def test_rows_keep_what_they_hold() -> None:
    host = TestHost(m)
    host.connect(ALICE)
    host.call(ALICE, store, 1, ("ok", [Point(-3)]))
    host.call(ALICE, store, 2, ("err", "why"))
    rows = {row.id: row for row in host.db[Try].iter()}
    assert rows[1].outcome == ("ok", [Point(-3)])
    assert rows[2].outcome == ("err", "why")
    assert rows[1].maybe == ("ok", None)
    host.restart()
    assert {row.id: row for row in host.db[Try].iter()} == rows


def test_procedures_return_them() -> None:
    host = TestHost(m)
    assert host.procedure(ALICE, half, 4) == ("ok", 2)
    assert host.procedure(ALICE, half, 5) == ("err", "odd")
