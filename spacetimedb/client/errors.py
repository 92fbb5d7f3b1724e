"""What a client raises. Texts of the server come word for word."""

from __future__ import annotations

from spacetimedb.module.errors import ReducerError as ModuleReducerError


class ClientError(Exception):
    """Base of everything here."""


class ConnectError(ClientError):
    """No connection came to be. `status`: the HTTP status of the server's refusal, None if it never answered."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class Disconnected(ClientError):
    """There is no connection (any more). Whether a call that was under way has been executed is not known."""


class ReducerError(ClientError, ModuleReducerError):
    """The reducer refused: the text that the module raised as its own `ReducerError`."""


class InternalError(ClientError):
    """The server could not run the reducer or procedure: unknown name, wrong arguments, or a failure inside it."""


class SubscriptionError(ClientError):
    """The server refused or ended a subscription."""


class QueryError(ClientError):
    """The server refused a one-off query."""


class ChangesLost(ClientError):
    """A stream of changes was not read fast enough."""


class ProtocolError(ClientError):
    """The server sent what cannot be understood, often because the client knows another version of the module."""
