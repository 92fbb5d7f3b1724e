"""Decoded server messages in the notation of the vectors: sums as one-key objects, options null or {"some": ...}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spacetimedb.protocol import v2_client
from spacetimedb.protocol.v2_client import RowList

RowView = Callable[[str, RowList], Any]
"""Table name and rows -> their view."""


def raw_rows(table: str, rows: RowList) -> dict[str, Any]:
    """Rows as their bytes."""
    hint = {"FixedSize": rows.fixed_size} if rows.offsets is None else {"RowOffsets": list(rows.offsets)}
    return {"size_hint": hint, "rows_data": {"hex": rows.data.hex()}}


def tables_view(tables: tuple[v2_client.TableRows, ...], rows: RowView) -> dict[str, Any]:
    return {"tables": [{"table": entry.table, "rows": rows(entry.table, entry.rows)} for entry in tables]}


def update_view(query_sets: tuple[v2_client.QuerySetUpdate, ...], rows: RowView) -> dict[str, Any]:
    def group(table: str, value: v2_client.PersistentRows | v2_client.EventRows) -> dict[str, Any]:
        if isinstance(value, v2_client.EventRows):
            return {"EventTable": {"events": rows(table, value.events)}}
        return {"PersistentTable": {"inserts": rows(table, value.inserts), "deletes": rows(table, value.deletes)}}

    return {
        "query_sets": [
            {
                "query_set_id": {"id": query_set.query_set_id},
                "tables": [
                    {"table_name": update.table, "rows": [group(update.table, value) for value in update.rows]}
                    for update in query_set.tables
                ],
            }
            for query_set in query_sets
        ]
    }


def server_view(message: v2_client.ServerMessage, rows: RowView = raw_rows) -> dict[str, Any]:
    kind = type(message).__name__
    body: dict[str, Any]
    match message:
        case v2_client.InitialConnection(identity, connection_id, token):
            body = {"identity": identity[::-1].hex(), "connection_id": connection_id[::-1].hex(), "token": token}
        case v2_client.SubscribeApplied(request_id, set_id, tables):
            body = {"request_id": request_id, "query_set_id": {"id": set_id}, "rows": tables_view(tables, rows)}
        case v2_client.UnsubscribeApplied(request_id, set_id, dropped):
            some = None if dropped is None else {"some": tables_view(dropped, rows)}
            body = {"request_id": request_id, "query_set_id": {"id": set_id}, "rows": some}
        case v2_client.SubscriptionError(request, set_id, error):
            given = None if request is None else {"some": request}
            body = {"request_id": given, "query_set_id": {"id": set_id}, "error": error}
        case v2_client.TransactionUpdate(query_sets):
            body = update_view(query_sets, rows)
        case v2_client.OneOffQueryResult(request_id, found, problem):
            result = {"err": problem} if found is None else {"ok": tables_view(found, rows)}
            body = {"request_id": request_id, "result": result}
        case v2_client.ReducerResult(request_id, timestamp, outcome):
            body = {"request_id": request_id, "timestamp": timestamp, "result": _outcome_view(outcome, rows)}
        case v2_client.ProcedureResult(status, timestamp, duration, request_id):
            body = {
                "status": {"Returned": {"hex": status.value.hex()}}
                if isinstance(status, v2_client.Returned)
                else {"InternalError": status.message},
                "timestamp": timestamp,
                "total_host_execution_duration": duration,
                "request_id": request_id,
            }
    return {kind: body}


def _outcome_view(
    outcome: v2_client.Ok | v2_client.OkEmpty | v2_client.Err | v2_client.InternalError, rows: RowView
) -> dict[str, Any]:
    match outcome:
        case v2_client.Ok(value, query_sets):
            return {"Ok": {"ret_value": {"hex": value.hex()}, "transaction_update": update_view(query_sets, rows)}}
        case v2_client.OkEmpty():
            return {"OkEmpty": {}}
        case v2_client.Err(value):
            return {"Err": {"hex": value.hex()}}
        case v2_client.InternalError(text):
            return {"InternalError": text}
