"""What one-off queries and SQL accept beyond SpacetimeDB, and what subscriptions refuse of it."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.execute import execute_select
from spacetimedb.sql.plan import ExplainPlan, SelectPlan, plan_one_off, plan_sql
from spacetimedb.subscriptions.query_sets import Subscriptions
from spacetimedb.types.algebraic import F64, U32, U64, U128, AlgebraicType
from sql.sample_database import SampleDatabase, encode, identity_of, row_bytes, type_of

OWNER = identity_of("owner")
SCHEMA: dict[str, Any] = {
    "tables": [
        {
            "name": "people",
            "cols": [["id", "U32"], ["team", "String"], ["score", "I64"], ["weight", "F64"]],
            "indexes": [["id"]],
            "unique": [["id"]],
        },
        {"name": "teams", "cols": [["name", "String"], ["rank", "U32"]], "indexes": [["name"]]},
        {
            "name": "odd",
            "cols": [
                ["id", "U32"],
                ["maybe", "Option<U32>"],
                ["list", "Array<String>"],
                ["place", "Product(x: F32, y: F32)"],
                ["colour", "Enum(red, green)"],
                ["who", "Identity"],
                ["line", "ConnectionId"],
                ["at", "Timestamp"],
                ["took", "TimeDuration"],
                ["raw", "Bytes"],
            ],
        },
    ],
    "rows": {
        "people": [
            [1, "red", 10, 1.5],
            [2, "blue", -3, 2.5],
            [3, "red", 7, -1.0],
            [4, "green", 10, 0.0],
            [5, "blue", 10, 100.0],
        ],
        "teams": [["red", 2], ["blue", 1]],
    },
}


def database() -> SampleDatabase:
    """A new one."""
    return SampleDatabase(SCHEMA)


def rows(query: str, one_off: bool = False, source: SampleDatabase | None = None) -> list[bytes]:
    """The rows of a SELECT, in order."""
    source = source or database()
    plan = (
        plan_one_off(query, source.catalog(True), OWNER)
        if one_off
        else plan_sql(query, source.catalog(True), OWNER, True)
    )
    assert isinstance(plan, SelectPlan)
    return execute_select(plan, source).rows


def ids(query: str) -> list[int]:
    """The u32 that each row starts with; the same from a one-off query, if that may ask so."""
    found = rows(query)
    if query.lower().startswith("select * "):
        assert rows(query, one_off=True) == found
    return [int.from_bytes(row[:4], "little") for row in found]


def refused(query: str, subscription: bool = False) -> str:
    """The text of the refusal."""
    source = database()
    catalog = source.catalog(True)
    if subscription:
        with pytest.raises(SqlError) as found:
            Subscriptions(source).compile_set([query], OWNER, True, catalog)
    else:
        with pytest.raises(SqlError) as found:
            plan_sql(query, catalog, OWNER, True)
    return str(found.value)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT * FROM people ORDER BY id", [1, 2, 3, 4, 5]),
        ("SELECT * FROM people ORDER BY id DESC", [5, 4, 3, 2, 1]),
        ("SELECT * FROM people ORDER BY score DESC, id ASC", [1, 4, 5, 3, 2]),
        ("SELECT * FROM people ORDER BY score, people.id DESC", [2, 3, 5, 4, 1]),
        ("SELECT * FROM people ORDER BY team, weight", [2, 5, 4, 3, 1]),
        ("SELECT * FROM people ORDER BY weight LIMIT 2", [3, 4]),
        ("SELECT * FROM people ORDER BY id LIMIT 2 OFFSET 1", [2, 3]),
        ("SELECT * FROM people ORDER BY id OFFSET 3 ROWS", [4, 5]),
        ("SELECT * FROM people ORDER BY id LIMIT 0", []),
        ("SELECT * FROM people ORDER BY id OFFSET 9", []),
        ("SELECT * FROM people WHERE score = 10 ORDER BY id DESC LIMIT 2", [5, 4]),
        ("SELECT id AS n FROM people ORDER BY n DESC LIMIT 1", [5]),
        ("SELECT id, team FROM people ORDER BY team DESC, id", [1, 3, 4, 2, 5]),
        ("SELECT p.* FROM people p JOIN teams t ON p.team = t.name ORDER BY t.rank, p.id DESC", [5, 2, 3, 1]),
        ("SELECT p.id FROM people p JOIN teams t ON p.team = t.name ORDER BY p.weight LIMIT 1", [3]),
        ("SELECT * FROM people WHERE NOT (score = 10) ORDER BY id", [2, 3]),
        ("SELECT * FROM people WHERE NOT score > 7 AND NOT id = 2 ORDER BY id", [3]),
        ("SELECT * FROM people WHERE NOT (score = 10 OR team = 'red') ORDER BY id", [2]),
        ("SELECT * FROM people WHERE NOT NOT (id >= 4) ORDER BY id", [4, 5]),
        ('SELECT * FROM people WHERE (NOT ("people"."id" < 5)) ORDER BY id', [5]),
    ],
)
def test_order(query: str, expected: list[int]) -> None:
    assert ids(query) == expected


@pytest.mark.parametrize(
    ("query", "types", "expected"),
    [
        ("SELECT COUNT(*) AS n, SUM(id) AS s FROM people", [U64, U128], [[5, 15]]),
        ("SELECT COUNT(id) AS n FROM people WHERE score = 10", [U64], [[3]]),
        ("SELECT SUM(score) AS s FROM people", [type_of("I128")], [[34]]),
        ("SELECT MIN(score) AS a, MAX(score) AS b FROM people", [type_of("I64")] * 2, [[-3, 10]]),
        ("SELECT MIN(team) AS a, MAX(team) AS b FROM people", [type_of("String")] * 2, [["blue", "red"]]),
        ("SELECT AVG(score) AS a, SUM(weight) AS w FROM people", [F64, F64], [[6.8, 103.0]]),
        ("SELECT MAX(weight) AS w FROM people", [F64], [[100.0]]),
        (
            "SELECT team, COUNT(*) AS n, MAX(score) AS best FROM people GROUP BY team ORDER BY n DESC, team",
            [type_of("String"), U64, type_of("I64")],
            [["blue", 2, 10], ["red", 2, 10], ["green", 1, 10]],
        ),
        (
            "SELECT COUNT(*) AS n, team FROM people GROUP BY team ORDER BY team LIMIT 1 OFFSET 1",
            [U64, type_of("String")],
            [[1, "green"]],
        ),
        (
            "SELECT t.rank, SUM(p.id) AS s FROM people p JOIN teams t ON p.team = t.name GROUP BY t.rank ORDER BY s",
            [U32, U128],
            [[2, 4], [1, 7]],
        ),
        ("SELECT COUNT(*) AS n, SUM(id) AS s FROM people WHERE id > 9", [U64, U128], [[0, 0]]),
        ("SELECT COUNT(*) AS n, MAX(id) AS s FROM people WHERE id > 9", [U64, U32], []),
        ("SELECT team, COUNT(*) AS n FROM people WHERE id > 9 GROUP BY team", [type_of("String"), U64], []),
        ("SELECT COUNT(*) AS n FROM people ORDER BY n", [U64], [[5]]),
    ],
)
def test_aggregates(query: str, types: list[AlgebraicType], expected: list[list[Any]]) -> None:
    wanted = [row_bytes(types, row) for row in expected]
    assert rows(query) == wanted
    assert rows(query, one_off=True) == wanted


def test_nan_and_zero_in_aggregates() -> None:
    source = database()
    table = source.tables["people"]
    for number, weight in ((10, math.nan), (11, math.inf), (12, -0.0)):
        source.stored[table.table_id][row_bytes([c.algebraic_type for c in table.columns], [number, "", 0, weight])] = (
            None
        )
    (row,) = rows("SELECT MAX(weight) AS a, COUNT(*) AS n FROM people", source=source)
    assert math.isnan(struct.unpack("<d", row[:8])[0])
    found = rows("SELECT weight, COUNT(*) AS n FROM people WHERE weight = 0 GROUP BY weight", source=source)
    assert [int.from_bytes(row[8:], "little") for row in found] == [2]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("SELECT id, COUNT(*) AS n FROM people GROUP BY team", "`id` has to be in GROUP BY, or in an aggregate"),
        ("SELECT SUM(team) AS n FROM people", "Invalid aggregate function `sum` for type `String`"),
        ("SELECT * FROM people ORDER BY nothing", "`nothing` is not in scope"),
        ("SELECT * FROM odd ORDER BY list", "Invalid ORDER BY for type `Array<String>`"),
        ("SELECT team, COUNT(*) AS team FROM people GROUP BY team", "Duplicate name `team`"),
        ("SELECT * FROM people ORDER BY id NULLS FIRST", "Unsupported: SELECT * FROM people ORDER BY id NULLS FIRST"),
        ("SELECT * FROM people ORDER BY 1", "Unsupported: SELECT * FROM people ORDER BY 1"),
        ("SELECT * FROM people ORDER BY id OFFSET -1", "Unsupported: SELECT * FROM people ORDER BY id OFFSET - 1"),
        (
            "SELECT p.* FROM people p JOIN teams t ON p.team = t.name ORDER BY rank",
            "Names must be qualified when using joins",
        ),
        ("SELECT * FROM people WHERE id = ARRAY[1]", "Unsupported expression: ARRAY[1]"),
        ("SELECT * FROM people WHERE id = f(1)", "Unsupported expression: f(1)"),
        ("SELECT * FROM people WHERE id = NULL", "Unsupported literal expression: NULL"),
        ("SELECT * FROM odd WHERE maybe < 5", "Invalid binary operator `<` for type `(some: U32 | none: ())`"),
        ("SELECT * FROM odd WHERE maybe = maybe", "Invalid binary operator `=` for type `(some: U32 | none: ())`"),
        ("UPDATE people SET team = NULL", "Unsupported literal expression: NULL"),
        (
            "UPDATE odd SET colour = 'blue'",
            "The literal expression `blue` cannot be parsed as type `(red: () | green: ())`",
        ),
    ],
)
def test_refusals(query: str, text: str) -> None:
    assert refused(query) == text


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (
            "SELECT * FROM people ORDER BY id LIMIT 2",
            "Unsupported: SELECT * FROM people ORDER BY id LIMIT 2; subscriptions can have no ORDER BY ... LIMIT",
        ),
        ("SELECT * FROM people ORDER BY id", "Unsupported: SELECT * FROM people ORDER BY id"),
        ("SELECT * FROM odd WHERE maybe = NULL", "Unsupported literal expression: NULL"),
        ("SELECT * FROM odd WHERE maybe = 5", "Invalid binary operator `=` for type `(some: U32 | none: ())`"),
        ("EXPLAIN SELECT * FROM people", "Unsupported: Non-SELECT queries"),
    ],
)
def test_subscriptions_stay_as_they_are(query: str, text: str) -> None:
    found = refused(query, subscription=True)
    if query.endswith("maybe = 5"):
        assert found.startswith(("The literal expression `5`", text))
    else:
        assert found == f"{text}, executing: `{query}`"


VALUES: list[tuple[str, str, Any]] = [
    ("maybe", "7", 7),
    ("maybe", "NULL", None),
    ("maybe", "some(7)", 7),
    ("maybe", "none()", None),
    ("list", "ARRAY['a', 'it''s']", ["a", "it's"]),
    ("list", "ARRAY[]", []),
    ("place", "(1.5, -2)", [1.5, -2.0]),
    ("place", "ROW(1.5, -2)", [1.5, -2.0]),
    ("colour", "'green'", "green"),
    ("colour", "green()", "green"),
    ("who", "'0x" + "ab" * 32 + "'", "0x" + "ab" * 32),
    ("who", "0x" + "ab" * 32, "0x" + "ab" * 32),
    ("line", "'" + "cd" * 16 + "'", "0x" + "cd" * 16),
    ("at", "'1970-01-01T00:00:01.000002Z'", 1_000_002),
    ("took", "-5", -5),
    ("raw", "0xABCD", "0xabcd"),
    ("raw", "ARRAY[171, 205]", "0xabcd"),
]


@pytest.mark.parametrize(("column", "literal", "value"), VALUES)
def test_values_of_every_type_are_written_and_found(column: str, literal: str, value: Any) -> None:
    source = database()
    catalog = source.catalog(True)
    names = [c.name for c in source.tables["odd"].columns]
    zero = "0x" + "00" * 32
    literals = ["1", "3", "ARRAY['z']", "(0, 0)", "'red'", zero, zero[:34], "'1970-01-01T00:00:00Z'", "0", "0x00"]
    insert = f"INSERT INTO odd ({', '.join(names)}) VALUES ({', '.join(literals)})"
    source.apply(plan_sql(insert, catalog, OWNER, True))
    source.apply(plan_sql(f"UPDATE odd SET {column} = {literal} WHERE id = 1", catalog, OWNER, True))
    t = source.tables["odd"].type_of(names.index(column))
    assert rows(f"SELECT {column} FROM odd", source=source) == [encode(t, value)]
    for query, count in ((f"{column} = {literal}", 1), (f"{column} <> {literal}", 0), (f"NOT {literal} = {column}", 0)):
        assert len(rows(f"SELECT * FROM odd WHERE id = 1 AND {query}", source=source)) == count, query
    literals[names.index(column)] = literal
    literals[0] = "2"
    source.apply(
        plan_sql(
            f"INSERT INTO odd ({', '.join(names)}) VALUES ({', '.join(literals)})",
            catalog,
            OWNER,
            True,
        )
    )
    assert len(rows(f"SELECT * FROM odd WHERE {column} = {literal}", source=source)) == 2


def test_explain() -> None:
    source = database()
    catalog = source.catalog(True)
    subscriptions = Subscriptions(source)
    text = "SELECT p.* FROM people p JOIN teams t ON p.team = t.name WHERE t.rank > 1 AND p.id = 3"
    subscriptions.subscribe(1, 1, subscriptions.compile_set([text], OWNER, True, catalog))
    plan = plan_sql(f"EXPLAIN {text};", catalog, OWNER, True)
    assert isinstance(plan, ExplainPlan)
    steps: list[tuple[str, str]] = []
    for row in subscriptions.explain(plan.plan, plan.text, True):
        size = int.from_bytes(row[:4], "little")
        steps.append((row[4 : 4 + size].decode(), row[8 + size :].decode()))
    assert steps == [
        ("look up", "people AS p by index (id): 5 rows"),
        ("filter", "p.id = 3"),
        ("join", "teams AS t ON p.team = t.name (indexed): 2 rows"),
        ("filter", "t.rank > 1"),
        ("estimate", "2 rows looked at"),
        ("subscribers", "1 clients"),
        ("evaluations", "0 for transactions that concerned it, 0 rows out (0.00 each), 0.0 us each"),
    ]
    aggregate = plan_sql(
        "EXPLAIN SELECT team, MAX(id) AS m FROM people GROUP BY team ORDER BY m DESC LIMIT 3", catalog, OWNER, True
    )
    assert isinstance(aggregate, ExplainPlan)
    told = b" ".join(subscriptions.explain(aggregate.plan, aggregate.text, True)).decode("latin-1")
    for words in ("people.team, max(people.id) by people.team", "m descending", "3 rows"):
        assert words in told
    assert isinstance(plan_one_off(f"explain {text}", catalog, OWNER), ExplainPlan)
    with pytest.raises(SqlError, match="Unsupported: EXPLAIN ANALYZE"):
        plan_sql("EXPLAIN ANALYZE SELECT * FROM people", catalog, OWNER, True)


def test_row_limit_counts_rows_looked_at() -> None:
    source = database()
    catalog = source.catalog(True)
    subscriptions = Subscriptions(source)

    def check(limit: int, *texts: str) -> str:
        queries = subscriptions.compile_set(texts, OWNER, True, catalog)
        try:
            subscriptions.check_limit(queries, limit)
        except SqlError as error:
            return str(error)
        return ""

    assert check(5, "SELECT * FROM people") == ""
    assert check(4, "SELECT * FROM people") == "Estimated cardinality (5 rows) exceeds limit (4 rows)"
    assert "(10 rows)" in check(4, "SELECT * FROM people WHERE score > 3")
    assert check(1, "SELECT * FROM people WHERE id = 3") == ""
    assert "(7 rows)" in check(1, "SELECT * FROM people", "SELECT * FROM teams")
    subscriptions.subscribe(1, 1, subscriptions.compile_set(["SELECT * FROM people"], OWNER, True, catalog))
    assert "(2 rows)" in check(1, "SELECT * FROM people", "SELECT * FROM teams")
