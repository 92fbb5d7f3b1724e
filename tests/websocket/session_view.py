"""Recorded conversations and what a server says now, brought to one notation.

Rows become lists of column values, what differs from run to run becomes its placeholder, and lists whose order is free
are sorted. Two messages that mean the same are then equal.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from message_view import server_view
from v1_view import IDENTITY_TOKEN, V1Message, message_view

from spacetimedb.protocol.v1 import UNKNOWN_REDUCER
from spacetimedb.protocol.v2_client import InitialConnection, RowList, ServerMessage

# Column types of the probe module: the name of a scalar, ("option" | "array", type), ("sum", variants) or
# ("product", fields)
Type = Any
POINT: Type = ("product", {"x": "i32", "y": "i32"})
COLOR: Type = ("sum", [("red", None), ("green", None), ("blue", None)])
SHAPE: Type = ("sum", [("circle", "f32"), ("rect", POINT), ("nothing", None)])
SCHEDULE_AT: Type = ("sum", [("Interval", "duration"), ("Time", "timestamp")])
ITEM: list[Type] = ["u32", "string", "i64"]
SECRET: list[Type] = ["u32", "identity", "string"]
COLUMNS: dict[str, list[Type]] = {
    "item": ITEM,
    "counter": ["auto", "string"],
    "tag": ["u32", "string"],
    "pair": ["u32", "u32"],
    "kinds": [
        "u32",
        ("option", "i32"),
        ("option", "string"),
        COLOR,
        SHAPE,
        ("array", "u16"),
        "bytes",
        ("array", "string"),
        "i128",
        "u256",
        "f64",
        "bool",
        POINT,
    ],
    "flash": ["string", "u64"],
    "secret": SECRET,
    "call": ["auto", "identity", ("option", "connection"), "timestamp"],
    "conn_log": ["auto", "identity", "connection", "string"],
    "online": ["connection", "identity"],
    "banned": ["identity", "string"],
    "timer": ["auto", SCHEDULE_AT, "string", "u32"],
    "tick_log": ["string", "u32", "identity"],
    "my_secrets": SECRET,
    "top_items": ITEM,
    "first_item": ITEM,
    "low_items": ITEM,
}
_FORMATS = {"f32": "<f", "f64": "<d"}
_INTEGERS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "u128": 16, "u256": 32, "auto": 8, "i32": 4, "i64": 8, "i128": 16}
_NO_CONNECTION = "0" * 32


class Names:
    """Placeholders of one session: which identity, connection and token is whose."""

    def __init__(self) -> None:
        self.by_value: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self._autos: dict[str, int] = {}

    def learn(self, client: str, message: InitialConnection) -> None:
        """Names of a client; one that came with another's identity keeps the first name."""
        identity = message.identity[::-1].hex()
        connection = message.connection_id[::-1].hex()
        for kind, value in (("identity", identity), ("connection", connection), ("token", message.token)):
            self.values[f"{kind}:{client}"] = value
            self.by_value.setdefault(value, f"<{kind} {client}>")

    def fill(self, text: str) -> str:
        """Put values in the place of `{identity:A}`, `{token:A}` and the like."""
        for name, value in self.values.items():
            text = text.replace("{" + name + "}", value)
            kind, _, client = name.partition(":")
            if kind == "identity":
                text = text.replace("{identity_text:" + client + "}", value.encode().hex())
                text = text.replace("{identity_le:" + client + "}", bytes.fromhex(value)[::-1].hex())
        return text

    def name(self, kind: str, value: str) -> str:
        """Placeholder of an identity or connection; strangers are numbered in order of appearance."""
        if value == _NO_CONNECTION:
            return "<no connection>"
        known = self.by_value.get(value)
        if known is None:
            number = 1 + sum(name.startswith(f"<{kind} ?") for name in self.by_value.values())
            known = self.by_value[value] = f"<{kind} ?{number}>"
        return known

    def auto(self, table: str, value: int, smallest: int) -> str:
        base = self._autos.setdefault(table, smallest)
        return f"<auto {value - base + 1}>"


def _value(kind: Type, data: bytes, at: int, names: Names) -> tuple[Any, int]:
    """Decode one value in the notation of the sessions."""
    if isinstance(kind, tuple):
        return _compound(kind, data, at, names)
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(data[at:end], "little", signed=kind[0] == "i"), end
    if kind in _FORMATS:
        return struct.unpack_from(_FORMATS[kind], data, at)[0], at + struct.calcsize(_FORMATS[kind])
    if kind == "bool":
        return bool(data[at]), at + 1
    if kind in ("string", "bytes"):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        raw = data[at + 4 : end]
        return (raw.decode() if kind == "string" else {"hex": raw.hex()}), end
    if kind in ("identity", "connection"):
        end = at + (32 if kind == "identity" else 16)
        return names.name(kind, data[at:end][::-1].hex()), end
    if kind in ("timestamp", "duration"):
        value = int.from_bytes(data[at : at + 8], "little", signed=True)
        return ("<timestamp>" if kind == "timestamp" and value else value), at + 8
    raise AssertionError(kind)


def _compound(kind: Type, data: bytes, at: int, names: Names) -> tuple[Any, int]:
    if kind[0] == "option":
        if data[at]:
            return None, at + 1
        value, at = _value(kind[1], data, at + 1, names)
        return {"some": value}, at
    if kind[0] == "array":
        count, at = int.from_bytes(data[at : at + 4], "little"), at + 4
        items = []
        for _ in range(count):
            item, at = _value(kind[1], data, at, names)
            items.append(item)
        return items, at
    if kind[0] == "product":
        fields = {}
        for name, field in kind[1].items():
            fields[name], at = _value(field, data, at, names)
        return fields, at
    variant, payload = kind[1][data[at]]
    if payload is None:
        return {variant: {}}, at + 1
    value, at = _value(payload, data, at + 1, names)
    return {variant: value}, at


def rows_view(table: str, rows: RowList, names: Names) -> dict[str, Any]:
    """Rows of a table; every row must be used up by its columns."""
    columns = COLUMNS[table]
    decoded = []
    for row in rows.rows():
        values, at = [], 0
        for kind in columns:
            value, at = _value(kind, row, at, names)
            values.append(value)
        assert at == len(row), f"row of {table} has {len(row) - at} bytes too many"
        decoded.append(values)
    name_autos(table, decoded, names)
    return {"rows": decoded}


def name_autos(table: str, decoded: list[list[Any]], names: Names) -> None:
    for column, kind in enumerate(COLUMNS[table]):
        if kind == "auto" and decoded:
            smallest = min(values[column] for values in decoded)
            for values in decoded:
                values[column] = names.auto(table, values[column], smallest)


def _json_value(kind: Type, value: Any, names: Names) -> Any:
    """A value of a JSON row, in the object or the array shape."""
    if kind in ("identity", "connection", "timestamp", "duration"):
        (value,) = value.values() if isinstance(value, dict) else value
        if kind == "identity":
            return names.name(kind, f"{int(value, 16):064x}")
        return names.name(kind, f"{value:032x}") if kind == "connection" else "<timestamp>" if value else value
    if kind == "u256":
        return int(value, 16)
    if kind == "bytes":
        return {"hex": value}
    if not isinstance(kind, tuple):
        return value
    if kind[0] == "option":
        return {"some": _json_value(kind[1], value[1], names)} if value[0] == 0 else None
    if kind[0] == "array":
        return [_json_value(kind[1], item, names) for item in value]
    if kind[0] == "product":
        values = value.values() if isinstance(value, dict) else value
        items = zip(kind[1].items(), values, strict=True)
        return {name: _json_value(field, item, names) for (name, field), item in items}
    variant, payload = kind[1][value[0]]
    return {variant: {} if payload is None else _json_value(payload, value[1], names)}


def _v1_rows(table: str, rows: Any, names: Names) -> dict[str, Any]:
    if isinstance(rows, tuple):  # from BSATN
        (tag, hint), data = rows
        return rows_view(table, RowList(None if tag else hint, tuple(hint) if tag else None, data), names)
    decoded = []
    for text in rows:
        row = json.loads(text)
        values = list(row.values()) if isinstance(row, dict) else row
        decoded.append([_json_value(kind, v, names) for kind, v in zip(COLUMNS[table], values, strict=True)])
    name_autos(table, decoded, names)
    return {"rows": decoded}


def _v1_names(value: Any, names: Names) -> Any:
    """Placeholders in the place of what varies."""
    if isinstance(value, list):
        return [_v1_names(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    shown: dict[str, Any] = {}
    for key, item in value.items():
        if key in ("identity", "caller_identity"):
            shown[key] = names.name("identity", item)
        elif key in ("connection_id", "caller_connection_id"):
            shown[key] = names.name("connection", item)
        elif key == "token":
            shown[key] = names.by_value[item]
        elif key.startswith("total_host_execution_duration"):
            shown[key] = "<duration>"
        elif key == "timestamp" and item:
            shown[key] = "<timestamp>"
        elif key == "quanta":
            shown[key] = "<energy>"
        elif key in ("table_id", "reducer_id") and isinstance(item, int) and item != UNKNOWN_REDUCER:
            shown[key] = f"<{key.replace('_', ' ')}>"
        else:
            shown[key] = _v1_names(item, names)
    return shown


def greeting(message: ServerMessage | V1Message) -> InitialConnection | None:
    """The first message of a server, in the words of v2."""
    if isinstance(message, V1Message):
        if message.tag != IDENTITY_TOKEN:
            return None
        identity, token, connection_id = message.fields
        return InitialConnection(identity, connection_id, token)
    return message if isinstance(message, InitialConnection) else None


def actual_view(message: ServerMessage | V1Message, names: Names) -> Any:
    """What the server says, in the notation of the sessions."""
    if isinstance(message, V1Message):
        return settle(_v1_names(message_view(message, lambda table, rows: _v1_rows(table, rows, names)), names))
    view = server_view(message, lambda table, rows: rows_view(table, rows, names))
    ((kind, body),) = view.items()
    if kind == "InitialConnection":
        body["identity"] = names.name("identity", body["identity"])
        body["connection_id"] = names.name("connection", body["connection_id"])
        body["token"] = names.by_value[body["token"]]
    if body.get("timestamp"):
        body["timestamp"] = "<timestamp>"
    if "total_host_execution_duration" in body:
        body["total_host_execution_duration"] = "<duration>"
    return settle(view)


def settle(value: Any, free_text: bool = False) -> Any:
    """Sort what has no order, drop what is free: size hints, and entries without rows in SubscribeApplied."""
    if isinstance(value, list):
        return [settle(item, free_text) for item in value]
    if not isinstance(value, dict):
        return value
    settled = {key: settle(item, free_text) for key, item in value.items() if key != "size_hint"}
    for name in ("rows", "tables", "query_sets", "updates"):
        if isinstance(settled.get(name), list):
            settled[name].sort(key=lambda item: json.dumps(item, sort_keys=True))
    applied = settled.get("SubscribeApplied")
    if isinstance(applied, dict) and "tables" in applied["rows"]:
        applied["rows"]["tables"] = [entry for entry in applied["rows"]["tables"] if entry["rows"]["rows"]]
    return settled


def without_texts(view: Any) -> Any:
    """The message with its error text made one."""
    if isinstance(view, dict):
        return {
            key: "<text>" if key in ("error", "err", "InternalError", "Err") else without_texts(item)
            for key, item in view.items()
        }
    return [without_texts(item) for item in view] if isinstance(view, list) else view
