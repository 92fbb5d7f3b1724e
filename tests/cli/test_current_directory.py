"""What lies where a server is started is no part of it: upstream's projects have a folder `spacetimedb/`."""

from __future__ import annotations

from pathlib import Path

from server_process import ServerProcess

MODULE = b"""
from spacetimedb import Module, Pk, ProcedureContext, Row, u32

m = Module()


@m.table(public=True)
class Item(Row):
    id: Pk[u32]


@m.procedure
def fetch(ctx: ProcedureContext) -> str:
    return "nothing"
"""


def test_files_there_shadow_no_module(tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "spacetimedb").mkdir(parents=True)
    for name in ("queue", "trio", "notes", "msgspec", "spacetimedb/__init__"):
        (here / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    server = ServerProcess(tmp_path, in_memory=True, cwd=here).start()
    try:
        server.publish(MODULE, "here")
        assert server.call("here", "fetch").json() == "nothing"
        assert server.sql("here", "SELECT * FROM item") == []
    finally:
        server.stop()
