"""Between h11's events and our requests and responses.

    head = connection.next_event()                          # h11.Request
    limit = routes.body_limit(head_path(head))              # read at most so many bytes of body
    answer = await api.handle(request_of(head, body))
    connection.send(response_head(answer))  # then body_events, then h11.EndOfMessage()

No I/O here: whoever owns the connection sends the bytes.
"""

from __future__ import annotations

import h11

from .messages import Headers, Request, Response


def head_path(head: h11.Request) -> str:
    """The raw path of a request head."""
    return _target(head)[0]


def _target(head: h11.Request) -> tuple[str, str]:
    """(raw path, raw query). An absolute URI, as proxies get them, counts by its path."""
    target = head.target.decode("latin-1")
    if not target.startswith("/"):
        _, separator, rest = target.partition("://")
        target = "/" + rest.partition("/")[2] if separator else target
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


def request_of(head: h11.Request, body: bytes | None, peer: str | None = None) -> Request:
    """A request; `body` None if it was longer than its route allows. `peer`: address of the client."""
    path, query = _target(head)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
    return Request(head.method.decode("latin-1"), path, query, headers, body, head.http_version.decode("latin-1"), peer)


def response_head(response: Response) -> h11.Response:
    """The head of an answer, its framing headers included."""
    headers = encode_headers(response.headers)
    if _is_chunked(response):
        headers.append((b"transfer-encoding", b"chunked"))
    elif isinstance(response.body, bytes) and response.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(response.body)))
    return h11.Response(status_code=response.status, headers=headers, reason=response.reason.encode())


def body_events(response: Response, method: str) -> list[h11.Data]:
    """The body of an answer that is no stream, as events (none for HEAD)."""
    body = response.body
    if method == "HEAD" or not isinstance(body, bytes) or not body:
        return []
    return [h11.Data(data=body)]


def encode_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers as bytes; characters beyond Latin-1 and line breaks, which no header can hold, become `?`."""
    return [(_clean(name), _clean(value)) for name, value in headers]


def _clean(text: str) -> bytes:
    raw = text.encode("latin-1", "replace")
    if b"\r" in raw or b"\n" in raw or b"\0" in raw:
        raw = raw.replace(b"\r", b"?").replace(b"\n", b"?").replace(b"\0", b"?")
    return raw.strip(b" \t")


def _is_chunked(response: Response) -> bool:
    return response.chunked or not isinstance(response.body, bytes)
