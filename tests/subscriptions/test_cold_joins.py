"""Subscriptions of a reader that knows no table: rows are looked up by key, and deltas are exact all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sql.sample_database import SampleDatabase, identity_of

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.execute import execute_select
from spacetimedb.sql.plan import plan_subscription
from spacetimedb.sql.predicate import key_functions
from spacetimedb.subscriptions.live_queries import Wanted
from spacetimedb.subscriptions.query import Query
from spacetimedb.subscriptions.query_sets import Subscriptions
from spacetimedb.subscriptions.row_index import RowsMissing
from subscriptions.test_deltas import SCHEMA, TRANSACTIONS, Client, change, commit, queries, reads_events

OWNER = identity_of("owner")
CLIENT = 7
JOINS = [
    "select p.* from a p join b q on p.id = q.id where q.s = 'ab'",
    "select q.* from a p join b q on p.id = q.id where q.s = 'ab'",
    "select p.* from a p join b q on p.id = q.id where p.x = 1",
    "select p.* from a p join b q on p.id = q.id where p.x = 1 and q.s = 'a'",
    "select p.* from a p join b q on p.id = q.id where q.s = 'b' and p.x > 0",
    "select p.* from b p join b q on p.id = q.id where p.s = 'ab'",
    "select q.* from b p join b q on p.id = q.id where p.s = 'ab' and q.s = 'ab'",
    "select p.* from a p join a q on p.x = q.x where p.x = 1",
    "select * from a where x = 1",
    "select * from b where s = 'ab' and y = true",
]


class Snapshot:
    """The rows of a moment that are there as long, one at a time."""

    def __init__(self, database: SampleDatabase, table_id: int) -> None:
        self.count = database.row_count(table_id)
        self._database, self._table_id = database, table_id
        self._rows = database.rows(table_id)

    def batches(self) -> Iterator[Sequence[bytes]]:
        for row in self._rows:
            yield [row] if row in self._database.stored[self._table_id] else []

    def close(self) -> None:
        """Nothing is held."""


class ColdReader:
    """A reader of a database that looks everything up that it may; a table that it does not know it must not read."""

    def __init__(self) -> None:
        self.database = SampleDatabase(SCHEMA)
        self.known: set[int] = set()
        self.subscriptions = Subscriptions(self, self)
        self.live = self.subscriptions.live
        self.kept: list[tuple[int, int]] = []

    # RowSource and Lookups

    def rows(self, table_id: int) -> list[bytes]:
        assert table_id in self.known, "a table is read that is not known"
        return self.database.rows(table_id)

    def row_count(self, table_id: int) -> int:
        return self.database.row_count(table_id)

    def find(self, table_id: int, column: int, key: bytes) -> None:
        return None

    def knows(self, table_id: int) -> bool:
        return table_id in self.known

    def can_look_up(self, table: TableRef, column: int) -> bool:
        return (column,) in table.indexes and not table.is_event

    # what the actor does

    def look_up(self, table: TableRef, column: int, keys: set[bytes]) -> None:
        """Enters the rows with these keys as they are now."""
        key = key_functions(table.layout, column)[0]
        rows = [row for row in self.database.rows(table.table_id) if key(row) in keys]
        if self.live.enter_rows(table, column, keys, rows):
            self.kept.append((table.table_id, column))

    def satisfy(self, wanted: Wanted) -> bool:
        """Brings what is wanted; False if that was nothing."""
        new = wanted.tables - self.known
        self.known |= new
        for (_, column), (table, keys) in wanted.keys.items():
            self.look_up(table, column, keys)
        return bool(new or wanted.keys)

    def commit(self, transaction: dict[str, Any]) -> list[tuple[bytes, list[int]]]:
        """A transaction; what it needs is looked up as it was before."""
        deltas = change(self.database, transaction)
        before = {table_id: dict(rows) for table_id, rows in self.database.stored.items()}
        changes = commit(self.database, deltas)
        after, self.database.stored = self.database.stored, before
        for (_, column), (table, keys) in self.live.holes(changes).items():
            self.look_up(table, column, keys)
        self.database.stored = after
        return [(update, list(clients)) for update, clients in self.subscriptions.evaluate(changes)]


def compare(reader: ColdReader, client: Client, subscribed: dict[int, str], is_owner: bool) -> None:
    """The client has what an evaluation from scratch gives."""
    catalog = reader.database.catalog(is_owner)
    for number, text in subscribed.items():
        if not reads_events(text):
            plan = plan_subscription(text, catalog, OWNER)
            rows = Counter(execute_select(plan, reader.database).rows)
            assert +client.rows.get((number, plan.table.name), Counter()) == rows, text


@settings(deadline=None, max_examples=120)
@given(
    st.lists(st.one_of(st.sampled_from(JOINS), queries()), min_size=1, max_size=5),
    TRANSACTIONS,
    st.lists(st.integers(0, 4), min_size=5, max_size=5),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 8),
    st.booleans(),
)
@example(
    ["select p.* from a p join b q on p.id = q.id where q.s = 'ab'"],
    [
        {"a": [(1, 0, "", 0.0), (2, 0, "", 0.0)], "b": [("a", 1, True)], "e": [], "kept": 0},
        {"a": [], "b": [("ab", 1, True)], "e": [], "kept": 0},
        {"a": [], "b": [("ab", 2, True)], "e": [], "kept": 4095},
    ],
    [0, 0, 0, 0, 0],
    5,
    5,
    2,
    True,
)
def test_deltas_of_a_cold_reader_lead_where_evaluation_from_scratch_does(
    texts: list[str],
    transactions: list[dict[str, Any]],
    begin_at: list[int],
    fill_at: int,
    release_at: int,
    anew_at: int,
    is_owner: bool,
) -> None:
    """Queries begin at places of their own, each a step (a look-up) per transaction; indexes are filled meanwhile, and
    the program changes."""
    reader, client = ColdReader(), Client()
    catalog = reader.database.catalog(is_owner)
    waiting: dict[int, list[Query]] = {}
    subscribed: dict[int, str] = {}
    fillings = []
    transactions = [{"a": [], "b": [], "e": [], "kept": 0}, *transactions]
    quiet: dict[str, Any] = {"a": [], "b": [], "e": [], "kept": 0}
    for position, transaction in enumerate([*transactions, quiet, quiet, quiet, quiet]):
        for update, clients in reader.commit(transaction):
            assert clients == [CLIENT]
            client.update(update)
        for number, text in enumerate(texts):
            if begin_at[number] == position:
                try:
                    waiting[number] = reader.subscriptions.compile_set([text], OWNER, is_owner, catalog)
                except SqlError:
                    assert reads_events(text) or (not is_owner and "join" in text)
        for number, found in list(waiting.items()):
            if not reader.satisfy(reader.live.wanted(found, True)):
                client.applied(number, reader.subscriptions.subscribe(CLIENT, number, found))
                subscribed[number] = texts[number]
                del waiting[number]
        if position == fill_at:
            for table_id, entry in list(reader.subscriptions.tables.items()):
                columns = [column for column, index in entry.indexes.items() if index.known is not None]
                snapshot = Snapshot(reader.database, table_id)
                reader.known.add(table_id)  # or there would be no snapshot of it
                fillings.append((table_id, reader.live.begin_indexes(entry.table, columns, snapshot)))
        for _, filling in fillings:
            filling.step()
        if position in (release_at, anew_at):
            for place in reader.kept:
                reader.live.release_index(*place)
            reader.kept.clear()
        if position == anew_at:
            tables = {table.table_id for table in reader.database.tables.values()}
            assert not reader.subscriptions.compile_anew(tables, (), lambda owner, who: (catalog, who or OWNER))
        compare(reader, client, subscribed, is_owner)
    for number in subscribed:
        while reader.satisfy(reader.live.wanted(reader.subscriptions.queries_of(CLIENT, number), True)):
            pass
        dropped = reader.subscriptions.unsubscribe(CLIENT, number, True)
        assert dropped is not None
    for place in reader.kept:
        reader.live.release_index(*place)
    for table_id, _ in fillings:
        reader.live.end_indexes(table_id)
    assert not reader.subscriptions.tables
    assert not reader.live.has_partial_joins


def test_a_cold_join_reads_no_table() -> None:
    reader = ColdReader()
    reader.commit({"a": [(1, 0, "", 0.0)], "b": [("ab", 1, True)], "e": [], "kept": 0})
    found = reader.subscriptions.compile_set([JOINS[0]], OWNER, True, reader.database.catalog(True))
    steps = 0
    while reader.satisfy(reader.live.wanted(found, True)):
        steps += 1
    assert steps == 2  # the rows with the constant, then their partners
    assert len(reader.subscriptions.subscribe(CLIENT, 1, found)) == 1
    assert not reader.known


def test_keys_that_nobody_looked_up_are_a_fault() -> None:
    reader = ColdReader()
    table = reader.database.tables["a"]
    reader.look_up(table, 0, {b"\1"})
    index = reader.subscriptions.tables[table.table_id].indexes[0]
    assert index.find(b"\1") == ()
    with pytest.raises(RowsMissing):
        index.find(b"\2")
