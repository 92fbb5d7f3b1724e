"""Subscriptions of the clients of one reader to one database.

``compile_set`` turns texts into queries, ``subscribe`` registers a set of them and gives their rows, ``evaluate`` gives
what a commit means for whom. Everything is synchronous and happens at one place of the commit order: the ``RowSource``
has to show the state after the last commit that was given to ``evaluate`` (or ``follow``, for commits that are not
broadcast).

A query is shared by all clients that send the same text in the same role (owner or not; per caller if it names
``:sender``). A commit is evaluated once per query, encoded once, and put together once per audience (see ``query``):
clients with the same query sets get the very same bytes.

Limits: RECENT_PLANS plans of queries that nobody is subscribed to are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from time import perf_counter
from typing import Final

from spacetimedb.sql.catalog import Catalog, TableRef
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.estimate import check_limit
from spacetimedb.sql.execute import RowSource, execute_select
from spacetimedb.sql.explain import explain_plan, explain_rows
from spacetimedb.sql.plan import plan_one_off, plan_subscription
from spacetimedb.sql.select_plan import SelectPlan
from spacetimedb.store.commit_record import TableChange
from spacetimedb.subscriptions.changed_table import ChangedTable, Fragments, RowLists
from spacetimedb.subscriptions.costs import (
    QueryCost,
    SubscriptionCounts,
    TableStatistics,
    cost_of,
    live_steps,
    most_expensive_of,
)
from spacetimedb.subscriptions.large_rows import LargeRows, SnapshotOf
from spacetimedb.subscriptions.large_tables import LargeTables
from spacetimedb.subscriptions.live_queries import LiveQueries, Lookups, NoLookups
from spacetimedb.subscriptions.one_off import OneOff
from spacetimedb.subscriptions.query import (
    SHARED_QUERIES,
    SHARED_SETS,
    Audience,
    JoinFragment,
    Query,
    SingleFragment,
    listen,
)
from spacetimedb.subscriptions.updates import Affected, Update, update_groups
from spacetimedb.subscriptions.wire import (
    NO_ROWS,
    event_update,
    row_list_of,
    string,
    table_update,
    whole_event_update,
    whole_table_update,
)
from spacetimedb.types.special import Identity

RECENT_PLANS: Final = 1024
KEPT_RESULT_BYTES: Final = 1 << 20
"""Bytes up to which the rows of a new subscription are kept for the next client that makes it."""
_EVERYTHING: Final = re.compile(r"\s*SELECT\s+\*\s+FROM\s+\*\s*", re.IGNORECASE)


class QuerySetInUse(Exception):
    """The client has a query set with this id."""


class QuerySetUnknown(Exception):
    """The client has no query set with this id."""


class Subscriptions:
    """See the head of the module. Clients are numbers that the caller gives."""

    def __init__(self, source: RowSource, lookups: Lookups | None = None) -> None:
        self._source = source
        self._lookups = lookups or NoLookups()
        self.live = LiveQueries(source, self._lookups)
        self.tables = self.live.tables
        """The tables that live subscriptions read, by id."""
        self._queries: dict[tuple[object, ...], Query] = {}
        self._recent: dict[tuple[object, ...], Query] = {}
        """Compiled queries that nobody is subscribed to, oldest first."""
        self._clients: dict[int, Audience] = {}
        self._shared: dict[tuple[tuple[int, tuple[Query, ...]], ...], Audience] = {}
        self._large = LargeTables(self.live, source, self._lookups)
        self.statistics_of_tables = TableStatistics(self.tables, source)
        self.counts = SubscriptionCounts()

    # ---- compiling ----

    def compile_set(self, texts: Iterable[str], caller: Identity, is_owner: bool, catalog: Catalog) -> list[Query]:
        """The queries of a Subscribe, without repetitions. Raises SqlError with the whole text for the client."""
        queries: dict[Query, None] = {}
        for untrimmed in texts:
            text = untrimmed.strip()
            if not text:
                raise SqlError("SubscriptionError: Empty string, executing: ``")
            if _EVERYTHING.fullmatch(text):
                expanded = [_select_all(table.name) for table in catalog.user_tables() if not table.is_event]
            else:
                expanded = [text]
            for one in expanded:
                try:
                    queries[self.compile(one, caller, is_owner, catalog)] = None
                except SqlError as error:
                    raise SqlError(f"{error}, executing: `{one}`") from None
        return list(queries)

    def compile(self, text: str, caller: Identity, is_owner: bool, catalog: Catalog) -> Query:
        """One query; raises SqlError with the bare text. A known text costs two look-ups."""
        for key in ((text, is_owner), (text, is_owner, caller)):
            found = self._queries.get(key) or self._recent.get(key)
            if found is not None:
                return found
        plan = plan_subscription(text, catalog, caller)
        key = (text, is_owner, caller) if plan.uses_sender else (text, is_owner)
        query = Query(key, text, plan.fragments)
        self._keep_recent(query)
        return query

    def compile_one_off(self, text: str, caller: Identity, is_owner: bool, catalog: Catalog) -> OneOff:
        """A query to answer once; raises SqlError."""
        return OneOff(plan_one_off(text, catalog, caller), is_owner)

    def one_off_rows(self, query: OneOff, elsewhere: Iterable[QueryCost] = ()) -> bytes:
        """The answer, as SingleTableRows. Raises SqlError if a join gets too large. `elsewhere` as in ``explain``."""
        if query.explained is not None:
            rows = self.explain(query.plan, query.explained, query.is_owner, elsewhere)
            return string(query.plan.table.name) + row_list_of(rows)
        rows = execute_select(query.plan, self._source).rows if query.answer is None else query.answer
        return string(query.plan.table.name) + row_list_of(rows)

    def explain(self, plan: SelectPlan, text: str, is_owner: bool, elsewhere: Iterable[QueryCost] = ()) -> list[bytes]:
        """Rows of an EXPLAIN (see ``sql.explain``). `elsewhere`: what the other readers say to ``costs_of``."""
        live = [*self.costs_of(text, is_owner), *elsewhere]
        return explain_rows([*explain_plan(plan, self.statistics_of_tables), *live_steps(live)])

    def costs_of(self, text: str, is_owner: bool) -> list[QueryCost]:
        """The live queries of one text. Owners hear of all, others of those in their role."""
        text = text.strip()
        return [cost_of(q) for q in self._queries.values() if q.text == text and (is_owner or not q.is_owner)]

    @property
    def query_count(self) -> int:
        """Live queries."""
        return len(self._queries)

    def most_expensive(self, count: int) -> Generator[None, None, list[QueryCost]]:
        """Step by step: the live queries that took most; one text in several roles counts as one."""
        return most_expensive_of(self._queries.values(), count)

    def check_limit(self, queries: Iterable[Query], limit: int) -> None:
        """Raises SqlError if those of the queries that nobody has yet look at more rows than that."""
        plans = [plan for query in queries if not query.fragments for plan in query.plans]
        text = check_limit(plans, self.statistics_of_tables, limit)
        if text is not None:
            raise SqlError(text)

    def forget_plans(self) -> None:
        """Tables or rights changed: nobody gets a query any more that was compiled before. Live ones go on."""
        self._recent.clear()
        for query in self._queries.values():
            query.is_outdated = True
        self._queries.clear()

    def compile_anew(
        self,
        tables: Collection[int],
        reindexed: Collection[int],
        catalog_of: Callable[[bool, Identity | None], tuple[Catalog, Identity]],
    ) -> set[int]:
        """Columns of these tables have grown: live queries over them read rows by the new types from now on.
        Queries over one table that has other indexes now are looked up by the new ones, if they may still be made.

        `catalog_of(is_owner, caller)` gives the catalog, and an identity, for queries of that role; caller None means
        that it does not matter. Returns the clients of queries that their callers may not make any more: to be dropped.
        """
        audiences = dict.fromkeys(self._clients.values())
        queries = {q: None for audience in audiences for those in audience.sets.values() for q in those}
        grown = {query for query in queries if not set(tables).isdisjoint(query.table_ids)}
        concerned = [
            query
            for query in queries
            if query in grown or (len(query.table_ids) == 1 and query.table_ids[0] in reindexed)
        ]
        looked_up = self.live.looked_up(concerned)
        for query in concerned:
            self.live.stop(query)
        self.live.read_anew(tables, catalog_of(True, None)[0])
        lost: set[int] = set()
        kept: list[tuple[int, int]] = []
        for query in concerned:
            catalog, caller = catalog_of(query.is_owner, query.caller)
            try:
                plan = plan_subscription(query.text, catalog, caller)
            except SqlError:
                if query in grown:
                    lost.update(*(audience.clients for audience in query.audiences))
                else:  # it goes on for those who have it, and for nobody else
                    self.live.start(query)
                continue
            query.plans = plan.fragments
            for table in (relvar.table for part in query.plans for relvar in part.relvars):
                for place in [place for place in looked_up if place[0] == table.table_id]:
                    index = looked_up.pop(place)
                    if self.live.enter_rows(table, place[1], index.known or (), index.known_rows()):
                        kept.append(place)
            if not self.live.can_start(query):
                lost.update(*(audience.clients for audience in query.audiences))
                continue
            query.is_outdated = False
            self._start(query)
        for place in kept:
            self.live.release_index(*place)
        return lost

    def _keep_recent(self, query: Query) -> None:
        if query.is_outdated or any(plan.reads_views for plan in query.plans):
            return  # an instance of a view goes with its last query; the next one has another id
        self._recent[query.key] = query
        if len(self._recent) > RECENT_PLANS:
            del self._recent[next(iter(self._recent))]

    # ---- clients ----

    def live_counts(self) -> tuple[int, int, int]:
        """Clients with query sets, their query sets, and the queries in these. O(different combinations of sets)."""
        sets = queries = 0
        for audience in dict.fromkeys(self._clients.values()):
            sets += len(audience.sets) * len(audience.clients)
            queries += sum(map(len, audience.sets.values())) * len(audience.clients)
        return len(self._clients), sets, queries

    def has_client(self, client: int) -> bool:
        """Whether the client has any query set."""
        return client in self._clients

    def has_set(self, client: int, query_set_id: int) -> bool:
        """Whether the client has this query set."""
        audience = self._clients.get(client)
        return audience is not None and query_set_id in audience.sets

    def queries_of(self, client: int, query_set_id: int) -> Sequence[Query]:
        """The queries of a set. Raises QuerySetUnknown."""
        return self._set(client, query_set_id)

    def subscribe(self, client: int, query_set_id: int, queries: Sequence[Query]) -> list[bytes]:
        """Registers a set and gives its rows, one SingleTableRows per fragment (none if it reads an empty table).

        Raises QuerySetInUse.
        """
        return [part for query in self._register(client, query_set_id, queries) for part in self._rows(query)]

    def begin(
        self, client: int, query_set_id: int, queries: Sequence[Query], snapshot_of: SnapshotOf
    ) -> list[bytes | LargeRows]:
        """As ``subscribe``, but the rows from large tables are still to be gathered. Users of one `leave` it."""
        out: list[bytes | LargeRows] = []
        for query in self._register(client, query_set_id, queries):
            out += self._large.rows(query, snapshot_of) or self._rows(query)
        return out

    def find(self, table_id: int, column: int, key: bytes) -> Collection[bytes] | None:
        """The rows with this index key, if there is an index of the column; None if not."""
        entry = self.tables.get(table_id)
        index = None if entry is None else entry.indexes.get(column)
        return None if index is None or not index.has(key) else index.find(key)

    def missing_indexes(self, queries: Iterable[Query], may_look_up: bool) -> tuple[TableRef, list[int]] | None:
        """A large table and the columns of which it needs indexes for the queries, if there is any such."""
        return self._large.missing_indexes(queries, may_look_up)

    def missing_search_index(self, plan: SelectPlan) -> tuple[TableRef, list[int]] | None:
        """The same for a query that is answered once: large tables that are searched by one column again and again."""
        return self._large.missing_search_index(plan)

    def _register(self, client: int, query_set_id: int, queries: Sequence[Query]) -> Sequence[Query]:
        if self.has_set(client, query_set_id):
            raise QuerySetInUse
        old = self._clients.get(client)
        added = tuple(dict.fromkeys(queries))
        for query in added:
            if not query.fragments:
                self._start(query)
                self.counts.started += 1
        self.counts.registered += len(added)
        self.counts.scans.update(plan.scan for query in added for plan in query.plans)
        if old is not None and not old.is_shared:
            old.sets[query_set_id] = added
            listen(old, query_set_id, added)
        else:
            sets = {query_set_id: added} if old is None else old.sets | {query_set_id: added}
            self._move(client, sets)
        return added

    def unsubscribe(self, client: int, query_set_id: int, send_dropped: bool) -> list[bytes] | None:
        """Drops a set; its rows as ``subscribe`` gives them if asked for. Raises QuerySetUnknown."""
        queries = self._set(client, query_set_id)
        rows = [part for query in queries for part in self._rows(query)] if send_dropped else None
        self.counts.ended += len(queries) if send_dropped else 0
        self._drop_set(client, query_set_id, queries)
        return rows

    def end(self, client: int, query_set_id: int, snapshot_of: SnapshotOf) -> list[bytes | LargeRows]:
        """Drops a set and gives its rows as ``begin`` does. Raises QuerySetUnknown."""
        queries = self._set(client, query_set_id)
        rows = [part for query in queries for part in self._large.rows(query, snapshot_of) or self._rows(query)]
        self.counts.ended += len(queries)
        self._drop_set(client, query_set_id, queries)
        return rows

    def _drop_set(self, client: int, query_set_id: int, queries: tuple[Query, ...]) -> None:
        audience = self._clients[client]
        if audience.is_shared:
            sets = {number: those for number, those in audience.sets.items() if number != query_set_id}
            self._move(client, sets)
        else:
            del audience.sets[query_set_id]
            for query in queries:
                left = tuple(number for number in query.audiences[audience] if number != query_set_id)
                if left:
                    query.audiences[audience] = left
                else:
                    del query.audiences[audience]
                    self._stop_unused(query)
            if not audience.sets:
                del self._clients[client]

    def drop_client(self, client: int) -> None:
        """Drops all sets of a client, if it has any. O(its queries), O(1) while others have the same sets."""
        if client in self._clients:
            self._move(client, {})

    def _set(self, client: int, query_set_id: int) -> tuple[Query, ...]:
        audience = self._clients.get(client)
        if audience is None or query_set_id not in audience.sets:
            raise QuerySetUnknown
        return audience.sets[query_set_id]

    def _move(self, client: int, sets: dict[int, tuple[Query, ...]]) -> None:
        """Gives a client other query sets."""
        old = self._clients.pop(client, None)
        if sets:
            total = sum(map(len, sets.values()))
            if len(sets) == 1 or (len(sets) <= SHARED_SETS and total <= SHARED_QUERIES):
                key = tuple(sorted(sets.items(), key=_set_number))
                audience = self._shared.get(key)
                if audience is None:
                    audience = self._shared[key] = Audience(sets, True)
                    for number, queries in key:
                        listen(audience, number, queries)
            else:
                audience = Audience(dict(sets), False)
                for number, queries in sets.items():
                    listen(audience, number, queries)
            audience.clients[client] = None
            self._clients[client] = audience
        if old is not None:
            del old.clients[client]
            if not old.clients:
                if old.is_shared:
                    del self._shared[tuple(sorted(old.sets.items(), key=_set_number))]
                for query in {query: None for queries in old.sets.values() for query in queries}:
                    del query.audiences[old]
                    self._stop_unused(query)

    def _start(self, query: Query) -> None:
        self._recent.pop(query.key, None)
        self._queries[query.key] = query
        self.live.start(query)

    def _stop_unused(self, query: Query) -> None:
        if query.audiences:
            return
        if self._queries.get(query.key) is query:
            del self._queries[query.key]
        self.live.stop(query)
        self._keep_recent(query)

    # ---- rows ----

    def _rows(self, query: Query) -> list[bytes]:
        """SingleTableRows of every fragment that reads no empty table, from the present state."""
        version = sum(self.tables[table_id].version for table_id in query.table_ids)
        if query.initial is not None and query.initial[0] == version:
            return query.initial[1]
        out: list[bytes] = []
        for fragment in query.fragments:
            tables = [relvar.table for relvar in fragment.plan.relvars]
            if any(table.is_event or not self._source.row_count(table.table_id) for table in tables):
                continue
            if isinstance(fragment, SingleFragment):
                out.append(fragment.name + row_list_of(self._single_rows(fragment)))
            else:
                out.append(fragment.name + row_list_of(self._join_rows(fragment)))
        if sum(map(len, out)) <= KEPT_RESULT_BYTES:
            query.initial = version, out
        return out

    def _single_rows(self, fragment: SingleFragment) -> Sequence[bytes]:
        table_id = fragment.plan.table.table_id
        found: Collection[bytes] | None = None
        if fragment.equality is not None:
            column, value = fragment.equality
            found = self.live.search(table_id, column, value.key)
            if found is not None and fragment.residual is None:
                return list(found)
        rows = self._source.rows(table_id) if found is None else found
        select = fragment.select
        return list(rows) if select is None else select(rows)

    def _join_rows(self, fragment: JoinFragment) -> list[bytes]:
        if fragment.edge is None or fragment.sides is None:
            return fragment.rows(self._source.rows(fragment.driving.table_id))
        return fragment.rows(fragment.edge.rows(fragment.sides.constant.key))

    # ---- commits ----

    def follow(self, changes: Iterable[TableChange]) -> None:
        """Takes notice of a commit that is not broadcast."""
        for change in changes:
            entry = self.tables.get(change.table_id)
            if entry is not None:
                entry.follow(change)

    def evaluate(self, changes: Sequence[TableChange]) -> list[Update]:
        """What the commit means: updates with the clients that get each. Clients that get nothing do not appear."""
        tables = self.tables
        touched: list[tuple[ChangedTable, TableChange, RowLists]] = []
        for change in changes:
            entry = tables.get(change.table_id)
            if entry is not None:
                touched.append((entry, change, entry.follow(change)))
        if not touched:
            return []
        affected: list[Affected] = []
        joins: Fragments = {}
        for entry, change, lists in touched:
            if entry.whole:
                block = (
                    whole_event_update(change.inserts)
                    if entry.table.is_event
                    else whole_table_update(change.inserts, change.deletes)
                )
                self.counts.evaluated += len(entry.whole)
                count = change.inserts.row_count + change.deletes.row_count
                for fragment in entry.whole:
                    fragment.query.evaluations += 1
                    fragment.query.rows_out += count
                if block[1:] != NO_ROWS:
                    affected += [(fragment, block) for fragment in entry.whole]
            if entry.filtered or entry.by_value or entry.joins or entry.edges:
                self._filtered(entry, lists, affected, joins)
        if joins:
            by_table = {change.table_id: lists for _, change, lists in touched}
            for join in joins:
                assert isinstance(join, JoinFragment)
                self.counts.evaluated += 1
                begun = perf_counter()
                inserts, deletes = join.delta(by_table)
                query = join.query
                query.seconds += perf_counter() - begun
                query.evaluations += 1
                query.rows_out += len(inserts) + len(deletes)
                if inserts or deletes:
                    is_event = join.returned.is_event
                    affected.append((join, event_update(inserts) if is_event else table_update(inserts, deletes)))
        self.counts.matched += len(affected)
        return update_groups(affected)

    def _filtered(
        self,
        entry: ChangedTable,
        lists: RowLists,
        affected: list[Affected],
        joins: Fragments,
    ) -> None:
        """Adds the fragments of one table that look at rows, and the joins that have to be evaluated."""
        is_event = entry.table.is_event
        inserts, deletes = lists
        found: dict[SingleFragment, tuple[list[bytes], list[bytes]]] = {}
        for values in entry.by_value.values():
            lookup = values.fragments
            for side, rows in enumerate(lists):
                for row, key in zip(rows, values.keys(rows), strict=True):
                    if key not in lookup:
                        continue
                    for fragment in lookup[key]:
                        if isinstance(fragment, JoinFragment):
                            joins[fragment] = None
                            continue
                        pair = found.get(fragment)
                        if pair is None:
                            pair = found[fragment] = [], []
                        if fragment.residual is None or fragment.residual(row):
                            pair[side].append(row)
        for fragment in entry.filtered:
            select = fragment.plan.select
            begun = perf_counter()
            found[fragment] = select(inserts), select(deletes)
            fragment.query.seconds += perf_counter() - begun
        self.counts.evaluated += len(found)
        for fragment, (added, removed) in found.items():
            fragment.query.evaluations += 1
            fragment.query.rows_out += len(added) + len(removed)
            if added or removed:
                affected.append((fragment, event_update(added) if is_event else table_update(added, removed)))
        joins.update(dict.fromkeys(entry.joins))
        for edge in entry.edges.values():
            edge.concerned(inserts, joins)
            edge.concerned(deletes, joins)

    def statistics(self) -> dict[str, int]:
        """Numbers of what is registered."""
        return {
            "clients": len(self._clients),
            "audiences": len({id(audience) for audience in self._clients.values()}),
            "queries": len(self._queries),
            "tables": len(self.tables),
            "indexes": sum(len(entry.indexes) for entry in self.tables.values()),
            "recent_plans": len(self._recent),
            "evaluated": self.counts.evaluated,
        }


def _set_number(item: tuple[int, tuple[Query, ...]]) -> int:
    return item[0]


def _select_all(name: str) -> str:
    quoted = name.replace('"', '""')
    return f'SELECT * FROM "{quoted}"'
