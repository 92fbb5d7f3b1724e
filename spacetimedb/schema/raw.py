"""Raw module definitions, versions 9 and 10: what a module says of itself, before validation.

``RawModuleDef`` in BSATN is a sum: tag 0 version 8 (refused), 1 version 9, 2 version 10.

Version 10 is ``{sections: array<Section>}``, a section being a sum whose tag is its place in ``SectionTag``. Sections
may stand in any order; of a repeated kind the first counts. Payloads (all names are the module's own, "source" names)::

    0  Typespace             {types: array<AlgebraicType>}
    1  Types                 array<{source_name: {scope: array<string>, source_name}, ty: u32, custom_ordering: bool}>
    2  Tables                array<Table>
    3  Reducers              array<{source_name, params: ProductType, visibility, ok_return_type, err_return_type}>
    4  Procedures            array<{source_name, params: ProductType, return_type, visibility}>
    5  Views                 array<{source_name, index: u32, is_public, is_anonymous, params: ProductType, return_type}>
    6  Schedules             array<{source_name: option, table_name, schedule_at_col: u16, function_name}>
    7  LifeCycleReducers     array<{lifecycle_spec, function_name}>
    8  RowLevelSecurity      array<{sql}>
    9  CaseConversionPolicy  sum 0 None | 1 SnakeCase
    10 ExplicitNames         {entries: array<sum 0 Table | 1 Function | 2 Index of {source_name, canonical_name}>}
    11 HttpHandlers          array<{source_name}>
    12 HttpRoutes            array<{handler_function, method: sum 0 Any | 1 Method(HttpMethod), path}>
    13 ViewPrimaryKeys       array<{view_source_name, columns: array<string>}>
    14 Submodules            array<{namespace, module: RawModuleDefV10}>

    Table      {source_name, product_type_ref: u32, primary_key: array<u16>, indexes, constraints, sequences,
                table_type: 0 System | 1 User, table_access: 0 Public | 1 Private,
                default_values: array<{col_id: u16, value: bytes}>, is_event: bool}
    index      {source_name: option, accessor_name: option,
                algorithm: 0 BTree(array<u16>) | 1 Hash(array<u16>) | 2 Direct(u16)}
    constraint {source_name: option, data: 0 Unique{columns: array<u16>}}
    sequence   {source_name: option, column: u16, start, min_value, max_value: option<i128>, increment: i128}

Version 9 is ``{typespace, tables, reducers, types, misc_exports, row_level_security}``; the same parts with ``name``
for ``source_name``, the schedule inside its table, the lifecycle inside its reducer, and in ``misc_exports`` a sum of
0 ColumnDefaultValue ``{table, col_id: u16, value: bytes}``, 1 Procedure, 2 View.

Bytes after a definition are an error: a definition is a whole message.
"""

from __future__ import annotations

import functools
from enum import IntEnum
from typing import Any

from spacetimedb.schema.layout import (
    BOOL,
    BYTES,
    I128,
    PRODUCT,
    STRING,
    TYPE,
    U16,
    U32,
    UNIT,
    Enumeration,
    Field,
    Later,
    Layout,
    Option,
    Record,
    Sequenced,
    Variants,
)
from spacetimedb.schema.raw_structs import (
    CaseConversionPolicy,
    HttpMethod,
    Lifecycle,
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
    RawModuleDef,
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
from spacetimedb.types.errors import DecodeError

SUBMODULE_DEPTH = 32
"""How deep modules may be nested in one definition; deeper ones are refused when read."""

DEFINITION_LIMIT = 64 * 1024 * 1024
"""Longest definition that is read, in bytes."""

HTTP_METHODS = ("Get", "Head", "Post", "Put", "Delete", "Connect", "Options", "Trace", "Patch")
"""Names of the HTTP methods by tag; tag 9 is an extension with a name of its own."""


def _by_class(name: str, *cases: tuple[str, type[Any], Layout]) -> Variants:
    """A sum whose variants are told apart by the class of the value."""
    classes = [case[1] for case in cases]

    def split(value: Any) -> tuple[int, Any]:
        return classes.index(type(value)), value

    def join(tag: int, payload: Any) -> Any:
        return payload

    return Variants(name, [(case[0], case[2]) for case in cases], split, join)


def _enumeration(members: type[IntEnum], *names: str) -> Enumeration:
    return Enumeration(members, names)


_COLUMNS = Sequenced(U16)
_NAME = Option(STRING)
_VISIBILITY = _enumeration(Visibility, "Private", "ClientCallable")
_LIFECYCLE = _enumeration(Lifecycle, "Init", "OnConnect", "OnDisconnect")
_TABLE_TYPE = _enumeration(TableType, "System", "User")
_TABLE_ACCESS = _enumeration(TableAccess, "Public", "Private")
_POLICY = _enumeration(CaseConversionPolicy, "None", "SnakeCase")

_ALGORITHMS: tuple[type[Any], ...] = (RawBTree, RawHash, RawDirect)
_ALGORITHM = Variants(
    "RawIndexAlgorithm",
    [("BTree", _COLUMNS), ("Hash", _COLUMNS), ("Direct", U16)],
    lambda value: (_ALGORITHMS.index(type(value)), value.column if isinstance(value, RawDirect) else value.columns),
    lambda tag, payload: _ALGORITHMS[tag](payload),
)
_CONSTRAINT_DATA = _by_class("RawConstraintData", ("Unique", RawUnique, Record(RawUnique, columns=_COLUMNS)))
_SEQUENCE_REST: dict[str, Layout] = {
    "column": U16,
    "start": Option(I128),
    "min_value": Option(I128),
    "max_value": Option(I128),
    "increment": I128,
}
_HTTP_METHOD = Variants(
    "HttpMethod",
    [*((name, UNIT) for name in HTTP_METHODS), ("Extension", STRING)],
    lambda value: (
        (len(HTTP_METHODS), value.extension) if value.name == "Extension" else (HTTP_METHODS.index(value.name), None)
    ),
    lambda tag, payload: HttpMethod("Extension", payload) if payload is not None else HttpMethod(HTTP_METHODS[tag]),
)
_ROUTE_METHOD = Variants(
    "MethodOrAny",
    [("Any", UNIT), ("Method", _HTTP_METHOD)],
    lambda value: (0, None) if value is None else (1, value),
    lambda tag, payload: payload,
)
_NAME_KINDS = ("Table", "Function", "Index")

_EXPLICIT_NAME = Variants(
    "ExplicitNameEntry",
    [
        (kind, Record(functools.partial(RawExplicitName, kind), source_name=STRING, canonical_name=STRING))
        for kind in _NAME_KINDS
    ],
    lambda value: (_NAME_KINDS.index(value.kind), value),
    lambda tag, payload: payload,
)
_RLS = Record(RawRowLevelSecurity, sql=STRING)
_TYPESPACE = Field("types", Sequenced(TYPE))

_TABLE = Record(
    RawTable,
    source_name=STRING,
    product_type_ref=U32,
    primary_key=_COLUMNS,
    indexes=Sequenced(Record(RawIndex, source_name=_NAME, accessor_name=_NAME, algorithm=_ALGORITHM)),
    constraints=Sequenced(Record(RawConstraint, source_name=_NAME, data=_CONSTRAINT_DATA)),
    sequences=Sequenced(Record(RawSequence, source_name=_NAME, **_SEQUENCE_REST)),
    table_type=_TABLE_TYPE,
    table_access=_TABLE_ACCESS,
    default_values=Sequenced(Record(RawDefault, col_id=U16, value=BYTES)),
    is_event=BOOL,
)

_SECTIONS: list[tuple[str, Layout]] = [
    ("Typespace", _TYPESPACE),
    (
        "Types",
        Sequenced(
            Record(
                RawType,
                source_name=Record(RawTypeName, scope=Sequenced(STRING), source_name=STRING),
                ty=U32,
                custom_ordering=BOOL,
            )
        ),
    ),
    ("Tables", Sequenced(_TABLE)),
    (
        "Reducers",
        Sequenced(
            Record(
                RawReducer,
                source_name=STRING,
                params=PRODUCT,
                visibility=_VISIBILITY,
                ok_return_type=TYPE,
                err_return_type=TYPE,
            )
        ),
    ),
    (
        "Procedures",
        Sequenced(Record(RawProcedure, source_name=STRING, params=PRODUCT, return_type=TYPE, visibility=_VISIBILITY)),
    ),
    (
        "Views",
        Sequenced(
            Record(
                RawView,
                source_name=STRING,
                index=U32,
                is_public=BOOL,
                is_anonymous=BOOL,
                params=PRODUCT,
                return_type=TYPE,
            )
        ),
    ),
    (
        "Schedules",
        Sequenced(Record(RawSchedule, source_name=_NAME, table_name=STRING, schedule_at_col=U16, function_name=STRING)),
    ),
    ("LifeCycleReducers", Sequenced(Record(RawLifecycleReducer, lifecycle_spec=_LIFECYCLE, function_name=STRING))),
    ("RowLevelSecurity", Sequenced(_RLS)),
    ("CaseConversionPolicy", _POLICY),
    ("ExplicitNames", Field("entries", Sequenced(_EXPLICIT_NAME))),
    ("HttpHandlers", Sequenced(Record(RawHttpHandler, source_name=STRING))),
    ("HttpRoutes", Sequenced(Record(RawHttpRoute, handler_function=STRING, method=_ROUTE_METHOD, path=STRING))),
    ("ViewPrimaryKeys", Sequenced(Record(RawViewPrimaryKey, view_source_name=STRING, columns=Sequenced(STRING)))),
    (
        "Submodules",
        Sequenced(
            Record(
                RawSubmodule,
                namespace=STRING,
                module=Later(lambda: V10_LAYOUT, SUBMODULE_DEPTH, "submodules"),
            )
        ),
    ),
]
V10_LAYOUT: Record = Record(
    RawModuleDefV10,
    sections=Sequenced(
        Variants(
            "RawModuleDefV10Section",
            _SECTIONS,
            lambda section: (section.tag, section.value),
            lambda tag, payload: Section(SectionTag(tag), payload),
        )
    ),
)
"""Bytes and JSON of a bare version 10 definition."""

_TABLE_V9 = Record(
    RawTableV9,
    name=STRING,
    product_type_ref=U32,
    primary_key=_COLUMNS,
    indexes=Sequenced(Record(RawIndexV9, name=_NAME, accessor_name=_NAME, algorithm=_ALGORITHM)),
    constraints=Sequenced(Record(RawConstraintV9, name=_NAME, data=_CONSTRAINT_DATA)),
    sequences=Sequenced(Record(RawSequenceV9, name=_NAME, **_SEQUENCE_REST)),
    schedule=Option(Record(RawScheduleV9, name=_NAME, reducer_name=STRING, scheduled_at_column=U16)),
    table_type=_TABLE_TYPE,
    table_access=_TABLE_ACCESS,
)
V9_LAYOUT = Record(
    RawModuleDefV9,
    typespace=_TYPESPACE,
    tables=Sequenced(_TABLE_V9),
    reducers=Sequenced(Record(RawReducerV9, name=STRING, params=PRODUCT, lifecycle=Option(_LIFECYCLE))),
    types=Sequenced(
        Record(
            RawTypeV9,
            name=Record(RawTypeNameV9, scope=Sequenced(STRING), name=STRING),
            ty=U32,
            custom_ordering=BOOL,
        )
    ),
    misc_exports=Sequenced(
        _by_class(
            "RawMiscModuleExportV9",
            (
                "ColumnDefaultValue",
                RawColumnDefaultV9,
                Record(RawColumnDefaultV9, table=STRING, col_id=U16, value=BYTES),
            ),
            ("Procedure", RawProcedureV9, Record(RawProcedureV9, name=STRING, params=PRODUCT, return_type=TYPE)),
            (
                "View",
                RawViewV9,
                Record(
                    RawViewV9,
                    name=STRING,
                    index=U32,
                    is_public=BOOL,
                    is_anonymous=BOOL,
                    params=PRODUCT,
                    return_type=TYPE,
                ),
            ),
        )
    ),
    row_level_security=Sequenced(_RLS),
)
"""Bytes and JSON of a bare version 9 definition."""


def decode_raw(data: bytes) -> RawModuleDef:
    """The definition in these bytes, which must be nothing else. Raises ``DecodeError``."""
    if len(data) > DEFINITION_LIMIT:
        raise DecodeError(f"module definition of {len(data)} bytes exceeds the limit of {DEFINITION_LIMIT} bytes")
    if not data:
        raise DecodeError("data too short for u8: Expected 1, given 0")
    if data[0] == 0:
        raise DecodeError("module definitions of version 8 are not supported")
    if data[0] > 2:
        raise DecodeError(f"unknown tag {data[0]:#x} for sum type RawModuleDef")
    layout = V9_LAYOUT if data[0] == 1 else V10_LAYOUT
    definition, end = layout.read(data, 1)
    if end != len(data):
        raise DecodeError(f"unexpected data length: Expected {end}, given {len(data)}")
    assert isinstance(definition, RawModuleDefV9 | RawModuleDefV10)
    return definition


def encode_raw(definition: RawModuleDef) -> bytes:
    """The bytes a module describes itself with."""
    out = bytearray()
    if isinstance(definition, RawModuleDefV9):
        out.append(1)
        V9_LAYOUT.write(definition, out)
    else:
        out.append(2)
        V10_LAYOUT.write(definition, out)
    return bytes(out)
