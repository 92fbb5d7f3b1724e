"""From a request to its answer: what holds for all routes.

Order: path (404), preflight (OPTIONS), token (400, 401), database of the path where the route resolves it (400, 404),
method (405), handler. Below /v1 every answer of a known path carries the CORS headers, so a browser may read it;
answers of database routes tell the caller's identity and token, once the token is accepted.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final
from zlib import crc32

from spacetimedb.auth.publishers import Publishers
from spacetimedb.auth.tokens import Tokens
from spacetimedb.types.special import Identity

from .backend import Backend, BackendError
from .exchange import Exchange, authenticate
from .messages import Headers, HttpError, Request, Response, empty_response, text_response
from .routes import Auth, Route, find
from .upgrade import Upgrade

CORS: Final[Headers] = [
    ("access-control-allow-origin", "*"),
    ("vary", "origin, access-control-request-method, access-control-request-headers"),
]
PREFLIGHT: Final[Headers] = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "*"),
    ("access-control-allow-headers", "authorization,accept,content-type"),
    ("vary", "origin, access-control-request-method, access-control-request-headers"),
]
DASHBOARD_PAGE: Final[Headers] = [
    # No page of another site may frame it, and it runs nothing but its own scripts.
    ("cache-control", "no-cache"),
    ("content-security-policy", "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
     "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
]  # fmt: skip
INTERNAL_ERROR: Final = "Internal server error"
_log: Final = logging.getLogger(__name__)


class Api:
    """All routes, over one backend. Handles any number of requests at a time."""

    def __init__(self, backend: Backend, tokens: Tokens, publishers: Publishers) -> None:
        self.backend = backend
        self.tokens = tokens
        self.publishers = publishers

    async def handle(self, request: Request) -> Response | Upgrade:
        """Answer a request, or say that it becomes a WebSocket. Never raises an Exception.

        The answer to a HEAD request keeps its body, so that its length can be told; it is not to be sent.
        """
        match = find(request.path)
        if match is None:
            return self._outside(request)
        route = match.route
        if request.method == "OPTIONS" and route.cors:
            response = empty_response()
            response.headers.extend(PREFLIGHT)
            if route.allow is not None:
                response.headers.append(("allow", route.allow))
            return response
        exchange = Exchange(request, self.backend, self.tokens, self.publishers, match.parameters)
        answer = await self._answer(exchange, route)
        if route.allow is not None and route.handler(request.method) is None:
            answer.headers.append(("allow", route.allow))
        if route.shows_identity:
            answer.headers.extend(exchange.identity_headers())
        if route.cors:
            answer.headers.extend(CORS)
        if isinstance(answer, Response):
            if exchange.looked_up and answer.body != b"":
                answer.chunked = True
            if request.method == "HEAD":
                await _drop_stream(answer)
            if exchange.resolved is not None and route.pattern[-1] != "mcp":
                self._count(answer, exchange.resolved.identity)
        return answer

    def _count(self, answer: Response, database: Identity) -> None:
        """Counts the bytes of an answer: head and body now, a streamed body as it is sent."""
        size = sum(len(name) + len(value) for name, value in answer.headers)
        if isinstance(answer.body, bytes):
            size += len(answer.body)
        else:
            answer.body = self._counted(answer.body, database)
        self.backend.sent(database, size)

    async def _counted(self, pieces: AsyncIterator[bytes], database: Identity) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in pieces:
                self.backend.sent(database, len(piece))
                yield piece
        finally:
            await close_stream(pieces)

    async def _answer(self, exchange: Exchange, route: Route) -> Response | Upgrade:
        try:
            if route.auth is not Auth.NONE:
                await authenticate(exchange, mint=route.auth is Auth.ANONYMOUS)
            if route.resolves:
                await exchange.look_up()
            handler = route.handler(exchange.request.method)
            if handler is None:
                return empty_response(405)
            return await handler(exchange)
        except HttpError as error:
            return error.response
        except BackendError as error:
            return text_response(error.status, error.text) if error.text else empty_response(error.status)
        except Exception:
            _log.exception("%s %s failed", exchange.request.method, exchange.request.path)
            return text_response(500, INTERNAL_ERROR)

    def _outside(self, request: Request) -> Response:
        """A path that is no route: a static page, or nothing."""
        if request.method in ("GET", "HEAD") and not request.path.startswith("/v1/"):
            page = self.backend.static(request.path)
            if page is not None:
                content_type, body = page
                guard = DASHBOARD_PAGE if request.path.startswith("/dashboard") else []
                tag = f'"{crc32(body):08x}-{len(body)}"'
                if tag in request.header_values("if-none-match"):
                    return Response(304, [("etag", tag), *guard])
                return Response(200, [("content-type", content_type), ("etag", tag), *guard], body)
        return empty_response(404)


async def _drop_stream(answer: Response) -> None:
    """Close a streamed body that nobody will read."""
    body = answer.body
    if not isinstance(body, bytes):
        answer.body = b""
        await close_stream(body)


async def close_stream(body: AsyncIterator[bytes]) -> None:
    """Close the body of a response that is not read to its end."""
    close = getattr(body, "aclose", None)
    if close is not None:
        await close()
