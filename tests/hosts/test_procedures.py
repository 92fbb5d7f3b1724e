"""Procedures and HTTP handlers: in threads as a server runs them, and inside TestHost."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, cast

import pytest
from patience import PATIENCE_S

from spacetimedb import (
    AnonymousViewContext,
    At,
    HttpContext,
    HttpError,
    Interval,
    Module,
    Pk,
    ProcedureContext,
    ReducerContext,
    ReducerError,
    Request,
    Response,
    Row,
    Schedule,
    TestHost,
    TimeDuration,
    WouldBlock,
    u32,
)
from spacetimedb.hosts import procedure_threads
from spacetimedb.hosts.database import Caller
from spacetimedb.hosts.mail import ANSWER_HEAD, Outcome
from spacetimedb.hosts.procedure_threads import ProcedureThreads
from spacetimedb.hosts.procedures import FATAL
from spacetimedb.module.http import HttpResponse
from spacetimedb.store.commit_record import COMMIT, header

ALICE, BOB = TestHost.identity("alice"), TestHost.identity("bob")
m = Module()


@m.table(public=True)
class Note(Row):
    id: Pk[u32]
    text: str


@m.table()
class Chore(Schedule):
    text: str


@m.reducer
def write(ctx: ReducerContext, id: u32, text: str) -> None:
    ctx.log.info("a note")
    ctx.db[Note].insert(Note(id=id, text=text))


@m.view
def texts(ctx: AnonymousViewContext) -> list[Note]:
    rows = list(ctx.db[Note].iter())
    if any(row.text == "poison" for row in rows):
        raise RuntimeError("a view is poisoned")
    return rows


@m.procedure
def write_one(ctx: ProcedureContext, id: u32, text: str) -> None:
    ctx.with_tx(write, id, text)


@m.procedure
def nap(ctx: ProcedureContext, seconds: float) -> str:
    ctx.log.info("good night")
    ctx.sleep(seconds)
    return "awake"


@m.procedure
def add(ctx: ProcedureContext, a: u32, b: u32) -> u32:
    return a + b


@m.procedure
def write_two(ctx: ProcedureContext, id: u32) -> u32:
    ctx.with_tx(write, id, "one")
    ctx.with_tx(write, id + 1, text="two")
    return ctx.with_tx(lambda tx: tx.db[Note].count())


@m.procedure
def undone(ctx: ProcedureContext, id: u32) -> str:
    def tx(tx: ReducerContext) -> None:
        write(tx, id, "gone")
        raise ReducerError("no")

    try:
        ctx.with_tx(tx)
    except ReducerError as error:
        return str(error)
    return "?"


@m.procedure
def broken(ctx: ProcedureContext) -> None:
    raise RuntimeError("a secret")


@m.procedure
def broken_inside(ctx: ProcedureContext, id: u32) -> None:
    def tx(tx: ReducerContext) -> None:
        write(tx, id, "gone")
        raise ZeroDivisionError

    ctx.with_tx(tx)


@m.procedure
def blocking(ctx: ProcedureContext, what: str) -> str:
    def tx(tx: ReducerContext) -> None:
        if what == "tx":
            ctx.with_tx(lambda inner: None)
        elif what == "sleep":
            ctx.sleep(0.1)
        else:
            ctx.http.get("http://example.com")

    try:
        ctx.with_tx(tx)
    except WouldBlock as error:
        return str(error)
    return "it went"


@m.procedure
def endless(ctx: ProcedureContext) -> str:
    def tx(tx: ReducerContext) -> None:
        while True:
            pass

    ctx.with_tx(tx)
    return "?"


@m.procedure
def too_big(ctx: ProcedureContext) -> u32:
    return 2**40


@m.procedure(private=True)
def hidden(ctx: ProcedureContext) -> str:
    return "hidden"


@m.procedure
def fetch(ctx: ProcedureContext, url: str) -> str:
    try:
        return ctx.http.post(url, "ping", headers={"X-One": "1"}).text
    except HttpError as error:
        return f"error: {error}"


@m.procedure(on_schedule=Chore)
def do(ctx: ProcedureContext, chore: Chore) -> None:
    there = ctx.with_tx(lambda tx: chore.scheduled_id in tx.db[Chore].scheduled_id)
    ctx.log.info(f"{chore.text} {there}")
    ctx.sleep(0.35)
    if chore.text == "breaks":
        raise RuntimeError("chore")


@m.reducer
def plan(ctx: ReducerContext, text: str, ms: u32, repeat: bool) -> None:
    wait = TimeDuration.millis(ms)
    at = Interval(wait) if repeat else At(ctx.timestamp + wait)
    ctx.db[Chore].insert(Chore(scheduled_at=at, text=text))


@m.http.any("/echo")
def echo(ctx: HttpContext, request: Request) -> Response:
    sender = ctx.with_tx(lambda tx: int(tx.sender))
    text = f"{request.method} {request.query} {request.header('x-one')} {len(request.body)} {sender}"
    return Response(text, 201, [("x-a", "1"), ("x-a", "2")])


@m.http.get("/broken")
def broken_handler(ctx: HttpContext, request: Request) -> Response:
    raise RuntimeError("a secret")


@m.http.get("/odd")
def odd_handler(ctx: HttpContext, request: Request) -> Response:
    return cast(Response, "no Response")


Answer: TypeAlias = tuple[Outcome, bytes]


class Server:
    """A database whose procedures run in threads; this thread is the main one, `run_until` is its loop."""

    def __init__(self) -> None:
        self.host = TestHost(m)
        self.database = self.host._database
        self.bell = threading.Event()
        self.threads = ProcedureThreads(self.database.log, self.clock, self.bell.set)
        self.database.procedures.runner = self.threads
        self.database.budget.start()
        self.answers: dict[int, Answer] = {}
        self.order: list[str] = []
        self.horizons: dict[int, int] = {}
        self.requests = 0

    def clock(self) -> int:
        return self.host._now

    def client(self, who: Any = ALICE) -> Caller:
        self.host.connect(who)
        return self.host._callers[who]

    def call(self, who: Caller, name: str, args: bytes = b"") -> int:
        self.requests += 1
        self.database.call_procedure(who, name, self.requests, args)
        return self.requests

    def take(self) -> None:
        for record in self.database.out:
            if record[4] == COMMIT:
                self.order.append(f"commit {header(record).reader}")
                continue
            head = ANSWER_HEAD.unpack_from(record)
            self.order.append(f"answer {head[5]}")
            self.answers[head[5]] = Outcome(head[2]), bytes(record[ANSWER_HEAD.size : ANSWER_HEAD.size + head[8]])
            self.horizons[head[5]] = head[6]
        self.host._take()

    def run_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.bell.clear()
            while self.threads.run_posted():
                pass
            self.take()
            if done():
                return
            assert self.bell.wait(deadline - time.monotonic()), "nothing happens any more"

    def answer(self, request: int) -> Answer:
        self.run_until(lambda: request in self.answers)
        return self.answers[request]

    def logged(self) -> list[tuple[str, str]]:
        self.take()
        return [(line["function"], line["message"]) for line in self.host.log if line["function"] != "__spacetimedb__"]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.database.budget.stop()


def u32s(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(4, "little") for n in numbers)


def seconds(value: float) -> bytes:
    return struct.pack("<d", value)


def text(value: str) -> bytes:
    return u32s(len(value)) + value.encode()


def test_many_sleep_at_the_same_time_and_reducers_run_between(server: Server) -> None:
    alice, bob = server.client(), server.client(BOB)
    started = time.monotonic()
    naps = [server.call(alice, "nap", seconds(1.0)) for _ in range(12)]
    server.database.call_by_name(bob, "write", 0, u32s(1) + text("between"))
    server.run_until(lambda: ("write", "a note") in server.logged())
    assert not server.answers
    for number in naps:
        assert server.answer(number) == (Outcome.RETURNED, text("awake"))
    assert 1.0 <= time.monotonic() - started < 12 * 1.0
    assert {f for f, message in server.logged() if message == "good night"} == {"nap"}
    assert ("write", "a note") in server.logged()


def test_more_than_there_are_threads_wait_and_far_too_many_are_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procedure_threads, "MAX_THREADS", 2)
    monkeypatch.setattr(procedure_threads, "MAX_WAITING", 3)
    alice = server.client()
    numbers = [server.call(alice, "nap", seconds(0.05)) for _ in range(6)]
    assert server.answer(numbers[-1]) == (Outcome.PROCEDURE_FAILED, FATAL.encode())
    assert [server.answer(n)[0] for n in numbers[:-1]] == [Outcome.RETURNED] * 5
    assert server.threads._threads == 2


def test_transactions_are_committed_before_the_answer_with_no_caller(server: Server) -> None:
    alice = server.client()
    server.order.clear()
    number = server.call(alice, "write_two", u32s(5))
    assert server.answer(number) == (Outcome.RETURNED, u32s(2))
    assert server.order == ["commit 65535", "commit 65535", f"answer {number}"]
    assert server.horizons[number] == server.database.horizon
    assert [note.text for note in server.host.db[Note].iter()] == ["one", "two"]
    assert {f for f, _ in server.logged()} == {"write_two"}


def test_an_answer_waits_for_nothing_that_its_procedure_did_not_see(server: Server) -> None:
    number = server.call(server.client(), "add", u32s(2, 3))
    assert server.answer(number) == (Outcome.RETURNED, u32s(5))
    assert server.horizons[number] == 0


def test_exceptions(server: Server) -> None:
    alice = server.client()
    assert server.answer(server.call(alice, "undone", u32s(1))) == (Outcome.RETURNED, text("no"))
    failed = Outcome.PROCEDURE_FAILED, FATAL.encode()
    assert server.answer(server.call(alice, "broken")) == failed
    assert server.answer(server.call(alice, "broken_inside", u32s(1))) == failed
    assert server.answer(server.call(alice, "too_big")) == failed
    assert server.host.db[Note].count() == 0
    panics = [(line["function"], line["message"]) for line in server.host.log if line["level"] == "Panic"]
    assert [f for f, _ in panics] == ["broken", "broken_inside", "too_big"]
    assert panics[0][1] == "RuntimeError: a secret"
    assert server.answer(server.call(alice, "add", u32s(1, 1))) == (Outcome.RETURNED, u32s(2))


def test_an_endless_transaction_is_stopped(server: Server) -> None:
    server.database.budget.full = 6
    alice = server.client()
    assert server.answer(server.call(alice, "endless"))[0] is Outcome.PROCEDURE_FAILED
    assert any("endless was stopped" in line["message"] for line in server.host.log)
    assert server.answer(server.call(alice, "add", u32s(1, 1)))[0] is Outcome.RETURNED


@pytest.mark.parametrize("what", ["tx", "sleep", "http"])
def test_nothing_waits_inside_a_transaction(server: Server, what: str) -> None:
    outcome, body = server.answer(server.call(server.client(), "blocking", text(what)))
    assert outcome is Outcome.RETURNED
    assert body.endswith(b"inside a transaction")


def test_what_cannot_be_called(server: Server) -> None:
    alice, owner = server.client(), server.client(server.host.owner)
    for name in ("nope", "write", "hidden", "do"):
        assert server.answer(server.call(alice, name)) == (Outcome.NO_SUCH_PROCEDURE, b"No such procedure")
    assert server.answer(server.call(owner, "hidden"))[0] is Outcome.RETURNED
    outcome, body = server.answer(server.call(alice, "add", b"\1"))
    assert outcome is Outcome.BAD_PROCEDURE_ARGUMENTS
    assert body == b"invalid arguments for procedure add: data too short for u32: Expected 4, given 1"
    assert ("nope", 'External attempt to call nonexistent procedure "nope" failed.') in [
        (f, message.partition(" Have")[0]) for f, message in server.logged()
    ]


def test_it_goes_on_without_its_caller(server: Server) -> None:
    alice = server.client()
    number = server.call(alice, "nap", seconds(0.1))
    server.host.disconnect(ALICE)
    assert server.answer(number)[0] is Outcome.RETURNED


def test_another_program_ends_its_transactions(server: Server) -> None:
    alice = server.client()
    number = server.call(alice, "write_two", u32s(1))
    server.database.module = Module()
    assert server.answer(number)[0] is Outcome.PROCEDURE_FAILED
    server.database.module = m


def test_lines_of_threads_wake_the_main_thread(server: Server) -> None:
    server.call(server.client(), "nap", seconds(0.3))
    server.run_until(lambda: ("nap", "good night") in server.logged())
    assert not server.answers


# -- TestHost


@pytest.fixture
def host() -> TestHost:
    return TestHost(m)


def test_host_returns_results_and_raises(host: TestHost) -> None:
    assert host.procedure(ALICE, add, 2, b=3) == 5
    assert host.procedure(ALICE, write_two, 1) == 2
    assert host.procedure(ALICE, undone, 7) == "no"
    with pytest.raises(RuntimeError, match="a secret"):
        host.procedure(ALICE, broken)
    with pytest.raises(ZeroDivisionError):
        host.procedure(ALICE, broken_inside, 9)
    with pytest.raises(ValueError, match="1099511627776"):
        host.procedure(ALICE, too_big)
    with pytest.raises(LookupError, match="No such procedure"):
        host.procedure(ALICE, hidden)
    assert host.procedure(host.owner, hidden) == "hidden"
    assert host.db[Note].count() == 2
    assert "tx inside" not in host.procedure(ALICE, blocking, "sleep")
    assert host.procedure(ALICE, blocking, "tx").endswith("inside a transaction")


def test_host_a_view_that_fails_undoes_the_transaction(host: TestHost) -> None:
    host.connect(ALICE)
    seen = host.subscribe(ALICE, "SELECT * FROM texts")
    host.procedure(ALICE, write_one, 1, "good")
    assert [note.text for note in seen.rows(texts)] == ["good"]
    with pytest.raises(RuntimeError, match="poisoned"):
        host.procedure(ALICE, write_one, 2, "poison")
    assert host.db[Note].count() == 1
    assert [line["function"] for line in host.log if line["level"] == "Panic"] == ["texts"]


def test_host_sleeping_moves_the_clock_and_lets_schedules_run(host: TestHost) -> None:
    host.call(ALICE, plan, "chore", 200, False)
    before = host.now
    assert host.procedure(ALICE, nap, 1.0) == "awake"
    assert 1_000_000 <= host.now - before < 1_001_000
    assert [line["message"] for line in host.log if line["function"] == "do"] == ["chore False"]
    assert host.db[Chore].count() == 0


def test_host_intervals_of_procedures_skip_what_they_miss(host: TestHost) -> None:
    host.call(ALICE, plan, "breaks", 200, True)
    with pytest.raises(RuntimeError, match="chore"):
        host.advance(1.1)  # due at 0.2, runs until 0.55; due at 0.6, runs until 0.95; due at 1.0
    assert [line["message"] for line in host.log if line["function"] == "do" and line["level"] == "Info"] == [
        "breaks True"
    ] * 3
    assert [str(failure) for failure in host.failures] == ["chore"] * 3


def test_host_requests() -> None:
    def respond(method: str, url: str, body: bytes, headers: object, timeout: float) -> HttpResponse:
        return HttpResponse(200, (), f"{method} {url} {body!r} {headers} {timeout}".encode())

    host = TestHost(m, http=respond)
    assert host.procedure(ALICE, fetch, "http://x/") == "POST http://x/ b'ping' (('X-One', '1'),) 30.0"
    assert "makes no HTTP requests" in TestHost(m).procedure(ALICE, fetch, "http://x/?secret")


def test_host_handlers(host: TestHost) -> None:
    answer = host.request("POST", "/echo?q=1", "body", {"X-One": "1"})
    assert (answer.status, answer.body) == (201, b"POST q=1 1 4 0")
    assert answer.headers == (("x-a", "1"), ("x-a", "2"))
    with pytest.raises(LookupError):
        host.request("GET", "/nope")
    with pytest.raises(LookupError):
        host.request("POST", "/broken")
    with pytest.raises(RuntimeError, match="a secret"):
        host.request("GET", "/broken")
    with pytest.raises(TypeError, match="returns a Response"):
        host.request("GET", "/odd")
