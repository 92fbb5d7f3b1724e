"""Migration plans: the steps from one definition of a database to the next, or why there is no way.

Tables, views, indexes, sequences and constraints are matched by full canonical name; a renamed table is one removed and
one added. Functions and types are not compared: they may always change. The indexes, constraints and sequences of a
table that is added or removed have no steps of their own.

A module may have functions that take over the rows of a table as it once was. Such a function is used when the stored
table has exactly those columns and the new one has others, is gone, or could not be reached otherwise: the table is
then replaced by the new one (``REPLACE_TABLE``) or removed (``REMOVE_TABLE`` with ``migration``), and its old rows go
through the function, which writes to any table. Clients are disconnected. Upstream has nothing of this kind.

Steps are sorted by kind in the order of ``StepKind``, then by namespace and name. A plan *breaks clients* when it
disconnects them. Row filters are always dropped and created anew; only a changed set of them breaks clients.

Whether a plan can be carried out also depends on the rows (a removed table must be empty, an added sequence must not
have numbers in its range, an added unique constraint needs rows without duplicates): who executes it checks that.
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

from spacetimedb.schema.definition import (
    ColumnDef,
    IndexDef,
    ModuleDef,
    RowMigrationDef,
    ScheduleDef,
    SequenceDef,
    TableDef,
    UniqueDef,
    ViewDef,
)
from spacetimedb.schema.type_layout import size_and_alignment
from spacetimedb.types.algebraic import AlgebraicType, Array, Product, Sum, display


class StepKind(IntEnum):
    """Kinds of steps in the order they are taken."""

    REMOVE_INDEX = 0
    REMOVE_CONSTRAINT = 1
    REMOVE_SEQUENCE = 2
    REMOVE_SCHEDULE = 3
    REMOVE_VIEW = 4
    REMOVE_ROW_FILTER = 5
    REMOVE_TABLE = 6
    REPLACE_TABLE = 7
    CHANGE_COLUMNS = 8
    RESCHEMA_EVENT_TABLE = 9
    ADD_COLUMNS = 10
    CHANGE_INDEX_SOURCE_NAME = 11
    CHANGE_TABLE_ACCESSOR_NAME = 12
    CHANGE_COLUMN_ACCESSOR_NAME = 13
    ADD_TABLE = 14
    ADD_INDEX = 15
    ADD_CONSTRAINT = 16
    ADD_SEQUENCE = 17
    ADD_SCHEDULE = 18
    ADD_VIEW = 19
    ADD_ROW_FILTER = 20
    CHANGE_ACCESS = 21
    CHANGE_PRIMARY_KEY = 22
    CHANGE_DURABILITY = 23
    UPDATE_VIEW = 24
    DISCONNECT_ALL_USERS = 25


Part = IndexDef | UniqueDef | SequenceDef | ScheduleDef | ColumnDef


class Step(Struct, frozen=True):
    """One step. ``name`` is what it concerns (SQL for a row filter); ``old_table`` and ``new_table`` (``old_view``,
    ``new_view``) are the table (view) it stands in before and after, ``part`` the index, constraint, ... of that table:
    the one that goes for removals, else the new one. ``migration`` is the function that the old rows go through."""

    kind: StepKind
    name: str = ""
    old_table: TableDef | None = None
    new_table: TableDef | None = None
    old_view: ViewDef | None = None
    new_view: ViewDef | None = None
    part: Part | None = None
    migration: RowMigrationDef | None = None

    @property
    def table(self) -> TableDef:
        """The table it concerns, in its new form if there is one."""
        table = self.new_table or self.old_table
        assert table is not None
        return table

    @property
    def view(self) -> ViewDef:
        """The view it concerns, in its new form if there is one."""
        view = self.new_view or self.old_view
        assert view is not None
        return view


class MigrationPlan(Struct, frozen=True):
    """The steps from ``old`` to ``new``, in the order they are to be taken."""

    old: ModuleDef
    new: ModuleDef
    steps: tuple[Step, ...]

    @property
    def breaks_clients(self) -> bool:
        """Whether all clients are disconnected."""
        return any(step.kind is StepKind.DISCONNECT_ALL_USERS for step in self.steps)

    @property
    def is_major_version_upgrade(self) -> bool:
        """Whether the module went from definition version 9 to 10."""
        return self.old.version < self.new.version


class MigrationErrors(ValueError):
    """There is no plan; the text says why, in the form of ``ModuleDefErrors``, but not sorted and with repeats."""

    def __init__(self, errors: list[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("Errors occurred:\n" + "".join(f"{error}\n\n" for error in errors))


def plan(old: ModuleDef, new: ModuleDef) -> MigrationPlan:
    """The plan from ``old`` to ``new``. Raises ``MigrationErrors`` with all reasons when there is none."""
    return _Planner(old, new).plan()


class _Planner:
    """Collects steps and errors of one comparison."""

    def __init__(self, old: ModuleDef, new: ModuleDef) -> None:
        self._old = old
        self._new = new
        self._steps: list[Step] = []
        self._errors: list[str] = []
        self._disconnects = False

    def plan(self) -> MigrationPlan:
        old_tables, new_tables = self._old.tables_by_name, self._new.tables_by_name
        for name in sorted(old_tables.keys() | new_tables.keys()):
            old, new = old_tables.get(name), new_tables.get(name)
            migration = None if old is None else self._migration(old)
            if old is not None and new is not None:
                self._compare_or_replace(old, new, migration)
            elif old is not None:
                self._steps.append(Step(StepKind.REMOVE_TABLE, name, old_table=old, migration=migration))
                self._disconnects = True
            else:
                self._steps.append(Step(StepKind.ADD_TABLE, name, new_table=new))
        self._compare_views()
        self._compare_row_filters()
        if self._errors:
            raise MigrationErrors([*self._errors, *self._homeless_functions()])
        if self._disconnects:
            self._steps.append(Step(StepKind.DISCONNECT_ALL_USERS))
        return MigrationPlan(self._old, self._new, tuple(sorted(self._steps, key=_order)))

    def _migration(self, old: TableDef) -> RowMigrationDef | None:
        """The function for the rows of this table, if there is one."""
        found = (m for m in self._new.row_migrations if m.table == old.name and m.row_type == old.row_type)
        return next(found, None)

    def _functions_for_other_rows(self, old: TableDef) -> list[str]:
        """What to tell of functions for this table when none fits."""
        return [
            f"The migration function {m.function} is not used: it takes rows {display(m.row_type)}, "
            f"but those of table {old.name} are {display(old.row_type)}"
            for m in self._new.row_migrations
            if m.table == old.name
        ]

    def _homeless_functions(self) -> list[str]:
        """What to tell, if there is no plan, of functions for tables that do not exist."""
        return [
            f"The migration function {m.function} is not used: there is no table {m.table}"
            for m in self._new.row_migrations
            if m.table not in self._old.tables_by_name
        ]

    def _compare_or_replace(self, old: TableDef, new: TableDef, migration: RowMigrationDef | None) -> None:
        steps, errors = len(self._steps), len(self._errors)
        self._compare_tables(old, new)
        if migration is None:
            if len(self._errors) > errors:
                self._errors += self._functions_for_other_rows(old)
            return
        scheduling = (StepKind.ADD_SCHEDULE, StepKind.REMOVE_SCHEDULE)
        is_refused = len(self._errors) > errors or any(step.kind in scheduling for step in self._steps[steps:])
        if old.row_type == new.row_type and not is_refused:
            return
        del self._steps[steps:], self._errors[errors:]
        self._steps.append(Step(StepKind.REPLACE_TABLE, new.name, old, new, migration=migration))
        self._disconnects = True

    def _add(self, kind: StepKind, name: str, old: TableDef, new: TableDef, part: Part | None = None) -> None:
        self._steps.append(Step(kind, name, old, new, part=part))

    def _compare_tables(self, old: TableDef, new: TableDef) -> None:
        name = new.name
        if old.is_system != new.is_system:
            self._errors.append(
                f"Changing the table type of table {name} from {_table_type(old)} to {_table_type(new)} "
                "requires a manual migration"
            )
        if old.is_event != new.is_event:
            self._errors.append(f"Changing the event flag of table {name} requires a manual migration")
        if old.is_event and new.is_event:
            if old.row_type != new.row_type:
                self._add(StepKind.RESCHEMA_EVENT_TABLE, name, old, new)
                self._disconnects = True
        else:
            self._compare_columns(old, new)
        for column in new.columns:
            before = _column(old, column.name)
            if before is not None and before.accessor_name != column.accessor_name:
                self._add(StepKind.CHANGE_COLUMN_ACCESSOR_NAME, name, old, new, column)
        if old.accessor_name != new.accessor_name:
            self._add(StepKind.CHANGE_TABLE_ACCESSOR_NAME, name, old, new)
        if old.is_public != new.is_public:
            self._add(StepKind.CHANGE_ACCESS, name, old, new)
        if old.primary_key != new.primary_key:
            self._add(StepKind.CHANGE_PRIMARY_KEY, name, old, new)
        if old.is_durable != new.is_durable:
            self._add(StepKind.CHANGE_DURABILITY, name, old, new)
        if _schedule_key(old) != _schedule_key(new):
            if old.schedule is not None:
                self._add(StepKind.REMOVE_SCHEDULE, old.schedule.name, old, new, old.schedule)
            if new.schedule is not None:
                self._add(StepKind.ADD_SCHEDULE, new.schedule.name, old, new, new.schedule)
        self._compare_indexes(old, new)
        self._compare_constraints(old, new)
        self._compare_sequences(old, new)

    def _compare_columns(self, old: TableDef, new: TableDef) -> None:
        table = new.name
        positions = {column.name: position for position, column in enumerate(new.columns)}
        changed = False
        for position, before in enumerate(old.columns):
            found = positions.get(before.name)
            if found is None:
                self._errors.append(f"Removing a column {before.name} from table {table} requires a manual migration")
                continue
            after = new.columns[found]
            if before.algebraic_type != after.algebraic_type:
                changed = True
                self._errors += type_change_errors(
                    before.algebraic_type, after.algebraic_type, column=before.name, table=table
                )
            if found != position:
                self._errors.append(f"Reordering table {table} requires a manual migration")
        added = [column for column in new.columns if _column(old, column.name) is None]
        for column in added:
            if column.default is None:
                self._errors.append(
                    f"Adding a column {column.name} to table {table} requires a default value annotation"
                )
        if added:
            self._add(StepKind.ADD_COLUMNS, table, old, new)
            self._disconnects = True
        elif changed:
            self._add(StepKind.CHANGE_COLUMNS, table, old, new)

    def _compare_indexes(self, old: TableDef, new: TableDef) -> None:
        before = {index.name: index for index in old.indexes}
        after = {index.name: index for index in new.indexes}
        for name in sorted(before.keys() | after.keys()):
            gone, come = before.get(name), after.get(name)
            if gone is not None and come is not None:
                if gone.accessor_name != come.accessor_name:
                    self._errors.append(
                        f"Changing the accessor name on index {name} from {_optional(gone.accessor_name)} "
                        f"to {_optional(come.accessor_name)} requires a manual migration"
                    )
                elif (gone.algorithm, gone.columns) == (come.algorithm, come.columns):
                    if gone.source_name != come.source_name:
                        self._add(StepKind.CHANGE_INDEX_SOURCE_NAME, name, old, new, come)
                    continue
            if gone is not None:
                self._add(StepKind.REMOVE_INDEX, name, old, new, gone)
            if come is not None:
                self._add(StepKind.ADD_INDEX, name, old, new, come)

    def _compare_constraints(self, old: TableDef, new: TableDef) -> None:
        before = {constraint.name: constraint for constraint in old.constraints}
        after = {constraint.name: constraint for constraint in new.constraints}
        for name in sorted(before.keys() | after.keys()):
            gone, come = before.get(name), after.get(name)
            if gone is not None and come is not None:
                if gone.columns != come.columns:
                    self._errors.append(f"Changing a unique constraint {name} requires a manual migration")
            elif gone is not None:
                self._add(StepKind.REMOVE_CONSTRAINT, name, old, new, gone)
            else:
                self._add(StepKind.ADD_CONSTRAINT, name, old, new, come)

    def _compare_sequences(self, old: TableDef, new: TableDef) -> None:
        before = {sequence.name: sequence for sequence in old.sequences}
        after = {sequence.name: sequence for sequence in new.sequences}
        for name in sorted(before.keys() | after.keys()):
            gone, come = before.get(name), after.get(name)
            if gone == come:
                continue
            if gone is not None:
                self._add(StepKind.REMOVE_SEQUENCE, name, old, new, gone)
            if come is not None:
                self._add(StepKind.ADD_SEQUENCE, name, old, new, come)

    def _compare_views(self) -> None:
        before = {view.name: view for view in self._old.all_views}
        after = {view.name: view for view in self._new.all_views}
        for name in sorted(before.keys() | after.keys()):
            gone, come = before.get(name), after.get(name)
            if gone is not None and come is not None and _view_key(gone) == _view_key(come):
                self._steps.append(Step(StepKind.UPDATE_VIEW, name, old_view=gone, new_view=come))
                if gone.is_public != come.is_public:
                    self._steps.append(Step(StepKind.CHANGE_ACCESS, name, old_view=gone, new_view=come))
                continue
            if gone is not None:
                self._steps.append(Step(StepKind.REMOVE_VIEW, name, old_view=gone))
                self._disconnects = True
            if come is not None:
                self._steps.append(Step(StepKind.ADD_VIEW, name, new_view=come))

    def _compare_row_filters(self) -> None:
        before = dict.fromkeys(self._old.row_level_security)
        after = dict.fromkeys(self._new.row_level_security)
        self._steps += [Step(StepKind.REMOVE_ROW_FILTER, sql) for sql in before]
        self._steps += [Step(StepKind.ADD_ROW_FILTER, sql) for sql in after]
        if before.keys() != after.keys():
            self._disconnects = True


def type_change_errors(
    old: AlgebraicType, new: AlgebraicType, *, column: str, table: str, is_inside: bool = False
) -> list[str]:
    """What keeps a column from changing its (inlined) type in place; empty when nothing does.

    Only sums may grow: new variants at the end, payloads changed by the same rule, and no other size or alignment.
    """
    scope = f"column {column} in table {table} from {display(old)} to {display(new)}"
    of_type = f"Changing the type of {scope}"
    subject = f"Changing a type within {scope}" if is_inside else of_type
    errors: list[str] = []
    if isinstance(old, Sum) and isinstance(new, Sum):
        if len(new.variants) < len(old.variants):
            errors.append(f"{subject}, with fewer variants, requires a manual migration")
        for was, now in zip(old.variants, new.variants, strict=False):
            errors += type_change_errors(
                was.algebraic_type, now.algebraic_type, column=column, table=table, is_inside=True
            )
            if was.name != now.name:
                errors.append(f"{of_type}, with a renamed variant, requires a manual migration")
        (old_size, old_alignment), (new_size, new_alignment) = size_and_alignment(old), size_and_alignment(new)
        if old_size != new_size:
            errors.append(f"{subject}, requires a manual migration, due to size mismatch")
        if old_alignment != new_alignment:
            errors.append(f"{subject}, requires a manual migration, due to alignment mismatch")
    elif isinstance(old, Product) and isinstance(new, Product):
        if len(new.elements) != len(old.elements):
            errors.append(f"{subject}, with fewer fields, requires a manual migration")
        for before, after in zip(old.elements, new.elements, strict=False):
            errors += type_change_errors(
                before.algebraic_type, after.algebraic_type, column=column, table=table, is_inside=True
            )
            if before.name != after.name:
                errors.append(f"{of_type}, with a renamed field, requires a manual migration")
    elif isinstance(old, Array) and isinstance(new, Array):
        errors += type_change_errors(old.element, new.element, column=column, table=table, is_inside=True)
    elif old != new:
        errors.append(f"{subject} requires a manual migration")
    return errors


def _order(step: Step) -> tuple[int, str, str]:
    """Kind, then namespace and name of what the step concerns."""
    owner = step.new_table or step.old_table or step.new_view or step.old_view
    namespace = owner.name.rpartition(".")[0] if owner is not None else ""
    return step.kind, namespace, step.name


def _column(table: TableDef, name: str) -> ColumnDef | None:
    position = table.column(name)
    return None if position is None else table.columns[position]


def _schedule_key(table: TableDef) -> tuple[str, int, str] | None:
    schedule = table.schedule
    return None if schedule is None else (schedule.function_name, schedule.at_column, schedule.function_kind)


def _view_key(view: ViewDef) -> tuple[Product, Product, bool, int | None]:
    """What may not change without making the view anew."""
    return view.row_type, view.params, view.is_anonymous, view.primary_key


def _table_type(table: TableDef) -> str:
    return "System" if table.is_system else "User"


def _optional(name: str | None) -> str:
    return "None" if name is None else f'Some("{name}")'
