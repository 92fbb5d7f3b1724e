"""What starting databases and asking the supervisor raises."""

from __future__ import annotations


class ServerError(Exception):
    """The server cannot start; the text says why and what to do."""


class DatabaseFailed(Exception):
    """The database could not be started or updated; the text is for clients, too. `status`: of the answer over HTTP, if
    it is another than that of a refusal."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class ControlError(Exception):
    """The supervisor refuses a request; the text is for clients."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
