"""Routes of our own for what an owner takes out of a server and brings in.

    GET  /v1/database/:db/backup                          the backup, a file; `spacetime-backup-bytes` is its length
    POST /v1/restore?database=NAME[&overwrite][&keep_owner]     begins a restore: {"upload": id}
    PUT  /v1/restore/:upload?offset=N                     a piece of the backup: {"bytes": how many are there now}
    POST /v1/restore/:upload                              does it: {"database_identity", "owner_identity",
                                                          "transactions", "rows"}
    DELETE /v1/restore/:upload                            gives it up
    POST /v1/database/:db/import/:table                   rows as BSATN, back to back: {"inserted": rows that are new}

All need the owner's token; a restore needs that of somebody who may publish, and the database is theirs afterwards
(`keep_owner=true`: whose it was). An import is one transaction; a refusal begins with `row N: ` if one row is to blame.
"""

from __future__ import annotations

from typing import Final

from spacetimedb.schema.names import database_name_problem

from .backend import NameDenied
from .database_routes import random_connection_id
from .exchange import Exchange
from .messages import HttpError, Response, empty_response, json_response
from .query import boolean, integer, path_parameter, read_query, text

PIECE_LIMIT: Final = 16 * 1024 * 1024
"""Longest piece of a backup, and longest body of an import."""
BYTES_HEADER: Final = "spacetime-backup-bytes"
TRANSACTIONS_HEADER: Final = "spacetime-backup-transactions"
ROWS_HEADER: Final = "spacetime-backup-rows"


async def backup(exchange: Exchange) -> Response:
    exchange.require_owner(exchange.database, "back up database")
    made = await exchange.backend.backup(exchange.database)
    headers = [
        ("content-type", "application/octet-stream"),
        (BYTES_HEADER, str(made.length)),
        (TRANSACTIONS_HEADER, str(made.transactions)),
        (ROWS_HEADER, str(made.rows)),
    ]
    return Response(200, headers, made.content, chunked=True)


async def begin_restore(exchange: Exchange) -> Response:
    readers = {"database": text, "overwrite": boolean, "keep_owner": boolean}
    query = read_query(exchange.request.query, readers, required=("database",))
    exchange.require_publisher()
    name = query["database"]
    problem = database_name_problem(name)
    if problem is not None:
        raise HttpError(400, f"`{name}` cannot be a database's name: {problem}")
    upload = await exchange.backend.begin_restore(
        exchange.caller, name, query.get("overwrite", False), query.get("keep_owner", False)
    )
    return json_response({"upload": upload})


async def restore_piece(exchange: Exchange) -> Response:
    query = read_query(exchange.request.query, {"offset": integer(64)}, required=("offset",))
    piece = exchange.request.read_body()
    size = await exchange.backend.restore_piece(exchange.caller, _upload(exchange), query["offset"], piece)
    return json_response({"bytes": size})


async def restore(exchange: Exchange) -> Response:
    exchange.require_publisher()
    try:
        done = await exchange.backend.restore(exchange.caller, _upload(exchange))
    except NameDenied as error:
        raise HttpError(403, f"The name `{error.name}` is claimed by another identity.") from None
    return json_response(
        {
            "database_identity": done.identity.hex(),
            "owner_identity": done.owner.hex(),
            "transactions": done.transactions,
            "rows": done.rows,
        }
    )


async def abandon_restore(exchange: Exchange) -> Response:
    await exchange.backend.abandon_restore(exchange.caller, _upload(exchange))
    return empty_response()


def _upload(exchange: Exchange) -> str:
    number: str = path_parameter(exchange.parameters["upload"], text)
    return number


async def import_rows(exchange: Exchange) -> Response:
    caller = exchange.require_owner(exchange.database, "import rows")
    table = path_parameter(exchange.parameters["table"], text)
    inserted = await exchange.backend.import_rows(
        caller, random_connection_id(), exchange.database, table, exchange.request.read_body()
    )
    return json_response({"inserted": inserted})
