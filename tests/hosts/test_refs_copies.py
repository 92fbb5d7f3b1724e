"""Copies of refs that are made while transactions go on."""

from __future__ import annotations

from array import array

import pytest

from spacetimedb import Module, Pk, ReducerContext, Row, TestHost, u32
from spacetimedb.hosts import mail, refs_copies
from spacetimedb.hosts.refs_copies import RefsCopies

m = Module()


@m.table(public=True)
class Thing(Row):
    id: Pk[u32]
    value: u32 = 0


@m.reducer
def add(ctx: ReducerContext, first: u32, count: u32) -> None:
    for number in range(first, first + count):
        ctx.db[Thing].insert(Thing(id=number))


@m.reducer
def change(ctx: ReducerContext, number: u32) -> None:
    ctx.db[Thing].id.update(Thing(id=number, value=1))
    ctx.db[Thing].id.delete(number + 1)


ALICE = TestHost.identity("alice")


def test_a_copy_is_of_the_moment_when_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs_copies, "PIECE_REFS", 10)
    host = TestHost(m)
    host.connect(ALICE)
    host.call(ALICE, add, 0, 35)
    database = host._database
    table = next(table for table in database.store.tables.values() if table.name == "thing")
    wanted = sorted(array("Q", table.refs_by_key.values()))
    copies = RefsCopies(database)
    database.out.clear()
    copies.begin(table.table_id)
    records = [database.out.pop()]
    steps = 0
    while copies.step():
        steps += 1
        records += [record for record in database.out if record[4] == mail.REFS_READY]
        database.out.clear()
        host.call(ALICE, change, 2 * steps)
    assert steps == 4
    begun, ready = map(mail.REFS_READY_RECORD.unpack, records)
    assert (begun[1], ready[1]) == (mail.REFS_BEGUN, mail.REFS_READY)
    assert begun[3] == ready[3] != 0
    assert sorted(array("Q", database.heap.row(ready[4]))) == wanted


def test_a_small_copy_is_ready_at_once() -> None:
    host = TestHost(m)
    host.connect(ALICE)
    host.call(ALICE, add, 0, 5)
    database = host._database
    table = next(table for table in database.store.tables.values() if table.name == "thing")
    copies = RefsCopies(database)
    copies.begin(table.table_id)
    ready = mail.REFS_READY_RECORD.unpack(database.out[-1])
    assert (ready[1], ready[3]) == (mail.REFS_READY, 0)
    assert sorted(array("Q", database.heap.row(ready[4]))) == sorted(array("Q", table.refs_by_key.values()))
    assert not copies.step()
