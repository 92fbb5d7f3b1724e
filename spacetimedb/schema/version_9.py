"""Version 9 definitions in the form of version 10.

Nothing is renamed: the policy is no conversion, and ``canonical_names`` takes the given names of objects as they are.
"""

from __future__ import annotations

from spacetimedb.schema.raw_structs import (
    CaseConversionPolicy,
    RawColumnDefaultV9,
    RawConstraint,
    RawDefault,
    RawIndex,
    RawLifecycleReducer,
    RawModuleDefV9,
    RawModuleDefV10,
    RawProcedure,
    RawProcedureV9,
    RawReducer,
    RawSchedule,
    RawSequence,
    RawTable,
    RawTableV9,
    RawType,
    RawTypeName,
    RawView,
    RawViewV9,
)
from spacetimedb.schema.validation_errors import Kind, Problems


def as_version_10(raw: RawModuleDefV9, problems: Problems) -> RawModuleDefV10:
    """The same definition; defaults of tables that do not exist are noted in ``problems``."""
    tables = {table.name for table in raw.tables}
    defaults: dict[str, list[RawDefault]] = {}
    for export in raw.misc_exports:
        if isinstance(export, RawColumnDefaultV9):
            if export.table not in tables:
                problems.add(Kind.TABLE_NOT_FOUND, f"Table {export.table} not found", export.table)
            defaults.setdefault(export.table, []).append(RawDefault(export.col_id, export.value))
    return RawModuleDefV10.of(
        typespace=raw.typespace,
        types=[RawType(RawTypeName(t.name.scope, t.name.name), t.ty, t.custom_ordering) for t in raw.types],
        tables=[_table(table, defaults.get(table.name, [])) for table in raw.tables],
        reducers=[RawReducer(reducer.name, reducer.params) for reducer in raw.reducers],
        procedures=[
            RawProcedure(export.name, export.params, export.return_type)
            for export in raw.misc_exports
            if isinstance(export, RawProcedureV9)
        ],
        views=[
            RawView(
                export.name,
                export.index,
                export.is_public,
                export.is_anonymous,
                export.params,
                export.return_type,
            )
            for export in raw.misc_exports
            if isinstance(export, RawViewV9)
        ],
        schedules=[
            RawSchedule(
                table.schedule.name, table.name, table.schedule.scheduled_at_column, table.schedule.reducer_name
            )
            for table in raw.tables
            if table.schedule is not None
        ],
        lifecycle_reducers=[
            RawLifecycleReducer(reducer.lifecycle, reducer.name)
            for reducer in raw.reducers
            if reducer.lifecycle is not None
        ],
        row_level_security=raw.row_level_security,
        case_conversion_policy=CaseConversionPolicy.NONE,
    )


def _table(raw: RawTableV9, defaults: list[RawDefault]) -> RawTable:
    return RawTable(
        source_name=raw.name,
        product_type_ref=raw.product_type_ref,
        primary_key=raw.primary_key,
        indexes=tuple(RawIndex(index.name, index.accessor_name, index.algorithm) for index in raw.indexes),
        constraints=tuple(RawConstraint(constraint.name, constraint.data) for constraint in raw.constraints),
        sequences=tuple(
            RawSequence(s.name, s.column, s.start, s.min_value, s.max_value, s.increment) for s in raw.sequences
        ),
        table_type=raw.table_type,
        table_access=raw.table_access,
        default_values=tuple(defaults),
    )
