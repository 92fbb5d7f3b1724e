"""The cases of the SQL vectors: what is accepted, the words of refusals, results, changes."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.execute import execute_select
from spacetimedb.sql.plan import ExplainPlan, SelectPlan, plan_one_off, plan_sql, plan_subscription
from spacetimedb.subscriptions.query_sets import Subscriptions
from sql.sample_database import (
    SampleDatabase,
    default_value,
    encode,
    identity_of,
    read_table_rows,
    row_bytes,
    type_of,
    vectors,
)

FILES = (
    "grammar-subscription",
    "grammar-query",
    "literals",
    "joins",
    "results",
    "names",
    "dml",
    "auth-rls",
    "events-views",
    "sdk-builders",
    "limits",
)
_NOT = "query builders write NOT"
_SHAPE = "one-off queries and SQL may order and skip rows"
_AGGREGATE = "one-off queries and SQL have aggregates over columns"
_TEXT = "every value that a filter understands can be written, too"
ACCEPTED = {
    "grammar-subscription-036": _NOT,
    "grammar-subscription-037": _NOT,
    "grammar-query-011": _SHAPE,
    "grammar-query-012": _SHAPE,
    "grammar-query-013": _SHAPE,
    "grammar-query-014": _SHAPE,
    "grammar-query-027": _AGGREGATE,
    "grammar-query-029": _AGGREGATE,
    "grammar-query-082": "plans can be looked at",
    "dml-028": _TEXT,
    "dml-033": _TEXT,
    "dml-034": _TEXT,
    "sdk-builders-008": _NOT,
    "sdk-builders-022": _NOT,
    "sdk-builders-031": _NOT,
}
"""Cases that SpacetimeDB refuses and we accept, and why; `test_beyond_upstream` tests what they do."""
CASES = [case for name in FILES for case in vectors(name)]


def query_text(case: dict[str, Any]) -> str:
    """The query of a case, built if it is given by a recipe."""
    if "query" in case:
        return str(case["query"])
    recipe = case["query_generator"]
    text = str(recipe["prefix"])
    if "repeat_open" in recipe:
        opening, times = recipe["repeat_open"]
        closing, _ = recipe["repeat_close"]
        text += opening * times + recipe["middle"] + closing * times
    if "nest" in recipe:
        pattern, inner, times = recipe["nest"]
        for _ in range(times):
            inner = pattern % inner
        text += inner
    if "join" in recipe:
        term, operator, times = recipe["join"]
        text += operator.join([term] * times)
    return text.ljust(recipe.get("pad_spaces_to_bytes", 0))


def run(case: dict[str, Any], database: SampleDatabase) -> list[bytes] | None:
    """The rows that the query of a case gives, None for statements that give none."""
    text = query_text(case)
    caller = identity_of(case["caller"])
    is_owner = case["caller"] == "owner"
    catalog = database.catalog(is_owner)
    if case["kind"] == "subscription":
        subscriptions = Subscriptions(database)
        queries = subscriptions.compile_set([text], caller, is_owner, catalog)
        parts = subscriptions.subscribe(1, 1, queries)
        return [row for part in parts for row in read_table_rows(part)[1]]
    plan = plan_sql(text, catalog, caller, is_owner)
    if isinstance(plan, ExplainPlan):
        return Subscriptions(database).explain(plan.plan, plan.text, is_owner)
    if isinstance(plan, SelectPlan):
        return execute_select(plan, database).rows
    if case["kind"] == "dml":
        database.apply(plan)
    return None


def result_types(case: dict[str, Any], database: SampleDatabase) -> list[Any]:
    """Types of the columns of a result."""
    catalog = database.catalog(True)
    caller = identity_of("owner")
    if case["kind"] == "subscription":
        plan = plan_subscription(query_text(case).strip(), catalog, caller)
    else:
        found = plan_sql(query_text(case), catalog, caller, True)
        assert isinstance(found, SelectPlan)
        plan = found
    return [column.algebraic_type for column in plan.columns]


def refusal(case: dict[str, Any], database: SampleDatabase) -> str:
    """The text with which a case is refused, without the suffix of subscriptions."""
    with pytest.raises(SqlError) as refused:
        run(case, database)
    text = str(refused.value)
    if case["kind"] != "subscription":
        return text
    suffix = f", executing: `{query_text(case).strip()}`"
    assert text.endswith(suffix)
    return text.removesuffix(suffix)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case: dict[str, Any]) -> None:
    database = SampleDatabase(vectors("schemas")["schemas"][case["schema"]])
    if case["id"] in ACCEPTED:
        assert not case["ok"]
        run(case, database)
        return
    if not case["ok"]:
        text = refusal(case, database)
        if case.get("error_class") == "syntax":
            assert text.startswith("sql parser error: ")
        else:
            assert text == case["error"]
        return
    rows = run(case, database)
    for name, expected in case.get("after", {}).items():
        table = database.tables[name]
        assert Counter(database.rows(table.table_id)) == Counter(database.encode(table, row) for row in expected)
    if "result" in case:
        assert rows is not None
        types = result_types(case, database)
        wanted = Counter(row_bytes(types, row) for row in case["result"])
        if "correct_count" in case:
            assert len(rows) == case["correct_count"]
            assert not Counter(rows) - wanted
        else:
            assert Counter(rows) == wanted


LITERALS = [case for case in vectors("literals") if "literal_value" in case]
BETTER_LITERALS = {"literals-067": 1.7976931348623157e308}
"""Values that are read more exactly than the case records (it is marked as a flaw)."""


@pytest.mark.parametrize("case", LITERALS, ids=[case["id"] for case in LITERALS])
def test_value_of_literal(case: dict[str, Any]) -> None:
    """A row that holds the value is found by ``column = literal``, and one with another value is not."""
    database = SampleDatabase(vectors("schemas")["schemas"][case["schema"]])
    text = re.sub(r" (<>|<|>|<=|>=) ", " = ", case["query"])
    plan = plan_one_off(text, database.catalog(True), identity_of("owner"))
    assert isinstance(plan, SelectPlan)
    assert plan.filter is not None
    matches, _ = plan.filter
    table = plan.relvars[0].table
    ((column, constant),) = plan.equalities().items()
    t = type_of(case["literal_type"])
    assert table.type_of(column) == t
    values = [default_value(c.algebraic_type) for c in table.columns]
    values[column] = BETTER_LITERALS.get(case["id"], case["literal_value"])
    assert matches(database.encode(table, values))
    others = {encode(t, default_value(t)), constant.encoded}
    for other in others:
        before = row_bytes([table.type_of(n) for n in range(column)], values[:column])
        after = row_bytes([c.algebraic_type for c in table.columns[column + 1 :]], values[column + 1 :])
        assert matches(before + other + after) == (other == constant.encoded)


def test_all_cases_are_there() -> None:
    assert len(CASES) == 829


POSITIONS = {
    "bare_column_in_where": "select * from t where {word} = 1",
    "bare_table_name": "select * from {word}",
    "alias_with_as": "select * from t as {word}",
    "alias_without_as": "select * from t {word}",
    "bare_column_in_projection": "select {word} from t",
    "column_alias_without_as": "select id {word} from t",
}


@pytest.mark.parametrize("entry", vectors("reserved-words"), ids=lambda entry: str(entry["word"]))
def test_reserved_word(entry: dict[str, Any]) -> None:
    word = entry["word"]
    for position, template in POSITIONS.items():
        tables = [{"name": "t", "cols": [["id", "U32"], *([[word, "U32"]] if word != "id" else [])]}]
        if position == "bare_table_name":
            tables.append({"name": word, "cols": [["id", "U32"]]})
        database = SampleDatabase({"tables": tables, "rows": {}})
        text = template.format(word=word)
        try:
            plan_sql(text, database.catalog(True), identity_of("owner"), True)
            accepted = True
        except SqlError:
            accepted = False
        assert accepted == entry[position], text
