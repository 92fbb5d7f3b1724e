"""What the actor answers to requests that have no commit record: to clients of v2, to v1 clients, to HTTP requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacetimedb.hosts import mail
from spacetimedb.hosts.mail import Outcome
from spacetimedb.protocol import v2
from spacetimedb.store.commit_record import NO_REDUCER
from spacetimedb.workers.reader.client import OPEN
from spacetimedb.workers.reader.link_figures import MODULE_REFUSED

if TYPE_CHECKING:
    from spacetimedb.workers.reader.database_link import DatabaseLink


def follow_answer(link: DatabaseLink, record: bytes) -> None:
    """An ANSWER record of the ring, perhaps to another reader's client."""
    _, _, outcome, caller, number, request_id, horizon, timestamp, size, duration = mail.ANSWER_HEAD.unpack_from(record)
    if caller != link.reader:
        return
    if (number, request_id) == link.figures.asked:
        link.figures.answered(NO_REDUCER)
    body = record[40 : 40 + size]
    waiter = link.waiters.get(number)
    if waiter is not None:
        if outcome == Outcome.REFUSED:
            waiter.refused = True
        if outcome != Outcome.CONNECTED:
            waiter.finish(Outcome(outcome), body, duration, horizon)
        return
    client = link.clients.get(number)
    if client is None:
        if number in link.v1.clients:
            link.v1.answer(number, outcome, request_id, horizon, timestamp, duration, body)
        return
    if outcome == Outcome.CONNECTED:
        client.state = OPEN
        link.outbox.tell(client, v2.initial_connection(client.identity, client.connection_id, client.token))
        link.requests.run_deferred(client)
        return
    if outcome == Outcome.REFUSED:
        link.lane.drop(client, MODULE_REFUSED)
        return
    if outcome == Outcome.RETURNED:
        link.outbox.tell(client, v2.procedure_result_returned(request_id, body, timestamp, duration), horizon)
        return
    text = body.decode()
    if outcome in (Outcome.PROCEDURE_FAILED, Outcome.NO_SUCH_PROCEDURE, Outcome.BAD_PROCEDURE_ARGUMENTS):
        link.outbox.tell(client, v2.procedure_result_internal(request_id, text))
        return
    if outcome == Outcome.ERROR:
        link.outbox.tell(client, v2.reducer_result_err(request_id, timestamp, text))
    else:
        link.outbox.tell(client, v2.reducer_result_internal(request_id, timestamp, text))
    client.pending_calls -= 1
    if client.deferred and not client.pending_calls and not client.waiting:
        link.requests.run_deferred(client)
