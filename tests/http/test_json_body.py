"""Bodies that are JSON of a kind that Python's parser and writer treat in their own way."""

from __future__ import annotations

import json

import pytest

from spacetimedb.http.json_body import DEPTH_LIMIT, read_json
from spacetimedb.http.messages import HttpError, Request


def request(body: bytes) -> Request:
    return Request("POST", "/", "", [("content-type", "application/json")], body)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"id": -Infinity}', "[" + "1" * 5000 + "]"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(HttpError) as failure:
        read_json(request(text.encode()))
    assert failure.value.response.status == 400


def test_whatever_is_read_can_be_written() -> None:
    """Also inside of an answer."""
    most = DEPTH_LIMIT - 1
    value, _ = read_json(request(b"[" * most + b"]" * most))
    json.dumps({"error": {"id": value}}, ensure_ascii=False)
    for depth in (DEPTH_LIMIT, 990, 100_000):
        with pytest.raises(HttpError) as failure:
            read_json(request(b"[" * depth + b"]" * depth))
        assert failure.value.response.status == 400
