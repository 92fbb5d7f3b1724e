"""Decoded v1 messages, driven by their types, in the notation of the vectors: sums as one-key objects and so on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spacetimedb.protocol.v1 import ROW_LIST
from spacetimedb.types.algebraic import (
    CONNECTION_ID,
    IDENTITY,
    TIME_DURATION,
    TIMESTAMP,
    AlgebraicType,
    Array,
    Product,
    Sum,
    is_bytes,
    is_option,
)

RowView = Callable[[str, Any], Any]
"""Table name and rows (a ROW_LIST value, or JSON texts) -> their view."""


def view(t: AlgebraicType, value: Any, rows: RowView | None = None, table: str = "") -> Any:
    """`rows` is asked for what a list of rows looks like; without it they are shown as they are."""
    if t in (IDENTITY, CONNECTION_ID):
        return bytes(value)[::-1].hex()
    if t in (TIMESTAMP, TIME_DURATION):
        return int(value)
    if rows is not None and t == ROW_LIST:
        return rows(table, value)
    if is_bytes(t):
        return {"hex": value.hex()}
    match t:
        case Sum(variants):
            if is_option(t):
                return None if value is None else {"some": view(variants[0].algebraic_type, value, rows, table)}
            tag, payload = value
            made = view(variants[tag].algebraic_type, payload, rows, table)
            return {variants[tag].name: {} if made == {} else made}
        case Product(elements):
            shown = {}
            for element, part in zip(elements, value, strict=True):
                table = part if element.name == "table_name" else table
                is_rows = rows is not None and element.name in ("inserts", "deletes", "rows") and isinstance(part, list)
                if is_rows and rows is not None:
                    shown[element.name] = rows(table, part)
                else:
                    shown[element.name] = view(element.algebraic_type, part, rows, table)
            return shown
        case Array(element):
            return [view(element, item, rows, table) for item in value]
    return value
