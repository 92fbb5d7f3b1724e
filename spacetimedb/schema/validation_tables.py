"""Validation of tables: columns, indexes, unique constraints, keys, sequences, defaults."""

from __future__ import annotations

from collections.abc import Sequence

from spacetimedb.schema.canonical_names import Naming
from spacetimedb.schema.definition import (
    SEQUENCE_MAXIMUM,
    ColumnDef,
    IndexAlgorithm,
    IndexDef,
    SequenceDef,
    TableDef,
    UniqueDef,
)
from spacetimedb.schema.raw_structs import (
    RawBTree,
    RawConstraint,
    RawDirect,
    RawIndex,
    RawSequence,
    RawTable,
    TableAccess,
    TableType,
)
from spacetimedb.schema.validation_errors import Kind, Problems
from spacetimedb.types.algebraic import (
    I8,
    I16,
    I32,
    I64,
    I128,
    I256,
    U8,
    U16,
    U32,
    U64,
    U128,
    U256,
    AlgebraicType,
    Product,
    ProductElement,
    Typespace,
    display,
    is_unit_enum,
)
from spacetimedb.types.bsatn import codec
from spacetimedb.types.errors import DecodeError, RecursiveType
from spacetimedb.types.shapes import shape_of

INTEGERS = frozenset((I8, U8, I16, U16, I32, U32, I64, U64, I128, U128, I256, U256))
DIRECT_INDEX_TYPES = frozenset((U8, U16, U32, U64))
SYSTEM_TABLE_PREFIX = "st_"


class Entities:
    """The one set of names that tables, views and all their objects share within a module."""

    def __init__(self, problems: Problems) -> None:
        self._names: set[str] = set()
        self._problems = problems

    def add(self, *names: str) -> bool:
        """Take an object's names (canonical and source); False when another object has one of them already."""
        fresh = True
        for name in dict.fromkeys(names):
            if name in self._names:
                self._problems.add(Kind.DUPLICATE_NAME, f"name `{name}` is used for multiple entities", name)
                fresh = False
            self._names.add(name)
        return fresh


class Columns:
    """The columns of a table's or view's row type: source names, canonical names, inlined types."""

    def __init__(self, source: Typespace, canonical: Typespace, naming: Naming, problems: Problems) -> None:
        self._source = source
        self._canonical = canonical
        self._naming = naming
        self._problems = problems
        self.endless = Problems()
        """Columns whose types have no end; what refers to nowhere is told first."""

    def of(self, owner: str, index: int) -> tuple[tuple[ColumnDef, ...], Product] | None:
        """Columns and inlined row type of the product at ``index``; None (and problems noted) when they are bad."""
        declared = self._source[index] if index < len(self._source) else None
        if not isinstance(declared, Product):
            self._problems.add(Kind.TYPE_REFERENCE, f"Table {owner} has invalid product_type_ref &{index}")
            return None
        canonical = self._canonical[index]
        assert isinstance(canonical, Product)
        columns = []
        for position, element in enumerate(declared.elements):
            name = element.name
            if name is None:
                self._problems.add(
                    Kind.UNNAMED_COLUMN,
                    f"table `{owner}` has unnamed column `{position}`, which is forbidden.",
                    owner,
                    position,
                )
                continue
            converted = self._naming.column(name)
            if not self._problems.identifier(name) or not self._problems.identifier(converted):
                continue
            t = self._inlined(owner, name, canonical.elements[position].algebraic_type)
            if t is not None:
                columns.append(ColumnDef(converted, name, t))
        if len(columns) < len(declared.elements):
            return None
        row_type = Product(tuple(ProductElement(column.name, column.algebraic_type) for column in columns))
        return tuple(columns), row_type

    def _inlined(self, owner: str, column: str, t: AlgebraicType) -> AlgebraicType | None:
        try:
            return self._canonical.inline(t)
        except RecursiveType:
            problem = f"table `{owner}` column `{column}` has a type that contains itself, which columns cannot have"
        except ValueError:
            problem = f"table `{owner}` column `{column}` has a type that is too large or not defined"
        self.endless.add(Kind.OURS, problem)
        return None


class TableValidator:
    """Validates one table. ``names`` are the canonical column names; use ``validate`` once."""

    def __init__(self, raw: RawTable, naming: Naming, problems: Problems, entities: Entities, version: int) -> None:
        self._raw = raw
        self._naming = naming
        self._problems = problems
        self._entities = entities
        self._version = version
        self._name = naming.table(raw.source_name)
        self._columns: tuple[ColumnDef, ...] = ()

    def validate(self, columns: Columns) -> TableDef | None:
        """The table, or None when it is so bad that its parts say nothing; problems are noted."""
        raw = self._raw
        if not self._problems.identifier(self._name) or not self._problems.identifier(raw.source_name):
            return None
        found = columns.of(self._name, raw.product_type_ref)
        if not self._entities.add(self._name, raw.source_name) and self._version == 10:
            return None
        is_system = raw.table_type is TableType.SYSTEM
        if self._name.startswith(SYSTEM_TABLE_PREFIX) and not is_system:
            self._problems.add(
                Kind.RESERVED_TABLE_NAME, f"Table name is reserved for system use: {self._name}", self._name
            )
        if found is None:
            return None
        self._columns, row_type = found
        defaults = self._defaults()
        indexes = [index for raw_index in raw.indexes if (index := self._index(raw_index)) is not None]
        constraints = [c for raw_unique in raw.constraints if (c := self._constraint(raw_unique)) is not None]
        if len(indexes) == len(raw.indexes):
            self._check_support(constraints, indexes)
        unique_columns = {frozenset(constraint.columns) for constraint in constraints}
        return TableDef(
            name=self._name,
            accessor_name=raw.source_name,
            columns=tuple(
                ColumnDef(column.name, column.accessor_name, column.algebraic_type, defaults.get(position))
                for position, column in enumerate(self._columns)
            ),
            row_type=row_type,
            type_ref=raw.product_type_ref,
            primary_key=self._primary_key(),
            indexes=tuple(
                IndexDef(
                    index.name,
                    index.source_name,
                    index.accessor_name,
                    index.algorithm,
                    index.columns,
                    frozenset(index.columns) in unique_columns,
                )
                for index in indexes
            ),
            constraints=tuple(constraints),
            sequences=self._sequences(),
            is_public=raw.table_access is TableAccess.PUBLIC,
            is_event=raw.is_event,
            is_system=is_system,
        )

    def _column_name(self, position: int) -> str:
        return self._columns[position].name if position < len(self._columns) else f"col_{position}"

    def _has_columns(self, positions: Sequence[int], definition: str) -> bool:
        """Whether all positions are columns, none twice; ``definition`` is the name of what refers to them."""
        fine = True
        for position in positions:
            if position >= len(self._columns):
                self._problems.add(
                    Kind.COLUMN_NOT_FOUND,
                    f"column `{position}` referenced by def {definition} not found in table `{self._raw.source_name}`",
                    self._raw.source_name,
                    definition,
                    position,
                )
                fine = False
        if len(set(positions)) < len(positions):
            listed = ", ".join(f"ColId({position})" for position in positions)
            self._problems.add(
                Kind.DUPLICATE_COLUMNS, f"def `{definition}` has duplicate columns: [{listed}]", definition
            )
            fine = False
        return fine

    def _defaults(self) -> dict[int, bytes]:
        defaults: dict[int, bytes] = {}
        for default in self._raw.default_values:
            position = default.col_id
            if not self._has_columns((position,), self._name):
                continue
            if position in defaults and self._version == 9:
                self._problems.add(
                    Kind.DEFAULT,
                    f"Multiple default values for table {self._name} column {position}",
                    self._name,
                    position,
                )
            try:
                codec(shape_of(self._columns[position].algebraic_type)).decode(default.value)
            except DecodeError as error:
                self._problems.add(
                    Kind.DEFAULT,
                    f"Failed to deserialize default value for table {self._name} column {position}: {error}",
                    self._name,
                    position,
                )
            defaults[position] = default.value
        return defaults

    def _index(self, raw: RawIndex) -> IndexDef | None:
        algorithm: IndexAlgorithm
        columns: tuple[int, ...]
        if isinstance(raw.algorithm, RawDirect):
            algorithm, columns = "direct", (raw.algorithm.column,)
        else:
            algorithm = "btree" if isinstance(raw.algorithm, RawBTree) else "hash"
            columns = raw.algorithm.columns
        name = self._naming.index(
            raw.source_name, self._name, [self._column_name(position) for position in columns], algorithm
        )
        source = raw.source_name
        if source is None:
            if self._version == 10:
                self._problems.add(Kind.OURS, f"index `{name}` of table `{self._name}` has no source name")
                return None
            source = name
        fine = self._entities.add(name, source)
        fine &= self._has_columns(columns, name)
        if self._naming.explicit_index(raw.source_name) is not None:
            fine &= self._problems.identifier(name)
        if raw.accessor_name is not None:
            fine &= self._problems.identifier(raw.accessor_name)
        if not fine:
            return None
        if algorithm == "direct":
            t = self._columns[columns[0]].algebraic_type
            if t not in DIRECT_INDEX_TYPES and not is_unit_enum(t):
                self._problems.add(
                    Kind.INDEX_COLUMN_TYPE,
                    f"Direct index does not support type `{display(t)}` in column "
                    f"`{self._columns[columns[0]].name}` in index `{name}`",
                    name,
                )
                return None
        return IndexDef(name, source, raw.accessor_name, algorithm, columns)

    def _constraint(self, raw: RawConstraint) -> UniqueDef | None:
        positions = raw.data.columns
        name = self._naming.constraint(
            raw.source_name, self._name, [self._column_name(position) for position in positions]
        )
        fine = self._entities.add(name)
        fine &= self._has_columns(positions, name)
        return UniqueDef(name, tuple(sorted(positions))) if fine else None

    def _check_support(self, constraints: Sequence[UniqueDef], indexes: Sequence[IndexDef]) -> None:
        """Every unique constraint needs an index over the same set of columns."""
        indexed = {frozenset(index.columns) for index in indexes}
        for constraint in constraints:
            if frozenset(constraint.columns) not in indexed:
                listed = ", ".join(f"ColId({position})" for position in constraint.columns)
                self._problems.add(
                    Kind.UNIQUE_WITHOUT_INDEX,
                    f"No index found to support unique constraint `{constraint.name}` for columns `{{{listed}}}`",
                    constraint.name,
                )

    def _primary_key(self) -> int | None:
        key = self._raw.primary_key
        if len(key) > 1:
            self._problems.add(
                Kind.SEVERAL_KEYS, f"table `{self._name}` has multiple primary key annotations", self._name
            )
            return None
        if not key or not self._has_columns(key, self._name):
            return None
        if not any(constraint.data.columns == key for constraint in self._raw.constraints):
            self._problems.add(
                Kind.KEY_WITHOUT_UNIQUE,
                f"table `{self._name}` column `{self._columns[key[0]].name}` is primary key "
                "but has no unique constraint",
                self._name,
                key[0],
            )
        return key[0]

    def _sequences(self) -> tuple[SequenceDef, ...]:
        sequences = []
        used: set[int] = set()
        for raw in self._raw.sequences:
            sequence = self._sequence(raw)
            if raw.column in used and raw.column < len(self._columns):
                self._problems.add(
                    Kind.SEVERAL_SEQUENCES,
                    f"Attempt to define table `{self._name}` column `{self._columns[raw.column].name}` "
                    "with more than 1 auto_inc sequence",
                    self._name,
                    raw.column,
                )
            used.add(raw.column)
            if sequence is not None:
                sequences.append(sequence)
        return tuple(sequences)

    def _sequence(self, raw: RawSequence) -> SequenceDef | None:
        name = self._naming.sequence(raw.source_name, self._name, self._column_name(raw.column))
        fine = self._entities.add(name)
        if not self._has_columns((raw.column,), name):
            return None
        column = self._columns[raw.column]
        if column.algebraic_type not in INTEGERS:
            self._problems.add(
                Kind.SEQUENCE_COLUMN_TYPE,
                f"invalid sequence column type: table `{self._name}` column `{column.name}` with type "
                f"`{display(column.algebraic_type)}` in sequence `{name}`",
                name,
            )
            return None
        if not _is_ordered(raw.min_value, raw.start, raw.max_value):
            self._problems.add(
                Kind.SEQUENCE_RANGE,
                f"invalid sequence range information: expected {_optional(raw.min_value)} <= {_optional(raw.start)} "
                f"<= {_optional(raw.max_value)} in sequence `{name}`",
                name,
            )
            return None
        start = 1 if raw.start is None else raw.start
        minimum = 1 if raw.min_value is None else raw.min_value
        maximum = SEQUENCE_MAXIMUM if raw.max_value is None else raw.max_value
        if raw.increment == 0 or abs(raw.increment) >= maximum - minimum or not minimum <= start <= maximum:
            self._problems.add(
                Kind.OURS,
                f"sequence `{name}` cannot count by {raw.increment} from {start} between {minimum} and {maximum}",
            )
            return None
        declared = (raw.start, raw.min_value, raw.max_value)
        sequence = SequenceDef(name, raw.column, start, minimum, maximum, raw.increment, declared)
        return sequence if fine else None


def _is_ordered(*numbers: int | None) -> bool:
    """Whether the numbers that are given do not decrease."""
    given = [number for number in numbers if number is not None]
    return given == sorted(given)


def _optional(number: int | None) -> str:
    return "None" if number is None else f"Some({number})"
