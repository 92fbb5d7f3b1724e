"""Text messages of v1.json.spacetimedb: the messages of `v1` as JSON.

    product  object by field names, read also as array     option  {"some": x} | {"none": []}, read also null
    sum      {"Variant": payload}, read also [tag, payload] bytes   lower-case hex string, read also array of numbers

Arguments, results of procedures and rows are strings that hold JSON. A row read from a table is an object by column
names, a row out of a transaction is an array; sums in rows are [tag, payload]. No compression tag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from spacetimedb.types.algebraic import STRING, Array, product
from spacetimedb.types.bsatn import codec
from spacetimedb.types.json_arguments import JsonValueError, from_json
from spacetimedb.types.json_reader import JsonReader
from spacetimedb.types.sats_json import to_json
from spacetimedb.types.shapes import shape_of

from .frames import text_frames
from .v1 import ClientMessage, Table, Value, client_message, message_of, row_texts, server_message
from .v2 import ClientDecodeError

CLIENT_MESSAGE: Final = client_message(STRING)
_CLIENT_CODEC: Final = codec(shape_of(CLIENT_MESSAGE))
_ROWS: Final = Array(STRING)
SERVER_MESSAGE: Final = server_message(_ROWS, product(deletes=_ROWS, inserts=_ROWS), STRING)
_server_text: Final = to_json(SERVER_MESSAGE, "native")


def parse(payload: bytes, several: bool = False) -> list[ClientMessage]:
    """The one message of a text WebSocket message. Raises ClientDecodeError."""
    try:
        (tag, fields), _end = _CLIENT_CODEC.decode(from_json(CLIENT_MESSAGE, payload))
    except JsonValueError as error:
        raise ClientDecodeError(error.reason) from None
    try:
        return [message_of(tag, fields)]
    except ClientDecodeError as error:
        # Found when the object of the fields ends, with the flags as its last field.
        end = len(payload.rstrip()) - 1
        raise ClientDecodeError(f"{error.text} at {JsonReader(payload).place(end)}") from None


class Json:
    """The form of v1.json."""

    def query_update(self, table: Table, deletes: bytes, inserts: bytes, is_delta: bool) -> Value:
        text = table.array_text if is_delta else table.object_text
        return row_texts(deletes, text), row_texts(inserts, text)

    def rows(self, table: Table, rows: bytes) -> Value:
        return row_texts(rows, table.object_text)

    def encode(self, message: Value) -> bytes:
        return _server_text(message).encode("utf-8", "replace")

    def pack(self, messages: Sequence[bytes]) -> bytes:
        return b"".join(map(text_frames, messages))
