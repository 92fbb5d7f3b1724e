"""Recorded behaviour of publishing over a running database, played against its core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from case_player import Player, load

from spacetimedb.hosts.installation import InstallError
from spacetimedb.testing.host import TestHost

CASES = Path(__file__).parents[1] / "vectors" / "module"
CLOSED = {"closed": {"code": 1001, "reason": "module exited"}}


class UpdatePlayer(Player):
    """Knows `publish` too. Sockets of clients that the database has disconnected are `closed`: of them only that is
    looked at, an update on the way may or may not have come before."""

    def __init__(self, module: str | None) -> None:
        self.program = module
        self.closed: list[str] = []
        if module is not None:
            super().__init__(module)

    def step_publish(self, step: dict[str, Any]) -> object:
        name = step["publish"]
        if step.get("clear") or self.program is None:
            return self.begin(name)
        if name == self.program:
            return {"ok": True}
        try:
            self.host.publish(load(name), step.get("break_clients", False))
        except InstallError as error:
            return {"ok": False, "error": str(error)}
        self.program = name
        self.close_gone()
        return {"ok": True}

    def begin(self, name: str) -> object:
        """A database that is empty."""
        try:
            host = TestHost(load(name))
        except Exception as error:
            return {"ok": False, "error": str(error)}
        gone = list(getattr(self, "sockets", ()))
        super().__init__(name)
        self.program, self.closed = name, gone
        return {"ok": host is not None}

    def close_gone(self) -> None:
        for name, made in list(self.sockets.items()):
            if (made.reader, made.connection) not in self.database.clients:
                del self.sockets[name], self.caches[name]
                self.closed.append(name)

    def step_inbox(self, step: dict[str, Any]) -> object:
        if step["inbox"] in self.closed:
            self.closed.remove(step["inbox"])
            return [CLOSED]
        return super().step_inbox(step)


def cases() -> list[Any]:
    updates = json.loads((CASES / "updates.json").read_text())["cases"]
    lifecycle = json.loads((CASES / "lifecycle.json").read_text())["cases"]
    found = [*updates, *(case for case in lifecycle if "module" not in case)]
    assert len(found) == 12
    return [pytest.param(case, id=case["name"]) for case in found]


@pytest.mark.parametrize("case", cases())
def test_case(case: dict[str, Any]) -> None:
    player = UpdatePlayer(case.get("module"))
    try:
        player.play(case["steps"])
    finally:
        player.close()
