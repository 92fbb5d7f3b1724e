"""Bodies that are JSON, with the reference server's refusals: 415 for another content type, 400 for what is no JSON.

Text after the value is ignored.
"""

from __future__ import annotations

import json

from .messages import HttpError, Request, decode_utf8


def read_json(request: Request) -> tuple[object, int]:
    """The body's value and the column (from 0) where it begins. Raises HttpError 400, 413, 415."""
    content_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
    kind, _, subtype = content_type.partition("/")
    if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise HttpError(415, "Expected request with `Content-Type: application/json`")
    body = decode_utf8(request.read_body())
    start = len(body) - len(body.lstrip(" \t\r\n"))
    try:
        value, _ = json.JSONDecoder().raw_decode(body, start)
    except json.JSONDecodeError as error:
        problem = "EOF while parsing a value" if error.pos >= len(body) else "expected value"
        column = error.colno - (1 if error.pos >= len(body) else 0)
        raise HttpError(
            400, f"Failed to parse the request body as JSON: {problem} at line {error.lineno} column {column}"
        ) from None
    except RecursionError:
        raise HttpError(
            400, "Failed to parse the request body as JSON: recursion limit exceeded at line 1 column 128"
        ) from None
    if "\\ud" in body.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise HttpError(400, "Failed to parse the request body as JSON: lone surrogate in hex escape") from None
    return value, start
