"""Values of raw module definitions, versions 9 and 10, as plain structs; ``raw`` reads and writes them.

Names in them are the module's own, columns are positions, types are references into the definition's typespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from msgspec import Struct

from spacetimedb.types.algebraic import STRING as STRING_TYPE
from spacetimedb.types.algebraic import UNIT as UNIT_TYPE
from spacetimedb.types.algebraic import AlgebraicType, Product


class Visibility(IntEnum):
    """Who may call a function."""

    PRIVATE = 0
    CLIENT_CALLABLE = 1


class Lifecycle(IntEnum):
    """The events of a database's and a client's life that call a reducer."""

    INIT = 0
    ON_CONNECT = 1
    ON_DISCONNECT = 2


class TableType(IntEnum):
    """Whose table it is."""

    SYSTEM = 0
    USER = 1


class TableAccess(IntEnum):
    """Who may read a table."""

    PUBLIC = 0
    PRIVATE = 1


class CaseConversionPolicy(IntEnum):
    """Whether canonical names are made from source names by conversion."""

    NONE = 0
    SNAKE_CASE = 1


class SectionTag(IntEnum):
    """Kinds of sections of a version 10 definition."""

    TYPESPACE = 0
    TYPES = 1
    TABLES = 2
    REDUCERS = 3
    PROCEDURES = 4
    VIEWS = 5
    SCHEDULES = 6
    LIFECYCLE_REDUCERS = 7
    ROW_LEVEL_SECURITY = 8
    CASE_CONVERSION_POLICY = 9
    EXPLICIT_NAMES = 10
    HTTP_HANDLERS = 11
    HTTP_ROUTES = 12
    VIEW_PRIMARY_KEYS = 13
    SUBMODULES = 14


class RawTypeName(Struct, frozen=True):
    """A type's name inside its scope."""

    scope: tuple[str, ...]
    source_name: str


class RawType(Struct, frozen=True):
    """A named type; ``ty`` is its index in the typespace."""

    source_name: RawTypeName
    ty: int
    custom_ordering: bool = True


class RawBTree(Struct, frozen=True):
    """Ordered index over columns."""

    columns: tuple[int, ...]


class RawHash(Struct, frozen=True):
    """Hash index over columns."""

    columns: tuple[int, ...]


class RawDirect(Struct, frozen=True):
    """Array-like index over one column of small unsigned integers."""

    column: int


RawAlgorithm = RawBTree | RawHash | RawDirect


class RawIndex(Struct, frozen=True):
    """An index; ``accessor_name`` is what the module calls it at the table."""

    source_name: str | None
    accessor_name: str | None
    algorithm: RawAlgorithm


class RawUnique(Struct, frozen=True):
    """Columns that are unique together."""

    columns: tuple[int, ...]


class RawConstraint(Struct, frozen=True):
    """A constraint; the only kind is unique."""

    source_name: str | None
    data: RawUnique


class RawSequence(Struct, frozen=True):
    """An auto-increment sequence on a column."""

    source_name: str | None
    column: int
    start: int | None = None
    min_value: int | None = None
    max_value: int | None = None
    increment: int = 1


class RawDefault(Struct, frozen=True):
    """The default of a column, as BSATN of the column's type."""

    col_id: int
    value: bytes


class RawTable(Struct, frozen=True):
    """A table; its columns are those of the product at ``product_type_ref``."""

    source_name: str
    product_type_ref: int
    primary_key: tuple[int, ...] = ()
    indexes: tuple[RawIndex, ...] = ()
    constraints: tuple[RawConstraint, ...] = ()
    sequences: tuple[RawSequence, ...] = ()
    table_type: TableType = TableType.USER
    table_access: TableAccess = TableAccess.PUBLIC
    default_values: tuple[RawDefault, ...] = ()
    is_event: bool = False


class RawReducer(Struct, frozen=True):
    """A reducer; every reducer returns unit or a string error."""

    source_name: str
    params: Product
    visibility: Visibility = Visibility.CLIENT_CALLABLE
    ok_return_type: AlgebraicType = UNIT_TYPE
    err_return_type: AlgebraicType = STRING_TYPE


class RawProcedure(Struct, frozen=True):
    """A procedure."""

    source_name: str
    params: Product
    return_type: AlgebraicType
    visibility: Visibility = Visibility.CLIENT_CALLABLE


class RawView(Struct, frozen=True):
    """A view; ``index`` counts anonymous and sender views separately."""

    source_name: str
    index: int
    is_public: bool
    is_anonymous: bool
    params: Product
    return_type: AlgebraicType


class RawSchedule(Struct, frozen=True):
    """That a table's rows call a function."""

    source_name: str | None
    table_name: str
    schedule_at_col: int
    function_name: str


class RawLifecycleReducer(Struct, frozen=True):
    """The reducer of a lifecycle event."""

    lifecycle_spec: Lifecycle
    function_name: str


class RawRowLevelSecurity(Struct, frozen=True):
    """A row filter."""

    sql: str


class RawExplicitName(Struct, frozen=True):
    """A canonical name chosen by the module; ``kind`` is "Table", "Function" or "Index"."""

    kind: str
    source_name: str
    canonical_name: str


class RawHttpHandler(Struct, frozen=True):
    """A function that answers HTTP requests."""

    source_name: str


class HttpMethod(Struct, frozen=True):
    """An HTTP method: ``name`` as in ``HTTP_METHODS``, or "Extension" with the method's own name."""

    name: str
    extension: str = ""


class RawHttpRoute(Struct, frozen=True):
    """A route to a handler; ``method`` None means any."""

    handler_function: str
    method: HttpMethod | None
    path: str


class RawViewPrimaryKey(Struct, frozen=True):
    """The primary key of a view, by column source names."""

    view_source_name: str
    columns: tuple[str, ...]


class RawSubmodule(Struct, frozen=True):
    """A module mounted under a namespace."""

    namespace: str
    module: RawModuleDefV10


class Section(Struct, frozen=True):
    """One section: its kind and its payload (a tuple of the raw structs, or the one struct of the kind)."""

    tag: SectionTag
    value: Any


class RawModuleDefV10(Struct, frozen=True):
    """A version 10 definition. ``of`` builds one; the properties give each section's payload, or what absence means."""

    sections: tuple[Section, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        typespace: Sequence[AlgebraicType] = (),
        types: Sequence[RawType] = (),
        tables: Sequence[RawTable] = (),
        reducers: Sequence[RawReducer] = (),
        procedures: Sequence[RawProcedure] = (),
        views: Sequence[RawView] = (),
        view_primary_keys: Sequence[RawViewPrimaryKey] = (),
        schedules: Sequence[RawSchedule] = (),
        lifecycle_reducers: Sequence[RawLifecycleReducer] = (),
        http_handlers: Sequence[RawHttpHandler] = (),
        http_routes: Sequence[RawHttpRoute] = (),
        row_level_security: Sequence[RawRowLevelSecurity] = (),
        explicit_names: Sequence[RawExplicitName] = (),
        case_conversion_policy: CaseConversionPolicy = CaseConversionPolicy.SNAKE_CASE,
        submodules: Sequence[RawSubmodule] = (),
    ) -> RawModuleDefV10:
        """A definition with these parts; sections of empty parts are left out, the typespace is always there."""
        sections = [Section(SectionTag.TYPESPACE, tuple(typespace))]
        parts: list[tuple[SectionTag, Sequence[Any]]] = [
            (SectionTag.TYPES, types),
            (SectionTag.TABLES, tables),
            (SectionTag.REDUCERS, reducers),
            (SectionTag.PROCEDURES, procedures),
            (SectionTag.VIEWS, views),
            (SectionTag.VIEW_PRIMARY_KEYS, view_primary_keys),
            (SectionTag.SCHEDULES, schedules),
            (SectionTag.LIFECYCLE_REDUCERS, lifecycle_reducers),
            (SectionTag.HTTP_HANDLERS, http_handlers),
            (SectionTag.HTTP_ROUTES, http_routes),
            (SectionTag.ROW_LEVEL_SECURITY, row_level_security),
            (SectionTag.EXPLICIT_NAMES, explicit_names),
            (SectionTag.SUBMODULES, submodules),
        ]
        sections += [Section(tag, tuple(part)) for tag, part in parts if part]
        if case_conversion_policy is not CaseConversionPolicy.SNAKE_CASE:
            sections.append(Section(SectionTag.CASE_CONVERSION_POLICY, case_conversion_policy))
        return cls(tuple(sections))

    def _section(self, tag: SectionTag) -> Any:
        """Payload of the first section of this kind; an empty tuple when there is none."""
        for section in self.sections:
            if section.tag == tag:
                return section.value
        return ()

    @property
    def typespace(self) -> tuple[AlgebraicType, ...]:
        """The types."""
        return tuple(self._section(SectionTag.TYPESPACE))

    @property
    def types(self) -> tuple[RawType, ...]:
        """The named types."""
        return tuple(self._section(SectionTag.TYPES))

    @property
    def tables(self) -> tuple[RawTable, ...]:
        """The tables."""
        return tuple(self._section(SectionTag.TABLES))

    @property
    def reducers(self) -> tuple[RawReducer, ...]:
        """The reducers."""
        return tuple(self._section(SectionTag.REDUCERS))

    @property
    def procedures(self) -> tuple[RawProcedure, ...]:
        """The procedures."""
        return tuple(self._section(SectionTag.PROCEDURES))

    @property
    def views(self) -> tuple[RawView, ...]:
        """The views."""
        return tuple(self._section(SectionTag.VIEWS))

    @property
    def view_primary_keys(self) -> tuple[RawViewPrimaryKey, ...]:
        """The views' primary keys."""
        return tuple(self._section(SectionTag.VIEW_PRIMARY_KEYS))

    @property
    def schedules(self) -> tuple[RawSchedule, ...]:
        """The schedules."""
        return tuple(self._section(SectionTag.SCHEDULES))

    @property
    def lifecycle_reducers(self) -> tuple[RawLifecycleReducer, ...]:
        """The lifecycle reducers."""
        return tuple(self._section(SectionTag.LIFECYCLE_REDUCERS))

    @property
    def row_level_security(self) -> tuple[RawRowLevelSecurity, ...]:
        """The row filters."""
        return tuple(self._section(SectionTag.ROW_LEVEL_SECURITY))

    @property
    def case_conversion_policy(self) -> CaseConversionPolicy:
        """The policy: snake case when nothing is said."""
        found = self._section(SectionTag.CASE_CONVERSION_POLICY)
        return found if isinstance(found, CaseConversionPolicy) else CaseConversionPolicy.SNAKE_CASE

    @property
    def explicit_names(self) -> tuple[RawExplicitName, ...]:
        """The canonical names chosen by the module."""
        return tuple(self._section(SectionTag.EXPLICIT_NAMES))

    @property
    def http_handlers(self) -> tuple[RawHttpHandler, ...]:
        """The HTTP handlers."""
        return tuple(self._section(SectionTag.HTTP_HANDLERS))

    @property
    def http_routes(self) -> tuple[RawHttpRoute, ...]:
        """The HTTP routes."""
        return tuple(self._section(SectionTag.HTTP_ROUTES))

    @property
    def submodules(self) -> tuple[RawSubmodule, ...]:
        """The modules mounted in this one."""
        return tuple(self._section(SectionTag.SUBMODULES))


class RawTypeNameV9(Struct, frozen=True):
    """A type's name inside its scope, version 9."""

    scope: tuple[str, ...]
    name: str


class RawTypeV9(Struct, frozen=True):
    """A named type, version 9."""

    name: RawTypeNameV9
    ty: int
    custom_ordering: bool = True


class RawIndexV9(Struct, frozen=True):
    """An index, version 9."""

    name: str | None
    accessor_name: str | None
    algorithm: RawAlgorithm


class RawConstraintV9(Struct, frozen=True):
    """A constraint, version 9."""

    name: str | None
    data: RawUnique


class RawSequenceV9(Struct, frozen=True):
    """A sequence, version 9."""

    name: str | None
    column: int
    start: int | None = None
    min_value: int | None = None
    max_value: int | None = None
    increment: int = 1


class RawScheduleV9(Struct, frozen=True):
    """The schedule of the table it stands in, version 9."""

    name: str | None
    reducer_name: str
    scheduled_at_column: int


class RawTableV9(Struct, frozen=True):
    """A table, version 9."""

    name: str
    product_type_ref: int
    primary_key: tuple[int, ...] = ()
    indexes: tuple[RawIndexV9, ...] = ()
    constraints: tuple[RawConstraintV9, ...] = ()
    sequences: tuple[RawSequenceV9, ...] = ()
    schedule: RawScheduleV9 | None = None
    table_type: TableType = TableType.USER
    table_access: TableAccess = TableAccess.PUBLIC


class RawReducerV9(Struct, frozen=True):
    """A reducer, version 9."""

    name: str
    params: Product
    lifecycle: Lifecycle | None = None


class RawColumnDefaultV9(Struct, frozen=True):
    """The default of a column of a table, version 9."""

    table: str
    col_id: int
    value: bytes


class RawProcedureV9(Struct, frozen=True):
    """A procedure, version 9."""

    name: str
    params: Product
    return_type: AlgebraicType


class RawViewV9(Struct, frozen=True):
    """A view, version 9."""

    name: str
    index: int
    is_public: bool
    is_anonymous: bool
    params: Product
    return_type: AlgebraicType


class RawModuleDefV9(Struct, frozen=True):
    """A version 9 definition."""

    typespace: tuple[AlgebraicType, ...] = ()
    tables: tuple[RawTableV9, ...] = ()
    reducers: tuple[RawReducerV9, ...] = ()
    types: tuple[RawTypeV9, ...] = ()
    misc_exports: tuple[RawColumnDefaultV9 | RawProcedureV9 | RawViewV9, ...] = ()
    row_level_security: tuple[RawRowLevelSecurity, ...] = ()


RawModuleDef = RawModuleDefV9 | RawModuleDefV10
