"""Procedures and HTTP handlers of a database: functions that may wait, beside the transactions.

They run wherever a `Runner` puts them: in threads (`procedure_threads.py`, in a server) or at once (`Inline`, in
tests). The database itself stays in one thread, the main one. What a procedure does with it goes there:

    procedure's thread                         main thread, between two transactions
    ctx.with_tx(f): posts, waits       ->      f(tx) as a transaction of its own: budget, timestamp, commit record
    result or exception comes back     <-
    the function returns or raises     ->      answer, log line, next run of an interval schedule

So a transaction of a procedure is serial with reducers, and its records stand in the commit ring before the answer.
The answer carries the horizon of the procedure's last transaction: a client that wants confirmed reads gets it when
what the procedure did or saw is durable.

Who called may be gone when a procedure ends; it goes on all the same, with the claims that the caller had.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from spacetimedb.hosts import handler_calls, mail
from spacetimedb.hosts.figures import PROCEDURE, DatabaseFigures
from spacetimedb.hosts.mail import Outcome
from spacetimedb.hosts.module_log import ModuleLog
from spacetimedb.hosts.view_evaluation import ViewFailed
from spacetimedb.module import Module
from spacetimedb.module.context import Db, HttpContext, ProcedureContext, ReducerContext, Waiting
from spacetimedb.module.errors import BudgetExceeded, ProgramReplaced, WouldBlock
from spacetimedb.module.http import Headers, HttpResponse, Request
from spacetimedb.store.commit_record import MUTATIONS_ONLY, NO_READER, NO_REDUCER
from spacetimedb.types.bsatn import codec
from spacetimedb.types.errors import DecodeError
from spacetimedb.types.shapes import UNIT_SHAPE
from spacetimedb.types.special import ConnectionId, Identity, Interval, Timestamp

if TYPE_CHECKING:
    from spacetimedb.hosts.database import Caller, Database
    from spacetimedb.hosts.schedule_table import ScheduleTable
    from spacetimedb.hosts.scheduler import Job

R = TypeVar("R")

FATAL: Final = "The module instance encountered a fatal error"
NO_SUCH_PROCEDURE: Final = "No such procedure"
REPLACED: Final = "another program was published while this ran; what it still wanted to change was not begun"
"""What callers and the module log are told of a procedure that was ended for that."""

HttpExchange = Callable[[str, str, bytes, tuple[tuple[str, str], ...], float], HttpResponse]
"""Method, address, body, headers, timeout in seconds. Raises HttpError."""


class Runner(Protocol):
    """Where procedures run. `start` and `run_posted` are for the main thread, the rest for the procedures."""

    def start(
        self, name: str, compute: Callable[[], bytes], end: Callable[[BaseException | None, bytes], None]
    ) -> bool:
        """Runs `compute` now or as soon as there is room, then `end` on the main thread. False: too much waits."""

    @property
    def may_wait(self) -> bool:
        """Whether the code that asks is a procedure's: a transaction must wait for nothing."""

    def on_main(self, work: Callable[[], R]) -> R:
        """Runs `work` on the main thread between two transactions; returns or raises what it does."""

    def sleep(self, until_us: int) -> int:
        """Waits until then; the time afterwards."""

    def run_posted(self) -> bool:
        """Runs what was posted to the main thread. False if there was nothing."""


class Inline:
    """Runs procedures at once, on the caller's thread. `sleep` makes the clock go forward."""

    may_wait = True

    def __init__(self, log: ModuleLog, sleep: Callable[[int], int]) -> None:
        self._log = log
        self._sleep = sleep

    def start(
        self, name: str, compute: Callable[[], bytes], end: Callable[[BaseException | None, bytes], None]
    ) -> bool:
        before, self._log.function = self._log.function, name
        failure, body = attempt(compute)
        self._log.function = before
        end(failure, body)
        return True

    def on_main(self, work: Callable[[], R]) -> R:
        return work()

    def sleep(self, until_us: int) -> int:
        before = self._log.function
        now = self._sleep(until_us)
        self._log.function = before
        return now

    def run_posted(self) -> bool:
        return False


def attempt(compute: Callable[[], bytes]) -> tuple[BaseException | None, bytes]:
    """What `compute` raised or returned. An own frame, so that no frame of the traceback holds the exception."""
    try:
        return None, compute()
    except BaseException as error:
        return error, b""


class Unpublished(BaseException):
    """A transaction is final, and nobody can be told: this process must end, the next one begins without it."""


class Procedure(msgspec.Struct, frozen=True):
    """A procedure ready to run: `decode(args, 0)` gives the tuple of arguments, `encode` the BSATN of the result."""

    name: str
    function: Callable[..., Any]
    decode: Callable[[bytes, int], tuple[tuple[Any, ...], int]]
    encode: Callable[[Any], bytes]
    is_private: bool


class Call:
    """A procedure or handler that runs: the host behind its contexts (`module.context.ProcedureHost`) and behind those
    of its transactions (`module.context.Database`).

    `horizon` is that of its last transaction.
    """

    def __init__(self, procedures: Procedures, name: str, who: Caller, timestamp: int) -> None:
        self.name = name
        self.who = who
        self.timestamp = timestamp
        self.horizon = 0
        self.program = procedures.database.module
        self.in_transaction = False
        self._procedures = procedures
        self._claims = None if who.connection_id is None else procedures.database.claims_of(who.connection_id)
        self._started = perf_counter_ns()

    @property
    def identity(self) -> Identity:
        return self._procedures.database.identity

    @property
    def logger(self) -> logging.Logger:
        return self._procedures.database.log.logger

    @property
    def view_db(self) -> Db:
        found: Db = self._procedures.database.view_db
        return found

    @property
    def http(self) -> CallHttp:
        return CallHttp(self, self._procedures.exchange, self._procedures.database.figures)

    @property
    def duration_us(self) -> int:
        """Microseconds since it began."""
        return (perf_counter_ns() - self._started) // 1000

    def claims(self, _connection_id: ConnectionId) -> str | None:
        """Those of the caller; a context asks for no other."""
        return self._claims

    def must_not_be_in_transaction(self, what: str) -> None:
        """Raises WouldBlock inside a transaction."""
        if self.in_transaction or not self._procedures.runner.may_wait:
            raise WouldBlock(f"{what} inside a transaction")

    def transaction(self, _ctx: Waiting[Any], function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        self.must_not_be_in_transaction("a transaction")
        return self._procedures.runner.on_main(lambda: self._procedures.transact(self, function, args, kwargs))

    def sleep(self, until: Timestamp) -> Timestamp:
        self.must_not_be_in_transaction("sleep")
        return Timestamp(self._procedures.runner.sleep(int(until)))


class CallHttp:
    """`ctx.http` of one call (`module.http.HttpClient`)."""

    def __init__(self, call: Call, exchange: HttpExchange, figures: DatabaseFigures) -> None:
        self._call = call
        self._exchange = exchange
        self._figures = figures

    def get(self, url: str, *, headers: Headers = (), timeout: float = 30.0) -> HttpResponse:
        return self.request("GET", url, headers=headers, timeout=timeout)

    def post(self, url: str, body: str | bytes = b"", *, headers: Headers = (), timeout: float = 30.0) -> HttpResponse:
        return self.request("POST", url, body, headers=headers, timeout=timeout)

    def request(
        self, method: str, url: str, body: str | bytes = b"", *, headers: Headers = (), timeout: float = 30.0
    ) -> HttpResponse:
        self._call.must_not_be_in_transaction("HTTP")
        pairs = headers.items() if hasattr(headers, "items") else headers
        given = tuple((str(name), str(value)) for name, value in pairs)
        data = body.encode() if isinstance(body, str) else body
        self._figures.http_begun.append(len(data))
        try:
            answer = self._exchange(method, url, data, given, timeout)
        except BaseException:
            self._figures.http_failed.append(len(data))
            raise
        self._figures.http_answered.append(len(answer.body))
        return answer


def send_request(
    method: str, url: str, body: bytes, headers: tuple[tuple[str, str], ...], timeout: float
) -> HttpResponse:
    """`outbound_http.exchange`, loaded when first needed: most databases never make a request, and TLS is big."""
    from spacetimedb.hosts import outbound_http

    return outbound_http.exchange(method, url, body, headers, timeout)


class Procedures:
    """All procedures and handlers of a database, by canonical name. See the head of the module.

    `on_failure` is told of every exception that one of them did not handle.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runner: Runner = Inline(database.log, lambda until_us: max(until_us, database.now_us()))
        self.exchange: HttpExchange = send_request
        self.on_failure: Callable[[BaseException], None] | None = None
        self.by_name: dict[str, Procedure] = {}
        self.handlers: dict[str, Callable[..., object]] = {}

    def install(self, module: Module) -> None:
        """The procedures of another program. Those that run go on, but open no more transactions."""
        self.by_name = {
            spec.name: Procedure(
                spec.name,
                spec.function,
                codec(spec.params).decode,
                _nothing if spec.returns == UNIT_SHAPE else codec(spec.returns).encode,
                spec.is_private,
            )
            for spec in module.procedures
        }
        self.handlers = {spec.name: spec.function for spec in module.handlers}

    # -- calls

    def call(self, who: Caller, name: str, request_id: int, args: bytes) -> None:
        """Starts a procedure for a client; it is answered when it ends, or at once if it cannot begin."""
        database = self.database
        timestamp = database.timestamp_us()
        procedure = self.by_name.get(name)
        if procedure is None or (procedure.is_private and who.identity != database.owner):
            database.no_such_reducer(name, "procedure")
            database.answer(Outcome.NO_SUCH_PROCEDURE, who, request_id, timestamp, NO_SUCH_PROCEDURE)
            return
        try:
            values = procedure.decode(args, 0)[0]
        except DecodeError as error:
            database.log_bad_arguments(name, "procedure")
            text = f"invalid arguments for procedure {name}: {error}"
            database.answer(Outcome.BAD_PROCEDURE_ARGUMENTS, who, request_id, timestamp, text)
            return
        call = Call(self, name, who, timestamp)
        self._start(
            call,
            self._bound(procedure, call, values),
            lambda outcome, body: self._answer(call, request_id, outcome, body),
        )

    def handle(self, who: Caller, request_id: int, body: bytes) -> None:
        """Starts an HTTP handler with an encoded `HandlerCall`. `who` is zero, of no connection."""
        request = handler_calls.decode_call(body)
        timestamp = self.database.timestamp_us()
        function = self.handlers.get(request.handler)
        if function is None:  # the reader knew an older program
            self.database.answer(Outcome.NO_SUCH_PROCEDURE, who, request_id, timestamp, "")
            return
        call = Call(self, request.handler, who, timestamp)
        context = HttpContext(who.identity, None, Timestamp(timestamp), call)
        given = Request(request.method, request.uri, request.path, request.query, request.headers, request.body)
        self._start(
            call,
            lambda: handler_calls.encode_answer(function(context, given)),
            lambda outcome, answer: self._answer(call, request_id, outcome, answer),
        )

    def run_job(self, job: Job, schedule: ScheduleTable, row: Any, who: Caller) -> None:
        """A scheduled procedure is due. It runs beside the queue, and never twice at a time for the same row: an
        interval's next run is armed when this one has ended, missed ones are skipped.

        A one-shot row is gone, for good, before the run begins.
        """
        database = self.database
        timestamp = database.timestamp_us(job.due_us)
        if not isinstance(schedule.at(row), Interval):
            schedule.delete(job.key)
            deltas = database.views.commit_regardless()
            database.emit(deltas, MUTATIONS_ONLY, timestamp, NO_READER, 0, 0, NO_REDUCER, 0, 0)
        procedure = self.by_name[schedule.function_name]
        call = Call(self, procedure.name, who, timestamp)

        def ended(_outcome: Outcome, _body: bytes) -> None:
            if database.schedules.tables.get(job.table_id) is schedule:  # else another program has queued its own rows
                database.arm_next(job, schedule)

        self._start(call, self._bound(procedure, call, (row,)), ended)

    def _bound(self, procedure: Procedure, call: Call, values: tuple[Any, ...]) -> Callable[[], bytes]:
        who = call.who
        context = ProcedureContext(who.identity, who.connection_id, Timestamp(call.timestamp), call)
        return lambda: procedure.encode(procedure.function(context, *values))

    def _start(self, call: Call, compute: Callable[[], bytes], end: Callable[[Outcome, bytes], object]) -> None:
        """`end` gets RETURNED and the encoded result, or PROCEDURE_FAILED and what the caller may know."""

        def ended(failure: BaseException | None, body: bytes) -> None:
            if failure is None:
                end(Outcome.RETURNED, body)
                return
            self._log_failure(call, failure)
            text = REPLACED if isinstance(failure, ProgramReplaced) else FATAL
            end(Outcome.PROCEDURE_FAILED, text.encode())

        if not self.runner.start(call.name, compute, ended):
            self.database.log.system("too many procedures wait for others to end", "Error", call.name)
            end(Outcome.PROCEDURE_FAILED, FATAL.encode())

    # -- on the main thread

    def transact(self, call: Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One transaction of a procedure: commit when the function returns, undo everything when it raises."""
        database = self.database
        if call.program is not database.module:
            raise ProgramReplaced(REPLACED)
        timestamp = database.timestamp_us()
        who, log = call.who, database.log
        before, log.function = log.function, call.name
        context = ReducerContext(who.identity, who.connection_id, Timestamp(timestamp), database.db, call)
        call.in_transaction = True
        started = perf_counter_ns()
        try:
            database.budget.begin()
            result = function(context, *args, **kwargs)
            database.budget.end()
            deltas = database.commit()
        except BaseException as error:
            database.budget.end()
            database.store.rollback()
            if isinstance(error, ViewFailed):
                database.views.log_failure(error)
            raise
        finally:
            call.in_transaction = False
            log.function = before
        try:
            database.figures.procedure(call.name).observe((perf_counter_ns() - started) // 1000)
            if deltas:
                changes = database.figures.changes(PROCEDURE, call.name)
                database.emit(deltas, MUTATIONS_ONLY, timestamp, NO_READER, 0, 0, NO_REDUCER, 0, 0, changes=changes)
        except BaseException as error:
            raise Unpublished from error
        call.horizon = database.horizon
        return result

    def _answer(self, call: Call, request_id: int, outcome: Outcome, body: bytes) -> None:
        who = call.who
        self.database.out.append(
            mail.answer(
                outcome,
                who.reader,
                who.connection,
                request_id,
                call.horizon,
                call.timestamp,
                call.duration_us,
                body,
            )
        )

    def _log_failure(self, call: Call, error: BaseException) -> None:
        database = self.database
        database.errors += 1
        if isinstance(error, BudgetExceeded):
            text = f"{call.name} was stopped: a transaction of it ran longer than {database.budget.limit_s:g} s"
            database.log.system(text, "Error")
        elif isinstance(error, ProgramReplaced):
            database.log.system(REPLACED, "Error", call.name)
        elif isinstance(error, MemoryError):
            database.memory.give_up()
            database.log.system(
                "out of memory: the procedure wanted more than this database may have", "Error", call.name
            )
        elif not isinstance(error, ViewFailed):  # that has its line already, the view's
            database.log.panic(error, call.name)
        if self.on_failure is not None:
            self.on_failure(error)


def _nothing(_result: object) -> bytes:
    return b""
