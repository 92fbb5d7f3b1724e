"""Plays recorded module cases about procedures and HTTP handlers (see `case_player`), with procedures in threads.

Further steps: `procedure` (with `later` only started), `answer` (of one started before), `route` (a request to a
handler). Procedures sleep in real time, so here `wait` takes its time.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from case_player import Player, fits

from spacetimedb.hosts.database import Caller, caller
from spacetimedb.hosts.handler_calls import HandlerCall, decode_answer, encode_call
from spacetimedb.hosts.mail import ANSWER_HEAD, Outcome
from spacetimedb.hosts.procedure_threads import ProcedureThreads
from spacetimedb.hosts.procedures import send_request
from spacetimedb.store.commit_record import COMMIT
from spacetimedb.types.bsatn import codec
from spacetimedb.types.json_arguments import ArgumentError, ArgumentsDecoder
from spacetimedb.types.shapes import shape_of
from spacetimedb.types.special import Identity
from spacetimedb.workers.reader.http.handlers import find_handler

FIRST_REQUEST: Final = 1000
"""Request ids from here on are those of procedures."""
LONGEST_WAIT_S: Final = 10.0
NO_HANDLER: Final = "Database has not registered a handler for this route"


class ProcedurePlayer(Player):
    """Plays one case."""

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.bell = threading.Event()
        procedures = self.database.procedures
        self.threads = ProcedureThreads(self.database.log, self.database.now_us, self.bell.set)
        procedures.runner, procedures.exchange = self.threads, send_request
        self.requests = FIRST_REQUEST
        self.started: list[tuple[str, str, int]] = []
        """Client, function and request of what runs behind."""
        self.answers: dict[int, tuple[Outcome, bytes]] = {}

    def play(self, steps: list[dict[str, Any]]) -> None:
        for number, step in enumerate(steps, 1):
            kind = next(key for key in step if hasattr(self, f"step_{key}"))
            if kind in ("procedure", "answer", "route", "wait", "http"):
                given = getattr(self, f"step_{kind}")(step)
                if "expect" in step and not fits(step["expect"], given):
                    raise AssertionError(f"step {number}: {step}\n  expected {step['expect']}\n  given    {given}")
            else:
                super().play([step])

    # -- the main thread

    def pump(self, done: Any, seconds: float = LONGEST_WAIT_S) -> bool:
        """Runs what threads post until `done()` or for so long."""
        deadline = time.monotonic() + seconds
        while True:
            self.bell.clear()
            while self.threads.run_posted():
                pass
            self.collect()
            if done():
                return True
            left = deadline - time.monotonic()
            if left <= 0 or not self.bell.wait(left):
                return False

    def collect(self) -> None:
        """Takes the answers to procedures out of what came out, then the rest."""
        rest = []
        for record in self.database.out:
            head = ANSWER_HEAD.unpack_from(record) if record[4] != COMMIT else None
            if head is not None and head[5] >= FIRST_REQUEST:
                body = bytes(record[ANSWER_HEAD.size : ANSWER_HEAD.size + head[8]])
                self.answers[head[5]] = Outcome(head[2]), body
            else:
                rest.append(record)
        self.database.out[:] = rest
        self.host._take()

    def answer_to(self, request: int) -> tuple[Outcome, bytes]:
        assert self.pump(lambda: request in self.answers), "a procedure does not end"
        return self.answers.pop(request)

    def next_request(self) -> int:
        self.requests += 1
        return self.requests

    # -- steps

    def is_procedure(self, step: dict[str, Any]) -> bool:
        return self.database.definition.procedure(step["function"]) is not None

    def arguments(self, step: dict[str, Any]) -> bytes:
        found = self.database.definition.procedure(step["function"])
        if found is None or "raw_args" in step:
            return super().arguments(step)
        typespace = self.database.definition.typespace
        if "body" in step:
            return ArgumentsDecoder(found.name, found.params, typespace).decode(step["body"])
        shape = shape_of(found.params, typespace)
        return codec(shape).encode(self.read_value(shape, step["args"]))

    def result(self, function: str, request: int) -> dict[str, Any]:
        outcome, body = self.answer_to(request)
        if outcome is not Outcome.RETURNED:
            return {"internal": body.decode()}
        definition = self.database.definition
        procedure = definition.procedure(function)
        assert procedure is not None
        shape = shape_of(procedure.return_type, definition.typespace)
        return {"returned": self.show(shape, codec(shape).decode_exact(body))}

    def start(self, made: Caller, step: dict[str, Any]) -> int:
        request = self.next_request()
        self.database.call_procedure(made, step["function"], request, self.arguments(step))
        return request

    def step_procedure(self, step: dict[str, Any]) -> object:
        name = step["procedure"]
        request = self.start(self.sockets[name], step)
        if step.get("later"):
            self.started.append((name, step["function"], request))
            return {}
        return self.result(step["function"], request)

    def step_answer(self, step: dict[str, Any]) -> object:
        found = next(s for s in self.started if s[:2] == (step["answer"], step["function"]))
        self.started.remove(found)
        return self.result(found[1], found[2])

    def step_http(self, step: dict[str, Any]) -> object:
        if not self.is_procedure(step):
            given = super().step_http(step)
            if isinstance(given, dict) and given["status"] == 404:  # it could have been a procedure
                self.database.call_procedure(self.fresh_caller(self.identity(step["http"])), step["function"], 0, b"")
                self.outcome()
            return given
        made = self.fresh_caller(self.identity(step["http"]))
        refused = self.connected(made)
        if refused is not None:
            return {"status": 403, "body": refused}
        try:
            given = self.result(step["function"], self.start(made, step))
            return {"status": 200, **given} if "returned" in given else {"status": 500, "body": given["internal"]}
        except ArgumentError as error:
            return {"status": 400, "body": error.message("procedure")}
        finally:
            self.database.disconnect(made.reader, made.connection)
            self.outcome()

    def step_route(self, step: dict[str, Any]) -> object:
        path, _, query = step["route"].partition("?")
        method = step.get("method", "GET")
        handler = find_handler(self.database.definition, method, path)
        if handler is None:
            return {"status": 404, "body": NO_HANDLER}
        headers = tuple((name.lower(), value) for name, value in step.get("headers", {}).items())
        call = HandlerCall(handler, method, step["route"], path, query, headers, step.get("body", "").encode())
        request = self.next_request()
        self.database.procedures.handle(caller(Identity.ZERO, None), request, encode_call(call))
        outcome, body = self.answer_to(request)
        if outcome is not Outcome.RETURNED:
            return {"status": 500, "body": body.decode()}
        answer = decode_answer(body)
        return {"status": answer.status, "body": answer.body.decode(), "headers": dict(answer.headers)}

    def step_wait(self, step: dict[str, Any]) -> object:
        self.pump(lambda: False, step["wait"])
        return {}
