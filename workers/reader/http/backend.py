"""The HTTP routes' `Backend`: databases as this reader reaches them, the control plane through the supervisor."""

from __future__ import annotations

import json
import mimetypes
import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

import spacetimedb
from spacetimedb.auth.tokens import Claims
from spacetimedb.hosts import mail
from spacetimedb.hosts.database import FATAL
from spacetimedb.hosts.mail import Outcome
from spacetimedb.hosts.procedures import FATAL as PROCEDURE_FATAL
from spacetimedb.http.backend import (
    BackendError,
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
    SqlOutcome,
)
from spacetimedb.schema.json import schema_v9, schema_v10
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.plan import ExplainPlan, SelectPlan, plan_sql
from spacetimedb.types.algebraic import Product, ProductElement, product_to_json
from spacetimedb.types.json_arguments import ArgumentError
from spacetimedb.types.sats_json import row_to_json
from spacetimedb.types.special import ConnectionId, Identity
from spacetimedb.workers.reader.database_link import DatabaseLink
from spacetimedb.workers.reader.http.backup_requests import BackupRequests
from spacetimedb.workers.reader.http.durable_answers import gone, until_durable
from spacetimedb.workers.reader.http.handlers import run_handler
from spacetimedb.workers.reader.http.sql_requests import run_select
from spacetimedb.workers.reader.metrics import Metrics
from spacetimedb.workers.reader.waiter import DatabaseGone, Waiter, request

if TYPE_CHECKING:
    from spacetimedb.workers.reader.reader import Reader

START_S: Final = 10.0
"""How long a request waits for a database that is being started or recovered."""
MAX_LOG_LINES_BEFORE_FOLLOWING: Final = 2500
FOLLOWER_QUEUE: Final = 64
ROWS_AT_A_TIME: Final = 1000
"""Rows of a result that are written as JSON before others have their turn."""
LOG_BLOCK_BYTES: Final = 1 << 20
TO_DEMO: Final = b'<!doctype html><meta http-equiv="refresh" content="0; url=/demo/">\n'
TO_DASHBOARD: Final = b'<!doctype html><meta http-equiv="refresh" content="0; url=/dashboard/">\n'
PAGE_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

_PLAIN_KINDS: Final = {
    None: CallKind.COMMITTED,
    Outcome.ERROR: CallKind.FAILED,
    Outcome.INTERNAL: CallKind.PANICKED,
    Outcome.OUT_OF_ENERGY: CallKind.OUT_OF_ENERGY,
    Outcome.NO_SUCH_REDUCER: CallKind.NOT_FOUND,
    Outcome.NO_SUCH_PROCEDURE: CallKind.NOT_FOUND,
    Outcome.PROCEDURE_FAILED: CallKind.PROCEDURE_PANICKED,
    Outcome.LIFECYCLE: CallKind.LIFECYCLE,
    Outcome.BAD_ARGUMENTS: CallKind.BAD_ARGUMENTS,
    Outcome.BAD_PROCEDURE_ARGUMENTS: CallKind.BAD_ARGUMENTS,
}


class ControlRefused(Exception):
    """The supervisor refused a request; `kind` and `status` as in `messages.Reply`."""

    def __init__(self, kind: str, status: int, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.status = status
        self.text = text


class ReaderBackend(BackupRequests):
    """See `http.backend.Backend` for what each method promises."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._metrics = Metrics(reader)
        self._pages: dict[str, tuple[str, bytes]] = {}
        if reader.setup.dashboard != "off":
            self._pages.update(dashboard_pages())
        if reader.setup.demo_directory is not None:
            for path in Path(reader.setup.demo_directory).iterdir():
                if path.is_file() and path.suffix in (".html", ".js", ".css", ".svg", ".png", ".ico"):
                    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                    self._pages[f"/demo/{path.name}"] = kind, path.read_bytes()
            index = self._pages.get("/demo/index.html")
            if index is not None:
                self._pages["/demo/"] = index
                self._pages["/"] = self._pages["/demo"] = "text/html", TO_DEMO

    # -- names and databases

    async def resolve_name(self, name: str) -> Identity | None:
        """From the directory; a name it lacks is asked for once more, it may be new."""
        found = self._reader.names.get(name)
        if found is None:
            await self._reader.ask("sync")
            found = self._reader.names.get(name)
        return found

    def _find(self, identity: Identity) -> DatabaseInfo | None:
        for record in self._reader.directory.databases:
            if record.identity == identity:
                return DatabaseInfo(
                    Identity(record.identity), Identity(record.owner), record.initial_program, locked=record.locked
                )
        return None

    async def database(self, identity: Identity) -> DatabaseInfo | None:
        """From the directory, as `resolve_name`."""
        found = self._find(identity)
        if found is None:
            await self._reader.ask("sync")
            found = self._find(identity)
        return found

    async def databases_of(self, owner: Identity) -> list[Identity]:
        """In order of creation."""
        await self._reader.ask("sync")
        return [Identity(r.identity) for r in self._reader.directory.databases if r.owner == owner]

    async def names(self, identity: Identity) -> list[str]:
        """In order."""
        await self._reader.ask("sync")
        return [name for name, owner in self._reader.directory.names if owner == identity]

    async def claim_name(self, caller: Claims, name: str) -> Identity:
        """A name's identity, new if need be."""
        return Identity(await self._ask("claim_name", owner=bytes(caller.identity), name=name))

    async def add_name(self, caller: Claims, database: DatabaseInfo, name: str) -> None:
        """One more name."""
        await self._ask("add_name", owner=bytes(caller.identity), identity=bytes(database.identity), name=name)

    async def set_names(self, caller: Claims, database: DatabaseInfo, names: list[str]) -> None:
        """All names."""
        await self._ask("set_names", owner=bytes(caller.identity), identity=bytes(database.identity), names=names)

    async def _ask(self, method: str, **arguments: Any) -> Any:
        try:
            return await self._reader.ask(method, **arguments)
        except ControlRefused as refusal:
            if refusal.kind == "denied":
                raise NameDenied(refusal.text) from None
            if refusal.kind == "in_use":
                raise NameInUse(refusal.text) from None
            raise BackendError(refusal.status, refusal.text) from None

    # -- control

    async def publish(self, request: PublishRequest) -> Published:
        """By the supervisor; it goes on when the client hangs up."""
        with trio.CancelScope(shield=True):
            result = await self._ask(
                "publish",
                caller=bytes(request.caller.identity),
                identity=None if request.identity is None else bytes(request.identity),
                program=request.program,
                clear=request.clear,
                break_clients=request.break_clients,
                token=request.migration_token,
                durable_within_s=request.confirmation_timeout / 1e9,
            )
        return Published(Identity(result["identity"]), result["created"])

    async def pre_publish(
        self, caller: Claims, database: DatabaseInfo, program: bytes, host_type: Literal["Wasm", "Js"], colour: bool
    ) -> MigrationPlan:
        """What the publish would do."""
        result = await self._ask("pre_publish", identity=bytes(database.identity), program=program, colour=colour)
        return MigrationPlan(**result)

    async def reset(
        self, caller: Claims, database: DatabaseInfo, program: bytes | None, host_type: Literal["Wasm", "Js"]
    ) -> None:
        """Empties a database."""
        with trio.CancelScope(shield=True):
            await self._ask("reset", identity=bytes(database.identity), program=program)

    async def delete(self, caller: Claims, database: DatabaseInfo) -> None:
        """Deletes a database."""
        with trio.CancelScope(shield=True):
            await self._ask("delete", identity=bytes(database.identity))

    async def set_locked(self, database: DatabaseInfo, locked: bool) -> None:
        """Locks or unlocks."""
        await self._ask("set_locked", identity=bytes(database.identity), locked=locked)

    async def snapshot(self, database: DatabaseInfo) -> dict[str, float]:
        """Takes a snapshot and tells what it holds. Raises BackendError."""
        taken: dict[str, float] = await self._ask("snapshot", identity=bytes(database.identity))
        return taken

    async def energy(self, identity: Identity, credit: int) -> int:
        """There is no accounting: every balance is 0."""
        return 0

    # -- work in a database

    async def link(self, database: DatabaseInfo) -> DatabaseLink:
        """The database's link; waits for one that is being started. Raises BackendError."""
        link = await self._reader.link_for(database.identity)
        if link is None:
            why = await self._ask("why_down", identity=bytes(database.identity))
            if why is None:
                link = await self._reader.link_for(database.identity, START_S)
            if link is None:
                raise BackendError(500, f"error starting database: {why or 'it is being recovered, try again'}")
        return link

    async def launch(self, database: DatabaseInfo) -> None:
        """Waits until the database serves."""
        await self.link(database)

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
        """connect, call, disconnect: in one batch of requests, unless it is a procedure, which may take its time."""
        link = await self.link(database)
        waiter = link.waiter()
        catalog = link.catalog
        problem = None
        is_owner = caller.identity == link.owner
        reducer = catalog.reducers.get(function)
        procedure = catalog.procedures.get(function) if reducer is None and procedures else None
        # What no client may call is looked for among the procedures too, and leaves a line in the log for both.
        as_procedure = mail.request(mail.PROCEDURE, 0, waiter.number, 0, mail.named(function, b""))
        requests: list[bytes] = []
        try:
            if reducer is not None:
                may_call = is_owner or not reducer.is_private
                if reducer.lifecycle is None and may_call:
                    args = catalog.decoder("reducer", function).decode(arguments)
                else:
                    args = b""
                number = catalog.reducer_ids[function]
                requests.append(mail.request(mail.CALL, number, waiter.number, 0, args, catalog.generation))
                if reducer.lifecycle is None and not may_call:
                    requests.append(as_procedure)
            elif procedure is not None and procedure.is_private and not is_owner:
                requests.append(as_procedure)
            elif procedure is not None:
                args = catalog.decoder("procedure", function).decode(arguments)
                requests.append(mail.request(mail.PROCEDURE, 0, waiter.number, 0, mail.named(function, args)))
            else:
                requests.append(mail.request(mail.CALL, mail.BY_NAME, waiter.number, 0, mail.named(function, b"")))
                if procedures:
                    requests.append(as_procedure)
        except ArgumentError as error:
            problem = error.message("procedure" if procedure is not None else "reducer")
            requests.append(mail.request(mail.CALL, mail.BAD_CALL, waiter.number, 0, mail.named(function, b"")))
        await self._run(link, caller, connection_id, requests, waiter, stays=procedure is not None)
        outcome = waiter.outcome
        text = waiter.body.decode("utf-8", "replace") if outcome is not Outcome.RETURNED else ""
        if waiter.refused:
            kind = CallKind.CONNECT_PANICKED if text == FATAL else CallKind.CONNECT_REFUSED
            return CallOutcome(kind, text)
        if problem is not None:
            return CallOutcome(CallKind.BAD_ARGUMENTS, problem)
        await until_durable(link, waiter.horizon)
        if outcome is Outcome.RETURNED:
            assert procedure is not None
            text = catalog.result_to_json(function, waiter.body)
            return CallOutcome(CallKind.RETURNED, text, waiter.duration_us)
        kind = _PLAIN_KINDS.get(outcome, CallKind.PANICKED)
        if kind is CallKind.PROCEDURE_PANICKED:
            return CallOutcome(kind, "see the module log" if text == PROCEDURE_FATAL else text)
        if kind is CallKind.LIFECYCLE:
            text = text.removeprefix("can't directly call special ").removesuffix(" lifecycle reducer")
        return CallOutcome(kind, text, waiter.duration_us)

    async def _run(
        self,
        link: DatabaseLink,
        caller: Claims,
        connection_id: ConnectionId,
        requests: list[bytes],
        waiter: Waiter,
        stays: bool = False,
    ) -> None:
        try:
            await request(link, caller.identity, bytes(connection_id), caller.payload, requests, waiter, stays)
        except DatabaseGone:
            raise gone(link) from None

    async def sql(
        self, caller: Claims, connection_id: ConnectionId, database: DatabaseInfo, text: str, confirmed: bool
    ) -> SqlOutcome:
        """A SELECT is answered here, from shared memory; everything else by the actor."""
        link = await self.link(database)
        is_owner = caller.identity == link.owner
        waiter = link.waiter()
        error: SqlError | None = None
        selects = False
        try:
            plan = plan_sql(text, link.catalog.for_caller(caller.identity), caller.identity, is_owner)
            selects = isinstance(plan, (SelectPlan, ExplainPlan))
        except SqlError as found:
            error = found
        if error is None and not selects:
            record = mail.request(mail.SQL, 0, waiter.number, 0, bytes((is_owner,)) + text.encode())
        else:
            record = mail.request(mail.NOTHING, 0, waiter.number, 0, b"")
        started = trio.current_time()
        await self._run(link, caller, connection_id, [record], waiter)
        if waiter.refused:
            raise BackendError(403, waiter.body.decode())
        if selects:
            return await self._select(link, text, caller, started, confirmed)
        if error is not None:
            raise BackendError(400, str(error))
        if waiter.outcome is Outcome.SQL_ERROR:
            raise BackendError(400, waiter.body.decode())
        if confirmed:
            await until_durable(link, waiter.horizon)
        inserted, deleted, updated = mail.ROW_COUNTS.unpack(waiter.body)
        return SqlOutcome('{"elements":[]}', "[]", waiter.duration_us, inserted, deleted, updated)

    async def _select(
        self, link: DatabaseLink, text: str, caller: Claims, started: float, confirmed: bool
    ) -> SqlOutcome:
        try:
            result, horizon = await run_select(link, text, caller.identity)
        except DatabaseGone:
            raise BackendError(503, "the database stopped while the query ran") from None
        except SqlError as error:
            raise BackendError(400, str(error)) from None
        row_type = Product(tuple(ProductElement(c.name, c.algebraic_type) for c in result.columns))
        to_json = row_to_json(row_type)
        texts: list[str] = []
        for at in range(0, len(result.rows), ROWS_AT_A_TIME):
            texts += [to_json(row, 0)[0] for row in result.rows[at : at + ROWS_AT_A_TIME]]
            await trio.lowlevel.checkpoint()
        rows = "[" + ",".join(texts) + "]"
        if confirmed:
            await until_durable(link, horizon)
        micros = round((trio.current_time() - started) * 1e6)
        return SqlOutcome(json.dumps(product_to_json(row_type), separators=(",", ":")), rows, micros)

    async def schema(self, database: DatabaseInfo, version: Literal["9", "10"]) -> str:
        """From the definition that the actor announced."""
        definition = (await self.link(database)).catalog.definition
        return schema_v9(definition) if version == "9" else schema_v10(definition)

    async def logs(self, database: DatabaseInfo, num_lines: int | None, follow: bool) -> AsyncIterator[bytes]:
        """The end of today's (or the newest) log file, then what comes."""
        link = await self.link(database)
        send, receive = trio.open_memory_channel[bytes](FOLLOWER_QUEUE)
        if follow:
            link.log_followers.add(send)
        await link.log.wait_written()
        if follow:
            wanted: int | None = min(num_lines or 0, MAX_LOG_LINES_BEFORE_FOLLOWING)
        else:
            wanted = None if num_lines is None else max(num_lines, 1)
        read = MAX_LOG_LINES_BEFORE_FOLLOWING if follow else wanted
        data = await trio.to_thread.run_sync(_newest_lines, Path(link.up.module_log_directory), read)
        return _stream(link, data, send, receive, wanted if follow else None)

    async def route(self, database: DatabaseInfo, request: HandlerRequest) -> HandlerResponse | None:
        """By the actor, without connecting anybody."""
        link = await self.link(database)
        try:
            return await run_handler(link, request)
        except DatabaseGone:
            raise gone(link) from None

    # -- the server

    def sent(self, database: Identity, size: int) -> None:
        """Counts bytes of an answer."""
        link = self._reader.links.get(database)
        if link is not None:
            link.figures.http_sent.add(size)

    async def metrics(
        self,
        databases: Collection[Identity] | None,
        queries: Collection[Identity] | None,
        names: Collection[str] | None = None,
    ) -> bytes:
        """Prometheus text."""
        return await self._metrics.text(databases, queries, names)

    def dashboard_access(self) -> Literal["local", "token", "off"]:
        """As `spacetime start` was told."""
        return self._reader.setup.dashboard

    async def all_databases(self) -> list[tuple[DatabaseInfo, list[str]]]:
        """With their names, in order of creation."""
        await self._reader.ask("sync")
        names: dict[bytes, list[str]] = {}
        for name, identity in self._reader.directory.names:
            names.setdefault(identity, []).append(name)
        found = [self._find(Identity(record.identity)) for record in self._reader.directory.databases]
        return [(database, names.get(bytes(database.identity), [])) for database in found if database is not None]

    async def report_load(self, figures: bytes) -> None:
        """Kept by the supervisor, for all readers."""
        await self._ask("report_load", figures=figures)

    async def load_test(self) -> list[bytes]:
        """From the supervisor."""
        points: list[bytes] = await self._ask("load_test")
        return points

    def static(self, path: str) -> tuple[str, bytes] | None:
        """The pages of the dashboard and of the demo."""
        return self._pages.get(path)


def dashboard_pages() -> dict[str, tuple[str, bytes]]:
    """The dashboard's files by path."""
    root = Path(spacetimedb.__file__).parent / "dashboard"
    pages = {
        f"/dashboard/{path.relative_to(root).as_posix()}": (PAGE_KINDS[path.suffix], path.read_bytes())
        for path in root.rglob("*")
        if path.suffix in PAGE_KINDS
    }
    pages["/dashboard"] = PAGE_KINDS[".html"], TO_DASHBOARD
    pages["/dashboard/"] = pages["/dashboard/index.html"]
    return pages


async def _stream(
    link: DatabaseLink,
    data: bytes,
    send: trio.MemorySendChannel[bytes],
    receive: trio.MemoryReceiveChannel[bytes],
    shown: int | None,
) -> AsyncIterator[bytes]:
    """All of `data`; or its last `shown` lines, and then what comes, without the lines that are in `data` already."""
    try:
        before = data.splitlines(keepends=True)
        if shown is None:
            if data:
                yield data
            return
        if shown and before:
            yield b"".join(before[-shown:])
        known = set(before)
        async for lines in receive:
            # The file may have been read a little after the first of these were published.
            fresh = lines.splitlines(keepends=True) if known else [lines]
            while known and fresh:
                if fresh[0] not in known:
                    known.clear()
                    break
                del fresh[0]
            if fresh:
                yield b"".join(fresh)
    finally:
        link.log_followers.discard(send)
        send.close()
        receive.close()


def _newest_lines(directory: Path, count: int | None) -> bytes:
    """The last `count` lines (None: all) of the newest file of a module log."""
    files = sorted(directory.glob("*.log")) if directory.is_dir() else []
    if not files or count == 0:
        return b""
    with files[-1].open("rb") as file:
        if count is None:
            return file.read()
        at = file.seek(0, os.SEEK_END)
        data = b""
        while at and data.count(b"\n") <= count:
            step = min(LOG_BLOCK_BYTES, at)
            at -= step
            file.seek(at)
            data = file.read(step) + data
    return b"".join(data.splitlines(keepends=True)[-count:])
