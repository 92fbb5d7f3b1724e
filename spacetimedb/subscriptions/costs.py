"""What queries cost: counters of live ones, and what is known of tables for estimates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from heapq import nlargest
from typing import Final

from msgspec import Struct, field

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.execute import RowSource
from spacetimedb.sql.predicate import key_functions
from spacetimedb.subscriptions.changed_table import ChangedTable
from spacetimedb.subscriptions.query import Query

SHOWN_CHARACTERS: Final = 200
"""Length to which the text of a query is cut."""
STEP_QUERIES: Final = 1000
"""Queries that are looked at in one go, for 0.2 ms."""
ROW_SECONDS: Final = 1e-9
"""What a row that comes out counts for where queries are compared: most of them take no time of their own."""


class QueryCost(Struct):
    """A live query of one reader or of several. `seconds`: looking at all changed rows one by one, and joins."""

    text: str
    subscribers: int
    evaluations: int
    rows: int
    seconds: float


class SubscriptionCounts(Struct):
    """What happened since the start: queries of new query sets, those of them that nobody had before, queries whose
    rows were told at the end of their set; what commits have evaluated of live queries, and what of it had changes;
    parts of queries of new sets by `SelectPlan.scan`."""

    registered: int = 0
    started: int = 0
    ended: int = 0
    evaluated: int = 0
    matched: int = 0
    scans: Counter[tuple[str, str, str]] = field(default_factory=Counter)


class TableStatistics:
    """See `sql.estimate.Statistics`. A count of distinct values is exact; without an index it looks at all rows."""

    def __init__(self, tables: Mapping[int, ChangedTable], source: RowSource) -> None:
        self._tables = tables
        self._source = source

    def row_count(self, table_id: int) -> int:
        """Rows of a table."""
        return self._source.row_count(table_id)

    def distinct(self, table: TableRef, columns: tuple[int, ...]) -> int:
        """Different values of the columns of a table."""
        entry = self._tables.get(table.table_id)
        if len(columns) == 1 and entry is not None:
            index = entry.indexes.get(columns[0])
            if index is not None and index.known is None:
                return len(index)
        rows = self._source.rows(table.table_id)
        keys = [key_functions(table.layout, column)[1](rows) for column in columns]
        return len(set(zip(*keys, strict=True)))


def cost_of(query: Query) -> QueryCost:
    """The counters of a query."""
    return QueryCost(query.text, subscribers_of(query), query.evaluations, query.rows_out, query.seconds)


def subscribers_of(query: Query) -> int:
    """How many clients have it."""
    return sum(len(audience.clients) for audience in query.audiences)


def most_expensive_of(queries: Iterable[Query], count: int) -> Generator[None, None, list[QueryCost]]:
    """Step by step: the counters of those that took most, queries of one text added up. Texts are cut to
    SHOWN_CHARACTERS."""
    queries = list(queries)
    sums: dict[str, float] = {}
    for at, query in enumerate(queries, 1):
        text = query.text[:SHOWN_CHARACTERS]
        sums[text] = sums.get(text, 0.0) + query.seconds + query.rows_out * ROW_SECONDS
        if not at % STEP_QUERIES:
            yield
    costs = {text: QueryCost(text, 0, 0, 0, 0.0) for text in nlargest(count, sums, key=sums.__getitem__)}
    for at, query in enumerate(queries, 1):
        cost = costs.get(query.text[:SHOWN_CHARACTERS])
        if cost is not None:
            cost.subscribers += subscribers_of(query)
            cost.evaluations += query.evaluations
            cost.rows += query.rows_out
            cost.seconds += query.seconds
        if not at % STEP_QUERIES:
            yield
    return list(costs.values())


def added_up(costs: Iterable[QueryCost]) -> list[QueryCost]:
    """One for each text: what roles, callers and readers have had of it."""
    out: dict[str, QueryCost] = {}
    for cost in costs:
        before = out.setdefault(cost.text, cost)
        if before is not cost:
            before.subscribers += cost.subscribers
            before.evaluations += cost.evaluations
            before.rows += cost.rows
            before.seconds += cost.seconds
    return list(out.values())


def most_expensive(costs: Iterable[QueryCost], count: int) -> list[QueryCost]:
    """Those that took most."""
    return nlargest(count, costs, key=lambda cost: cost.seconds + cost.rows * ROW_SECONDS)


def live_steps(costs: Iterable[QueryCost]) -> list[tuple[str, str]]:
    """Rows of an EXPLAIN about the live queries of one text."""
    out: list[tuple[str, str]] = []
    for cost in added_up(costs):
        each = max(cost.evaluations, 1)
        out.append(("subscribers", f"{cost.subscribers} clients"))
        out.append(
            (
                "evaluations",
                f"{cost.evaluations} for transactions that concerned it, {cost.rows} rows out "
                f"({cost.rows / each:.2f} each), {cost.seconds / each * 1e6:.1f} us each",
            )
        )
    return out
