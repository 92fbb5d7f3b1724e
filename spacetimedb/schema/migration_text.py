"""Plans as text: what a publisher is shown before, and what the module's log says while a plan is carried out.

The plan has two styles, plain and with ANSI colours. A coloured part is ``ESC[0m``, ``ESC[1m`` if bold, the colour, the
text, ``ESC[0m``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from spacetimedb.schema.definition import (
    ColumnDef,
    IndexDef,
    ModuleDef,
    ScheduleDef,
    SequenceDef,
    TableDef,
    UniqueDef,
    ViewDef,
)
from spacetimedb.schema.migration import MigrationPlan, Step, StepKind
from spacetimedb.types.algebraic import AlgebraicType, Array, Primitive, Product, Ref, Sum, display
from spacetimedb.types.bsatn import codec
from spacetimedb.types.shapes import shape_of

LINE: Final = "━" * 60
TITLE: Final = "Database Migration Plan"
WARNING: Final = "!!! Warning: All clients will be disconnected due to breaking schema changes"
INDENT: Final = "    "

_COLOURS: Final = {
    "created": (True, 32),
    "removed": (True, 31),
    "changed": (True, 33),
    "title": (True, 34),
    "table": (True, 36),
    "column": (True, 35),
    "type": (False, 35),
    "access": (False, 32),
    "sql": (False, 34),
    "warning": (True, 41),
}
_VERBS: Final = {"created": "Created", "removed": "Removed", "changed": "Changed"}


def plan_text(plan: MigrationPlan, *, colours: bool = False) -> str:
    """The whole plan; ends with a newline."""
    return _Printer(plan, colours).text()


class _Printer:
    """Prints one plan."""

    def __init__(self, plan: MigrationPlan, colours: bool) -> None:
        self._plan = plan
        self._colours = colours
        self._lines: list[str] = []
        self._same_filters = set(plan.old.row_level_security) & set(plan.new.row_level_security)

    def text(self) -> str:
        self._lines += [LINE, self._part("title", TITLE), LINE, ""]
        for step in self._plan.steps:
            self._step(step)
        return "".join(f"{line}\n" for line in self._lines)

    def _part(self, role: str, text: str) -> str:
        if not self._colours:
            return text
        is_bold, colour = _COLOURS[role]
        return f"\x1b[0m{chr(27) + '[1m' if is_bold else ''}\x1b[{colour}m{text}\x1b[0m"

    def _entry(self, role: str, rest: str, mark: str = "▸") -> None:
        self._lines.append(f"{mark} {self._part(role, _VERBS[role])} {rest}")

    def _of_table(self, step: Step) -> str:
        return self._part("table", step.table.name)

    def _step(self, step: Step) -> None:
        match step.kind:
            case StepKind.ADD_TABLE:
                self._added_table(step.table)
            case StepKind.REMOVE_TABLE:
                self._entry("removed", f"table: {self._of_table(step)}{_through(step)}")
                self._lines.append("")
            case StepKind.REPLACE_TABLE:
                self._entry("changed", f"table {self._of_table(step)}{_through(step)}")
                self._table_parts(step.table)
            case StepKind.ADD_VIEW:
                self._view("created", step.view)
            case StepKind.REMOVE_VIEW:
                self._view("removed", step.view)
            case StepKind.ADD_ROW_FILTER | StepKind.REMOVE_ROW_FILTER:
                self._row_filter(step)
            case StepKind.CHANGE_ACCESS:
                self._access(step)
            case StepKind.CHANGE_PRIMARY_KEY:
                self._entry("changed", f"primary key on table {self._of_table(step)} ({_key_change(step)})")
            case StepKind.CHANGE_DURABILITY:
                self._entry("changed", f"durability of table {self._of_table(step)} ({_durability(step.table)})")
            case StepKind.CHANGE_COLUMNS:
                self._changed_columns(step)
            case StepKind.ADD_COLUMNS:
                self._added_columns(step)
            case StepKind.RESCHEMA_EVENT_TABLE:
                self._entry("changed", f"schema of event table {self._of_table(step)}")
            case StepKind.CHANGE_TABLE_ACCESSOR_NAME:
                self._entry("changed", f"table accessor name for {self._of_table(step)}")
            case StepKind.CHANGE_COLUMN_ACCESSOR_NAME:
                assert isinstance(step.part, ColumnDef)
                column = self._part("column", step.part.name)
                self._entry("changed", f"column accessor name for {self._of_table(step)}.{column}")
            case StepKind.DISCONNECT_ALL_USERS:
                self._lines.append(self._part("warning", WARNING))
            case StepKind.UPDATE_VIEW:
                pass
            case _:
                self._part_of_table(step)

    def _part_of_table(self, step: Step) -> None:
        """An index, constraint, sequence or schedule that comes, goes or changes its source name."""
        if step.kind is StepKind.CHANGE_INDEX_SOURCE_NAME:
            role = "changed"
        else:
            role = "removed" if step.kind < StepKind.REMOVE_VIEW else "created"
        table = step.old_table if role == "removed" else step.new_table
        assert table is not None
        name, part = self._part("table", table.name), step.part
        if isinstance(part, IndexDef):
            self._entry(role, f"index {part.name} on {_columns(table, part.columns)} of table {name}")
        elif isinstance(part, UniqueDef):
            self._entry(role, f"unique constraint {part.name} on {_columns(table, part.columns)} of table {name}")
        elif isinstance(part, SequenceDef):
            column = table.columns[part.column].name
            self._entry(role, f"auto-increment constraint {part.name} on column {column} of table {name}")
        elif isinstance(part, ScheduleDef):
            self._entry(role, f"schedule for table {name} calling reducer {part.function_name}")

    def _section(self, title: str, lines: Sequence[str]) -> None:
        if lines:
            self._lines.append(INDENT + self._part("title", f"{title}:"))
            self._lines += [f"{INDENT}{INDENT}• {line}" for line in lines]

    def _typed(self, name: str | None, t: AlgebraicType) -> str:
        return f"{name}: {self._part('type', display(t))}"

    def _added_table(self, table: TableDef) -> None:
        access = self._part("access", _access(table))
        self._entry("created", f"user table: {self._part('table', table.name)} ({access})")
        self._table_parts(table)

    def _table_parts(self, table: TableDef) -> None:
        self._section("Columns", [self._typed(column.name, column.algebraic_type) for column in table.columns])
        self._section(
            "Unique constraints", sorted(f"{c.name} on {_columns(table, c.columns)}" for c in table.constraints)
        )
        self._section("Indexes", sorted(f"{i.name} on {_columns(table, i.columns)}" for i in table.indexes))
        self._section(
            "Auto-increment constraints",
            sorted(f"{s.name} on {table.columns[s.column].name}" for s in table.sequences),
        )
        if table.schedule is not None:
            self._section("Schedule", [f"Calls reducer: {table.schedule.function_name}"])
        self._lines.append("")

    def _view(self, role: str, view: ViewDef) -> None:
        kind = "anonymous view" if view.is_anonymous else "view"
        self._entry(role, f"{kind}: {self._part('table', view.name)}", mark="▸ ▸")
        params = view.params.elements
        self._section("Parameters", [self._typed(param.name, param.algebraic_type) for param in params])
        self._section("Columns", [self._typed(column.name, column.algebraic_type) for column in view.columns])
        self._lines.append("")

    def _row_filter(self, step: Step) -> None:
        if step.name in self._same_filters:
            return
        self._entry("created" if step.kind is StepKind.ADD_ROW_FILTER else "removed", "row level security policy:")
        self._lines.append(f"{INDENT}`{self._part('sql', step.name)}`")

    def _access(self, step: Step) -> None:
        if step.new_view is not None:
            kind, name, is_public = "view", step.new_view.name, step.new_view.is_public
        else:
            kind, name, is_public = "table", step.table.name, step.table.is_public
        change = self._part("access", "private → public" if is_public else "public → private")
        self._entry("changed", f"access for {kind} {self._part('table', name)} ({change})")

    def _changed_columns(self, step: Step) -> None:
        assert step.old_table is not None
        self._entry("changed", f"columns for table {self._of_table(step)}")
        before = _declared_types(self._plan.old, step.old_table)
        after = _declared_types(self._plan.new, step.table)
        for name, old in before.items():
            new = after.get(name, old)
            if old != new:
                change = f"{self._part('type', display(old))} → {self._part('type', display(new))}"
                self._lines.append(f"{INDENT}~ Modified: {name} ({change})")

    def _added_columns(self, step: Step) -> None:
        assert step.old_table is not None
        known = {column.name for column in step.old_table.columns}
        added = [column for column in step.table.columns if column.name not in known]
        self._entry("created", f"{'column' if len(added) == 1 else 'columns'} in table {self._of_table(step)}")
        for column in added:
            assert column.default is not None
            value = "\n".join(debug_value(column.algebraic_type, column.default))
            self._lines.append(f"{INDENT}+ {self._typed(column.name, column.algebraic_type)} (default: {value})")


def log_line(step: Step) -> str | None:
    """What the module's log says (level info) when the step is taken; None when nothing."""
    name = step.name
    match step.kind:
        case StepKind.ADD_TABLE:
            return f"Creating table `{name}`"
        case StepKind.REMOVE_TABLE:
            return f"Dropping table `{name}`"
        case StepKind.REPLACE_TABLE:
            return f"Replacing table `{name}`"
        case StepKind.ADD_INDEX:
            return f"Creating index `{name}` on table `{step.table.name}`"
        case StepKind.REMOVE_INDEX:
            return f"Dropping index `{name}` on table `{step.table.name}`"
        case StepKind.ADD_CONSTRAINT:
            return f"Adding constraint `{name}` on table `{step.table.name}`"
        case StepKind.REMOVE_CONSTRAINT:
            return f"Dropping constraint `{name}` on table `{step.table.name}`"
        case StepKind.ADD_SEQUENCE:
            return f"Adding sequence `{name}` to table `{step.table.name}`"
        case StepKind.REMOVE_SEQUENCE:
            return f"Dropping sequence `{name}` from table `{step.table.name}`"
        case StepKind.CHANGE_COLUMNS:
            return f"Changing columns of table `{name}`"
        case StepKind.RESCHEMA_EVENT_TABLE:
            return f"Changing schema of event table `{name}`"
        case StepKind.CHANGE_PRIMARY_KEY:
            return f"Changing primary key for table `{name}`"
        case StepKind.CHANGE_DURABILITY:
            return f"Changing durability of table `{name}`: {_durability(step.table)}"
        case StepKind.CHANGE_INDEX_SOURCE_NAME:
            assert isinstance(step.part, IndexDef)
            assert step.old_table is not None
            before = next(index.source_name for index in step.old_table.indexes if index.name == name)
            return (
                f"Changing index source name for `{name}` on table `{step.table.name}` "
                f"from `{before}` to `{step.part.source_name}`"
            )
        case StepKind.CHANGE_TABLE_ACCESSOR_NAME:
            return f"Changing table accessor name for `{name}` to `{step.table.accessor_name}`"
        case StepKind.CHANGE_COLUMN_ACCESSOR_NAME:
            assert isinstance(step.part, ColumnDef)
            return f"Changing column accessor name for `{name}`.`{step.part.name}` to `{step.part.accessor_name}`"
        case StepKind.ADD_ROW_FILTER:
            return f"Adding row-level security `{name}`"
        case StepKind.REMOVE_ROW_FILTER:
            return f"Removing row-level security `{name}`"
        case StepKind.DISCONNECT_ALL_USERS:
            return "Disconnecting all users"
    return None


def debug_value(t: AlgebraicType, data: bytes) -> list[str]:
    """Lines of a value (BSATN of the inlined type) in the debug form in which plans print defaults."""
    lines, _ = _debug_value(t, data, 0)
    return lines


def debug_line(t: AlgebraicType, data: bytes) -> str:
    """The same on one line, as errors print values."""
    text = ""
    for line in map(str.lstrip, debug_value(t, data)):
        if line[0] in ")]}":
            text = text.removesuffix(", ").removesuffix(" ")
            text += (" " if line[0] == "}" else "") + line
        else:
            text += line
        if text.endswith(("{", ",")):
            text += " "
    return text


def _debug_value(t: AlgebraicType, data: bytes, at: int) -> tuple[list[str], int]:
    match t:
        case Primitive(kind):
            value, at = codec(shape_of(t)).decode(data, at)
            text = _quoted(value) if isinstance(value, str) else str(value)
            return [f"{kind}(", f"{INDENT}{text.lower() if kind == 'Bool' else text},", ")"], at
        case Product(elements):
            parts: list[list[str]] = []
            for element in elements:
                lines, at = _debug_value(element.algebraic_type, data, at)
                parts.append(lines)
            inner = ["ProductValue {", *_indented(_list_field("elements", parts)), "},"]
            return ["Product(", *_indented(inner), ")"], at
        case Sum(variants):
            tag = data[at]
            value_lines, at = _debug_value(variants[tag].algebraic_type, data, at + 1)
            value_lines = [f"value: {value_lines[0]}", *value_lines[1:-1], f"{value_lines[-1]},"]
            inner = ["SumValue {", *_indented([f"tag: {tag},", *value_lines]), "},"]
            return ["Sum(", *_indented(inner), ")"], at
        case Array(element_type):
            count, at = int.from_bytes(data[at : at + 4], "little"), at + 4
            parts = []
            for _ in range(count):
                lines, at = _debug_value(element_type, data, at)
                parts.append(lines)
            return ["Array(", *_indented(_list_field("", parts)), ")"], at
        case Ref():
            raise ValueError("a default value has an inlined type")


def _list_field(name: str, parts: list[list[str]]) -> list[str]:
    head = f"{name}: [" if name else "["
    if not parts:
        return [f"{head}],"]
    lines = [line for part in parts for line in (*part[:-1], f"{part[-1]},")]
    return [head, *_indented(lines), "],"]


def _indented(lines: Sequence[str]) -> list[str]:
    return [INDENT + line for line in lines]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _columns(table: TableDef, positions: Sequence[int]) -> str:
    return f"[{', '.join(table.columns[position].name for position in positions)}]"


def _access(table: TableDef) -> str:
    return "public" if table.is_public else "private"


def _through(step: Step) -> str:
    return "" if step.migration is None else f" (rows are migrated by {step.migration.function})"


def _durability(table: TableDef) -> str:
    if table.is_durable:
        return "rows are kept from now on"
    return "rows are in memory only and will be gone after a restart"


def _key_change(step: Step) -> str:
    assert step.old_table is not None
    key = step.table.primary_key
    if key is None:
        return "removed"
    return f"added on column {key}" if step.old_table.primary_key is None else f"changed to column {key}"


def _declared_types(definition: ModuleDef, table: TableDef) -> dict[str, AlgebraicType]:
    """The table's columns by name, with types as the typespace of its module has them: references stay."""
    namespace = table.name.rpartition(".")[0]
    module = definition
    for segment in takewhile(bool, namespace.split(".")):
        module = next(submodule.module for submodule in module.submodules if submodule.namespace == segment)
    declared = module.typespace[table.type_ref]
    assert isinstance(declared, Product)
    return {element.name or "": element.algebraic_type for element in declared.elements}
