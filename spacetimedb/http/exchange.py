"""One request on its way through the routes, and the checks several routes share."""

from __future__ import annotations

from typing import Final

import msgspec

from spacetimedb.auth.publishers import PUBLISHER_CLAIM, Publishers
from spacetimedb.auth.tokens import DASHBOARD_ISSUER, Claims, TokenError, Tokens, bearer_token
from spacetimedb.types.special import Identity

from .backend import Backend, DatabaseInfo
from .messages import Headers, HttpError, Request
from .query import decode_pairs, name_or_identity, path_parameter

AUTHORIZATION_REQUIRED: Final = "Authorization required"
NO_SUCH_DATABASE: Final = "No such database."
LOCKED_DELETE: Final = "Database is locked and cannot be deleted. Run `spacetime unlock` first."
MAY_NOT_PUBLISH: Final = (
    "{0} may not publish on this server. Publish as the user that runs it{1}, "
    "or have it started with `spacetime start --publishers {0}` (`--publishers anyone` lets everybody)."
)
OR_LOG_IN_THERE: Final = ", or log in anew on its machine (`spacetime login --server-issued-login SERVER`)"
ANONYMOUS_MAY_NOT_PUBLISH: Final = (
    "Publishing on this server takes an identity: log in (`spacetime login --server-issued-login SERVER`) "
    "and publish without --anonymous."
)
LOCKED_RESET: Final = "Database is locked and cannot be reset with --delete-data. Run `spacetime unlock` first."


class Exchange(msgspec.Struct):
    """A request and what is known about it so far.

    `parameters`: raw path segments by name. `claims`: who asks, set after authentication. `resolved`: the database of
    the path, on the routes that look it up first; `looked_up` says that this was tried.
    """

    request: Request
    backend: Backend
    tokens: Tokens
    publishers: Publishers
    parameters: dict[str, str]
    claims: Claims | None = None
    resolved: DatabaseInfo | None = None
    looked_up: bool = False

    @property
    def caller(self) -> Claims:
        """Who asks. Raises HttpError 401 if nobody said."""
        if self.claims is None:
            raise HttpError(401, AUTHORIZATION_REQUIRED)
        return self.claims

    @property
    def database(self) -> DatabaseInfo:
        if self.resolved is None:
            raise AssertionError("the route does not resolve its database")
        return self.resolved

    def address(self) -> str | Identity:
        """The name or identity in the path. Raises HttpError 400."""
        address: str | Identity = path_parameter(self.parameters["db"], name_or_identity)
        return address

    async def look_up(self) -> DatabaseInfo:
        """Find the database of the path. Raises HttpError 400, 404."""
        address = self.address()
        self.looked_up = True
        self.resolved = await resolve_database(self.backend, address)
        return self.resolved

    def identity_headers(self) -> Headers:
        """Who the caller is, for the answers of database routes; empty before authentication."""
        if self.claims is None:
            return []
        return [
            ("spacetime-identity", self.claims.identity.hex()),
            ("spacetime-identity-token", self.claims.token),
        ]

    def require_publisher(self) -> None:
        """Raises HttpError 401, 403 unless the caller may give this server programs to run. The dashboard, which acts
        as an owner without being it, may not."""
        caller = self.caller
        is_itself = caller.issuer != DASHBOARD_ISSUER or self.publishers.anyone
        if not (is_itself and self.publishers.allow(caller.identity, caller.extra.get(PUBLISHER_CLAIM))):
            if presented_token(self.request) is None:
                raise HttpError(403, ANONYMOUS_MAY_NOT_PUBLISH)
            where = OR_LOG_IN_THERE if self.publishers.local else ""
            raise HttpError(403, MAY_NOT_PUBLISH.format(caller.identity.hex(), where))

    def require_owner(self, database: DatabaseInfo, action: str) -> Claims:
        """The caller. Raises HttpError 403 unless it owns the database."""
        caller = self.caller
        if caller.identity != database.owner:
            raise HttpError(
                403,
                f"{caller.identity.hex()} is not authorized to perform action on database "
                f"{database.identity.hex()}: {action}",
            )
        return caller


def presented_token(request: Request) -> str | None:
    """The token of a request: `Authorization: Bearer`, else `?token=`. Raises TokenError 400 for a malformed header."""
    header = request.header("authorization")
    if header is not None:
        return bearer_token(header)
    if "token=" in request.query:
        for name, value in decode_pairs(request.query):
            if name == "token":
                return value
    return None


async def authenticate(exchange: Exchange, mint: bool) -> None:
    """Set `claims` from the presented token, or (with `mint`) from a new identity. Raises HttpError 400, 401."""
    try:
        token = presented_token(exchange.request)
        if token is not None:
            exchange.claims = await exchange.tokens.verify(token)
        elif mint:
            exchange.claims = exchange.tokens.mint()
    except TokenError as error:
        raise HttpError(error.status, error.text) from None


async def resolve_identity(backend: Backend, address: str | Identity) -> Identity:
    """The identity an address leads to. Raises HttpError 404 for an unknown name."""
    if isinstance(address, Identity):
        return address
    identity = await backend.resolve_name(address)
    if identity is None:
        raise HttpError(404, f"`{address}` not found")
    return identity


async def resolve_database(backend: Backend, address: str | Identity) -> DatabaseInfo:
    """The database at an address. Raises HttpError 404."""
    database = await backend.database(await resolve_identity(backend, address))
    if database is None:
        raise HttpError(404, NO_SUCH_DATABASE)
    return database
