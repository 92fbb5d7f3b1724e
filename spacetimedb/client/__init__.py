"""The Python client: one protocol core without I/O, and three faces on it.

    spacetimedb.client.trio        async, for trio
    spacetimedb.client.asyncio     async, for asyncio
    spacetimedb.client.blocking    for scripts, notebooks and game loops

Each has `connect(url, database, ...)`. What they share is here: errors, events, options and what they are made of.
"""

from .changes import Change, Delete, Insert, Update
from .errors import (
    ChangesLost,
    ClientError,
    ConnectError,
    Disconnected,
    InternalError,
    ProtocolError,
    QueryError,
    ReducerError,
    SubscriptionError,
)
from .events import Event, Reconnected, Reducer, SubscribeApplied, Transaction, UnsubscribeApplied
from .face import Backoff
from .options import ConnectOptions
from .schema import Schema, schema_of
from .tokens import FileTokenStore

__all__ = [
    "Backoff",
    "Change",
    "ChangesLost",
    "ClientError",
    "ConnectError",
    "ConnectOptions",
    "Delete",
    "Disconnected",
    "Event",
    "FileTokenStore",
    "Insert",
    "InternalError",
    "ProtocolError",
    "QueryError",
    "Reconnected",
    "Reducer",
    "ReducerError",
    "Schema",
    "SubscribeApplied",
    "SubscriptionError",
    "Transaction",
    "UnsubscribeApplied",
    "Update",
    "schema_of",
]
