"""Decoded v1 messages, driven by their types, in the notation of the vectors: sums as one-key objects and so on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from spacetimedb.protocol import v1, v1_json
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
from spacetimedb.types.bsatn import codec
from spacetimedb.types.json_arguments import from_json
from spacetimedb.types.shapes import shape_of

RowView = Callable[[str, Any], Any]
"""Table name and rows (a ROW_LIST value, or JSON texts) -> their view."""
IDENTITY_TOKEN = 3


class V1Message(Struct):
    """A decoded server message."""

    tag: int
    fields: tuple[Any, ...]
    is_text: bool = False

    @property
    def view(self) -> Any:
        return message_view(self, None)


def decode(payload: bytes, is_text: bool) -> V1Message:
    """One WebSocket message of the server."""
    if is_text:
        tag, fields = _text_codec.decode_exact(from_json(v1_json.SERVER_MESSAGE, payload))
        return V1Message(tag, fields, True)
    assert payload[0] == 0, "compressed"
    return V1Message(*_codec.decode_exact(payload[1:]))


_codec = codec(shape_of(v1.SERVER_MESSAGE))
_text_codec = codec(shape_of(v1_json.SERVER_MESSAGE))


def message_view(message: V1Message, rows: RowView | None) -> Any:
    t = v1_json.SERVER_MESSAGE if message.is_text else v1.SERVER_MESSAGE
    return Viewer(rows, message.is_text).view(t, (message.tag, message.fields))


class Viewer:
    """`rows` is asked for what a list of rows looks like; without it they are shown as they are. `is_text`: options and
    bytes as in JSON."""

    def __init__(self, rows: RowView | None = None, is_text: bool = False) -> None:
        self.rows = rows
        self.is_text = is_text
        self.table = ""

    def view(self, t: AlgebraicType, value: Any) -> Any:
        if t in (IDENTITY, CONNECTION_ID):
            return bytes(value)[::-1].hex()
        if t in (TIMESTAMP, TIME_DURATION):
            return int(value)
        if self.rows is not None and t == ROW_LIST:
            return self.rows(self.table, value)
        if is_bytes(t):
            return value.hex() if self.is_text else {"hex": value.hex()}
        match t:
            case Sum(variants):
                if is_option(t):
                    return self.option(variants[0].algebraic_type, value)
                tag, payload = value
                made = self.view(variants[tag].algebraic_type, payload)
                return {variants[tag].name: {} if made == {} else made}
            case Product(elements):
                return {
                    element.name: self.field(element.name or "", element.algebraic_type, part)
                    for element, part in zip(elements, value, strict=True)
                }
            case Array(element):
                return [self.view(element, item) for item in value]
        return value

    def option(self, t: AlgebraicType, value: Any) -> Any:
        if value is None:
            return {"none": []} if self.is_text else None
        return {"some": self.view(t, value)}

    def field(self, name: str, t: AlgebraicType, value: Any) -> Any:
        if name == "table_name":
            self.table = value
        if self.rows is not None and isinstance(value, list) and name in ("inserts", "deletes", "rows"):
            return self.rows(self.table, value)
        return self.view(t, value)
