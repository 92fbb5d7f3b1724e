"""A hostile module published against a live server: each attempt fails with a clear error in the module's log, other
databases never notice, memory comes back."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from patience import PATIENCE_S, until
from server_process import SAMPLES, RequestFailed, ServerProcess
from session_client import Ended, SessionClient

from spacetimedb.protocol import v2_client as v2

MODULE = Path(__file__).with_name("hostile_module.py")
FATAL = "The instance encountered a fatal error."
MEMORY_MB = 300
PROCESSES = 6  # supervisor, reader, and actor and log keeper of two databases
SECRET = "A_SECRET_OF_WHO_RUNS_THE_SERVER"
V3 = "v3.bsatn.spacetimedb"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ["--memory-mb", str(MEMORY_MB)]
    patch = pytest.MonkeyPatch()
    patch.setenv(SECRET, "1234")
    running = ServerProcess(tmp_path_factory.mktemp("hostile"), readers=1, options=options).start()
    try:
        running.publish(MODULE, "hostile")
        running.publish(SAMPLES / "notes.py", "notes")
        yield running
    finally:
        running.stop()
        patch.undo()


@pytest.fixture
def others(server: ServerProcess) -> Iterator[None]:
    """Nobody else notices what happens in the test: a client of another database stays connected, its processes go on,
    and what the hostile reducer wrote is not there."""
    client = SessionClient(server.base_url, "notes", [V3], "compression=None")
    assert isinstance(client.receive(), v2.InitialConnection)
    answers: list[object] = []
    listening = threading.Thread(target=lambda: answers.append(client.receive(10 * PATIENCE_S)), daemon=True)
    listening.start()  # it has to answer the server's pings meanwhile
    add(server)
    before = settled_processes(server)
    yield
    add(server)
    after = settled_processes(server)
    add(server)
    # What the module did may be noticed only after the call, so any later request can meet its end.
    written = until(lambda: server.sql("hostile", "SELECT COUNT(*) AS n FROM entry WHERE value = 666"))
    assert written == [[0]]
    client.send(v2.call_reducer(1, "write", b"\x02\0\0\0hi"))
    listening.join(PATIENCE_S)
    assert [type(answer) for answer in answers] == [v2.ReducerResult]
    client.close()
    gone = [command for pid, command in before.items() if pid not in after]
    assert not [c for c in gone if "workers.reader" in c or "cli.main" in c], gone


def add(server: ServerProcess) -> None:
    """A good call, as soon as the database takes one."""
    until(lambda: server.call("hostile", "add", 1).ok)


def settled_processes(server: ServerProcess) -> dict[int, str]:
    """The processes that serve, once none is missing or still ending."""
    return until(server.serving, lambda found: len(found) == PROCESSES)


def last_line(server: ServerProcess) -> str:
    return server.request("GET", "/v1/database/hostile/logs?num_lines=1").text


def refused(server: ServerProcess, reducer: str, *arguments: object) -> str:
    """The text of the error that the caller has."""
    with pytest.raises(RequestFailed) as failure:
        server.call("hostile", reducer, *arguments)
    return failure.value.text


def actor_pids(server: ServerProcess) -> list[int]:
    return [pid for pid, command in server.processes().items() if "transaction_actor" in command]


ATTEMPTS = {
    "read a file": "may not open files",
    "open a file": "may not open files",
    "write a file": "may not open files",
    "list a folder": "may not open files",
    "open a socket": "may not open sockets",
    "resolve a name": "may not open sockets",
    "fork": "may not start processes",
    "exec": "may not start processes",
    "spawn": "may not start processes",
    "kill the parent": "may not signal processes",
    "lift the limits": "may not lift its limits",
}
ONLY_BY_THE_KERNEL = (
    *("look at a file", "kill by signal owner", "send descriptors"),
    *("memory that does not count", "a stack that does not count"),
)


def test_what_a_module_must_not_do(server: ServerProcess, others: None) -> None:
    pids = actor_pids(server)
    for what, text in ATTEMPTS.items():
        assert refused(server, "attempt", what, True) == FATAL
        assert text in last_line(server), what
    assert actor_pids(server) == pids
    assert not Path("/tmp/written-by-a-module").exists()


def test_the_kernel_refuses_what_the_audit_hook_would_let_pass(server: ServerProcess, others: None) -> None:
    pids = actor_pids(server)
    for what in (*ATTEMPTS, *ONLY_BY_THE_KERNEL):
        assert refused(server, "attempt", what, False) == FATAL
        line = last_line(server)
        assert re.search("not permitted|not allowed|Errno -\\d|Temporary failure|System error", line), (what, line)
    assert actor_pids(server) == pids


@pytest.mark.parametrize("reducer", ["loop", "swallow"])
def test_a_call_without_end(server: ServerProcess, others: None, reducer: str) -> None:
    pids = actor_pids(server)
    assert refused(server, reducer) == "Module energy budget exhausted."
    assert f"{reducer} was stopped: it ran longer than 1 s" in last_line(server)
    assert actor_pids(server) == pids


def test_too_deep_and_too_far(server: ServerProcess, others: None) -> None:
    assert refused(server, "recurse") == FATAL
    assert "RecursionError" in last_line(server)
    assert refused(server, "leave") == FATAL
    assert "SystemExit" in last_line(server)


def resident_mb(server: ServerProcess) -> float:
    pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in settled_processes(server))
    return sum(map(int, pages)) / 256


@pytest.mark.parametrize("reducer", ["allocate", "keep"])
def test_memory_without_end_comes_back(server: ServerProcess, others: None, reducer: str) -> None:
    before = resident_mb(server)
    assert refused(server, reducer) == FATAL
    add(server)
    assert resident_mb(server) < before + MEMORY_MB / 4
    log = server.request("GET", "/v1/database/hostile/logs").text
    assert "out of memory" in log
    assert ("keeps the memory" in log) == (reducer == "keep")


def test_a_call_stuck_in_c(server: ServerProcess, others: None) -> None:
    """The actor is replaced after some seconds, and names who it was; everybody else is served meanwhile. A procedure
    that spins is not the cause of anything."""
    pids = actor_pids(server)
    failures: list[str] = []
    spinning = threading.Thread(target=lambda: failures.append(refused(server_of(server), "spin")), daemon=True)
    spinning.start()
    add(server)
    blocked = threading.Thread(target=lambda: failures.append(refused(server_of(server), "block")))
    blocked.start()
    served = 0
    while blocked.is_alive():
        server.call("notes", "write", "meanwhile")
        served += 1
        blocked.join(0.05)
    add(server)
    assert served > 5
    assert any("`block` did not return" in failure for failure in failures), failures
    log = server.request("GET", "/v1/database/hostile/logs").text
    assert re.search(r'"function":"block","message":"`block` \(module.py:\d+\) did not return and could not', log)
    assert len(set(actor_pids(server)) & set(pids)) == 1
    spinning.join(PATIENCE_S)


def server_of(server: ServerProcess) -> ServerProcess:
    """Another connection to the same server, for a thread of its own."""
    twin = ServerProcess(server.root, port=server.port)
    twin.join(server)
    return twin


def test_a_crash_is_explained(server: ServerProcess, others: None) -> None:
    assert "crashed the database process" in refused(server, "crash")
    add(server)
    log = server.request("GET", "/v1/database/hostile/logs").text
    assert re.search(r"`crash` \(module.py:\d+\) crashed the database process \(SIGSEGV\)", log)


def test_garbage_on_every_descriptor(server: ServerProcess, others: None) -> None:
    try:
        server.call("hostile", "write_everywhere")
    except RequestFailed:
        pass  # depends on what is noticed first


@pytest.mark.parametrize("size", [64, 8])
def test_garbage_for_the_readers(server: ServerProcess, others: None, size: int) -> None:
    try:
        server.call("hostile", "publish_garbage", size)
    except RequestFailed:
        pass
    add(server)


def test_garbage_that_a_client_finds(server: ServerProcess, others: None) -> None:
    """The reader looks into the ring because a client asks for something, not because it was told to."""
    query = "compression=None&confirmed=false"
    caller, asking = (SessionClient(server.base_url, "hostile", [V3], query) for _ in range(2))
    for client in (caller, asking):
        assert isinstance(client.receive(), v2.InitialConnection)
    with pytest.raises((Ended, OSError)):
        subscribe_again_and_again(asking, caller)
    caller.receive_all()
    add(server)


def subscribe_again_and_again(asking: SessionClient, caller: SessionClient) -> None:
    """Until the connection ends."""
    for number in range(10_000):
        if number == 1:  # the table is known, so that nobody is asked any more
            caller.send(v2.call_reducer(1, "publish_garbage_silently", b""))
        asking.send(v2.subscribe(1 + number, number, ["SELECT * FROM entry"]))
        asking.receive()


MESSAGES = ("row counts", "slow readers", "dropped readers", "answers")
REGIONS = ("control block", "mailboxes", "ring")
"""Of the memory that the processes share; the module writes over their beginnings."""


@pytest.mark.parametrize("what", [*MESSAGES, *REGIONS])
def test_messages_at_the_wrong_time(server: ServerProcess, others: None, what: str) -> None:
    """`others` keep their readers, and the server lives."""
    if what == "row counts":  # listened to only while a snapshot is wanted; it gets none for half a minute
        threading.Thread(target=lambda: snapshot(server_of(server)), daemon=True).start()
    for _ in range(3 if what in MESSAGES else 1):
        try:
            server.call("hostile", "lie", what)
        except RequestFailed:
            pass
        assert "spacetime_" in server.request("GET", "/v1/metrics").text
    add(server)


def test_a_dropped_reader_costs_its_clients_only(server: ServerProcess, others: None) -> None:
    """Those of the database that dropped it; they come back over the same reader. See `others` for the rest."""
    client = SessionClient(server.base_url, "hostile", [V3], "compression=None&confirmed=false")
    assert isinstance(client.receive(), v2.InitialConnection)
    pids = actor_pids(server)
    try:
        server.call("hostile", "lie", "dropped readers")
    except RequestFailed:
        pass  # the answer may be behind what the reader has missed
    client.receive_all()
    until(lambda: server.sql("hostile", "SELECT COUNT(*) AS n FROM entry"))
    assert actor_pids(server) == pids


def snapshot(server: ServerProcess) -> None:
    try:
        server.request("POST", "/v1/database/hostile/snapshot")
    except (RequestFailed, OSError, HTTPException):
        pass  # the server may have been stopped meanwhile


LIAR = """
messages = __import__("sys").modules.get("spacetimedb.workers.messages")
for found in __import__("gc").get_objects():
    if type(found).__name__ == "Channel":
        found.send(messages.RowCounts(1, {}))
from spacetimedb import Module
m = Module()
"""


def test_another_first_word(server: ServerProcess, others: None, tmp_path: Path) -> None:
    """A database whose process does not begin as it should is not made; nothing else happens."""
    program = tmp_path / "liar.py"
    program.write_text(LIAR)
    with pytest.raises(RequestFailed) as failure:
        server.publish(program, "liar")
    assert "the database process sent what is no answer" in failure.value.text


def test_the_environment_of_the_server_stays_there(server: ServerProcess, others: None) -> None:
    names = refused(server, "environment").split()
    assert "PATH" in names
    assert SECRET not in names
