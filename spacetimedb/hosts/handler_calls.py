"""A request to a module's HTTP handler and its answer, as they travel between reader and transaction actor.

Both are msgpack arrays of the fields below, in order: text as str, bodies as bin, headers as arrays of (name, value).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from spacetimedb.module.http import Response


class HandlerCall(msgspec.Struct, array_like=True):
    """`handler` is a canonical name; the other fields are those of `module.http.Request`."""

    handler: str
    method: str
    uri: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class HandlerAnswer(msgspec.Struct, array_like=True):
    """What the handler returned."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


_encoder: Final = msgspec.msgpack.Encoder()
encode_call: Final[Callable[[HandlerCall], bytes]] = _encoder.encode
decode_call: Final[Callable[[bytes], HandlerCall]] = msgspec.msgpack.Decoder(HandlerCall).decode
decode_answer: Final[Callable[[bytes], HandlerAnswer]] = msgspec.msgpack.Decoder(HandlerAnswer).decode


def encode_answer(response: object) -> bytes:
    """The answer of a handler. Raises TypeError for what is none."""
    if not isinstance(response, Response):
        raise TypeError(f"a handler returns a Response, not {type(response).__name__}")
    return _encoder.encode(HandlerAnswer(int(response.status), list(response.headers), response.body))
