"""The Python client: one protocol core without I/O, and three faces on it.

    spacetimedb.client.trio        async, for trio
    spacetimedb.client.asyncio     async, for asyncio
    spacetimedb.client.blocking    for scripts, notebooks and game loops

Each has `connect(url, database, ...)`. What they share is here: errors, events, `Schema`, `Backoff`.
"""

from .errors import (
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
from .schema import Schema, schema_of

__all__ = [
    "Backoff",
    "ClientError",
    "ConnectError",
    "Disconnected",
    "Event",
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
    "schema_of",
]
