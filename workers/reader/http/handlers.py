"""A reader's way to the HTTP handlers of a module: finds the route here, has the handler run by the actor."""

from __future__ import annotations

from spacetimedb.hosts import mail
from spacetimedb.hosts.handler_calls import HandlerCall, decode_answer, encode_call
from spacetimedb.hosts.mail import Outcome
from spacetimedb.http.backend import HandlerRequest, HandlerResponse
from spacetimedb.http.messages import TEXT
from spacetimedb.schema.definition import ModuleDef
from spacetimedb.workers.reader.database_link import DatabaseLink
from spacetimedb.workers.reader.waiter import DatabaseGone


async def run_handler(link: DatabaseLink, request: HandlerRequest) -> HandlerResponse | None:
    """The answer of the handler for this path and method; None if there is none. Raises DatabaseGone.

    A handler that has been started goes on when the client hangs up.
    """
    handler = find_handler(link.catalog.definition, request.method, request.path)
    if handler is None:
        return None
    query = request.uri.partition("?")[2]
    call = HandlerCall(handler, request.method, request.uri, request.path, query, tuple(request.headers), request.body)
    waiter = link.waiter()
    link.outgoing.append(mail.request(mail.HANDLER, 0, waiter.number, 0, encode_call(call)))
    link.post()
    try:
        await waiter.event.wait()
    finally:
        link.waiters.pop(waiter.number, None)
    if waiter.outcome is None:
        raise DatabaseGone
    if waiter.outcome is Outcome.NO_SUCH_PROCEDURE:
        return None
    if waiter.outcome is not Outcome.RETURNED:
        return HandlerResponse(500, [("content-type", TEXT)], waiter.body)
    answer = decode_answer(waiter.body)
    return HandlerResponse(answer.status, answer.headers, answer.body)


def find_handler(definition: ModuleDef, method: str, path: str) -> str | None:
    """The handler (canonical name) of the route with exactly this path and this or any method."""
    for route in definition.http_routes:
        if route.path == path:
            wanted = route.method
            if wanted is None or (wanted.extension or wanted.name.upper()) == method:
                return route.handler
    return None
