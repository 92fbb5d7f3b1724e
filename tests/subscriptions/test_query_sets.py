"""Query sets: registering, sharing, rows of a new set, and what leaves nothing behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sql.sample_database import SampleDatabase, identity_of, read_table_rows, read_update, vectors

from spacetimedb.sql.errors import SqlError
from spacetimedb.store.commit_record import Rows
from spacetimedb.subscriptions import wire
from spacetimedb.subscriptions.changed_table import LEAST_CHANGES
from spacetimedb.subscriptions.live_queries import INDEXED_ROWS
from spacetimedb.subscriptions.query import SHARED_QUERIES, SHARED_SETS
from spacetimedb.subscriptions.query_sets import QuerySetInUse, QuerySetUnknown, Subscriptions
from spacetimedb.types.special import Identity
from subscriptions.test_deltas import commit

OWNER = identity_of("owner")
STRANGER = identity_of("a")
SCHEMA: dict[str, Any] = {
    "tables": [
        {"name": "entity", "cols": [["id", "U64"], ["owner", "U64"], ["x", "F32"]], "indexes": [["id"]]},
        {"name": "message", "cols": [["text", "String"]]},
        {"name": "hidden", "cols": [["id", "U64"]], "access": "private"},
        {"name": "event", "cols": [["id", "U64"]], "event": True},
        {"name": "nothing", "cols": []},
        {"name": "who", "cols": [["identity", "Identity"]]},
    ],
    "rows": {"entity": [[1, 10, 0.5], [2, 20, 1.5]], "hidden": [[1]]},
}


Parts = list[tuple[str, list[bytes]]]
"""(table, rows) per fragment."""


class Reader:
    """A database with subscriptions, and short names for what tests do with them."""

    def __init__(self, schema: dict[str, Any] = SCHEMA) -> None:
        self.database = SampleDatabase(schema)
        self.subscriptions = Subscriptions(self.database)

    def subscribe(self, client: int, number: int, *texts: str, caller: Identity = OWNER) -> Parts:
        catalog = self.database.catalog(caller == OWNER)
        queries = self.subscriptions.compile_set(list(texts), caller, caller == OWNER, catalog)
        return [read_table_rows(part) for part in self.subscriptions.subscribe(client, number, queries)]

    def row(self, table: str, *values: Any) -> bytes:
        return self.database.encode(self.database.tables[table], list(values))

    def change(self, **tables: tuple[list[list[Any]], list[list[Any]]]) -> list[tuple[bytes, list[int]]]:
        """(update, clients) of a commit that deletes and inserts these rows."""
        deltas = {
            name: ([self.row(name, *row) for row in deletes], [self.row(name, *row) for row in inserts])
            for name, (deletes, inserts) in tables.items()
        }
        groups = self.subscriptions.evaluate(commit(self.database, deltas))
        return [(update, list(clients)) for update, clients in groups]


def test_clients_with_the_same_sets_get_the_same_bytes() -> None:
    reader = Reader()
    for client in range(200):
        reader.subscribe(client, 4, "select * from entity")
    before = reader.subscriptions.counts.evaluated
    ((update, clients),) = reader.change(entity=([[1, 10, 0.5]], [[1, 11, 0.5]]))
    assert clients == list(range(200))
    assert reader.subscriptions.counts.evaluated == before + 1
    deleted, inserted = reader.row("entity", 1, 10, 0.5), reader.row("entity", 1, 11, 0.5)
    assert read_update(update) == {4: [("entity", [([inserted], [deleted])])]}


def test_same_query_in_different_company_is_still_shared() -> None:
    reader = Reader()
    for client in range(3):
        reader.subscribe(client, 0, "select * from entity", f"select * from entity where owner = {client}")
    reader.subscribe(7, 1, "select * from entity")
    groups = reader.change(entity=([], [[5, 50, 0.0]]))
    assert sorted(client for _, clients in groups for client in clients) == [0, 1, 2, 7]
    assert len({id(update) for update, clients in groups if clients != [7]}) == 1
    assert {client: list(read_update(update)) for update, clients in groups for client in clients} == {
        0: [0], 1: [0], 2: [0], 7: [1],
    }  # fmt: skip


def test_two_sets_of_one_client_come_in_one_update() -> None:
    reader = Reader()
    reader.subscribe(1, 9, "select * from message", "select * from entity")
    reader.subscribe(1, 2, "select * from entity where owner = 50", "select * from entity")
    ((update, clients),) = reader.change(entity=([], [[5, 50, 0.0]]), message=([], [["hello"]]))
    assert clients == [1]
    row, text = reader.row("entity", 5, 50, 0.0), reader.row("message", "hello")
    assert list(read_update(update).items()) == [
        (2, [("entity", [([row], []), ([row], [])])]),
        (9, [("entity", [([row], [])]), ("message", [([text], [])])]),
    ]


def test_whole_tables_are_forwarded_as_they_stand_in_the_record() -> None:
    reader = Reader()
    reader.subscribe(1, 1, "select * from message")
    rows = ["", "a", "bcd"]
    ((update, _),) = reader.change(message=([], [[row] for row in rows]))
    assert b"".join(reader.row("message", row) for row in rows) in update
    assert read_update(update) == {1: [("message", [([reader.row("message", row) for row in rows], [])])]}


def test_rows_of_a_new_set() -> None:
    reader = Reader()
    rows = dict(reader.subscribe(1, 1, "select * from entity where owner > 100", "select * from message"))
    assert rows == {"entity": []}
    assert reader.subscribe(1, 2) == []
    one, two = reader.row("entity", 1, 10, 0.5), reader.row("entity", 2, 20, 1.5)
    assert reader.subscribe(2, 1, "select * from entity", " select * from entity ", "SELECT * from entity") == [
        ("entity", [one, two]),
        ("entity", [one, two]),
    ]
    reader.change(entity=([[2, 20, 1.5]], []))
    assert reader.subscribe(3, 1, "select * from entity") == [("entity", [one])]
    reader.subscriptions.follow(commit(reader.database, {"entity": ([one], [])}))
    assert reader.subscribe(4, 1, "select * from entity") == []


def test_select_everything() -> None:
    reader = Reader()
    reader.change(message=([], [["x"]]))
    assert [name for name, _ in reader.subscribe(1, 1, " select *\n FROM * ")] == ["entity", "hidden", "message"]
    assert [name for name, _ in reader.subscribe(2, 1, "SELECT * FROM *", caller=STRANGER)] == ["entity", "message"]
    with pytest.raises(SqlError, match="sql parser error"):
        reader.subscribe(3, 1, "SELECT * FROM *;")
    with pytest.raises(SqlError, match="sql parser error"):
        reader.subscriptions.compile_one_off("SELECT * FROM *", OWNER, True, reader.database.catalog(True))


def test_names_with_quotes_and_dots_are_expanded() -> None:
    reader = Reader(vectors("schemas")["schemas"]["names"])
    assert {name for name, _ in reader.subscribe(1, 1, "SELECT * FROM *")} == {"Order", "order", "lib.items"}


def test_a_bad_query_registers_nothing() -> None:
    reader = Reader()
    with pytest.raises(SqlError) as refused:
        reader.subscribe(1, 1, "select * from entity", " select * from  nowhere ")
    text = "no such table: `nowhere`. If the table exists, it may be marked private."
    assert str(refused.value) == f"{text}, executing: `select * from  nowhere`"
    with pytest.raises(SqlError) as refused:
        reader.subscribe(1, 1, "  ")
    assert str(refused.value) == "SubscriptionError: Empty string, executing: ``"
    assert not reader.subscriptions.has_client(1)
    assert not reader.subscriptions.tables


def test_roles_do_not_share_private_tables() -> None:
    reader = Reader()
    assert reader.subscribe(1, 1, "select * from hidden")
    with pytest.raises(SqlError, match="no such table"):
        reader.subscribe(2, 1, "select * from hidden", caller=STRANGER)


def test_sender_makes_a_query_of_its_own() -> None:
    reader = Reader()
    for client, name in ((1, "a"), (2, "b"), (3, "a")):
        reader.subscribe(client, 1, "select * from who where identity = :sender", caller=identity_of(name))
    ((update, clients),) = reader.change(who=([], [[int.from_bytes(identity_of("a"), "little")]]))
    assert clients == [1, 3]
    assert read_update(update) == {1: [("who", [([bytes(identity_of("a"))], [])])]}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_rule_with_sender_makes_a_query_of_its_own(is_first: bool) -> None:
    """Wherever the rule stands among others: nobody gets what another caller's rule lets through."""
    rules = ["select * from who where identity = :sender", "select * from who where number = 7"]
    table = {
        "name": "who",
        "cols": [["identity", "Identity"], ["number", "U8"]],
        "rules": rules[:: 1 if is_first else -1],
    }
    reader = Reader({"tables": [table], "rows": {}})
    for client, name in ((1, "a"), (2, "b"), (3, "a")):
        reader.subscribe(client, 1, "select * from who", caller=identity_of(name))
    ((_, clients),) = reader.change(who=([], [[int.from_bytes(identity_of("a"), "little"), 1]]))
    assert clients == [1, 3]


def test_ids() -> None:
    reader = Reader()
    subscriptions = reader.subscriptions
    reader.subscribe(1, 5, "select * from entity")
    with pytest.raises(QuerySetInUse):
        reader.subscribe(1, 5, "select * from message")
    with pytest.raises(QuerySetUnknown):
        subscriptions.unsubscribe(1, 6, False)
    with pytest.raises(QuerySetUnknown):
        subscriptions.unsubscribe(2, 5, False)
    assert subscriptions.has_set(1, 5)
    assert [query.text for query in subscriptions.queries_of(1, 5)] == ["select * from entity"]
    dropped = subscriptions.unsubscribe(1, 5, True)
    assert dropped is not None
    assert [len(read_table_rows(part)[1]) for part in dropped] == [2]
    assert not subscriptions.has_client(1)
    reader.subscribe(1, 5, "select * from message")
    assert subscriptions.unsubscribe(1, 5, False) is None


@pytest.mark.parametrize("sets", [1, 3, SHARED_SETS + 3])
@pytest.mark.parametrize("width", [1, 7, SHARED_QUERIES + 1])
def test_nothing_is_left_behind(sets: int, width: int) -> None:
    reader = Reader()
    subscriptions = reader.subscriptions
    for client in (1, 2):
        for number in range(sets):
            texts = [f"select * from entity where owner = {number * 1000 + n}" for n in range(width)]
            reader.subscribe(client, number, "select * from message", *texts)
    groups = reader.change(message=([], [["x"]]), entity=([], [[7, 1, 0.0]]))
    assert sorted(client for _, clients in groups for client in clients) == [1, 2]
    for update, _ in groups:
        held = read_update(update)
        assert list(held) == list(range(sets))
        assert [len(tables) for tables in held.values()] == [2 if n == 0 and width > 1 else 1 for n in range(sets)]
    assert subscriptions.unsubscribe(1, 0, False) is None
    mine = [update for update, clients in reader.change(message=([], [["y"]])) if clients == [1]]
    assert [list(read_update(update)) for update in mine] == ([list(range(1, sets))] if sets > 1 else [])
    subscriptions.drop_client(1)
    subscriptions.drop_client(1)
    subscriptions.drop_client(2)
    numbers = subscriptions.statistics()
    assert [numbers[name] for name in ("clients", "audiences", "queries", "tables", "indexes")] == [0] * 5
    assert reader.change(message=([], [["z"]])) == []


def test_values_are_found_by_index_after_the_first_search() -> None:
    rows = [[n, n % 50, 0.0] for n in range(INDEXED_ROWS)]
    reader = Reader({**SCHEMA, "rows": {"entity": rows}})
    for owner in range(50):
        (part,) = reader.subscribe(owner, 1, f"select * from entity where owner = {owner}")
        expected = Counter(reader.row("entity", *row) for row in rows if row[1] == owner)
        assert Counter(part[1]) == expected
    assert reader.subscriptions.statistics()["indexes"] == 1
    reader.change(entity=([[3, 3, 0.0], [4, 4, 0.0]], [[900, 3, 0.0], [901, 60, 0.0]]))
    (part,) = reader.subscribe(99, 1, "select * from entity where owner = 3 and x < 5")
    kept = [row for row in [*rows, [900, 3, 0.0]] if row[1] == 3 and row[0] != 3]
    assert Counter(part[1]) == Counter(reader.row("entity", *row) for row in kept)


def test_only_matching_values_are_evaluated() -> None:
    reader = Reader()
    for client in range(1000):
        reader.subscribe(client, 1, f"select * from entity where owner = {client}")
    before = reader.subscriptions.counts.evaluated
    groups = reader.change(entity=([[1, 10, 0.5]], [[1, 11, 0.5]]))
    assert sorted(client for _, clients in groups for client in clients) == [10, 11]
    assert reader.subscriptions.counts.evaluated == before + 2


def test_one_off_query_always_has_its_table() -> None:
    reader = Reader()
    catalog = reader.database.catalog(True)
    for text, name, count in (
        ("select * from message", "message", 0),
        ("select * from event", "event", 0),
        ("select * from entity where owner = 10", "entity", 1),
        ("select a.* from entity a join entity b", "entity", 4),
    ):
        query = reader.subscriptions.compile_one_off(text, OWNER, True, catalog)
        found, rows = read_table_rows(reader.subscriptions.one_off_rows(query))
        assert (found, len(rows)) == (name, count)
    with pytest.raises(SqlError, match="Empty SQL query"):
        reader.subscriptions.compile_one_off("", OWNER, True, catalog)


SIZES = [[], [1], [0], [0, 0], [3, 3], [3, 4], [65535, 65535], [65536], [65536, 65536], [0, 5]]


@pytest.mark.parametrize("sizes", SIZES)
def test_row_lists(sizes: list[int]) -> None:
    rows = [bytes([n + 1]) * size for n, size in enumerate(sizes)]
    data = b"".join(rows)
    equal = len(set(sizes)) == 1
    lists = {wire.row_list_of(rows), wire.row_list(data, len(rows), sizes)}
    if equal:
        lists.add(wire.row_list(data, len(rows), sizes[0]))
    assert len(lists) == 1
    (encoded,) = lists
    assert encoded[0] == (0 if equal and 0 < sizes[0] < 65536 else 1)
    assert read_table_rows(wire.string("t") + encoded) == ("t", rows)
    forwarded = Rows(len(rows), data, sizes[0] if equal else 0, None if equal or not sizes else sizes)
    none = Rows(0, b"", 0, None)
    for inserts, deletes in ((forwarded, none), (none, forwarded), (forwarded, forwarded)):
        expected = (rows if inserts is forwarded else [], rows if deletes is forwarded else [])
        block = wire.whole_table_update(inserts, deletes)
        assert block == wire.table_update(*expected) or not sizes
        head = wire.u32(1) + wire.set_head(3, 1) + wire.string("t") + wire.u32(1)
        assert read_update(head + block) == {3: [("t", [expected])]}


def test_an_index_for_searches_goes_when_changes_cost_more_than_it_saves() -> None:
    reader = Reader()
    reader.change(entity=([], [[10 + n, n, 0.0] for n in range(INDEXED_ROWS)]))
    for client in range(3):
        reader.subscribe(client, 1, f"select * from entity where owner = {client}")
    indexes = reader.subscriptions.tables[reader.database.tables["entity"].table_id].indexes
    assert indexes
    for n in range(LEAST_CHANGES):
        reader.change(entity=([[10, 0, float(n)]], [[10, 0, float(n + 1)]]))
    assert not indexes
    assert reader.subscribe(7, 1, "select * from entity where owner = 0")[0][1] == [
        reader.row("entity", 10, 0, float(LEAST_CHANGES))
    ]
