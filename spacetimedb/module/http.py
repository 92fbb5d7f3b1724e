"""HTTP as modules see it: requests to their handlers, and requests that procedures make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

import msgspec

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


class Request(msgspec.Struct, frozen=True):
    """A request to a handler, read to its end.

    `path` is what follows the database's route prefix, `query` the text after `?` (empty without one), `uri` the whole
    address as the client wrote it. Header names are lower-case, in order of arrival, repeated ones repeated.
    """

    method: str
    uri: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str, otherwise: str = "") -> str:
        """The first header of this name."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key == wanted), otherwise)


class Response:
    """An answer. Text is sent as UTF-8. `headers`: a mapping, or pairs where a name occurs twice."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: str | bytes = b"", status: int = 200, headers: Headers = ()) -> None:
        self.body = body.encode() if isinstance(body, str) else bytes(body)
        self.status = status
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        self.headers: tuple[tuple[str, str], ...] = tuple((str(k), str(v)) for k, v in pairs)

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"


class HttpResponse(msgspec.Struct, frozen=True):
    """What a procedure's request was answered with. Header names are lower-case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8, what is no UTF-8 replaced."""
        return self.body.decode(errors="replace")


class HttpClient(Protocol):
    """`ctx.http` of procedures. Every method raises HttpError, and WouldBlock inside a transaction.

    `timeout` is in seconds, covers the whole exchange, and is cut to 180.
    """

    def get(self, url: str, *, headers: Headers = (), timeout: float = 30.0) -> HttpResponse: ...

    def post(
        self, url: str, body: str | bytes = b"", *, headers: Headers = (), timeout: float = 30.0
    ) -> HttpResponse: ...

    def request(
        self, method: str, url: str, body: str | bytes = b"", *, headers: Headers = (), timeout: float = 30.0
    ) -> HttpResponse: ...
