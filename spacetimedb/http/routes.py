"""The table of routes: which paths there are, with which methods, and what happens before their handlers.

Paths match exactly, on the raw (percent-encoded) text: no redirects, no trailing slashes. A segment in `:name` matches
any non-empty segment, `*path` all that is left (and may be empty).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final

import msgspec

from . import backup_routes as backup
from . import dashboard_routes as dashboard
from . import database_routes as db
from . import mcp_routes as mcp
from . import publish_routes as publishing
from . import server_routes as server
from .exchange import Exchange
from .messages import Response
from .upgrade import Upgrade, upgrade

DEFAULT_BODY_LIMIT: Final = 2 * 1024 * 1024
PROGRAM_BODY_LIMIT: Final = 256 * 1024 * 1024
"""Longest program. The reference server has no limit here; a process that buffers a body needs one."""
HANDLER_BODY_LIMIT: Final = 64 * 1024 * 1024
"""Longest body of a request for a module's own handler; likewise."""

Handler = Callable[[Exchange], Awaitable[Response | Upgrade]]


class Auth(Enum):
    """What becomes of a presented token: see `Api`."""

    NONE = "not looked at"
    OPTIONAL = "must be valid if there is one"
    ANONYMOUS = "must be valid if there is one, else a new identity is minted"


class Route(msgspec.Struct, frozen=True):
    """`methods` None: every method goes to `any_method`. `resolves`: the database is looked up before anything else.

    `cors`: pages of other origins may read the answers.
    """

    pattern: tuple[str, ...]
    methods: dict[str, Handler] | None
    auth: Auth = Auth.NONE
    resolves: bool = False
    any_method: Handler | None = None
    body_limit: int = DEFAULT_BODY_LIMIT
    cors: bool = True

    @property
    def allow(self) -> str | None:
        """Value of the `allow` header; None where every method is allowed."""
        if self.methods is None:
            return None
        return ",".join("GET,HEAD" if name == "GET" else name for name in self.methods)

    def handler(self, method: str) -> Handler | None:
        if self.methods is None:
            return self.any_method
        return self.methods.get("GET" if method == "HEAD" else method)

    @property
    def shows_identity(self) -> bool:
        """Whether answers tell the caller's identity and token."""
        return self.auth is Auth.ANONYMOUS


def _route(
    path: str,
    methods: dict[str, Handler],
    auth: Auth = Auth.NONE,
    resolves: bool = False,
    body_limit: int = DEFAULT_BODY_LIMIT,
) -> Route:
    return Route(tuple(path.split("/")[1:]), methods, auth, resolves, None, body_limit)


def _database(path: str, methods: dict[str, Handler], resolves: bool = True, limit: int = DEFAULT_BODY_LIMIT) -> Route:
    return _route(f"/v1/database/:db{path}", methods, Auth.ANONYMOUS, resolves, limit)


def _dashboard(path: str, methods: dict[str, Handler]) -> Route:
    pattern = ("dashboard", "api", *path.split("/")[1:])
    return Route(pattern, methods, Auth.OPTIONAL, body_limit=dashboard.BODY_LIMIT, cors=False)


def _module_route(path: str) -> Route:
    pattern = ("v1", "database", ":db", *path.split("/")[1:])
    return Route(pattern, None, Auth.NONE, True, db.route, HANDLER_BODY_LIMIT)


_ROUTES: Final = (
    _route("/v1/ping", {"GET": server.ping}, Auth.OPTIONAL),
    _route("/v1/health", {"GET": server.health}),
    _route("/v1/metrics", {"GET": server.metrics}),
    _route("/v1/prometheus/sd_config", {"GET": server.service_discovery}),
    _route("/v1/energy/:identity", {"GET": server.energy, "POST": server.add_energy, "PUT": server.set_energy}),
    _route("/v1/identity", {"POST": server.create_identity}),
    _route("/v1/identity/public-key", {"GET": server.public_key}),
    _route("/v1/identity/websocket-token", {"POST": server.websocket_token}, Auth.OPTIONAL),
    _route("/v1/identity/:identity/verify", {"GET": server.verify_identity}, Auth.OPTIONAL),
    _route("/v1/identity/:identity/databases", {"GET": server.databases}),
    _route("/v1/database", {"POST": publishing.publish_unnamed}, Auth.ANONYMOUS, False, PROGRAM_BODY_LIMIT),
    _database(
        "", {"GET": db.info, "PUT": publishing.publish, "DELETE": db.delete}, resolves=False, limit=PROGRAM_BODY_LIMIT
    ),
    _database("/reset", {"PUT": publishing.reset}),
    _database("/pre_publish", {"POST": publishing.pre_publish}, limit=PROGRAM_BODY_LIMIT),
    _database("/names", {"GET": publishing.names, "POST": publishing.add_name, "PUT": publishing.set_names}),
    _database("/identity", {"GET": db.identity}, resolves=False),
    _database("/subscribe", {"GET": upgrade}, resolves=False),
    _database("/call/:function", {"POST": db.call}),
    _database("/schema", {"GET": db.schema}),
    _database("/logs", {"GET": db.logs}),
    _database("/sql", {"POST": db.sql}),
    _database("/unstable/timestamp", {"GET": db.timestamp}),
    _database("/lock", {"POST": db.lock}),
    _database("/unlock", {"POST": db.unlock}),
    _database("/mcp", {"POST": mcp.answer}, resolves=False),
    _route("/v1/mcp", {"POST": mcp.answer}, Auth.ANONYMOUS),
    _database("/snapshot", {"POST": db.snapshot}),
    _database("/backup", {"GET": backup.backup}),
    _database("/import/:table", {"POST": backup.import_rows}, limit=backup.PIECE_LIMIT),
    _route("/v1/restore", {"POST": backup.begin_restore}, Auth.ANONYMOUS),
    _route(
        "/v1/restore/:upload",
        {"PUT": backup.restore_piece, "POST": backup.restore, "DELETE": backup.abandon_restore},
        Auth.ANONYMOUS,
        False,
        backup.PIECE_LIMIT,
    ),
    _dashboard("", {"GET": dashboard.overview}),
    _dashboard("/token", {"POST": dashboard.token}),
    _dashboard("/metrics", {"GET": dashboard.metrics}),
    _dashboard("/loadtest", {"GET": dashboard.load_test, "POST": dashboard.report_load}),
    _module_route("/route"),
    _module_route("/route/*path"),
)


class Match(msgspec.Struct, frozen=True):
    """A route and the raw segments its parameters stand for."""

    route: Route
    parameters: dict[str, str]


def _by_length() -> dict[int, list[Route]]:
    """Routes without `*` by their number of segments."""
    table: dict[int, list[Route]] = {}
    for route in _ROUTES:
        if not route.pattern[-1].startswith("*"):
            table.setdefault(len(route.pattern), []).append(route)
    return table


_FIXED: Final = _by_length()
_OPEN: Final = [route for route in _ROUTES if route.pattern[-1].startswith("*")]


def find(path: str) -> Match | None:
    """The route of a raw path."""
    segments = path.split("/")
    if segments[0]:
        return None
    del segments[0]
    for route in _FIXED.get(len(segments), ()):
        parameters = _match(route.pattern, segments)
        if parameters is not None:
            return Match(route, parameters)
    for route in _OPEN:
        last = len(route.pattern) - 1
        if len(segments) > last:
            parameters = _match(route.pattern[:last], segments[:last])
            if parameters is not None:
                parameters[route.pattern[last][1:]] = "/".join(segments[last:])
                return Match(route, parameters)
    return None


def _match(pattern: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    parameters: dict[str, str] = {}
    for wanted, segment in zip(pattern, segments, strict=True):
        if wanted.startswith(":"):
            if not segment:
                return None
            parameters[wanted[1:]] = segment
        elif wanted != segment:
            return None
    return parameters


def body_limit(path: str) -> int:
    """Bytes of body to read for a raw path; a longer one is given up and `Request.body` is None."""
    match = find(path)
    return DEFAULT_BODY_LIMIT if match is None else match.route.body_limit
