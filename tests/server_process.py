"""A real server in processes of its own, for tests: starts it, talks to it, ends it, and sees that nothing is left.

Waiting is done on pipes and process descriptors, never by sleeping.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from spacetimedb.cli.api import Answer, Server

START_SECONDS = 120.0
STOP_SECONDS = 90.0
REACHABLE_HOST = "127.0.0.2"
"""An address of this machine that modules of the shared server may send HTTP requests to."""
SAMPLES = Path(__file__).resolve().parent.parent / "scripts" / "samples"
_SERVING = re.compile(r"workers\.(\w+\.)?(reader|transaction_actor|log_keeper)( |$)")
_LISTENS = re.compile(r"listening on (?:http://)?(\S+):(\d+)", re.IGNORECASE)


class RequestFailed(Exception):
    """The server answered with a status that is no success."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status}: {answer.text}")
        self.status, self.text = answer.status, answer.text


class ServerProcess:
    """One server below `root` (data, keys), started with more `options` of `spacetime start`.

    `port` 0: the system picks one at the first start; restarts keep it.
    """

    def __init__(
        self,
        root: Path,
        *,
        in_memory: bool = False,
        readers: int | None = None,
        port: int = 0,
        options: Sequence[str] = (),
        data_dir: Path | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.root, self.in_memory, self.readers, self.port, self.options = root, in_memory, readers, port, options
        self.data_dir, self.cwd = data_dir or root / "data", cwd
        self.output: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None
        self._listens = threading.Event()
        self._talks_to: str | None = None
        self._own = threading.local()
        """`http`: the connection of each thread."""
        self._owner_token: str | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> ServerProcess:
        """Starts the process tree and returns when it listens. AssertionError with the output if it does not."""
        assert self._process is None, "already running"
        command = [sys.executable, "-P", "-m", "spacetimedb.cli.main", "--root-dir", str(self.root), "start"]
        command += ["--listen-addr", f"127.0.0.1:{self.port}", "--data-dir", str(self.data_dir)]
        command += ["--in-memory"] * self.in_memory
        if "--publishers" not in self.options:
            command += ["--publishers", "anyone"]
        if self.readers is not None:
            command += ["--readers", str(self.readers)]
        command += self.options
        self._listens.clear()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=self.cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self._process = process
        watchdog.tell(f"+{process.pid}")
        assert process.stdout is not None
        self._drain = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._drain.start()
        listens = self._listens.wait(START_SECONDS) and process.poll() is None
        if not listens or not self.port:
            self.kill()
            raise AssertionError("the server did not start:\n" + "".join(self.output[-50:]))
        self._talks_to = self.base_url
        return self

    def join(self, running: ServerProcess) -> None:
        """Talks to a server that somebody else started, as the same identity, over connections of its own."""
        self._owner_token = running.owner_token
        self._talks_to = running.base_url

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.output.append(line)
            if found := _LISTENS.search(line):
                self.port = int(found[2])
                self._listens.set()
        self._listens.set()  # the end of the output: nobody need wait longer

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def processes(self) -> dict[int, str]:
        """Pids of the whole tree, this server's first process first, with their command lines."""
        return {pid: _command_line(pid) for pid in descendants(self.pid)}

    def serving(self) -> dict[int, str]:
        """Those of them that stay: processes that load a program, write a snapshot or send requests come and go, and
        one that has just been forked still looks like its parent."""
        found = self.processes().items()
        return {pid: command for pid, command in found if pid == self.pid or _SERVING.search(command)}

    def stop(self) -> None:
        """SIGTERM, then waits; AssertionError if it fails, hangs, or leaves processes behind."""
        if self._process is None:
            return
        tree = list(descendants(self.pid))
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the server did not stop:\n" + "".join(self.output[-50:])) from None
        self._ended()
        left = wait_for_end(tree, STOP_SECONDS)
        assert code == 0, f"the server ended with {code}:\n" + "".join(self.output[-50:])
        assert not left, f"left behind: {left}"

    def kill(self) -> None:
        """kill -9 of the whole tree; waits until all of it is gone."""
        if self._process is None:
            return
        tree = list(descendants(self.pid))
        for pid in tree:
            kill(pid)
        self._process.wait()
        self._ended()
        left = wait_for_end(tree, STOP_SECONDS)
        assert not left, f"left behind: {left}"

    def await_end(self, pids: list[int]) -> None:
        """After the first process was killed alone: waits until the others have ended too."""
        assert self._process is not None
        self._process.wait(STOP_SECONDS)
        self._ended()
        left = wait_for_end(pids, STOP_SECONDS)
        assert not left, f"left behind: {left}"

    def cpu_seconds(self) -> float:
        """CPU time of the whole tree so far."""
        return cpu_seconds(self.pid)

    def _ended(self) -> None:
        if self._process is not None:
            watchdog.tell(f"-{self._process.pid}")
        self._process = None
        self._own = threading.local()
        if self._drain is not None:
            self._drain.join(STOP_SECONDS)

    # -- talk ----------------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def owner_token(self) -> str:
        """Token of the identity that publishes; the same after a restart."""
        if self._owner_token is None:
            self._owner_token = str(self.identity()["token"])
        return self._owner_token

    def identity(self) -> dict[str, str]:
        """A new identity: {"identity": hex, "token": jwt}."""
        answer: dict[str, str] = self.request("POST", "/v1/identity", authorized=False).json()
        return answer

    def request(self, method: str, path: str, body: bytes | str | None = None, **options: Any) -> Answer:
        """One request, with the owner's token unless `authorized=False`. RequestFailed if it is no success."""
        assert self._talks_to is not None, "not running"
        http: Server | None = getattr(self._own, "http", None)
        if http is None:
            http = self._own.http = Server(self._talks_to)
        if options.get("authorized", True):
            http.token = self.owner_token
        answer = http.request(method, path, body=body, **options)
        if not answer.ok:
            raise RequestFailed(answer)
        return answer

    def publish(self, module: Path | bytes, name: str, *, clear: bool = False) -> str:
        """Publishes a module (file or source); returns the database's identity in hex."""
        program = module if isinstance(module, bytes) else module.read_bytes()
        query = {"clear": "true"} if clear else None
        answer = self.request("PUT", f"/v1/database/{quote(name)}", program, query=query)
        return str(answer.json()["Success"]["database_identity"])

    def call(self, database: str, function: str, *arguments: Any) -> Answer:
        return self.request(
            "POST",
            f"/v1/database/{database}/call/{function}",
            json.dumps(arguments),
            headers={"content-type": "application/json"},
        )

    def sql(self, database: str, query: str) -> list[list[Any]]:
        """Rows of one statement."""
        rows: list[list[Any]] = self.request("POST", f"/v1/database/{database}/sql", query).json()[0]["rows"]
        return rows


class _Watchdog:
    """Kills the servers of a test run that was itself killed: a process that hears of each server through a pipe."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def tell(self, line: str) -> None:
        if self._process is None:
            command = [sys.executable, __file__]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


watchdog = _Watchdog()


def watch(lines: Iterator[str]) -> None:
    """The watchdog's whole life: lines `+PID` and `-PID`; when they end, what is left running is killed."""
    running: set[int] = set()
    for line in lines:
        (running.add if line[0] == "+" else running.discard)(int(line[1:]))
    for root in running:
        for pid in list(descendants(root)):
            kill(pid)


def kill(pid: int) -> None:
    """kill -9, if there is such a process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def descendants(root: int) -> Iterator[int]:
    """`root` and everything below it, parents first (zombies left out)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop(0)
        yield pid
        waiting += sorted(children.get(pid, ()))


def cpu_seconds(root: int) -> float:
    """CPU time of a process and everything below it so far."""
    ticks = 0
    for pid in descendants(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_for_end(pids: list[int], seconds: float) -> list[int]:
    """Waits until the processes are gone; returns those that are not."""
    deadline = time.monotonic() + seconds
    left = []
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(handle)
        if not ready:
            left.append(pid)
    return left


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


if __name__ == "__main__":
    watch(iter(sys.stdin))
