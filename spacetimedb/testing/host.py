"""`TestHost`: a module's database inside a test, without server, sockets or waiting.

It drives the same `Database` that the transaction actor drives, over the same tables, log payloads and schedules.
What differs: the clock is virtual and moves only when told to (by `advance`; every call still gets a later timestamp
than the one before), the log is a list, and an exception that a function raises reaches the test as it is, after the
database has rolled back and logged it as ever.

Procedures and HTTP handlers run at once, to their end; while they sleep the clock goes forward and schedules run.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast, overload

from spacetimedb.hosts.database import Caller, Database, Reducer, caller
from spacetimedb.hosts.delta import Changes, Delta
from spacetimedb.hosts.handler_calls import HandlerCall, decode_answer, encode_call
from spacetimedb.hosts.installation import InstallError, create_from, described, recover_from, update_from
from spacetimedb.hosts.mail import ANSWER, ANSWER_HEAD, CLOSE_CLIENTS, Outcome
from spacetimedb.hosts.procedures import HttpExchange, Inline
from spacetimedb.hosts.view_evaluation import ViewFailed
from spacetimedb.log.recovery import RecoveredState, initial_state
from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.region import Region
from spacetimedb.module import (
    Db,
    HttpError,
    Module,
    ProcedureContext,
    Query,
    ReducerContext,
    ReducerError,
    Response,
    ViewContext,
)
from spacetimedb.module.http import Headers, HttpResponse
from spacetimedb.store.commit_record import COMMIT, LOGGED, TableChange, changes, header, log_payload
from spacetimedb.testing.kept_database import keep, kept
from spacetimedb.testing.subscribers import Subscribers, Subscription
from spacetimedb.types.bsatn import codec
from spacetimedb.types.special import ConnectionId, Identity, Timestamp

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

START: Final = Timestamp(1_767_225_600_000_000)  # 2026-01-01T00:00:00Z
HEAP_BYTES: Final = 4 << 30
"""Address space for rows; memory is taken as rows come."""
MAX_RUNS_PER_ADVANCE: Final = 1_000_000
"""Scheduled runs in one `advance`: more is taken for a schedule that never lets time pass."""


class _Observed(Database):
    """A database that keeps the exception that undid the last transaction."""

    failure: BaseException | None = None

    def rolled_back(self, error: BaseException, function: str, timestamp: int) -> tuple[Outcome, str]:
        self.failure = error.cause if isinstance(error, ViewFailed) else error
        return super().rolled_back(error, function, timestamp)

    def observe(self, error: BaseException) -> None:
        """An exception that a procedure did not handle."""
        self.failure = error.cause if isinstance(error, ViewFailed) else error


class TestHost:
    """Runs a module in the test's own process; making one runs `init` and raises what it raises.

    `db` reads the tables as of now. `failures` has the exceptions of scheduled runs and disconnect hooks, `log` the
    lines of the module log as dictionaries. `owner` is who published the module.

    `http` answers the requests that procedures make: it gets method, address, body, headers, timeout. Without it they
    raise HttpError.

    `check_determinism`: every reducer runs twice on the same input, and raises NotDeterministic if the runs differ.
    """

    __test__ = False  # pytest: this is no test

    def __init__(
        self,
        module: Module,
        *,
        now: Timestamp = START,
        http: HttpExchange | None = None,
        check_determinism: bool = False,
    ) -> None:
        self.module = module
        self._checks_determinism = check_determinism
        self._http = http or _no_http
        self.owner = self.identity("owner")
        self.failures: list[BaseException] = []
        self.log: list[dict[str, Any]] = []
        self.db: Db
        self._now = int(now)
        self._payloads: list[bytes] = []
        self._connections = 0
        self._returned = b""
        self._callers: dict[Identity, Caller] = {}
        self._loaded = described(module)
        self._reducers = {id(spec.function): spec for spec in module.reducers}
        self._database = self._fresh()
        try:
            create_from(self._database, *self._loaded, b"", bytes(32))
        except InstallError as error:
            raise self._database.failure or error from None
        self._bind()
        self._take()

    @staticmethod
    def identity(name: str) -> Identity:
        """An identity for a name, always the same one."""
        return Identity(hashlib.sha256(name.encode()).digest())

    @property
    def now(self) -> Timestamp:
        """The virtual time."""
        return Timestamp(self._now)

    # -- clients

    def connect(self, who: Identity, claims: Mapping[str, object] | None = None) -> Delta:
        """Opens a connection of this identity, running the module's hook. `claims` are those of its token."""
        if who in self._callers:
            raise ValueError(f"{who!r} is connected already")
        return self._connect(who, claims)

    def disconnect(self, who: Identity) -> Delta:
        """Closes the connection. An exception of the hook is added to `failures`: the client is gone all the same."""
        known = self._callers.pop(who, None)
        if known is None:
            raise ValueError(f"{who!r} is not connected")
        self._subscribers.drop(known.connection)
        self._database.disconnect(known.reader, known.connection)
        delta, _answer = self._take()
        self._note_failure()
        return delta

    def call(
        self,
        who: Identity,
        reducer: Callable[Concatenate[ReducerContext[Any], P], None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Delta:
        """Calls a reducer as a client would and returns what it changed; raises what it raises.

        Without a connection it is called as over HTTP: connecting and disconnecting around it. Raises ValueError for
        arguments that do not fit their types on the wire, LookupError for what this identity may not call.
        """
        spec, found = self._reducer(reducer)
        values: tuple[Any, ...] = args
        if kwargs or len(args) != len(spec.params.fields):
            bound = inspect.signature(reducer).bind(None, *args, **kwargs)
            bound.apply_defaults()
            values = bound.args[1:]
        encoded = codec(spec.params).encode(values)
        passing = who not in self._callers
        if passing:
            self._connect(who, None)
        try:
            self._database.failure = None
            self._database.call(self._callers[who], found.id, 0, encoded)
            delta, answer = self._take()
            failure = self._database.failure
            if failure is not None:
                raise failure
            if answer is not None:
                raise LookupError(answer)
            return delta
        finally:
            if passing:
                self.disconnect(who)

    def procedure(
        self,
        who: Identity,
        procedure: Callable[Concatenate[ProcedureContext[Any], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Calls a procedure as a client would and returns its result; raises what it raises.

        Without a connection it is called as over HTTP. Raises ValueError for arguments or a result that do not fit
        their types on the wire, LookupError for what this identity may not call.
        """
        spec = next((p for p in self.module.procedures if p.function is procedure), None)
        if spec is None:
            raise LookupError(f"{getattr(procedure, '__name__', procedure)} is no procedure of this module")
        bound = inspect.signature(procedure).bind(None, *args, **kwargs)
        bound.apply_defaults()
        encoded = codec(spec.params).encode(bound.args[1:])
        passing = who not in self._callers
        if passing:
            self._connect(who, None)
        try:
            self._database.failure = None
            self._database.call_procedure(self._callers[who], spec.name, 0, encoded)
            returned = self._ended()
        finally:
            if passing:
                self.disconnect(who)
        result = codec(spec.returns).decode_exact(returned)
        return cast(T, None if result == () else result)

    def request(self, method: str, target: str, body: str | bytes = b"", headers: Headers = ()) -> Response:
        """Sends a request to the module's HTTP handlers; `target` is path and query behind the route prefix.

        Raises what the handler raises, LookupError if there is no route.
        """
        path, _, query = target.partition("?")
        route = next((r for r in self.module.routes if r.path == path and r.method in (None, method)), None)
        if route is None:
            raise LookupError(f"no handler for {method} {path!r}")
        handler = next(h.name for h in self.module.handlers if h.source_name == route.handler)
        made = Response(body, headers=headers)
        pairs = tuple((name.lower(), value) for name, value in made.headers)
        call = HandlerCall(handler, method, f"http://localhost/route{target}", path, query, pairs, made.body)
        self._database.failure = None
        self._database.procedures.handle(caller(Identity.ZERO, None), 0, encode_call(call))
        answer = decode_answer(self._ended())
        return Response(answer.body, answer.status, answer.headers)

    def _ended(self) -> bytes:
        """The encoded result of the procedure or handler that has just run."""
        _delta, refusal = self._take()
        failure, self._database.failure = self._database.failure, None
        if failure is not None:
            raise failure
        if refusal is not None:
            raise LookupError(refusal)
        return self._returned

    def subscribe(self, who: Identity, *queries: str) -> Subscription:
        """Subscribes a connected client to SQL queries. Raises SqlError with the text that a client would get."""
        if who not in self._callers:
            raise ValueError(f"{who!r} is not connected")
        return self._subscribers.subscribe(self._callers[who].connection, who, queries)

    # -- time

    def advance(self, seconds: float) -> list[Delta]:
        """Moves the clock and runs what is due on the way, in order. Returns what each run changed.

        A run that raises does not stop the others, as on a server. Its exception is added to `failures`; the first one
        that is no ReducerError is raised at the end.
        """
        target = self._now + round(seconds * 1_000_000)
        if target < self._now:
            raise ValueError("time goes forward")
        deltas: list[Delta] = []
        broken: BaseException | None = None
        for _ in self._due_until(target):
            self._database.failure = None
            if not self._database.run_due():
                continue
            deltas += [delta for delta in self._take_each() if delta]
            failure = self._note_failure()
            if failure is not None and not isinstance(failure, ReducerError):
                broken = broken or failure
        self._now = max(self._now, target)
        if broken is not None:
            raise broken
        return deltas

    def _due_until(self, target: int) -> Iterator[None]:
        for _ in range(MAX_RUNS_PER_ADVANCE):
            due = self._database.next_due_us()
            if due is None or due > target:
                return
            self._now = max(self._now, due)
            yield
        raise RuntimeError(f"more than {MAX_RUNS_PER_ADVANCE} scheduled runs until {Timestamp(target)}")

    def _sleep(self, until_us: int) -> int:
        """A procedure sleeps: what is due runs meanwhile."""
        for _ in self._due_until(until_us):
            self._database.run_due()
            self._note_failure()
        self._now = max(self._now, until_us)
        return self._now

    # -- reading

    @overload
    def view(self, view: Callable[[ViewContext[Any]], Query[R]], who: Identity | None = None) -> list[R]: ...
    @overload
    def view(self, view: Callable[[ViewContext[Any]], T], who: Identity | None = None) -> T: ...
    def view(self, view: Callable[[ViewContext[Any]], Any], who: Identity | None = None) -> Any:
        """What a view shows to an identity (for shared views it does not matter which); of a query its rows.

        Equal rows come once, as clients get them. Raises what the view raises.
        """
        spec = next((v for v in self.module.views if v.function is view), None)
        if spec is None:
            raise LookupError(f"{getattr(view, '__name__', view)} is no view of this module")
        if who is None and not spec.is_anonymous:
            raise TypeError(f"{spec.name} shows every caller something else: say which identity asks")
        try:
            found, images = self._database.views.evaluate(spec.name, who)
        except ViewFailed as failed:
            raise failed.cause from None
        finally:
            self._take()
        rows = [found.decode(image) for image in images]
        return (rows[0] if rows else None) if spec.form == "option" else rows

    # -- update and restart

    def publish(self, module: Module, break_clients: bool = False) -> Delta:
        """Another version of the module takes over, as `spacetime publish` does it: rows stay, or go through migration
        functions. Returns what changed; raises InstallError with the publisher's text, and nothing has changed then.

        What disconnects clients needs `break_clients`; they are gone afterwards. Otherwise subscriptions go on.
        """
        loaded = described(module)
        hash_of_version = hashlib.sha256(f"{id(module)}".encode()).digest()
        update_from(self._database, loaded, b"", hash_of_version, break_clients)
        self.module, self._loaded = module, loaded
        self._reducers = {id(spec.function): spec for spec in module.reducers}
        tables = self._database.tables
        self._keys |= {table.table_id: (key, table) for key, table in tables.items()}
        for who, gone in list(self._callers.items()):
            if (gone.reader, gone.connection) not in self._database.clients:
                del self._callers[who]
        if self._closes_clients():  # before they see rows that they have no types for
            self._subscribers = Subscribers(self._database)
        self._subscribers.follow_program()
        delta, _answer = self._take()
        self._bind_tables()
        self._note_failure()
        return delta

    def _closes_clients(self) -> bool:
        return any(record[4] == CLOSE_CLIENTS for record in self._database.out)

    def restart(self, crash: bool = False) -> None:
        """Builds the database anew from its log.

        Clients are gone afterwards: without `crash` they are disconnected before, with it when the database comes up
        and finds them in its tables. Sequences go on behind the numbers they had reserved.
        """
        if not crash:
            for who in list(self._callers):
                self.disconnect(who)
        self._callers.clear()
        state = initial_state()
        for payload in self._payloads:
            state.apply(state.decode(payload, 0)[0])
        state.finish()
        self._recover(state)

    def _recover(self, state: RecoveredState) -> None:
        self._database = self._fresh()
        recover_from(self._database, state, self._loaded)
        self._bind()
        self._take()
        self._note_failure()

    def save(self, directory: Path) -> None:
        """Keeps the database in a directory: its log for `open`, its tables as JSON lines to read. Raises OSError."""
        keep(directory, self._payloads, self._database.tables.values(), self.log, self._now)

    @classmethod
    def open(cls, module: Module, directory: str | Path) -> TestHost:
        """A database that `save` kept; whoever was connected is disconnected. Raises FileNotFoundError."""
        payloads, state, now_us = kept(Path(directory))
        host = cls(module, now=Timestamp(now_us))
        host._payloads = payloads
        host._recover(state)
        return host

    @property
    def next_due(self) -> Timestamp | None:
        """When the next scheduled run is due; None: nothing is scheduled."""
        due = self._database.next_due_us()
        return None if due is None else Timestamp(due)

    # -- inside

    def _fresh(self) -> _Observed:
        heap = RowHeap(Region.private(HEAP_BYTES))
        database = _Observed(self.identity("database"), self.owner, heap, lambda: self._now)
        database.procedures.runner = Inline(database.log, self._sleep)
        database.procedures.exchange = self._http
        database.procedures.on_failure = database.observe
        database.checks_determinism = self._checks_determinism
        return database

    def _bind(self) -> None:
        self._subscribers = Subscribers(self._database)
        self._bind_tables()

    def _bind_tables(self) -> None:
        tables = self._database.tables
        self.db = cast(Db, self._database.store.read_only_db(tables))
        self._keys = {table.table_id: (key, table) for key, table in tables.items()}

    def _reducer(self, function: Callable[..., object]) -> tuple[Any, Reducer]:
        spec = self._reducers.get(id(function))
        if spec is None:
            raise LookupError(f"{getattr(function, '__name__', function)} is no reducer of this module")
        return spec, self._database.by_name[spec.name]

    def _connect(self, who: Identity, claims: Mapping[str, object] | None) -> Delta:
        self._connections += 1
        made = caller(who, ConnectionId.from_int(self._connections), 0, self._connections)
        subject = f"subject-{who.hex()[:8]}"
        payload = claims if claims is not None else {"iss": "localhost", "sub": subject, "aud": ["spacetimedb"]}
        self._database.failure = None
        self._database.connect(made, 0, json.dumps(payload))
        delta, _answer = self._take()
        failure = self._database.failure
        if failure is not None:
            raise failure
        self._callers[who] = made
        return delta

    def _note_failure(self) -> BaseException | None:
        failure, self._database.failure = self._database.failure, None
        if failure is not None:
            self.failures.append(failure)
        return failure

    def _take(self) -> tuple[Delta, str | None]:
        """Everything that came out, as one delta, and the text of a refusal."""
        whole = Delta()
        answers: list[str] = []
        for delta in self._take_each(answers):
            for key, change in delta.items():
                known = whole.setdefault(key, Changes([], []))
                known.inserts += change.inserts
                known.deletes += change.deletes
        return whole, answers[-1] if answers else None

    def _take_each(self, refusals: list[str] | None = None) -> list[Delta]:
        """A delta for each commit that came out; logged ones are remembered for `restart`."""
        records, self._database.out[:] = list(self._database.out), []
        self.log += [json.loads(line) for line in self._database.log.take()]
        deltas: list[Delta] = []
        for record in records:
            if record[4] == COMMIT:
                head = header(record)
                if head.flags & LOGGED:
                    self._payloads.append(bytes(log_payload(record)))
                changed = changes(record, 0, head.table_count)
                deltas.append(self._decode(changed))
                self._subscribers.follow(head.flags, changed)
            elif refusals is not None and record[4] == ANSWER:
                outcome, length = ANSWER_HEAD.unpack_from(record)[2], ANSWER_HEAD.unpack_from(record)[8]
                body = record[ANSWER_HEAD.size : ANSWER_HEAD.size + length]
                if outcome == Outcome.RETURNED:
                    self._returned = bytes(body)
                elif outcome != Outcome.CONNECTED:
                    refusals.append(body.decode())
        return deltas

    def _decode(self, changed: list[TableChange]) -> Delta:
        """The module's own tables of a commit, rows as objects."""
        delta = Delta()
        for change in changed:
            if change.table_id in self._keys:
                key, table = self._keys[change.table_id]
                inserts = [table.decode(row) for row in change.inserts.split()]
                delta[key] = Changes(inserts, [table.decode(row) for row in change.deletes.split()])
        return delta


def _no_http(_method: str, url: str, _body: bytes, _headers: object, _timeout: float) -> HttpResponse:
    raise HttpError(f"a test makes no HTTP requests (to {url.partition('?')[0]}): give TestHost an `http` that answers")
