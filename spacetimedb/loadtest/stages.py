"""How many bots when: stages as in k6, each a straight line from the number before to its own."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_STAGE: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?:(\d+)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class StageError(ValueError):
    """The text is no stage."""


class Stage(msgspec.Struct, frozen=True):
    """Within so many seconds to so many bots."""

    seconds: float
    clients: int


def parse_stage(text: str) -> Stage:
    """`60s:1000`, `500ms:10`, `2m:0`; without a unit seconds. StageError."""
    found = _STAGE.fullmatch(text.strip())
    if found is None:
        raise StageError(f"{text!r} is no stage; write DURATION:CLIENTS, for instance 60s:1000")
    return Stage(float(found[1]) * _SECONDS[found[2] or "s"], int(found[3]))


def clients_at(stages: list[Stage], elapsed: float) -> int:
    """The number of bots so many seconds after the beginning."""
    before = 0
    for stage in stages:
        if elapsed < stage.seconds:
            return round(before + (stage.clients - before) * elapsed / stage.seconds)
        elapsed -= stage.seconds
        before = stage.clients
    return before


def duration(stages: list[Stage]) -> float:
    return sum(stage.seconds for stage in stages)
