"""The definition (version 10) of a module from its specs, in the order in which SpacetimeDB's own bindings write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spacetimedb.schema.raw_structs import (
    CaseConversionPolicy,
    HttpMethod,
    Lifecycle,
    RawAlgorithm,
    RawBTree,
    RawConstraint,
    RawDefault,
    RawDirect,
    RawExplicitName,
    RawHash,
    RawHttpHandler,
    RawHttpRoute,
    RawIndex,
    RawLifecycleReducer,
    RawModuleDefV10,
    RawProcedure,
    RawReducer,
    RawRowLevelSecurity,
    RawSchedule,
    RawSequence,
    RawSubmodule,
    RawTable,
    RawType,
    RawTypeName,
    RawUnique,
    RawView,
    RawViewPrimaryKey,
    TableAccess,
    Visibility,
)
from spacetimedb.types.algebraic import AlgebraicType, Array, Product, Ref, option, query_of

from .resolver import Case
from .specs import IndexSpec, TableSpec, ViewSpec

if TYPE_CHECKING:
    from .build import Built

LIFECYCLES: Final = {
    "init": Lifecycle.INIT,
    "on_connect": Lifecycle.ON_CONNECT,
    "on_disconnect": Lifecycle.ON_DISCONNECT,
}
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")


def definition(built: Built, case: Case, row_filters: list[str], submodules: list[RawSubmodule]) -> RawModuleDefV10:
    """The definition of a module that was checked."""
    return RawModuleDefV10.of(
        typespace=built.typespace,
        types=[RawType(RawTypeName((), name), ref) for name, ref in built.types],
        tables=[raw_table(t) for t in built.tables],
        reducers=[
            RawReducer(r.source_name, built.params[r.source_name], _visible(r.is_private)) for r in built.reducers
        ],
        procedures=[
            RawProcedure(p.source_name, built.params[p.source_name], p.return_type, _visible(p.is_private))
            for p in built.procedures
        ],
        views=_views(built.views),
        view_primary_keys=[
            RawViewPrimaryKey(v.source_name, (built.view_columns[v.source_name][v.primary_key],))
            for v in built.views
            if v.primary_key is not None
        ],
        schedules=[
            RawSchedule(None, t.source_name, t.schedule_at_column, t.scheduled_function)
            for t in built.tables
            if t.scheduled_function is not None and t.schedule_at_column is not None
        ],
        lifecycle_reducers=[
            RawLifecycleReducer(LIFECYCLES[r.lifecycle], r.source_name)
            for r in built.reducers
            if r.lifecycle is not None
        ],
        http_handlers=[RawHttpHandler(h.source_name) for h in built.handlers],
        http_routes=[RawHttpRoute(r.handler, _method(r.method), r.path) for r in built.routes],
        row_level_security=[RawRowLevelSecurity(sql) for sql in row_filters],
        submodules=submodules,
        explicit_names=[RawExplicitName(kind, source, name) for kind, source, name in built.explicit_names],
        case_conversion_policy=policy(case),
    )


def policy(case: Case) -> CaseConversionPolicy:
    """How canonical names are made."""
    return CaseConversionPolicy.SNAKE_CASE if case == "snake" else CaseConversionPolicy.NONE


def _visible(is_private: bool) -> Visibility:
    return Visibility.PRIVATE if is_private else Visibility.CLIENT_CALLABLE


def raw_table(table: TableSpec) -> RawTable:
    """A table of a definition."""
    columns = list(enumerate(table.columns))
    return RawTable(
        source_name=table.source_name,
        product_type_ref=table.type_ref,
        primary_key=() if table.primary_key is None else (table.primary_key,),
        indexes=tuple(RawIndex(i.source_name, i.accessor, _algorithm(i)) for i in table.indexes),
        constraints=tuple(RawConstraint(None, RawUnique((n,))) for n, c in columns if c.is_unique),
        sequences=tuple(RawSequence(None, n) for n, c in columns if c.auto_inc),
        table_access=TableAccess.PUBLIC if table.is_public else TableAccess.PRIVATE,
        default_values=tuple(RawDefault(n, c.default) for n, c in columns if c.default is not None),
        is_event=table.is_event,
    )


def _algorithm(index: IndexSpec) -> RawAlgorithm:
    if index.algorithm == "direct":
        return RawDirect(index.columns[0])
    return RawBTree(index.columns) if index.algorithm == "btree" else RawHash(index.columns)


def _views(views: list[ViewSpec]) -> list[RawView]:
    """Anonymous views and views per sender are counted separately."""
    counts = {True: 0, False: 0}
    raw: list[RawView] = []
    returns: AlgebraicType
    for view in views:
        row = Ref(view.type_ref)
        returns = Array(row) if view.form == "list" else option(row) if view.form == "option" else query_of(row)
        raw.append(RawView(view.source_name, counts[view.is_anonymous], True, view.is_anonymous, Product(()), returns))
        counts[view.is_anonymous] += 1
    return raw


def _method(method: str | None) -> HttpMethod | None:
    if method is None:
        return None
    return HttpMethod(method.capitalize()) if method in METHODS else HttpMethod("Extension", method)
