"""Instances of views as a reader knows them: requests, waits, pins, releases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spacetimedb.schema.definition import ColumnDef
from spacetimedb.sql.catalog import CallerCatalog, TableRef, Tables, ViewKey
from spacetimedb.sql.errors import SqlError
from spacetimedb.subscriptions.view_instances import ViewInstances
from spacetimedb.types.algebraic import U32, U64, AlgebraicType, Product, ProductElement
from spacetimedb.types.special import Identity

ALICE, BOB = (Identity(bytes((n,)) * 32) for n in (1, 2))


def view(name: str, is_per_caller: bool = False, kind: AlgebraicType = U32) -> TableRef:
    columns = (ColumnDef("x", "x", kind),)
    row_type = Product((ProductElement("x", kind),))
    return TableRef(0, name, name, columns, row_type, is_view=True, is_per_caller=is_per_caller)


TABLES = Tables([view("top"), view("low"), view("mine", True)])


class Reader:
    """A reader whose actor answers when told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, ViewKey]] = []
        self.unused: list[int] = []
        self.woken: list[int] = []
        self.views = ViewInstances(lambda number, key: self.requests.append((number, key)), self.unused.append)

    def plan(self, caller: Identity, *names: str, tables: Tables = TABLES) -> CallerCatalog:
        catalog = self.views.catalog(tables, caller)
        for name in names:
            assert catalog.table(name) is catalog.table(name)
        return catalog

    def want(self, user: int, catalog: CallerCatalog) -> bool:
        return self.views.want(user, catalog, self.wake(user))

    def wake(self, user: int) -> Callable[[], None]:
        return lambda: self.woken.append(user)


def table_id(catalog: CallerCatalog, name: str) -> int:
    table = catalog.table(name)
    assert table is not None
    return table.table_id


def test_an_instance_is_requested_once() -> None:
    reader = Reader()
    assert not reader.want(1, reader.plan(ALICE, "top"))
    assert not reader.want(2, reader.plan(BOB, "top", "low"))
    assert [key for _, key in reader.requests] == [("top", None), ("low", None)]
    reader.views.came(1, 70)
    assert reader.woken == [1]
    catalog = reader.plan(ALICE, "top")
    assert reader.want(1, catalog)
    assert table_id(catalog, "top") == 70
    reader.views.came(2, 71)
    assert reader.woken == [1, 2]
    assert reader.want(2, reader.plan(BOB, "top", "low"))


def test_each_caller_has_an_own_one() -> None:
    reader = Reader()
    for user, caller in enumerate((ALICE, BOB)):
        assert not reader.want(user, reader.plan(caller, "mine"))
    assert [key for _, key in reader.requests] == [("mine", ALICE), ("mine", BOB)]
    reader.views.came(2, 72)
    assert reader.woken == [1]
    assert table_id(reader.plan(BOB, "mine"), "mine") == 72
    assert reader.plan(ALICE, "mine").missing


def test_a_failure_is_told_to_all_who_wait() -> None:
    reader = Reader()
    for user in (1, 2):
        assert not reader.want(user, reader.plan(ALICE, "top", "low"))
    reader.views.failed(1, "broken")
    assert reader.woken == [1, 2]
    for user in (1, 2):
        with pytest.raises(SqlError, match="broken"):
            reader.want(user, reader.plan(ALICE, "top", "low"))
    reader.views.came(2, 70)
    assert reader.woken == [1, 2], "called once"
    reader.want(1, reader.plan(ALICE, "top"))
    assert len(reader.requests) == 3, "tried again"


def test_what_is_pinned_is_not_given_back() -> None:
    reader = Reader()
    reader.want(1, reader.plan(ALICE, "top"))
    reader.views.came(1, 70)
    assert not reader.views.release(70)
    assert reader.views.done(1)
    assert not reader.views.done(1)
    assert reader.views.release(70)
    assert reader.unused == [70]
    assert reader.views.release(70), "known no more"
    assert reader.unused == [70]
    assert reader.plan(ALICE, "top").missing


def test_who_left_hears_of_no_failure() -> None:
    reader = Reader()
    reader.want(1, reader.plan(ALICE, "top"))
    reader.views.done(1)
    reader.views.came(1, 70)
    assert reader.views.release(70)
    reader.want(2, reader.plan(ALICE, "low"))
    reader.views.failed(2, "broken")
    reader.views.done(2)
    assert not reader.want(2, reader.plan(ALICE, "top"))


def test_another_program_may_give_other_rows() -> None:
    reader = Reader()
    reader.want(1, reader.plan(ALICE, "top"))
    reader.views.came(1, 70)
    assert reader.want(1, reader.plan(ALICE, "top"))
    reader.views.done(1)
    same = Tables([view("top")])
    assert table_id(reader.plan(ALICE, "top", tables=same), "top") == 70
    other = Tables([view("top", kind=U64)])
    catalog = reader.plan(ALICE, "top", tables=other)
    assert not reader.want(1, catalog)
    reader.views.came(2, 71)
    assert table_id(reader.plan(ALICE, "top", tables=other), "top") == 71
    reader.views.done(1)
    assert reader.views.release(70)
    assert reader.views.release(71)
    assert reader.unused == [70, 71]


def test_answers_to_a_predecessor() -> None:
    reader = Reader()
    reader.want(1, reader.plan(ALICE, "top"))
    assert reader.views.expects(1)
    assert not reader.views.expects(2)
    reader.views.give_up()
    assert reader.woken == [1]


def test_who_leaves_while_it_waits_is_not_called_and_leaves_no_failure() -> None:
    reader = Reader()
    assert not reader.want(1, reader.plan(ALICE, "top"))
    assert not reader.want(2, reader.plan(BOB, "top"))
    reader.views.done(1)
    reader.views.failed(reader.requests[0][0], "it failed")
    assert reader.woken == [2]
    assert not reader.want(1, reader.plan(ALICE, "top"))  # somebody else, with the same number
    with pytest.raises(SqlError, match="it failed"):
        reader.want(2, reader.plan(BOB, "top"))
