"""Runs the functions of views: what a view shows to a caller at this moment, uncommitted changes included.

A view gives rows (a list, or one or none) or a query. A query runs with the owner's rights, over the module's tables;
it may read no view. Either way the result is a set of rows as BSATN: equal rows come once. While the function runs the
tables note what it reads (`read_sets`).

Limits: MAX_PLANS compiled queries are kept; a view's result has at most as many rows as a transaction may add.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from spacetimedb.hosts.read_sets import Read, whole_table
from spacetimedb.module.context import AnonymousViewContext, Db, ViewContext
from spacetimedb.module.errors import UniqueViolation
from spacetimedb.module.query import Query
from spacetimedb.module.specs import ViewSpec
from spacetimedb.schema.definition import ModuleDef, ViewDef
from spacetimedb.sql.catalog import SchemaCatalog
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.execute import execute_select
from spacetimedb.sql.plan import plan_subscription
from spacetimedb.sql.predicate import Select
from spacetimedb.sql.select_plan import SelectPlan
from spacetimedb.store.store import Store
from spacetimedb.store.table import Table
from spacetimedb.types.algebraic import display
from spacetimedb.types.bsatn import codec, fixed_size
from spacetimedb.types.codec_errors import explain_encode
from spacetimedb.types.special import Identity

if TYPE_CHECKING:
    from spacetimedb.hosts.budget import Budget
    from spacetimedb.hosts.database import DatabaseContext
    from spacetimedb.hosts.module_log import ModuleLog

MAX_PLANS: Final = 1024


class ViewFailed(Exception):
    """A view raised `cause`, whatever it was. `text` may be told to clients."""

    def __init__(self, view: str, cause: BaseException) -> None:
        super().__init__(view)
        self.view = view
        self.cause = cause
        self.text = f"Error materializing view `{view}`"


class View(msgspec.Struct, frozen=True):
    """A view of the installed module. `key` is the attribute of its primary key; `row_length` 0: rows differ."""

    definition: ViewDef
    spec: ViewSpec
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    row_length: int
    key: str | None

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.definition.name

    def has_rows_of(self, other: View) -> bool:
        """Whether the other one's rows can stand beside its own: same columns, same key, same callers."""
        mine, theirs = self.definition, other.definition
        return (mine.columns, mine.primary_key, mine.is_anonymous) == (
            theirs.columns,
            theirs.primary_key,
            theirs.is_anonymous,
        )


class Selection(NamedTuple):
    """A query over one stored table: its rows that `select` picks."""

    table_id: int
    select: Select


class Evaluation(NamedTuple):
    """What a view gave: its rows, what it has read, and the selection if it is one."""

    rows: dict[bytes, None]
    reads: frozenset[Read]
    selection: Selection | None


class Evaluator:
    """The views of one program over the tables of one store."""

    def __init__(
        self,
        specs: Iterable[ViewSpec],
        definition: ModuleDef,
        table_ids: Mapping[str, int],
        tables: Mapping[object, Table],
        store: Store,
        context: DatabaseContext,
        budget: Budget,
        log: ModuleLog,
        costs: defaultdict[str, list[int]],
    ) -> None:
        """`costs`: where runs are counted by view, see `DatabaseFigures.views`."""
        self._store = store
        self._context = context
        self._budget = budget
        self._log = log
        self._costs = costs
        self._reads: set[Read] = set()
        stored = {key: table for key, table in tables.items() if not table.definition.is_event}
        handles: dict[object, Any] = store.read_only_db(stored, self._reads.add)
        self._db = cast(Db, handles)
        self._scans: set[tuple[str | None, str]] = set()
        for key, table in stored.items():
            self._tell_of_scans(handles[key], table.name)
        self._definition = definition
        self._table_ids = table_ids
        self._catalog: SchemaCatalog | None = None
        self._plans: dict[tuple[str, str], SelectPlan] = {}
        by_name = {spec.name: spec for spec in specs}
        self.views = {view.name: _view(view, by_name[view.name]) for view in definition.all_views}

    def run(self, view: View, sender: Identity | None) -> Evaluation:
        """What the view shows to `sender` (None for a view that is everybody's). Raises ViewFailed."""
        reads, log = self._reads, self._log
        reads.clear()
        outer, log.function = log.function, view.name
        context = (
            AnonymousViewContext(self._db, self._context)
            if sender is None
            else ViewContext(self._db, self._context, sender)
        )
        costs = self._costs[view.name]
        costs[0] += 1
        started = returned = perf_counter_ns()
        self._budget.begin()
        try:
            result = view.spec.function(context)
            returned = perf_counter_ns()
            if view.spec.form == "query":
                rows, selection = self._query(view, result)
            else:
                rows, selection = self._rows(view, result), None
            self._budget.end()
            return Evaluation(rows, frozenset(reads), selection)
        except BaseException as error:
            self._budget.end()
            raise ViewFailed(view.name, error) from error
        finally:
            log.function = outer
            ended = perf_counter_ns()
            costs[1] += (ended if returned == started else returned) - started
            costs[2] += ended - started

    def _tell_of_scans(self, handle: Any, table: str) -> None:
        """The author hears once of each table that a view goes through with `iter`."""
        scan: Callable[[], Iterator[Any]] = handle.iter

        def told() -> Iterator[Any]:
            scanned = self._log.function, table
            if scanned not in self._scans:
                self._scans.add(scanned)
                text = f"reads all rows of `{table}`: it runs again whenever one changes (look-ups by a key do not)"
                self._log.system(text, "Debug", self._log.function or table)
            return scan()

        handle.iter = told

    def reads_so_far(self) -> frozenset[Read]:
        """What the last run has read, also if it failed."""
        return frozenset(self._reads)

    # Rows

    def _rows(self, view: View, result: Any) -> dict[bytes, None]:
        given = result
        if view.spec.form == "option":
            given = () if result is None else (result,)
        encode, row_class = view.encode, view.spec.row
        rows: dict[bytes, None] = {}
        keys: dict[Any, bytes] = {}
        limit = self._store.max_rows_per_transaction
        for row in given:
            if not isinstance(row, row_class):
                raise TypeError(f"view {view.name} gives {row_class.__name__} rows, not {type(row).__name__}")
            try:
                image = encode(row)
            except Exception as error:
                raise ValueError(f"view {view.name}: {explain_encode(view.spec.shape, row, error)}") from None
            if image in rows:
                continue
            if view.key is not None:
                key = getattr(row, view.key)
                if keys.setdefault(key, image) != image:
                    raise UniqueViolation(view.name, view.key, key)
            rows[image] = None
            if len(rows) > limit or len(image) > self._store.max_row_bytes:
                raise ValueError(
                    f"view {view.name}: at most {limit} rows of {self._store.max_row_bytes} bytes are allowed"
                )
        return rows

    # Queries

    def _query(self, view: View, result: Any) -> tuple[dict[bytes, None], Selection | None]:
        if not isinstance(result, Query):
            raise TypeError(f"view {view.name} has to give a query, not {type(result).__name__}")
        plan = self._plan(view, result.sql)
        rows = dict.fromkeys(execute_select(plan, self).rows)
        if plan.is_single:
            table = plan.table
            return rows, None if table.is_event else Selection(table.table_id, plan.select)
        self._reads.update(map(whole_table, plan.stored_tables))
        return rows, None

    def _plan(self, view: View, text: str) -> SelectPlan:
        """Raises SqlError for a query that is no view's."""
        found = self._plans.get((view.name, text))
        if found is not None:
            return found
        if self._catalog is None:
            self._catalog = SchemaCatalog(self._definition, self._table_ids, owner=True)
        plan = plan_subscription(text, self._catalog, Identity.ZERO)
        if plan.reads_views:
            raise SqlError("view definition cannot read from other views")
        if plan.uses_sender:
            raise SqlError("parameterized SQL is not supported for view materialization yet")
        given, expected = plan.table.row_type, view.definition.row_type
        if given != expected:
            raise SqlError(f"query returns `{display(given)}` but view expects `{display(expected)}`")
        if len(self._plans) >= MAX_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[view.name, text] = plan
        return plan

    # The rows of the running transaction, for queries (RowSource)

    def rows(self, table_id: int) -> list[bytes]:
        """All rows of a table. O(rows)."""
        table = self._store.tables[table_id]
        touched = table.touched
        if not touched:
            return table.images()
        refs = [ref for key, ref in table.refs_by_key.items() if key not in touched]
        fresh = [table.encode(table.rows[key]) for key in touched if key in table.rows]
        return [*self._store.heap.rows(refs), *fresh]

    def row_count(self, table_id: int) -> int:
        """How many there are."""
        return self._store.tables[table_id].row_count

    def find(self, table_id: int, column: int, key: bytes) -> None:
        """There are no indexes to look into."""


def _view(definition: ViewDef, spec: ViewSpec) -> View:
    row_codec = codec(spec.shape)
    key = None if definition.primary_key is None else spec.shape.fields[definition.primary_key].attr
    return View(definition, spec, row_codec.encode, row_codec.decode_exact, fixed_size(spec.shape) or 0, key)
