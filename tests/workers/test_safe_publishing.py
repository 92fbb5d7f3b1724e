"""What is published can be anything: the program that runs goes on, and a database that ends its own process again and
again is held back."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator

import pytest
from patience import until
from server_process import RequestFailed, ServerProcess, kill
from session_client import SessionClient

from spacetimedb import HttpError
from spacetimedb.protocol import v2_client as v2
from spacetimedb.workers.outbound import OutboundClient

V3 = "v3.bsatn.spacetimedb"
HEAD = """
from spacetimedb import Module, Pk, ProcedureContext, ReducerContext, Row, auto_inc, u64

m = Module()


@m.table(public=True)
class Entry(Row):
    id: Pk[u64] = auto_inc()
    value: u64


@m.reducer
def add(ctx: ReducerContext, value: u64) -> None:
    ctx.db[Entry].insert(Entry(value=value))

"""
CRASHING_SCHEDULE = (
    HEAD
    + """
@m.every(ms=700)
def tick(ctx: ReducerContext) -> None:
    __import__("sys").modules["spacetimedb.workers.sandbox"]._guard.is_on = False
    __import__("ctypes").string_at(1)
"""
)
COUNTING_SCHEDULE = (
    HEAD
    + """
@m.every(ms=20)
def tick(ctx: ReducerContext) -> None:
    ctx.db[Entry].insert(Entry(value=7))
"""
)
ENDLESS_INIT = (
    HEAD
    + """
@m.init
def begin(ctx: ReducerContext) -> None:
    while True:
        pass
"""
)
LIBRARY = HEAD.replace("from spacetimedb import", "import typing_extensions\nfrom spacetimedb import")
FETCH = (
    HEAD
    + """
@m.procedure
def fetch(ctx: ProcedureContext, url: str) -> str:
    try:
        return str(ctx.http.get(url, timeout=5).status)
    except Exception as error:
        return str(error)
"""
)
REFUSED = {
    "raise ValueError('not today')": "ValueError: not today",
    "from spacetimedb.workers import processes": "a module may not import 'spacetimedb.workers'",
    "open('/etc/passwd')": "a module may not open files",
    "__import__('os')._exit(0)": "the module ended its process while it was loaded",
    "x = [b'x' * (1 << 20) for _ in range(1 << 20)]": "MemoryError",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ["--memory-mb", "400"]
    running = ServerProcess(tmp_path_factory.mktemp("safe"), readers=1, options=options).start()
    try:
        yield running
    finally:
        running.stop()


def count(server: ServerProcess, database: str, value: int) -> int:
    (row,) = server.sql(database, f"SELECT COUNT(*) AS n FROM entry WHERE value = {value}")
    return int(row[0])


def test_a_program_that_cannot_be_loaded_touches_nothing(server: ServerProcess) -> None:
    server.publish(HEAD.encode(), "running")
    client = SessionClient(server.base_url, "running", [V3], "compression=None")
    assert isinstance(client.receive(), v2.InitialConnection)
    client.send(v2.subscribe(1, 1, ["SELECT * FROM entry"]))
    assert isinstance(client.receive(), v2.SubscribeApplied)
    for line, text in REFUSED.items():
        with pytest.raises(RequestFailed, match=re.escape(text)):
            server.publish((HEAD + line).encode(), "running")
        server.call("running", "add", 1)
        assert isinstance(client.receive(), v2.TransactionUpdate), line
    client.close()


def test_an_archive_after_a_bare_file(server: ServerProcess) -> None:
    """What reading an archive needs of Python was loaded before the process was confined."""
    server.publish(HEAD.encode(), "packed")
    server.call("packed", "add", 5)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("game.py", HEAD + "\n# in an archive\n")
    server.publish(archive.getvalue(), "packed")
    server.call("packed", "add", 5)
    assert count(server, "packed", 5) == 2
    assert "crashed" not in server.request("GET", "/v1/database/packed/logs").text


def test_an_init_without_end(server: ServerProcess) -> None:
    with pytest.raises(RequestFailed, match="reducer ran out of energy"):
        server.publish(ENDLESS_INIT.encode(), "endless")
    server.publish(HEAD.encode(), "endless")  # the name is free


def test_a_schedule_that_ends_the_process_again_and_again(server: ServerProcess) -> None:
    """After the third time it is not run any more, and all else works; the next program has its schedules."""
    until(lambda: bool(server.publish(CRASHING_SCHEDULE.encode(), "crashing")))  # unless it crashes even before
    logs = "/v1/database/crashing/logs"
    until(lambda: "schedules do not run until another program is published" in server.request("GET", logs).text)
    until(lambda: server.call("crashing", "add", 1).ok)
    server.call("crashing", "add", 1)
    assert re.search(r"`tick` \(module.py:\d+\) crashed the database process", server.request("GET", logs).text)
    server.publish(COUNTING_SCHEDULE.encode(), "crashing")
    until(lambda: count(server, "crashing", 7) > 2)


def test_a_library_that_the_process_has_not_loaded(server: ServerProcess) -> None:
    """A confined process cannot load it any more: it is replaced, and the rows are there."""
    server.publish(HEAD.encode(), "library")
    server.call("library", "add", 3)
    server.publish(LIBRARY.encode(), "library")
    until(lambda: server.call("library", "add", 3).ok)
    assert count(server, "library", 3) == 2


def test_requests_go_out_of_a_process_of_their_own(server: ServerProcess) -> None:
    server.publish(FETCH.encode(), "fetching")

    def fetch(url: str) -> str:
        return str(server.call("fetching", "fetch", url).json())

    def senders() -> list[int]:
        return [pid for pid, command in server.processes().items() if ".outbound" in command]

    assert "private or special-purpose" in fetch("http://127.0.0.1:1/")
    (sender,) = senders()
    assert "failed to lookup" in fetch("http://no-such-host.invalid/")
    assert senders() == [sender], "it stays for a while"
    kill(sender)
    until(lambda: "private or special-purpose" in fetch("http://127.0.0.1:1/"))
    assert senders() != [sender]


def test_requests_can_be_forbidden() -> None:
    with pytest.raises(HttpError, match="module outbound HTTP requests are disabled"):
        OutboundClient().exchange("GET", "http://192.0.2.1/", b"", (), 1.0)
