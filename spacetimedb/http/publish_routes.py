"""Handlers of publish, pre-publish, reset and of the names of a database."""

from __future__ import annotations

import json
from typing import Any, Final

from spacetimedb.schema.names import database_name_problem
from spacetimedb.types.special import Identity

from .backend import NameDenied, NameInUse, PublishRequest
from .database_routes import hash_json
from .exchange import LOCKED_RESET, Exchange, resolve_identity
from .json_body import read_json
from .messages import HttpError, JsonError, Response, decode_utf8, json_response
from .query import Reader, boolean, duration, hash_value, integer, name_or_identity, read_query, text, variant

MAX_REPLICAS: Final = 255
DEFAULT_CONFIRMATION_TIMEOUT: Final = 5_000_000_000
MAX_CONFIRMATION_TIMEOUT: Final = 300_000_000_000
"""Nanoseconds to wait for an update to be durable."""

_HOST_TYPE: Final = variant("Wasm", "Js")
_PUBLISH_QUERY: Final[dict[str, Reader]] = {
    "host_type": _HOST_TYPE,
    "clear": boolean,
    "policy": variant("Compatible", "BreakClients"),
    "token": hash_value,
    "num_replicas": integer(64),
    "parent": name_or_identity,
    "organization": name_or_identity,
    "update_confirmation_timeout": duration,
}
_ORGANIZATION_ALIAS: Final = {"org": "organization"}


async def publish_unnamed(exchange: Exchange) -> Response:
    return await _publish(exchange, None)


async def publish(exchange: Exchange) -> Response:
    return await _publish(exchange, exchange.address())


async def _publish(exchange: Exchange, address: str | Identity | None) -> Response:
    backend, caller = exchange.backend, exchange.caller
    query = _publish_query(exchange)
    exchange.require_publisher()
    program = exchange.request.read_body()
    clear: bool = query.get("clear", False)
    if clear and address is None:
        raise HttpError(400, "Clear database requires database name or identity")
    name = address if isinstance(address, str) else None
    identity = address if isinstance(address, Identity) else None
    if name is not None:
        identity = await backend.resolve_name(name)
    existing = None if identity is None else await backend.database(identity)
    if existing is None and name is not None:
        # Even a name whose database is gone stays with whoever claimed it.
        try:
            identity = await backend.claim_name(caller, name)
        except NameDenied as error:
            raise JsonError(401, {"PermissionDenied": {"name": error.name}}) from None
    if query.get("num_replicas", 0) > MAX_REPLICAS:
        raise HttpError(400, f"Replication factor {query['num_replicas']} out of bounds")
    if "parent" in query:
        await resolve_identity(backend, query["parent"])
        if clear and existing is not None:
            raise HttpError(400, "Setting the parent of an existing database is not supported")
    if "organization" in query:
        await resolve_identity(backend, query["organization"])
    break_clients = query.get("policy") == "BreakClients"
    if break_clients and "token" not in query:
        raise HttpError(400, "Migration policy is set to `BreakClients`, but no migration token was provided.")
    if existing is not None:
        exchange.require_owner(existing, "reset database" if clear else "update database")
        if clear and existing.locked:
            raise HttpError(403, LOCKED_RESET)
    timeout = min(query.get("update_confirmation_timeout", DEFAULT_CONFIRMATION_TIMEOUT), MAX_CONFIRMATION_TIMEOUT)
    published = await backend.publish(
        PublishRequest(
            caller=caller,
            name=name,
            identity=identity,
            program=program,
            host_type=query.get("host_type", "Wasm"),
            clear=clear,
            break_clients=break_clients,
            migration_token=query.get("token"),
            confirmation_timeout=timeout,
        )
    )
    return _success(name, published.identity, "created" if published.created else "updated")


def _publish_query(exchange: Exchange) -> dict[str, Any]:
    """The parameters of publish; a `token` that served as the caller's credentials is no migration token."""
    query = exchange.request.query
    readers = _PUBLISH_QUERY
    if exchange.request.header("authorization") is None:
        readers = {**readers, "token": text}
    values = read_query(query, readers, aliases=_ORGANIZATION_ALIAS)
    if readers is not _PUBLISH_QUERY:
        values.pop("token", None)
    return values


def _success(name: str | None, identity: Identity, operation: str) -> Response:
    return json_response({"Success": {"domain": name, "database_identity": identity.hex(), "op": operation}})


async def pre_publish(exchange: Exchange) -> Response:
    style = variant("AnsiColor", "NoColor")
    # The official CLI uses the longer name.
    query = read_query(
        exchange.request.query,
        {"host_type": _HOST_TYPE, "style": style},
        aliases={"pretty_print_style": "style"},
    )
    program = exchange.request.read_body()
    database = exchange.database
    caller = exchange.require_owner(database, "update database")
    exchange.require_publisher()
    colour = query.get("style", "AnsiColor") == "AnsiColor"
    plan = await exchange.backend.pre_publish(caller, database, program, query.get("host_type", "Wasm"), colour)
    if plan.reason is not None:
        return json_response(
            {"ManualMigrate": {"reason": plan.reason, "major_version_upgrade": plan.major_version_upgrade}}
        )
    return json_response(
        {
            "AutoMigrate": {
                "migrate_plan": plan.text,
                "break_clients": plan.break_clients,
                "token": hash_json(plan.token),
                "major_version_upgrade": plan.major_version_upgrade,
            }
        }
    )


async def reset(exchange: Exchange) -> Response:
    query = read_query(exchange.request.query, {"num_replicas": integer(64), "host_type": _HOST_TYPE})
    database = exchange.database
    caller = exchange.require_owner(database, "reset database")
    if database.locked:
        raise HttpError(403, LOCKED_RESET)
    if query.get("num_replicas", 0) > MAX_REPLICAS:
        raise HttpError(400, f"Replication factor {query['num_replicas']} out of bounds")
    # No program, an empty one and one beyond the limit of this route all mean the stored one.
    program = exchange.request.body or None
    if program is not None:
        exchange.require_publisher()
    await exchange.backend.reset(caller, database, program, query.get("host_type", "Wasm"))
    address = exchange.address()
    return _success(address if isinstance(address, str) else None, database.identity, "updated")


# Names


async def names(exchange: Exchange) -> Response:
    listed = await exchange.backend.names(exchange.database.identity)
    return json_response({"names": [name for name in listed if database_name_problem(name) is None]})


async def add_name(exchange: Exchange) -> Response:
    name = decode_utf8(exchange.request.read_body())
    problem = database_name_problem(name)
    if problem is not None:
        raise HttpError(400, problem)
    database, caller = exchange.database, exchange.caller
    denied = JsonError(401, {"PermissionDenied": {"domain": name}})
    if caller.identity != database.owner:
        raise denied
    try:
        await exchange.backend.add_name(caller, database, name)
    except NameDenied:
        raise denied from None
    except NameInUse:
        raise HttpError(500, f"record with the name {name} already exists") from None
    return json_response({"Success": {"domain": name, "database_identity": database.identity.hex()}})


async def set_names(exchange: Exchange) -> Response:
    database, caller = exchange.database, exchange.caller
    wanted = _json_names(exchange)
    for name in wanted:
        problem = database_name_problem(name)
        if problem is not None:
            raise HttpError(400, f"Error parsing `{name}`: {problem}")
    if caller.identity != database.owner:
        raise JsonError(401, {"NotYourDatabase": {"database": database.identity.hex()}})
    try:
        await exchange.backend.set_names(caller, database, wanted)
    except NameInUse as error:
        raise JsonError(400, {"OtherError": f"Cannot rename to {error.name} because it already is in use."}) from None
    except NameDenied as error:
        raise JsonError(401, {"PermissionDenied": {"domain": error.name}}) from None
    return json_response("Success")


def _json_names(exchange: Exchange) -> list[str]:
    """The body of a rename: a JSON list of names. Raises HttpError 400, 415, 422."""
    value, start = read_json(exchange.request)
    wrong = "Failed to deserialize the JSON body into the target type: invalid type: "
    if not isinstance(value, list):
        raise HttpError(422, f"{wrong}{_json_type(value)}, expected a sequence at line 1 column {start}")
    for item in value:
        if not isinstance(item, str):
            raise HttpError(422, f"{wrong}{_json_type(item)}, expected a string at line 1 column {start + 2}")
    return value


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f"string {json.dumps(value, ensure_ascii=False)}"
    return "sequence" if isinstance(value, list) else "map"
