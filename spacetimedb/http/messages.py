"""Requests and responses, free of any HTTP library.

A `Request` is complete: head and body. `body` is None if it was longer than the route allows (`routes.body_limit`), in
which case the reader stopped at the limit. Header names are lower case; order and duplicates are kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

import msgspec

Headers = list[tuple[str, str]]

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
PEM: Final = "application/pem-certificate-chain"

BODY_TOO_LONG: Final = "Failed to buffer the request body: length limit exceeded"
NOT_UTF8: Final = "Request body didn't contain valid UTF-8"


class Request(msgspec.Struct):
    """`path` and `query` are raw (percent-encoded), the query without its `?`; `version` is "1.0" or "1.1".

    `peer`: IP address of the other end of the connection, as text; None if it is not known.
    """

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes | None
    version: str = "1.1"
    peer: str | None = None

    def header(self, name: str) -> str | None:
        """The first header of this (lower-case) name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def header_values(self, name: str) -> list[str]:
        """The elements of a comma-separated header, all its lines together, trimmed."""
        lines = [value for key, value in self.headers if key == name]
        return [element for line in lines for part in line.split(",") if (element := part.strip())]

    def read_body(self) -> bytes:
        """The body. Raises HttpError 413 if it was too long."""
        if self.body is None:
            raise HttpError(413, BODY_TOO_LONG)
        return self.body


class Response(msgspec.Struct):
    """`body` is the whole body, or a stream of its pieces (then sent chunked, like everything with `chunked`).

    A stream is closed (`aclose`) by whoever sends it, also when the client goes away.
    """

    status: int
    headers: Headers
    body: bytes | AsyncIterator[bytes] = b""
    chunked: bool = False

    @property
    def reason(self) -> str:
        return reason_phrase(self.status)

    def header(self, name: str) -> str | None:
        """The first header of this (lower-case) name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class HttpError(Exception):
    """Ends the handling of a request with this answer; the text is meant for the client."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(f"{status} {text}")
        self.response = text_response(status, text) if text else empty_response(status)


class JsonError(HttpError):
    """The same with a JSON body."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.response = json_response(body, status)


def reason_phrase(status: int) -> str:
    """The standard phrase; `<none>` where there is none (530)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "<none>"


def empty_response(status: int = 200) -> Response:
    return Response(status, [])


def text_response(status: int, text: str) -> Response:
    """`text` as UTF-8; lone surrogates become `?`."""
    return Response(status, [("content-type", TEXT)], text.encode("utf-8", "replace"))


def json_response(body: object, status: int = 200) -> Response:
    return Response(status, [("content-type", JSON)], msgspec.json.encode(body))


def json_text_response(text: str, status: int = 200) -> Response:
    """A body that is JSON text already."""
    return Response(status, [("content-type", JSON)], text.encode("utf-8", "replace"))


def decode_utf8(body: bytes, prefix: str = "", with_reason: bool = True) -> str:
    """The text of a body. Raises HttpError 400 in the words of the reference server."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        if not with_reason:
            raise HttpError(400, NOT_UTF8) from None
        if error.reason == "unexpected end of data":
            reason = f"incomplete utf-8 byte sequence from index {error.start}"
        else:
            reason = f"invalid utf-8 sequence of {error.end - error.start} bytes from index {error.start}"
        raise HttpError(400, f"{prefix}{NOT_UTF8}: {reason}") from None
