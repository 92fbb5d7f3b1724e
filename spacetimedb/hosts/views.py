"""Views of one database: their instances, kept current by the transactions that change what they read.

An *instance* is what a view shows to one caller, or to everybody. It exists while somebody uses it: `open` makes it, a
reader's `close` of the last use drops it at once. Its rows lie in the heap beside those of tables, under a table id of
its own (FIRST_INSTANCE_ID upward, never given twice), and its changes travel in the commit record of the transaction
that caused them, marked not to be logged. So a reader follows it like any table.

`commit` takes the place of the store's. Before a transaction becomes final, every instance that has read something it
changed is run again, once (views cannot read views), or, if it is a query over one table, changed by the rows that
changed. The difference becomes part of the commit. A view that fails makes `commit` raise ViewFailed: nothing has
happened to any instance, and the transaction is to be undone. `commit_regardless` is for transactions that cannot be
undone: there the failing instance keeps its rows, and what it had read, and catches up with the next change.

While there are no instances, the database calls the store's own `commit`: views that nobody uses cost nothing.

Limit: MAX_INSTANCES.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from spacetimedb.hosts import mail
from spacetimedb.hosts.read_sets import Read, ReadSets, Selecting
from spacetimedb.hosts.view_evaluation import Evaluation, Evaluator, Selection, View, ViewFailed
from spacetimedb.module.errors import BudgetExceeded
from spacetimedb.store.commit_record import UNLOGGED, TableDelta
from spacetimedb.types.special import Identity

if TYPE_CHECKING:
    from spacetimedb.hosts.database import Database, DatabaseContext
    from spacetimedb.module.specs import ViewSpec
    from spacetimedb.schema.definition import ModuleDef
    from spacetimedb.sql.catalog import ViewKey
    from spacetimedb.store.table import Table

FIRST_INSTANCE_ID: Final = 1 << 30
"""Tables of a module are far below."""
MAX_INSTANCES: Final = 1 << 20
_NOTHING_READ: Final[frozenset[Read]] = frozenset()


class Instance:
    """One instance. `rows` are the committed ones, as BSATN, with their refs; `readers` are those that use it."""

    __slots__ = ("readers", "reads", "rows", "selection", "sender", "table_id", "view")

    def __init__(self, table_id: int, view: View, sender: Identity | None) -> None:
        self.table_id = table_id
        self.view = view
        self.sender = sender
        self.rows: dict[bytes, int] = {}
        self.reads: frozenset[Read] = _NOTHING_READ
        self.selection: Selection | None = None
        self.readers: set[int] = set()

    @property
    def key(self) -> ViewKey:
        """The view's name and the sender."""
        return self.view.name, self.sender

    @property
    def refs(self) -> bytes:
        """Refs of all rows as native u64."""
        return array("Q", self.rows.values()).tobytes()


class _Change(msgspec.Struct, gc=False):
    """What a transaction does to an instance. `evaluation` is None if the instance was not run again."""

    instance: Instance
    evaluation: Evaluation | None
    deletes: list[bytes]
    inserts: list[bytes]
    refs: list[int]


class Views:
    """See the head of the module. `install` comes before everything else."""

    def __init__(self, database: Database, context: DatabaseContext) -> None:
        self._database = database
        self._context = context
        self._store = database.store
        self._heap = database.heap
        self._evaluator: Evaluator
        self._read_sets: ReadSets[Instance] = ReadSets(database.heap.rows)
        self._instances: dict[ViewKey, Instance] = {}
        self._by_id: dict[int, Instance] = {}
        """All of `_instances`, and those of views that are no more until their readers let go of them."""
        self._next_id = FIRST_INSTANCE_ID
        self.runs = 0
        """How often views have run since the start."""

    def install(
        self,
        specs: Iterable[ViewSpec],
        definition: ModuleDef,
        table_ids: Mapping[str, int],
        tables: Mapping[object, Table],
    ) -> None:
        """The views of another program. Instances go on with the views of the same name (see `preview`, `show`);
        those whose view has other columns, or is no more, change no more."""
        database = self._database
        self._evaluator = Evaluator(
            specs,
            definition,
            table_ids,
            tables,
            self._store,
            self._context,
            database.budget,
            database.log,
            database.figures.views,
        )
        for key, instance in list(self._instances.items()):
            view = self.views.get(key[0])
            if view is not None and view.has_rows_of(instance.view):
                instance.view = view
            else:
                self._forget(instance)

    @property
    def views(self) -> Mapping[str, View]:
        """The views of the program, by canonical name."""
        return self._evaluator.views

    # -- uses

    def open(self, reader: int, key: ViewKey) -> Instance:
        """The instance, made if need be, with `reader` as one of its users. Not inside a transaction.

        Raises ViewFailed, after the module log's line, and LookupError if there is no such view.
        """
        instance = self._instances.get(key)
        if instance is None:
            instance = self._make(key)
        instance.readers.add(reader)
        return instance

    def answer(self, reader: int, number: int, key: ViewKey) -> None:
        """`open` for a reader's request; the answer goes out as a VIEW_READY record."""
        out = self._database.out
        try:
            instance = self.open(reader, key)
        except ViewFailed as failed:
            out.append(mail.view_failed(reader, number, failed.text))
        except LookupError:
            out.append(mail.view_failed(reader, number, f"no such view: `{key[0]}`"))
        else:
            block = self._heap.put(instance.refs)
            self._heap.retired.append(block)
            out.append(mail.view_ready(reader, number, instance.table_id, block))

    def close(self, reader: int, table_id: int) -> None:
        """The reader does not use the instance any more. The last user's leave drops it."""
        instance = self._by_id.get(table_id)
        if instance is not None:
            instance.readers.discard(reader)
            if not instance.readers:
                self._drop(instance)

    def reader_gone(self, reader: int) -> None:
        """The reader uses nothing any more."""
        for table_id in [i.table_id for i in self._by_id.values() if reader in i.readers]:
            self.close(reader, table_id)

    def evaluate(self, name: str, sender: Identity | None) -> tuple[View, list[bytes]]:
        """What a view would show now, without an instance. Raises ViewFailed, LookupError."""
        view = self.views[name]
        return view, list(self._evaluator.run(view, None if view.definition.is_anonymous else sender).rows)

    def _make(self, key: ViewKey) -> Instance:
        name, sender = key
        view = self.views[name]
        if len(self._by_id) >= MAX_INSTANCES:
            raise LookupError(f"more than {MAX_INSTANCES} instances of views")
        self.runs += 1
        try:
            evaluation = self._evaluator.run(view, sender)
        except ViewFailed as failed:
            self.log_failure(failed)
            raise
        instance = Instance(self._next_id, view, sender)
        self._next_id += 1
        instance.rows = {image: self._heap.put(image) for image in evaluation.rows}
        self._follow(instance, evaluation.reads, evaluation.selection)
        self._instances[key] = self._by_id[instance.table_id] = instance
        self._database.commit = self.commit
        return instance

    def _drop(self, instance: Instance) -> None:
        del self._by_id[instance.table_id]
        self._heap.retired.extend(instance.rows.values())
        if self._instances.get(instance.key) is instance:
            self._forget(instance)

    def _forget(self, instance: Instance) -> None:
        """The instance changes no more."""
        del self._instances[instance.key]
        self._follow(instance, _NOTHING_READ, None)
        if not self._instances:
            self._database.commit = self._store.commit

    def _follow(self, instance: Instance, reads: frozenset[Read], selection: Selection | None) -> None:
        """Replaces what the instance has read."""
        old = instance.selection and instance.selection.table_id
        new = selection and selection.table_id
        if reads != instance.reads or old != new:
            self._read_sets.discard(instance, instance.reads, old)
            self._read_sets.add(instance, reads, new)
        instance.reads, instance.selection = reads, selection

    # -- commit

    def commit(self) -> list[TableDelta]:
        """`Store.commit` with the changes of instances. Raises ViewFailed, too; nothing is final then."""
        dirty = self._store.dirty
        if not dirty:
            return self._store.commit()
        stale, moved = self._read_sets.concerned(dirty)
        if not stale and not moved:
            return self._store.commit()
        database = self._database
        function = database.log.function
        if stale and function is not None and function in database.by_name:
            database.figures.triggered(function, len(stale))
        changes = [self._rerun(instance) for instance in stale]
        changes += [_shift(instance, change) for instance, change in moved.items() if instance not in stale]
        return self._commit_with(changes)

    def commit_regardless(self) -> list[TableDelta]:
        """`commit` for what must become final: a view that fails is logged and keeps its rows."""
        stale, moved = self._read_sets.concerned(self._store.dirty)
        changes = self._rerun_all(stale)
        changes += [_shift(instance, change) for instance, change in moved.items() if instance not in stale]
        return self._commit_with(changes)

    def preview(
        self,
        specs: Iterable[ViewSpec],
        definition: ModuleDef,
        table_ids: Mapping[str, int],
        tables: Mapping[object, Table],
    ) -> dict[ViewKey, Evaluation]:
        """What the instances that go on show under another program, whose tables are in the store already.

        Raises ViewFailed, after the module log's line: such a program would make its writers fail.
        """
        database = self._database
        context = database.new_context()
        context.view_db = self._store.read_only_db(tables)
        evaluator = Evaluator(
            specs,
            definition,
            table_ids,
            tables,
            self._store,
            context,
            database.budget,
            database.log,
            database.figures.views,
        )
        shown = {}
        for key, instance in self._instances.items():
            view = evaluator.views.get(key[0])
            if view is not None and view.has_rows_of(instance.view):
                self.runs += 1
                try:
                    shown[key] = evaluator.run(view, key[1])
                except ViewFailed as failed:
                    self.log_failure(failed)
                    raise
        return shown

    def show(self, shown: Mapping[ViewKey, Evaluation]) -> list[TableDelta]:
        """Gives every instance the rows of its `preview`, after `install`; returns the changes."""
        return self._commit_with([_change(instance, shown[key]) for key, instance in self._instances.items()])

    def log_failure(self, failed: ViewFailed) -> None:
        """Writes the module log's line about a view that failed."""
        log = self._database.log
        if isinstance(failed.cause, BudgetExceeded):
            limit = self._database.budget.limit_s
            log.system(f"{failed.view} was stopped: it ran longer than {limit:g} s", "Error")
        else:
            log.panic(failed.cause, failed.view)

    def _rerun(self, instance: Instance) -> _Change:
        self.runs += 1
        return _change(instance, self._evaluator.run(instance.view, instance.sender))

    def _rerun_all(self, instances: Iterable[Instance]) -> list[_Change]:
        changes = []
        for instance in instances:
            try:
                changes.append(self._rerun(instance))
            except ViewFailed as failed:
                self.log_failure(failed)
                kept = Evaluation({}, self._evaluator.reads_so_far() | instance.reads, instance.selection)
                changes.append(_Change(instance, kept, [], [], []))
        return changes

    def _commit_with(self, changes: list[_Change]) -> list[TableDelta]:
        put = self._heap.put
        fresh: list[int] = []
        try:
            for change in changes:
                for image in change.inserts:
                    ref = put(image)
                    fresh.append(ref)
                    change.refs.append(ref)
            deltas = self._store.commit()
        except BaseException:
            self._heap.release(fresh)
            raise
        found = [self._settle(change) for change in changes]
        return deltas + sorted((delta for delta in found if delta is not None), key=_table_id)

    def _settle(self, change: _Change) -> TableDelta | None:
        instance, evaluation = change.instance, change.evaluation
        if evaluation is not None:
            self._follow(instance, evaluation.reads, evaluation.selection)
        if not change.deletes and not change.inserts:
            return None
        rows = instance.rows
        old_refs = [rows.pop(image) for image in change.deletes]
        rows.update(zip(change.inserts, change.refs, strict=True))
        self._heap.retired.extend(old_refs)
        length = instance.view.row_length
        return TableDelta(instance.table_id, UNLOGGED, length, change.deletes, change.inserts, old_refs, change.refs)

    # -- inspection

    def statistics(self) -> dict[str, int]:
        """Numbers of what is there."""
        rows = sum(len(instance.rows) for instance in self._by_id.values())
        return {"instances": len(self._by_id), "rows": rows, "runs": self.runs, **self._read_sets.statistics()}


def _change(instance: Instance, evaluation: Evaluation) -> _Change:
    """The change to the rows that the view gives now."""
    old, new = instance.rows, evaluation.rows
    if old.keys() == new.keys():
        return _Change(instance, evaluation, [], [], [])
    deletes = [image for image in old if image not in new]
    return _Change(instance, evaluation, deletes, [image for image in new if image not in old], [])


def _shift(instance: Instance, change: Selecting) -> _Change:
    """The change of a selection from that of its table."""
    assert instance.selection is not None
    rows = instance.rows
    gone = [image for image in change.gone if image in rows]
    come = instance.selection.select(change.come)
    stay = set(gone).intersection(come)
    deletes = [image for image in gone if image not in stay]
    return _Change(instance, None, deletes, [image for image in come if image not in rows], [])


def _table_id(delta: TableDelta) -> int:
    return delta.table_id
