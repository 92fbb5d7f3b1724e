"""What the HTTP routes need from the rest of the server.

The routes own everything that is HTTP: paths, methods, tokens, authorization, query strings, status codes, texts. A
`Backend` owns databases. Its methods raise `BackendError` for what a client is to be told; any other exception becomes
a 500 whose text says nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from enum import Enum
from typing import Literal, Protocol

import msgspec

from spacetimedb.auth.tokens import Claims
from spacetimedb.types.special import ConnectionId, Identity

from .messages import Headers


class BackendError(Exception):
    """An answer other than success; `text` reaches the client."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.text = text


class NameDenied(Exception):
    """`name` is claimed by somebody else."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class NameInUse(Exception):
    """`name` already leads to a database."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class DatabaseInfo(msgspec.Struct, frozen=True):
    """A database that exists. `initial_program` is the 32-byte hash of its first program (or of the last reset)."""

    identity: Identity
    owner: Identity
    initial_program: bytes
    host_type: Literal["Wasm", "Js"] = "Wasm"
    locked: bool = False


class PublishRequest(msgspec.Struct, frozen=True):
    """A program to be published under `identity`, by its owner or, if there is no database yet, by anybody.

    `name` is the address that was used, None for an identity or none at all. `identity` None: mint a new one.
    `break_clients` and `migration_token` (32 bytes) are the migration policy; `confirmation_timeout` in nanoseconds.
    """

    caller: Claims
    name: str | None
    identity: Identity | None
    program: bytes
    host_type: Literal["Wasm", "Js"]
    clear: bool
    break_clients: bool
    migration_token: bytes | None
    confirmation_timeout: int


class Published(msgspec.Struct, frozen=True):
    identity: Identity
    created: bool


class MigrationPlan(msgspec.Struct, frozen=True):
    """`reason` set: only a manual migration would do. Else `text` is the plan, `token` its 32-byte migration token."""

    reason: str | None
    text: str = ""
    break_clients: bool = False
    token: bytes = bytes(32)
    major_version_upgrade: bool = False


class CallKind(Enum):
    """How a call ended."""

    COMMITTED = "committed"
    FAILED = "reducer returned an error"
    PANICKED = "reducer panicked"
    OUT_OF_ENERGY = "reducer out of energy"
    RETURNED = "procedure returned"
    PROCEDURE_PANICKED = "procedure panicked"
    PROCEDURE_OUT_OF_ENERGY = "procedure out of energy"
    BAD_ARGUMENTS = "bad arguments"
    LIFECYCLE = "lifecycle reducer"
    NOT_FOUND = "no such function"
    MODULE_GONE = "module gone"
    CONNECT_REFUSED = "client_connected returned an error"
    CONNECT_PANICKED = "client_connected panicked"
    CONNECT_OUT_OF_ENERGY = "client_connected out of energy"


class CallOutcome(msgspec.Struct, frozen=True):
    """How a call ended.

    `text`: the error the reducer or client_connected returned (FAILED, CONNECT_REFUSED), JSON of the value (RETURNED),
    the whole message (BAD_ARGUMENTS), `Init`, `OnConnect` or `OnDisconnect` (LIFECYCLE), what is to be told of a trap
    (PROCEDURE_PANICKED); else unused.
    """

    kind: CallKind
    text: str = ""
    duration_micros: int = 0
    energy: int = 0


class SqlOutcome(msgspec.Struct, frozen=True):
    """Result of one statement: `schema` (JSON of the product type) and `rows` (JSON array of positional rows)."""

    schema: str
    rows: str
    duration_micros: int
    rows_inserted: int = 0
    rows_deleted: int = 0
    rows_updated: int = 0


class BackupFile(msgspec.Struct):
    """A backup that is ready: what is in it, its length, and its bytes (to be closed by whoever takes it)."""

    transactions: int
    rows: int
    length: int
    content: AsyncIterator[bytes]


class Restored(msgspec.Struct, frozen=True):
    """A database that came from a backup."""

    identity: Identity
    owner: Identity
    transactions: int
    rows: int


class HandlerRequest(msgspec.Struct, frozen=True):
    """A request for a module's own HTTP handler; `path` is what follows `/route`, decoded; `uri` is absolute."""

    method: str
    path: str
    uri: str
    version: str
    headers: Headers
    body: bytes


class HandlerResponse(msgspec.Struct, frozen=True):
    status: int
    headers: Headers
    body: bytes


class Backend(Protocol):
    """The databases. `caller` is who asks; identities and names are parsed; owners are already checked."""

    # Names and databases

    async def resolve_name(self, name: str) -> Identity | None:
        """What a name leads to, whether or not a database is there."""

    async def database(self, identity: Identity) -> DatabaseInfo | None: ...

    async def databases_of(self, owner: Identity) -> list[Identity]:
        """In order of creation."""

    async def names(self, identity: Identity) -> list[str]: ...

    async def claim_name(self, caller: Claims, name: str) -> Identity:
        """Before a first publish: the identity behind a name that has no database, new if the name is unknown.

        Raises NameDenied if the name is claimed by somebody else.
        """

    async def add_name(self, caller: Claims, database: DatabaseInfo, name: str) -> None:
        """Raises NameDenied, NameInUse."""

    async def set_names(self, caller: Claims, database: DatabaseInfo, names: list[str]) -> None:
        """Replace all names. Raises NameDenied, NameInUse (in use also by this very database)."""

    # Control

    async def publish(self, request: PublishRequest) -> Published:
        """Create, update or (with `clear`, if it exists) reset. Publishes of one identity run one after the other."""

    async def pre_publish(
        self, caller: Claims, database: DatabaseInfo, program: bytes, host_type: Literal["Wasm", "Js"], colour: bool
    ) -> MigrationPlan: ...

    async def reset(
        self, caller: Claims, database: DatabaseInfo, program: bytes | None, host_type: Literal["Wasm", "Js"]
    ) -> None:
        """Delete the data and start again, with the stored initial program if none is given."""

    async def delete(self, caller: Claims, database: DatabaseInfo) -> None: ...

    async def set_locked(self, database: DatabaseInfo, locked: bool) -> None: ...

    async def snapshot(self, database: DatabaseInfo) -> dict[str, float]:
        """Takes a snapshot now: `next_offset`, `rows`, `bytes`, `seconds`. Raises BackendError."""
        ...

    async def backup(self, database: DatabaseInfo) -> BackupFile:
        """Everything that is durable now. Raises BackendError."""
        ...

    async def begin_restore(self, caller: Claims, name: str, overwrite: bool, keep_owner: bool) -> str:
        """A new upload for a database of that name. Raises BackendError 400, 403, 409."""
        ...

    async def restore_piece(self, caller: Claims, upload: str, offset: int, data: bytes) -> int:
        """Adds a piece of the backup; how long it is now. Raises BackendError 404, 409, 507."""
        ...

    async def restore(self, caller: Claims, upload: str) -> Restored:
        """Makes the database; the upload is gone afterwards. Raises BackendError, NameDenied."""
        ...

    async def abandon_restore(self, caller: Claims, upload: str) -> None:
        """Forgets the upload. Raises BackendError 404."""
        ...

    async def import_rows(
        self, caller: Claims, connection_id: ConnectionId, database: DatabaseInfo, table: str, rows: bytes
    ) -> int:
        """Inserts rows given as BSATN in one transaction; how many were new. Raises BackendError 400."""
        ...

    async def energy(self, identity: Identity, credit: int) -> int:
        """Balance of an identity after adding `credit`."""

    # Work in a database

    async def launch(self, database: DatabaseInfo) -> None:
        """Make sure the module runs. Raises BackendError if it cannot be started."""

    async def call(
        self,
        caller: Claims,
        connection_id: ConnectionId,
        database: DatabaseInfo,
        function: str,
        arguments: str,
        *,
        procedures: bool = True,
    ) -> CallOutcome:
        """client_connected, the reducer or procedure, client_disconnected. `arguments` is the JSON text of the body.
        Without `procedures` only reducers are known.

        Runs to its end even if the request is cancelled.
        """

    async def sql(
        self, caller: Claims, connection_id: ConnectionId, database: DatabaseInfo, text: str, confirmed: bool
    ) -> SqlOutcome:
        """One statement, between client_connected and client_disconnected. Raises BackendError (400, 403)."""

    async def schema(self, database: DatabaseInfo, version: Literal["9", "10"]) -> str:
        """JSON text of the module definition."""

    async def logs(self, database: DatabaseInfo, num_lines: int | None, follow: bool) -> AsyncIterator[bytes]:
        """Log records as lines of JSON, in pieces of any size; with `follow` it ends only with the database."""

    async def route(self, database: DatabaseInfo, request: HandlerRequest) -> HandlerResponse | None:
        """Run the handler for this path and method; None if there is none."""

    # The server

    def sent(self, database: Identity, size: int) -> None:
        """Count bytes of an answer, or of a piece of one, on a route of the database."""

    async def metrics(
        self,
        databases: Collection[Identity] | None,
        queries: Collection[Identity] | None,
        names: Collection[str] | None = None,
    ) -> bytes:
        """Prometheus text: figures of `databases` (None: of all, and of the server), with the texts of the queries
        that cost most of `queries` (None: of all); only the metrics `names` (None: all)."""

    def dashboard_access(self) -> Literal["local", "token", "off"]:
        """Who may use the dashboard: this machine and owners, owners only, nobody."""

    async def all_databases(self) -> list[tuple[DatabaseInfo, list[str]]]:
        """With their names, in order of creation."""

    async def report_load(self, figures: bytes) -> None:
        """One more point of a running load test: a JSON object, see `dashboard_routes`."""

    async def load_test(self) -> list[bytes]:
        """The points of the newest load test, oldest first."""

    def static(self, path: str) -> tuple[str, bytes] | None:
        """(content type, body) of a page outside `/v1`, None if there is none. Must not block."""
