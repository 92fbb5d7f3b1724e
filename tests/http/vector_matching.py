"""The placeholder language of the HTTP vectors (vectors/http/README.md): fill in requests, compare answers."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_VARIABLE = re.compile(r"\{(\w+)\}")
_TEXT_PATTERNS = {
    "<any>": r"[\s\S]*",
    "<int>": r"-?[0-9]+",
    "<hex64>": r"[0-9a-f]{64}",
    "<hex32>": r"[0-9a-f]{32}",
    "<hash>": r"0x[0-9a-f]{1,64}",
    "<token>": r"[\w-]+\.[\w-]+\.[\w-]+",
    "<uuid>": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "<pem>": r"-----BEGIN PUBLIC KEY-----\n[\s\S]*-----END PUBLIC KEY-----\n",
}
_PLACEHOLDER = re.compile("|".join(re.escape(name) for name in _TEXT_PATTERNS))


class Mismatch(Exception):
    """An answer is not what was recorded."""


def fill(value: Any, variables: dict[str, str]) -> Any:
    """`{name}` replaced by its value, anywhere in text, lists and objects; unknown names stay."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), value)
    if isinstance(value, list):
        return [fill(item, variables) for item in value]
    if isinstance(value, dict):
        return {fill(key, variables): fill(item, variables) for key, item in value.items()}
    return value


def match_text(expected: str, actual: str, where: str) -> None:
    """Compare text with placeholders in it. Raises Mismatch."""
    pattern, at = "", 0
    for found in _PLACEHOLDER.finditer(expected):
        pattern += re.escape(expected[at : found.start()]) + _TEXT_PATTERNS[found[0]]
        at = found.end()
    pattern += re.escape(expected[at:])
    if not re.fullmatch(pattern, actual):
        raise Mismatch(f"{where}: {actual!r} is not {expected!r}")


def match_json(expected: Any, actual: Any, where: str = "body") -> None:
    """Compare JSON values with placeholders. Raises Mismatch."""
    if expected == "<any>":
        return
    if expected in ("<int>", "<uint>"):
        if isinstance(actual, bool) or not isinstance(actual, int) or (expected == "<uint>" and actual < 0):
            raise Mismatch(f"{where}: {actual!r} is no {expected}")
    elif isinstance(expected, dict):
        _match_object(expected, actual, where)
    elif isinstance(expected, list):
        _match_array(expected, actual, where)
    elif isinstance(expected, str) and isinstance(actual, str):
        match_text(expected, actual, where)
    elif isinstance(expected, float) and type(actual) in (int, float):
        if expected != actual or math.copysign(1, expected) != math.copysign(1, actual):
            raise Mismatch(f"{where}: {actual!r} is not {expected!r}")
    elif type(expected) is not type(actual) or expected != actual:
        raise Mismatch(f"{where}: {actual!r} is not {expected!r}")


def _match_object(expected: dict[str, Any], actual: Any, where: str) -> None:
    if "<json>" in expected:
        if not isinstance(actual, str):
            raise Mismatch(f"{where}: {actual!r} is no text")
        match_json(expected["<json>"], json.loads(actual), where)
        return
    if not isinstance(actual, dict):
        raise Mismatch(f"{where}: {actual!r} is no object")
    wanted = {key: value for key, value in expected.items() if key != "<more>"}
    if not (wanted.keys() <= actual.keys() and ("<more>" in expected or wanted.keys() == actual.keys())):
        raise Mismatch(f"{where}: keys {sorted(actual)} are not {sorted(wanted)}")
    for key, value in wanted.items():
        match_json(value, actual[key], f"{where}.{key}")


def _match_array(expected: list[Any], actual: Any, where: str) -> None:
    if not isinstance(actual, list):
        raise Mismatch(f"{where}: {actual!r} is no array")
    mode = expected[0] if expected and expected[0] in ("<unordered>", "<contains>") else None
    wanted = expected[1:] if mode else expected
    if mode != "<contains>" and len(wanted) != len(actual):
        raise Mismatch(f"{where}: {len(actual)} elements, not {len(wanted)}: {actual!r}")
    if mode is None:
        for index, (one, other) in enumerate(zip(wanted, actual, strict=True)):
            match_json(one, other, f"{where}[{index}]")
        return
    left = list(actual)
    for item in wanted:
        for candidate in left:
            try:
                match_json(item, candidate, where)
            except Mismatch:
                continue
            left.remove(candidate)
            break
        else:
            raise Mismatch(f"{where}: {item!r} is not among {actual!r}")


def match_headers(expected: dict[str, Any], actual: list[tuple[str, str]]) -> None:
    """Compare the headers that are named. Raises Mismatch."""
    for name, wanted in expected.items():
        found = [value for key, value in actual if key.lower() == name]
        if wanted is None:
            if found:
                raise Mismatch(f"header {name} is there: {found}")
        else:
            listed = wanted if isinstance(wanted, list) else [wanted]
            if len(found) != len(listed):
                raise Mismatch(f"header {name}: {found} is not {listed}")
            for one, other in zip(listed, found, strict=True):
                match_text(one, other, f"header {name}")


def match_answer(expected: dict[str, Any], status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    """Compare a whole answer. Raises Mismatch."""
    if status != expected["status"]:
        raise Mismatch(f"status {status} is not {expected['status']}: {body[:500]!r}")
    match_headers(expected.get("headers", {}), headers)
    if "text" in expected:
        match_text(expected["text"], body.decode(), "body")
    if "json" in expected:
        match_json(expected["json"], json.loads(body))
    if "ndjson" in expected and expected["ndjson"] != "<any>":
        match_json(expected["ndjson"], [json.loads(line) for line in body.splitlines()])


def value_at(body: bytes, path: str) -> str:
    """The text at a dotted path of a JSON body."""
    value = json.loads(body)
    for key in path.split("."):
        value = value[key]
    assert isinstance(value, str)
    return value
