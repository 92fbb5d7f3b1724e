"""Deltas of subscriptions: the recorded sequences, and random ones against evaluation from scratch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sql.sample_database import SampleDatabase, identity_of, read_table_rows, read_update, vectors

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.execute import execute_select
from spacetimedb.sql.plan import plan_subscription
from spacetimedb.store.commit_record import (
    COMMIT,
    EVENT,
    LOGGED,
    MUTATIONS_ONLY,
    NO_READER,
    NO_REDUCER,
    TableChange,
    TableDelta,
    build_commit,
    changes,
    header,
)
from spacetimedb.subscriptions.query_sets import Subscriptions

OWNER = identity_of("owner")


def commit(database: SampleDatabase, deltas: dict[str, tuple[list[bytes], list[bytes]]]) -> list[TableChange]:
    """Applies (deleted, inserted) rows per table and gives the commit as a reader finds it in the record."""
    entries: list[TableDelta] = []
    for name, (deletes, inserts) in deltas.items():
        table = database.tables[name]
        stored = database.stored[table.table_id]
        if table.is_event:
            entries.append(TableDelta(table.table_id, EVENT, table.layout.row_size or 0, [], inserts, [], []))
            continue
        for row in deletes:
            del stored[row]
        for row in inserts:
            assert row not in stored
            stored[row] = None
        refs = [8] * len(deletes), [8] * len(inserts)
        entries.append(TableDelta(table.table_id, 0, table.layout.row_size or 0, deletes, inserts, *refs))
    entries.sort(key=lambda delta: delta.table_id)
    record = build_commit(entries, MUTATIONS_ONLY, 1, 0, NO_READER, 0, 0, NO_REDUCER, 0, LOGGED)
    head = header(record)
    assert head.kind == COMMIT
    return changes(record, 0, head.table_count)


def net(rows: list[list[Any]], other: list[list[Any]]) -> list[list[Any]]:
    """The rows that are not in the other list: deleted and inserted again in one transaction is no change."""
    return [row for row in rows if row not in other]


class Client:
    """What a client of the protocol holds: bags of rows per query set and table."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], Counter[bytes]] = {}

    def applied(self, number: int, parts: list[bytes]) -> None:
        """Takes the answer to a Subscribe."""
        for part in parts:
            name, rows = read_table_rows(part)
            self.rows.setdefault((number, name), Counter()).update(rows)

    def update(self, data: bytes) -> None:
        """Takes an update; a row must never be held a negative number of times."""
        sets = read_update(data)
        assert list(sets) == sorted(sets)
        for number, tables in sets.items():
            names = [name for name, _ in tables]
            assert names == sorted(set(names))
            for name, blocks in tables:
                held = self.rows.setdefault((number, name), Counter())
                for inserts, deletes in blocks:
                    assert inserts or deletes
                    held.update(inserts)
                    held.subtract(deletes or ())
                assert all(count >= 0 for count in held.values())


@pytest.mark.parametrize("case", vectors("deltas"), ids=lambda case: str(case["id"]))
def test_recorded_sequence(case: dict[str, Any]) -> None:
    schema = vectors("schemas")["schemas"][case["schema"]]
    database = SampleDatabase({"tables": schema["tables"], "rows": case["rows"]})
    subscriptions = Subscriptions(database)
    catalog = database.catalog(True)
    returned: list[TableRef] = []
    for number, text in enumerate(case["queries"]):
        (query,) = subscriptions.compile_set([text], OWNER, True, catalog)
        table = query.plans[0].table
        returned.append(table)
        parts = subscriptions.subscribe(1, number, [query])
        rows = Counter(row for part in parts for row in read_table_rows(part)[1])
        assert rows == Counter(database.encode(table, row) for row in case["initial"][number])
    for transaction in case["transactions"]:
        names = sorted({*transaction["deletes"], *transaction["inserts"]})
        deltas = {}
        for name in names:
            removed, added = transaction["deletes"].get(name, []), transaction["inserts"].get(name, [])
            deltas[name] = tuple(
                [database.encode(database.tables[name], row) for row in rows]
                for rows in (net(removed, added), net(added, removed))
            )
        evaluated = subscriptions.counts.evaluated
        groups = subscriptions.evaluate(commit(database, deltas))  # type: ignore[arg-type]
        assert all(list(clients) == [1] for _, clients in groups)
        assert len(groups) <= 1
        update = read_update(groups[0][0]) if groups else {}
        for number, expected in enumerate(transaction["expected"]):
            tables = update.pop(number, [])
            inserts: Counter[bytes] = Counter()
            deletes: Counter[bytes] = Counter()
            for name, blocks in tables:
                assert name == returned[number].name
                for added_rows, removed_rows in blocks:
                    inserts.update(added_rows)
                    deletes.update(removed_rows or ())
            encode = database.encode
            assert inserts == Counter(encode(returned[number], row) for row in expected["inserts"])
            assert deletes == Counter(encode(returned[number], row) for row in expected["deletes"])
        assert not update
        if "queries_evaluated" in transaction:
            assert subscriptions.counts.evaluated - evaluated <= transaction["queries_evaluated"]


SCHEMA = {
    "tables": [
        {
            "name": "a",
            "cols": [["id", "U8"], ["x", "I16"], ["s", "String"], ["f", "F32"]],
            "indexes": [["id"], ["x"]],
            "rules": ["select * from a where x = 1", "select a.* from b join a on a.id = b.id where b.s = 'ab'"],
        },
        {"name": "b", "cols": [["s", "String"], ["id", "U8"], ["y", "Bool"]], "indexes": [["id"], ["s"]]},
        {"name": "e", "cols": [["id", "U8"], ["x", "I16"]], "indexes": [["id"]], "event": True},
    ],
    "rows": {},
}
NUMBERS = st.integers(0, 3)
STRINGS = st.sampled_from(["", "a", "ab", "\u00e4", "b"])
FLOATS = st.sampled_from([0.0, -0.0, 1.5, -1.5, float("inf"), float("nan")])
ROWS = {
    "a": st.tuples(NUMBERS, st.integers(-2, 2), STRINGS, FLOATS),
    "b": st.tuples(STRINGS, NUMBERS, st.booleans()),
    "e": st.tuples(NUMBERS, st.integers(-2, 2)),
}
COLUMNS = {"a": ["id", "x", "s", "f"], "b": ["s", "id", "y"], "e": ["id", "x"]}
LITERALS = {
    "id": NUMBERS.map(str),
    "x": st.integers(-2, 2).map(str),
    "s": STRINGS.map(lambda text: f"'{text}'"),
    "f": st.sampled_from(["0", "-0.0", "1.5", "-1.5", "1e400", "-3"]),
    "y": st.sampled_from(["true", "false"]),
}
OPERATORS = st.sampled_from(["=", "=", "=", "<>", "<", ">", "<=", ">="])


@st.composite
def terms(draw: st.DrawFn, aliases: dict[str, str]) -> str:
    alias = draw(st.sampled_from(sorted(aliases)))
    column = draw(st.sampled_from(COLUMNS[aliases[alias]]))
    sides = [f"{alias}.{column}", draw(LITERALS[column])]
    if draw(st.integers(0, 4)) == 0:
        partners = [other for other in sorted(aliases) if column in COLUMNS[aliases[other]]]
        sides[1] = f"{draw(st.sampled_from(partners))}.{column}"
    if draw(st.booleans()):
        sides.reverse()
    return f"{sides[0]} {draw(OPERATORS)} {sides[1]}"


@st.composite
def conditions(draw: st.DrawFn, aliases: dict[str, str]) -> str:
    parts = draw(st.lists(terms(aliases), max_size=3))
    if not parts:
        return ""
    out = parts[0]
    for part in parts[1:]:
        out = f"({out}) {draw(st.sampled_from(['and', 'and', 'or']))} ({part})"
    return f" where {out}"


@st.composite
def queries(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        table = draw(st.sampled_from(["a", "b", "e"]))
        return f"select * from {table}{draw(conditions({table: table}))}"
    first = draw(st.sampled_from(["a", "b", "e"]))
    second = draw(st.sampled_from(["a", "b"]))
    condition = draw(conditions({"p": first, "q": second}))
    returned = draw(st.sampled_from("pq"))
    return f"select {returned}.* from {first} p join {second} q on p.id = q.id{condition}"


def rows_of(table: str) -> st.SearchStrategy[list[Any]]:
    return st.lists(ROWS[table], max_size=4)


TRANSACTIONS = st.lists(
    st.fixed_dictionaries({"a": rows_of("a"), "b": rows_of("b"), "e": rows_of("e"), "kept": st.integers(0, 2**12)}),
    min_size=1,
    max_size=5,
)


def change(database: SampleDatabase, transaction: dict[str, Any]) -> dict[str, tuple[list[bytes], list[bytes]]]:
    """A transaction: some stored rows go (by the bits of ``kept``), new rows come."""
    out = {}
    bits = transaction["kept"]
    for name in ("a", "b", "e"):
        table = database.tables[name]
        stored = database.rows(table.table_id)
        deletes = [row for n, row in enumerate(stored) if bits >> n % 12 & 1]
        fresh = dict.fromkeys(database.encode(table, row) for row in transaction[name])
        inserts = [row for row in fresh if row not in stored or row in deletes]
        both = set(deletes) & set(inserts)
        deletes = [row for row in deletes if row not in both]
        inserts = [row for row in inserts if row not in both]
        if deletes or inserts:
            out[name] = deletes, inserts
    return out


def reads_events(text: str) -> bool:
    return " e" in text.split(" where ")[0]


@settings(deadline=None, max_examples=120)
@given(st.lists(queries(), min_size=1, max_size=5), TRANSACTIONS, st.integers(0, 3), st.booleans())
@example(
    ["select p.* from b p join b q on p.id = q.id where p.s = 'ab' and q.s = 'ab'"],
    [{"a": [], "b": [("ab", 1, True)], "e": [], "kept": 0}],
    0,
    True,
)
def test_deltas_lead_where_evaluation_from_scratch_does(
    texts: list[str], transactions: list[dict[str, Any]], late: int, is_owner: bool
) -> None:
    database = SampleDatabase(SCHEMA)
    subscriptions = Subscriptions(database)
    catalog = database.catalog(is_owner)
    client = Client()
    subscribed: dict[int, str] = {}
    for position, transaction in enumerate([{"a": [], "b": [], "e": [], "kept": 0}, *transactions]):
        for update, clients in subscriptions.evaluate(commit(database, change(database, transaction))):
            assert list(clients) == [7]
            client.update(update)
        if position == min(late, len(transactions) - 1):
            for number, text in enumerate(texts):
                try:
                    found = subscriptions.compile_set([text], OWNER, is_owner, catalog)
                except SqlError:
                    # An event table would have to be looked up, or rules make a join without index.
                    assert reads_events(text) or (not is_owner and "join" in text)
                    continue
                client.applied(number, subscriptions.subscribe(7, number, found))
                subscribed[number] = text
        for number, text in subscribed.items():
            if reads_events(text):
                continue
            plan = plan_subscription(text, catalog, OWNER)
            rows = Counter(execute_select(plan, database).rows)
            assert +client.rows.get((number, plan.table.name), Counter()) == rows, text
    for number in subscribed:
        rows_left = subscriptions.unsubscribe(7, number, True)
        assert rows_left is not None
    assert not subscriptions.tables
    assert subscriptions.statistics()["queries"] == 0


@settings(deadline=None, max_examples=100)
@given(TRANSACTIONS)
def test_events_meet_the_partners_after_the_commit(transactions: list[dict[str, Any]]) -> None:
    database = SampleDatabase(SCHEMA)
    subscriptions = Subscriptions(database)
    catalog = database.catalog(True)
    texts = [
        "select * from e",
        "select * from e where x > 0",
        "select p.* from e p join a q on p.id = q.id",
        "select q.* from e p join a q on p.id = q.id where p.x = 1",
    ]
    for number, text in enumerate(texts):
        assert subscriptions.subscribe(1, number, subscriptions.compile_set([text], OWNER, True, catalog)) == []
    for transaction in transactions:
        deltas = change(database, transaction)
        groups = subscriptions.evaluate(commit(database, deltas))
        update = read_update(groups[0][0]) if groups else {}
        events = deltas.get("e", ([], []))[1]
        units = database.rows(database.tables["a"].table_id)
        wanted = {
            0: Counter(events),
            1: Counter(row for row in events if int.from_bytes(row[1:3], "little", signed=True) > 0),
            2: Counter(event for event in events for unit in units if event[0] == unit[0]),
            3: Counter(unit for event in events for unit in units if event[0] == unit[0] and event[1:3] == b"\1\0"),
        }
        for number, expected in wanted.items():
            blocks = [block for _, tables in update.pop(number, []) for block in tables]
            assert Counter(row for inserts, _ in blocks for row in inserts) == expected
            assert all((deletes is None) == (number != 3) and not deletes for _, deletes in blocks)
        assert not update
