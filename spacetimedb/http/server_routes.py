"""Handlers of the routes that concern the server and identities."""

from __future__ import annotations

import re
from typing import Any, Final

from spacetimedb.types.special import Identity

from .exchange import Exchange, authenticate
from .local_access import is_local
from .messages import PEM, TEXT, HttpError, Response, empty_response, json_response
from .query import bare_identity, integer, path_parameter, read_query, variant

VERSION: Final = "2.8.3"
"""Version of the protocol family this server speaks, as clients and tools read it."""
PROMETHEUS_NAMES: Final = {
    "spacetime_txn_elapsed_time_sec": "spacetime_txn_elapsed_time_seconds",
    "spacetime_reducer_wait_time_sec": "spacetime_reducer_wait_time_seconds",
    "spacetime_subscription_compile_time_sec": "spacetime_subscription_compile_time_seconds",
    "spacetime_reducer_plus_query_duration_sec": "spacetime_reducer_plus_query_duration_seconds",
    "spacetime_num_queries_subscribed": "spacetime_num_queries_subscribed_total",
    "spacetime_worker_instance_operation_queue_length_histogram": "spacetime_worker_instance_operation_queue_lengths",
    "spacetime_num_new_queries_subscribed": "spacetime_num_new_queries_subscribed_total",
    "spacetime_num_queries_evaluated": "spacetime_num_queries_evaluated_total",
    "spacetime_num_delta_queries_evaluated": "spacetime_num_delta_queries_evaluated_total",
    "spacetime_num_delta_queries_matched": "spacetime_num_delta_queries_matched_total",
    "spacetime_procedure_http_request_size_bytes": "spacetime_procedure_http_request_size_bytes_total",
    "spacetime_procedure_http_response_size_bytes": "spacetime_procedure_http_response_size_bytes_total",
    "spacetime_procedure_num_http_requests": "spacetime_procedure_num_http_requests_total",
    "spacetime_procedure_num_successful_http_requests": "spacetime_procedure_num_successful_http_requests_total",
    "spacetime_procedure_num_failed_http_requests": "spacetime_procedure_num_failed_http_requests_total",
    "view_calls": "view_calls_total",
    "view_call_time_usec": "view_call_time_usec_total",
    "view_total_time_usec": "view_total_time_usec_total",
    "view_calls_triggered_by_reducer": "view_calls_triggered_by_reducer_total",
}
"""Upstream's names of metrics that Prometheus' rules want named otherwise, and how."""
_RENAMED: Final = re.compile(
    rb"^((?:# (?:HELP|TYPE) )?)(%s)(?=_bucket|_count|_sum|[ {])" % "|".join(PROMETHEUS_NAMES).encode(), re.MULTILINE
)


async def ping(exchange: Exchange) -> Response:
    return empty_response()


async def health(exchange: Exchange) -> Response:
    return json_response(
        {"nodes": [0], "package_name": "spacetimedb-client-api", "schedulable": True, "version": VERSION}
    )


async def metrics(exchange: Exchange) -> Response:
    """Figures are open to all, as upstream's are; what clients ask for only to this machine, and to owners."""
    wants_rules = "names" in read_query(exchange.request.query, {"names": variant("prometheus")})
    queries: list[Identity] | None = None
    if exchange.backend.dashboard_access() != "local" or not is_local(exchange.request):
        queries = []
        try:
            await authenticate(exchange, mint=False)
        except HttpError:
            pass  # the route does not look at tokens otherwise
        if exchange.claims is not None:
            queries = await exchange.backend.databases_of(exchange.claims.identity)
    text = await exchange.backend.metrics(None, queries)
    if wants_rules:
        text = _RENAMED.sub(lambda found: found[1] + PROMETHEUS_NAMES[found[2].decode()].encode(), text)
    return Response(200, [("content-type", TEXT)], text)


async def service_discovery(exchange: Exchange) -> Response:
    return json_response([{"targets": ["node:80"], "labels": {}}])


def _path_identity(exchange: Exchange) -> Identity:
    identity: Identity = path_parameter(exchange.parameters["identity"], bare_identity)
    return identity


async def energy(exchange: Exchange) -> Response:
    """The balance of the identity in the path; a token is not looked at."""
    return json_response({"balance": str(await exchange.backend.energy(_path_identity(exchange), 0))})


async def _energy_caller(exchange: Exchange) -> Identity:
    """Reading a balance is open to all, so the route does not look at tokens: the methods that need one do."""
    await authenticate(exchange, mint=False)
    _path_identity(exchange)
    return exchange.caller.identity


async def add_energy(exchange: Exchange) -> Response:
    """The caller's balance after crediting `amount`; the identity in the path means nothing."""
    identity = await _energy_caller(exchange)
    try:
        credit = read_query(exchange.request.query, {"amount": integer(128)}).get("amount", 0)
    except HttpError:
        raise HttpError(400) from None
    return json_response({"balance": str(await exchange.backend.energy(identity, credit))})


async def set_energy(exchange: Exchange) -> Response:
    """Nobody may set a balance."""
    await _energy_caller(exchange)
    return empty_response(401)


async def create_identity(exchange: Exchange) -> Response:
    claims = exchange.tokens.mint(exchange.publishers.local and is_local(exchange.request))
    return json_response({"identity": claims.identity.hex(), "token": claims.token})


async def public_key(exchange: Exchange) -> Response:
    return Response(200, [("content-type", PEM)], exchange.tokens.public_pem)


async def websocket_token(exchange: Exchange) -> Response:
    return json_response({"token": exchange.tokens.websocket_token(exchange.caller).token})


async def verify_identity(exchange: Exchange) -> Response:
    identity = _path_identity(exchange)
    return empty_response(204 if exchange.caller.identity == identity else 400)


async def databases(exchange: Exchange) -> Response:
    owned = await exchange.backend.databases_of(_path_identity(exchange))
    body: dict[str, Any] = {"identities": [identity.hex() for identity in owned]}
    return json_response(body)
