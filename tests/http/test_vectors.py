"""Recorded HTTP exchanges with the reference server, replayed against this one (format: vectors/http/README.md)."""

from __future__ import annotations

import http.client
import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from server_process import ServerProcess
from vector_matching import Mismatch, fill, match_answer, match_json, match_text, value_at

VECTORS = Path(__file__).parents[1] / "vectors" / "http"
FILES = sorted(VECTORS.glob("*.json"))


def pairs_of(file: Path) -> list[dict[str, Any]]:
    pairs: list[dict[str, Any]] = json.loads(file.read_text())["pairs"]
    return pairs


class Script:
    """Replays the pairs of one file: fresh names, two fresh identities, one connection per pair."""

    def __init__(self, server: ServerProcess) -> None:
        self.base_url = server.base_url
        owner, other = server.identity(), server.identity()
        self.variables = {
            "owner": owner["identity"],
            "other": other["identity"],
            "owner_token": owner["token"],
            "other_token": other["token"],
            "noid": "c200" + secrets.token_hex(30),
        }
        self.variables["NOID"] = self.variables["noid"].upper()
        for name in ("db", "db2", "db3", "db4"):
            self.variables[name] = "vec-" + secrets.token_hex(6)

    def body(self, given: Any) -> bytes | None:
        if given is None:
            return None
        if isinstance(given, str):
            return str(fill(given, self.variables)).encode()
        if "module" in given:
            return (VECTORS / "modules" / f"{given['module']}.py").read_bytes()
        if "hex" in given:
            return bytes.fromhex(given["hex"])
        text = given.get("prefix", "") + given["repeat"] * given["times"] + given.get("suffix", "")
        return str(text).encode()

    def play(self, pair: dict[str, Any]) -> None:
        """Send the request and compare the answer. Raises Mismatch."""
        request, expected = pair["request"], fill(pair["response"], self.variables)
        headers = {name: fill(value, self.variables) for name, value in request.get("headers", {}).items()}
        if pair["as"] != "anon":
            headers["authorization"] = f"Bearer {self.variables[pair['as'] + '_token']}"
        body = self.body(request.get("body"))
        address = urlsplit(self.base_url)
        assert address.hostname is not None
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        try:
            # Without http.client's own headers: a pair decides about each of them.
            connection.putrequest(
                request["method"], fill(request["path"], self.variables), "host" in headers, skip_accept_encoding=True
            )
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            received = b"" if answer.status == 101 else answer.read()
            match_answer(expected, answer.status, answer.getheaders(), received)
        finally:
            connection.close()
        for name, path in pair.get("save", {}).items():
            self.variables[name] = value_at(received, path)


@pytest.fixture(scope="module")
def scripts(server: ServerProcess) -> dict[str, Script]:
    return {file.stem: Script(server) for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_script(scripts: dict[str, Script], file: Path) -> None:
    """All pairs of one file, in order; every mismatch is told."""
    script = scripts[file.stem]
    problems = []
    for pair in pairs_of(file):
        try:
            script.play(pair)
        except Mismatch as problem:
            problems.append(f"{pair['name']}: {problem}")
    assert not problems, "\n".join(problems)


# The matching itself


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1, "b": "<any>"}, {"b": None, "a": 1}),
        (["<contains>", 2], [1, 2]),
        (["<unordered>", 2, 1], [1, 2]),
        ({"<more>": True, "a": "<uint>"}, {"a": 0, "b": 1}),
        ({"a": {"<json>": [1]}}, {"a": "[1]"}),
        ("<hex64> is<any>", "ab" * 32 + " is\nwhat"),
        (-0.0, -0.0),
    ],
)
def test_matches(expected: Any, actual: Any) -> None:
    match_json(expected, actual)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": True}),
        (["<contains>", 3], [1, 2]),
        (["<unordered>", 1, 1], [1, 2]),
        ([1], [1, 2]),
        ("<uint>", -1),
        ("<int>", "1"),
        (0.0, -0.0),
        ("x.y", "xzy"),
    ],
)
def test_mismatches(expected: Any, actual: Any) -> None:
    with pytest.raises(Mismatch):
        match_json(expected, actual)


def test_text_placeholders() -> None:
    match_text("`{db}` <int> <uuid>", "`{db}` -5 00000000-0000-4000-8000-000000000000", "here")
    assert fill({"{a}": ["{b}", 1]}, {"a": "x", "b": "y"}) == {"x": ["y", 1]}
