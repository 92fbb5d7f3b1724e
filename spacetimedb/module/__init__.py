"""What a module's author imports: tables, functions, contexts, errors. `import spacetimedb` gives the same names."""

from spacetimedb.types.special import (
    ConnectionId,
    Identity,
    Interval,
    ScheduleAt,
    TimeDuration,
    Timestamp,
    Uuid,
)
from spacetimedb.types.special import Time as At

from .columns import Col, DirectIndex, HashIndex, Index, Pk, Unique, auto_inc, btree, default, hash_index
from .context import (
    AnonymousViewContext,
    Db,
    HttpContext,
    ProcedureContext,
    ReducerContext,
    ViewContext,
)
from .errors import (
    BudgetExceeded,
    HttpError,
    ModuleError,
    NoSuchRow,
    ReducerError,
    UniqueViolation,
    WouldBlock,
)
from .http import Request, Response
from .module import Module
from .query import Query, select
from .rows import Result, Row, Schedule, Struct, Sum, Unit, Variant, after, at, every, replace
from .scalars import f32, f64, i8, i16, i32, i64, i128, i256, u8, u16, u32, u64, u128, u256
from .schema_class import Schema, table

__all__ = [
    "AnonymousViewContext",
    "At",
    "BudgetExceeded",
    "Col",
    "ConnectionId",
    "Db",
    "DirectIndex",
    "HashIndex",
    "HttpContext",
    "HttpError",
    "Identity",
    "Index",
    "Interval",
    "Module",
    "ModuleError",
    "NoSuchRow",
    "Pk",
    "ProcedureContext",
    "Query",
    "ReducerContext",
    "ReducerError",
    "Request",
    "Response",
    "Result",
    "Row",
    "Schedule",
    "ScheduleAt",
    "Schema",
    "Struct",
    "Sum",
    "TimeDuration",
    "Timestamp",
    "Unique",
    "UniqueViolation",
    "Unit",
    "Uuid",
    "Variant",
    "ViewContext",
    "WouldBlock",
    "after",
    "at",
    "auto_inc",
    "btree",
    "default",
    "every",
    "f32",
    "f64",
    "hash_index",
    "i8",
    "i16",
    "i32",
    "i64",
    "i128",
    "i256",
    "replace",
    "select",
    "table",
    "u8",
    "u16",
    "u32",
    "u64",
    "u128",
    "u256",
]
