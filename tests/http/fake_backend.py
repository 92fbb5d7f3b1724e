"""A backend in memory: names, owners and locks as the rules want them, and canned answers for what is run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection
from typing import Literal

import msgspec

from spacetimedb.auth.tokens import Claims
from spacetimedb.http.backend import (
    BackendError,
    BackupFile,
    CallKind,
    CallOutcome,
    DatabaseInfo,
    HandlerRequest,
    HandlerResponse,
    MigrationPlan,
    NameDenied,
    NameInUse,
    Published,
    PublishRequest,
    Restored,
    SqlOutcome,
)
from spacetimedb.http.messages import Headers
from spacetimedb.types.special import ConnectionId, Identity


class FakeBackend:
    """`calls` notes what reached it; `outcomes` are the answers to calls by function name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Identity] = {}
        self.claims: dict[str, Identity] = {}
        self.databases: dict[Identity, DatabaseInfo] = {}
        self.balances: dict[Identity, int] = {}
        self.calls: list[tuple[object, ...]] = []
        self.outcomes: dict[str, CallOutcome] = {}
        self.plan = MigrationPlan(None, "plan", True, bytes(31) + b"\x0a")
        self.log_closed = False
        self.dashboard: Literal["local", "token", "off"] = "local"
        self.load_points: list[bytes] = []
        self.metrics_text = b"up 1\n"
        self.sent_bytes = 0
        self.handler_headers: Headers = []

    def dashboard_access(self) -> Literal["local", "token", "off"]:
        return self.dashboard

    async def all_databases(self) -> list[tuple[DatabaseInfo, list[str]]]:
        return [(database, await self.names(database.identity)) for database in self.databases.values()]

    async def report_load(self, figures: bytes) -> None:
        self.load_points.append(figures)

    async def load_test(self) -> list[bytes]:
        return self.load_points

    async def resolve_name(self, name: str) -> Identity | None:
        return self.by_name.get(name)

    async def database(self, identity: Identity) -> DatabaseInfo | None:
        return self.databases.get(identity)

    async def databases_of(self, owner: Identity) -> list[Identity]:
        return [info.identity for info in self.databases.values() if info.owner == owner]

    async def names(self, identity: Identity) -> list[str]:
        return [name for name, found in self.by_name.items() if found == identity]

    def _claim(self, caller: Claims, name: str) -> None:
        if self.claims.setdefault(name, caller.identity) != caller.identity:
            raise NameDenied(name)

    async def claim_name(self, caller: Claims, name: str) -> Identity:
        self._claim(caller, name)
        return self.by_name.setdefault(name, Identity(os.urandom(30) + b"\x00\xc2"))

    async def add_name(self, caller: Claims, database: DatabaseInfo, name: str) -> None:
        self._claim(caller, name)
        if name in self.by_name:
            raise NameInUse(name)
        self.by_name[name] = database.identity

    async def set_names(self, caller: Claims, database: DatabaseInfo, names: list[str]) -> None:
        for name in names:
            if name in self.by_name:
                raise NameInUse(name)
            self._claim(caller, name)
        for name in await self.names(database.identity):
            del self.by_name[name]
        self.by_name.update(dict.fromkeys(names, database.identity))

    async def publish(self, request: PublishRequest) -> Published:
        self.calls.append(("publish", request))
        if request.program == b"bad":
            raise BackendError(500, "not a module")
        identity = request.identity or Identity(os.urandom(30) + b"\x00\xc2")
        if identity in self.databases:
            return Published(identity, False)
        self.databases[identity] = DatabaseInfo(identity, request.caller.identity, bytes(range(32)))
        return Published(identity, True)

    async def pre_publish(
        self, caller: Claims, database: DatabaseInfo, program: bytes, host_type: Literal["Wasm", "Js"], colour: bool
    ) -> MigrationPlan:
        self.calls.append(("pre_publish", program, host_type, colour))
        return self.plan

    async def reset(
        self, caller: Claims, database: DatabaseInfo, program: bytes | None, host_type: Literal["Wasm", "Js"]
    ) -> None:
        self.calls.append(("reset", program))

    async def delete(self, caller: Claims, database: DatabaseInfo) -> None:
        del self.databases[database.identity]

    async def set_locked(self, database: DatabaseInfo, locked: bool) -> None:
        self.databases[database.identity] = msgspec.structs.replace(database, locked=locked)

    async def snapshot(self, database: DatabaseInfo) -> dict[str, float]:
        return {"next_offset": 7, "rows": 3, "bytes": 100, "seconds": 0.5}

    async def backup(self, database: DatabaseInfo) -> BackupFile:
        async def content() -> AsyncIterator[bytes]:
            yield b"back"
            yield b"up"

        return BackupFile(7, 3, 6, content())

    async def begin_restore(self, caller: Claims, name: str, overwrite: bool, keep_owner: bool) -> str:
        self.calls.append(("begin_restore", name, overwrite, keep_owner))
        return "u1"

    async def restore_piece(self, caller: Claims, upload: str, offset: int, data: bytes) -> int:
        self.calls.append(("restore_piece", upload, offset, data))
        return offset + len(data)

    async def restore(self, caller: Claims, upload: str) -> Restored:
        return Restored(Identity(bytes(32)), caller.identity, 7, 3)

    async def abandon_restore(self, caller: Claims, upload: str) -> None:
        self.calls.append(("abandon_restore", upload))

    async def import_rows(
        self, caller: Claims, connection_id: ConnectionId, database: DatabaseInfo, table: str, rows: bytes
    ) -> int:
        self.calls.append(("import_rows", table, rows))
        return 1

    async def energy(self, identity: Identity, credit: int) -> int:
        self.balances[identity] = self.balances.get(identity, 0) + credit
        return self.balances[identity]

    async def launch(self, database: DatabaseInfo) -> None:
        self.calls.append(("launch", database.identity))

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
        assert connection_id != ConnectionId.ZERO
        self.calls.append(("call", function, arguments))
        if function == "break":
            raise RuntimeError("secret detail")
        return self.outcomes.get(function, CallOutcome(CallKind.NOT_FOUND))

    async def sql(
        self, caller: Claims, connection_id: ConnectionId, database: DatabaseInfo, text: str, confirmed: bool
    ) -> SqlOutcome:
        self.calls.append(("sql", text, confirmed))
        if not text:
            raise BackendError(400, "Empty SQL query")
        return SqlOutcome('{"elements":[]}', "[[1]]", 17, 1, 2, 3)

    async def schema(self, database: DatabaseInfo, version: Literal["9", "10"]) -> str:
        return '{"version":' + version + "}"

    async def logs(self, database: DatabaseInfo, num_lines: int | None, follow: bool) -> AsyncIterator[bytes]:
        self.calls.append(("logs", num_lines, follow))

        async def lines() -> AsyncIterator[bytes]:
            try:
                yield b'{"level":"Info"}\n'
            finally:
                self.log_closed = True

        stream = lines()
        if follow:
            await anext(stream)
        return stream

    async def route(self, database: DatabaseInfo, request: HandlerRequest) -> HandlerResponse | None:
        if request.path != "/echo" and request.path:
            return None
        body = f"{request.method} {request.uri} {len(request.body)}".encode()
        return HandlerResponse(
            201, [("x-shop", "one"), ("x-shop", "two"), ("content-length", "9"), *self.handler_headers], body
        )

    def sent(self, database: Identity, size: int) -> None:
        self.sent_bytes += size

    async def metrics(
        self,
        databases: Collection[Identity] | None,
        queries: Collection[Identity] | None,
        names: Collection[str] | None = None,
    ) -> bytes:
        self.metrics_named = names
        self.calls.append(("metrics", databases, queries))
        return self.metrics_text

    def static(self, path: str) -> tuple[str, bytes] | None:
        return ("text/html; charset=utf-8", b"<p>demo") if path == "/" else None
