"""Algebraic types, the values they have in Python, and the codecs between values, BSATN and JSON."""

from spacetimedb.types.errors import DecodeError, RecursiveType
from spacetimedb.types.special import (
    ConnectionId,
    Identity,
    Interval,
    ScheduleAt,
    Time,
    TimeDuration,
    Timestamp,
    Uuid,
)

__all__ = [
    "ConnectionId",
    "DecodeError",
    "Identity",
    "Interval",
    "RecursiveType",
    "ScheduleAt",
    "Time",
    "TimeDuration",
    "Timestamp",
    "Uuid",
]
