"""Bodies that are JSON, with the reference server's refusals: 415 for another content type, 400 for what is no JSON.

Text after the value is ignored.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from .messages import HttpError, Request, decode_utf8

DEPTH_LIMIT: Final = 128
"""So many lists and objects in each other are too many, as for the reference server."""
_TOO_DEEP: Final = "Failed to parse the request body as JSON: recursion limit exceeded at line 1 column 128"


def read_json(request: Request) -> tuple[object, int]:
    """The body's value and the column (from 0) where it begins. Raises HttpError 400, 413, 415."""
    content_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
    kind, _, subtype = content_type.partition("/")
    if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise HttpError(415, "Expected request with `Content-Type: application/json`")
    body = decode_utf8(request.read_body())
    start = len(body) - len(body.lstrip(" \t\r\n"))
    try:
        value, _ = _DECODER.raw_decode(body, start)
    except json.JSONDecodeError as error:
        problem = "EOF while parsing a value" if error.pos >= len(body) else "expected value"
        column = error.colno - (1 if error.pos >= len(body) else 0)
        raise HttpError(
            400, f"Failed to parse the request body as JSON: {problem} at line {error.lineno} column {column}"
        ) from None
    except RecursionError:
        raise HttpError(400, _TOO_DEEP) from None
    except ValueError:
        raise HttpError(400, "Failed to parse the request body as JSON: number out of range") from None
    if _is_too_deep(value):
        raise HttpError(400, _TOO_DEEP)
    if "\\ud" in body.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise HttpError(400, "Failed to parse the request body as JSON: lone surrogate in hex escape") from None
    return value, start


def _is_too_deep(value: object) -> bool:
    """Whether what writes JSON might be too deep in it; parsers go deeper."""
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        level = [outer for outer in level if isinstance(outer, (list, dict))]
        if not level:
            return False
        level = [inner for outer in level for inner in (outer if isinstance(outer, list) else outer.values())]
    return True


def _refuse(_text: str) -> NoReturn:
    """NaN and infinities are Python's, not JSON's."""
    raise ValueError


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)
