"""Why rows change: the first argument of a table's callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from spacetimedb.types.special import Timestamp

if TYPE_CHECKING:
    from .core import Subscription


class Reducer(msgspec.Struct, frozen=True, gc=False):
    """A reducer that this connection called. `arguments` as they were given, by position."""

    name: str
    arguments: tuple[Any, ...]
    timestamp: Timestamp


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """Anything else that happened in the database: what others called, schedules, procedures."""


class SubscribeApplied(msgspec.Struct, frozen=True):
    """The rows of a new subscription."""

    subscription: Subscription


class UnsubscribeApplied(msgspec.Struct, frozen=True):
    """The rows of a subscription that ended."""

    subscription: Subscription


class Reconnected(msgspec.Struct, frozen=True, gc=False):
    """What had changed while there was no connection."""


Event = Reducer | Transaction | SubscribeApplied | UnsubscribeApplied | Reconnected

TRANSACTION = Transaction()
RECONNECTED = Reconnected()
