"""The schema endpoint's answers: a validated definition printed again as a raw one, with what validation found out.

Both forms print types with canonical names. Version 10 keeps source names and adds how they map to canonical ones
(``ExplicitNames``); version 9 prints canonical names only and loses what it has no place for (visibility, event tables,
HTTP, submodules, keys of views). Lists that have no order of their own are sorted by name.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from spacetimedb.schema.definition import (
    IndexDef,
    LifecycleEvent,
    ModuleDef,
    ProcedureDef,
    ReducerDef,
    ScheduleDef,
    SequenceDef,
    TableDef,
    UniqueDef,
    ViewDef,
)
from spacetimedb.schema.raw import V9_LAYOUT, V10_LAYOUT
from spacetimedb.schema.raw_structs import (
    Lifecycle,
    RawAlgorithm,
    RawBTree,
    RawColumnDefaultV9,
    RawConstraint,
    RawConstraintV9,
    RawDefault,
    RawDirect,
    RawExplicitName,
    RawHash,
    RawHttpHandler,
    RawHttpRoute,
    RawIndex,
    RawIndexV9,
    RawLifecycleReducer,
    RawModuleDefV9,
    RawModuleDefV10,
    RawProcedure,
    RawProcedureV9,
    RawReducer,
    RawReducerV9,
    RawRowLevelSecurity,
    RawSchedule,
    RawScheduleV9,
    RawSequence,
    RawSequenceV9,
    RawSubmodule,
    RawTable,
    RawTableV9,
    RawType,
    RawTypeName,
    RawTypeNameV9,
    RawTypeV9,
    RawUnique,
    RawView,
    RawViewPrimaryKey,
    RawViewV9,
    Section,
    SectionTag,
    TableAccess,
    TableType,
    Visibility,
)

_LIFECYCLES: dict[LifecycleEvent, Lifecycle] = {
    "init": Lifecycle.INIT,
    "on_connect": Lifecycle.ON_CONNECT,
    "on_disconnect": Lifecycle.ON_DISCONNECT,
}


def schema_v10(definition: ModuleDef) -> str:
    """The JSON text for version 10."""
    return _text(V10_LAYOUT.json(raw_v10(definition)))


def schema_v9(definition: ModuleDef) -> str:
    """The JSON text for version 9."""
    return _text(V9_LAYOUT.json(raw_v9(definition)))


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def raw_v10(definition: ModuleDef) -> RawModuleDefV10:
    """The definition in the form of version 10, sections in the order of the schema endpoint."""
    tables = sorted(definition.tables, key=lambda table: table.name)
    parts: list[tuple[SectionTag, list[Any]]] = [
        (
            SectionTag.TYPES,
            [
                RawType(RawTypeName(t.scope, t.name), t.type_ref, t.custom_ordering)
                for t in sorted(definition.types, key=lambda t: (t.scope, t.name))
            ],
        ),
        (SectionTag.TABLES, [_table_v10(table) for table in tables]),
        (
            SectionTag.REDUCERS,
            [
                RawReducer(reducer.accessor_name, reducer.declared_params, _visibility(reducer.is_private))
                for reducer in definition.reducers
            ],
        ),
        (
            SectionTag.PROCEDURES,
            [
                RawProcedure(p.accessor_name, p.declared_params, p.declared_return_type, _visibility(p.is_private))
                for p in definition.procedures
            ],
        ),
        (SectionTag.HTTP_HANDLERS, [RawHttpHandler(handler.accessor_name) for handler in definition.http_handlers]),
        (
            SectionTag.HTTP_ROUTES,
            [RawHttpRoute(route.handler, route.method, route.path) for route in definition.http_routes],
        ),
        (
            SectionTag.VIEWS,
            [
                RawView(
                    view.accessor_name,
                    view.index,
                    view.is_public,
                    view.is_anonymous,
                    view.declared_params,
                    view.declared_return_type,
                )
                for view in definition.views
            ],
        ),
        (
            SectionTag.VIEW_PRIMARY_KEYS,
            [
                RawViewPrimaryKey(view.accessor_name, (view.columns[view.primary_key].name,))
                for view in definition.views
                if view.kind != "query" and view.primary_key is not None
            ],
        ),
        (SectionTag.SCHEDULES, [_schedule_v10(table.schedule) for table in tables if table.schedule is not None]),
        (
            SectionTag.LIFECYCLE_REDUCERS,
            [
                RawLifecycleReducer(_LIFECYCLES[reducer.lifecycle], reducer.name)
                for reducer in sorted(definition.reducers, key=_lifecycle_order)
                if reducer.lifecycle is not None
            ],
        ),
        (SectionTag.ROW_LEVEL_SECURITY, _row_filters(definition)),
    ]
    sections = [Section(SectionTag.TYPESPACE, definition.typespace.types)]
    sections += [Section(tag, tuple(part)) for tag, part in parts if part]
    sections.append(Section(SectionTag.EXPLICIT_NAMES, tuple(_explicit_names(definition, tables))))
    if definition.submodules:
        submodules = tuple(RawSubmodule(s.namespace, raw_v10(s.module)) for s in definition.submodules)
        sections.append(Section(SectionTag.SUBMODULES, submodules))
    return RawModuleDefV10(tuple(sections))


def _explicit_names(definition: ModuleDef, tables: list[TableDef]) -> list[RawExplicitName]:
    names = [RawExplicitName("Table", table.accessor_name, table.name) for table in tables]
    functions: list[ReducerDef | ProcedureDef | ViewDef] = [
        *definition.reducers,
        *definition.procedures,
        *definition.views,
    ]
    return names + [RawExplicitName("Function", function.accessor_name, function.name) for function in functions]


def _table_v10(table: TableDef) -> RawTable:
    return RawTable(
        source_name=table.accessor_name,
        product_type_ref=table.type_ref,
        primary_key=_primary_key(table),
        indexes=tuple(
            RawIndex(index.source_name, index.accessor_name, _algorithm(index)) for index in _by_name(table.indexes)
        ),
        constraints=tuple(
            RawConstraint(constraint.name, RawUnique(constraint.columns)) for constraint in _by_name(table.constraints)
        ),
        sequences=tuple(
            RawSequence(sequence.name, sequence.column, *sequence.declared, sequence.increment)
            for sequence in _by_name(table.sequences)
        ),
        table_type=_table_type(table),
        table_access=_access(table),
        default_values=tuple(RawDefault(position, value) for position, value in _defaults(table)),
        is_event=table.is_event,
    )


def _schedule_v10(schedule: ScheduleDef) -> RawSchedule:
    return RawSchedule(schedule.name, schedule.table_name, schedule.at_column, schedule.function_name)


def raw_v9(definition: ModuleDef) -> RawModuleDefV9:
    """The definition in the form of version 9; submodules are left out."""
    tables = sorted(definition.tables, key=lambda table: table.name)
    exports: list[RawColumnDefaultV9 | RawProcedureV9 | RawViewV9] = [
        RawColumnDefaultV9(table.name, position, value) for table in tables for position, value in _defaults(table)
    ]
    exports += [RawProcedureV9(p.name, p.declared_params, p.declared_return_type) for p in definition.procedures]
    exports += [
        RawViewV9(
            view.name, view.index, view.is_public, view.is_anonymous, view.declared_params, view.declared_return_type
        )
        for view in definition.views
    ]
    return RawModuleDefV9(
        typespace=definition.typespace.types,
        tables=tuple(_table_v9(table) for table in tables),
        reducers=tuple(
            RawReducerV9(
                reducer.name,
                reducer.declared_params,
                None if reducer.lifecycle is None else _LIFECYCLES[reducer.lifecycle],
            )
            for reducer in definition.reducers
        ),
        types=tuple(
            RawTypeV9(RawTypeNameV9(t.scope, t.name), t.type_ref, t.custom_ordering)
            for t in sorted(definition.types, key=lambda t: (t.scope, t.name))
        ),
        misc_exports=tuple(exports),
        row_level_security=tuple(_row_filters(definition)),
    )


def _table_v9(table: TableDef) -> RawTableV9:
    schedule = table.schedule
    return RawTableV9(
        name=table.name,
        product_type_ref=table.type_ref,
        primary_key=_primary_key(table),
        indexes=tuple(
            RawIndexV9(index.name, index.accessor_name, _algorithm(index)) for index in _by_name(table.indexes)
        ),
        constraints=tuple(
            RawConstraintV9(constraint.name, RawUnique(constraint.columns))
            for constraint in _by_name(table.constraints)
        ),
        sequences=tuple(
            RawSequenceV9(sequence.name, sequence.column, *sequence.declared, sequence.increment)
            for sequence in _by_name(table.sequences)
        ),
        schedule=None if schedule is None else RawScheduleV9(schedule.name, schedule.function_name, schedule.at_column),
        table_type=_table_type(table),
        table_access=_access(table),
    )


def _algorithm(index: IndexDef) -> RawAlgorithm:
    if index.algorithm == "direct":
        return RawDirect(index.columns[0])
    return RawBTree(index.columns) if index.algorithm == "btree" else RawHash(index.columns)


_Named = TypeVar("_Named", IndexDef, UniqueDef, SequenceDef)


def _by_name(objects: tuple[_Named, ...]) -> list[_Named]:
    return sorted(objects, key=lambda named: named.name)


def _defaults(table: TableDef) -> list[tuple[int, bytes]]:
    return [(i, column.default) for i, column in enumerate(table.columns) if column.default is not None]


def _row_filters(definition: ModuleDef) -> list[RawRowLevelSecurity]:
    return [RawRowLevelSecurity(sql) for sql in dict.fromkeys(definition.row_level_security)]


def _primary_key(table: TableDef) -> tuple[int, ...]:
    return () if table.primary_key is None else (table.primary_key,)


def _table_type(table: TableDef) -> TableType:
    return TableType.SYSTEM if table.is_system else TableType.USER


def _access(table: TableDef) -> TableAccess:
    return TableAccess.PUBLIC if table.is_public else TableAccess.PRIVATE


def _visibility(is_private: bool) -> Visibility:
    return Visibility.PRIVATE if is_private else Visibility.CLIENT_CALLABLE


def _lifecycle_order(reducer: ReducerDef) -> int:
    return -1 if reducer.lifecycle is None else _LIFECYCLES[reducer.lifecycle]
