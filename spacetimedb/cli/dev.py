"""`spacetime dev`: publishes the module at every save, shows its log, serves the project's page; Ctrl-C ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import click

from .api import Answer, Server, Unreachable
from .config import LOOPBACK
from .init import database_name
from .local_key import act_as_publisher
from .logs import record_text
from .options import OptionalValues, Pointless, Settings, pass_settings, project_options, server_option, yes_option
from .packaging import find_module, program_bytes, program_files
from .page_server import PageServer
from .project import load_project
from .publish import agree_to_change, check_name, module_refused

START_S: Final = 30.0
"""How long a server of our own may take to start."""
RETRY_S: Final = 1.0
"""Between two attempts to follow the log of a server that is away."""
SETTLE_MS: Final = 30
"""Saves that follow one another more quickly count as one."""
STEP_MS: Final = 10
CATCH_UP_LINES: Final = 200
"""Lines of the log that are looked through for what was missed."""
LOOK_MS: Final = 2000
"""The files are looked at so often even if the system reports nothing."""


@click.command(cls=OptionalValues)
@click.argument("name", required=False)
@server_option
@click.option(
    "-p", "--module-path", type=click.Path(path_type=Path), help="Module: a .py file, or a directory that holds one."
)
@click.option(
    "--page", type=click.Path(path_type=Path, file_okay=False), help="Folder to serve [page, if there is one]."
)
@click.option("--page-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 picks one.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".spacetime/data"),
    show_default=True,
    help="Data of the server that is started when none answers.",
)
@click.option("--check-determinism", is_flag=True, help="Run every reducer twice, and fail it if the runs differ.")
@project_options
@yes_option
@pass_settings
def dev(
    settings: Settings,
    name: str | None,
    server: str | None,
    module_path: Path | None,
    page: Path | None,
    page_port: int,
    data_dir: Path,
    check_determinism: bool,
    env: str | None,
    no_config: bool,
    yes: frozenset[str],
) -> None:
    """Develops a module: publishes it to the database NAME (the directory's name if not given) now and whenever one of
    its files is saved, and prints what it logs.

    If no server answers at an address of this machine, one is started, with its data below the project. A project's
    spacetime.json can name database, server, module, and a command that runs beside (`dev.run`).
    """
    project = None if no_config else load_project(env or "dev")
    chosen = None if project is None else project.database(name)
    if chosen is not None:
        name, server, module_path = chosen.name, server or chosen.server, module_path or chosen.source
    source = find_module(module_path or Path("."))
    name = name or database_name(source if source.is_dir() else source.parent)
    check_name(name)
    signal.signal(signal.SIGTERM, _interrupt)
    with suppress(KeyboardInterrupt), Helpers() as helpers:
        helpers.server(settings, settings.connect(server, anonymous=True), data_dir, check_determinism)
        target = settings.connect(server)
        folder = page or Path("page")
        where = helpers.page(folder, page_port, {"url": target.url, "database": name}) if folder.is_dir() else None
        session = Development(settings, target, source, name, yes)
        session.publish()
        if project is not None and project.run is not None:
            helpers.client(project.run, project.file.parent, {"url": target.url, "database": name})
        if where:
            click.echo(f"page      {where}")
        click.echo(f"dashboard {target.url}/dashboard/")
        click.echo(f"watching  {shown(source)}; Ctrl-C ends it")
        threading.Thread(target=session.follow_log, args=(settings.connect(server),), daemon=True).start()
        for _ in saves(source):
            session.publish()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class Development:
    """Publishes one module again and again."""

    def __init__(self, settings: Settings, target: Server, source: Path, name: str, yes: frozenset[str]) -> None:
        self._settings = settings
        self._target = target
        self._source = source
        self._name = name
        self._yes = yes
        self._tried: bytes | None = None
        self._hindrance = ""
        self._started_us = time.time_ns() // 1000

    def publish(self) -> None:
        """Publishes what is on the disk now, if it was not tried yet; says what came of it. What runs goes on if it
        fails."""
        program = self._read()
        if program is None or program == self._tried:
            return
        self._tried = program
        if self._has_syntax_error():
            return
        try:
            answer, seconds = self._send(program)
        except Pointless:
            return self.publish()
        except Unreachable as error:
            self._tried = None
            return self._hindered(error.message)
        except click.ClickException as error:
            click.secho(error.format_message(), fg="red")
            return
        self._hindrance = ""
        done = "created" if answer.json()["Success"]["op"] == "created" else "live"
        click.secho(f"{time.strftime('%H:%M:%S')}  {self._name} is {done} ({seconds * 1000:.0f} ms)", fg="green")

    def _read(self) -> bytes | None:
        """The program as it is on the disk; None if there is none, which is said."""
        try:
            return program_bytes(self._source)
        except click.ClickException as error:
            self._hindered(error.message)
        except OSError as error:  # deleted, or an editor is replacing it
            self._hindered(f"{shown(self._source)} cannot be read: {error.strerror}")
        return None

    def _hindered(self, text: str) -> None:
        """Tells once what prevents a publish and may end without a save: the next look tries again."""
        if text != self._hindrance:
            click.secho(text, fg="red")
        self._hindrance = text

    def _send(self, program: bytes) -> tuple[Answer, float]:
        """The server's answer, and seconds that it took, without those of a question to the user."""
        act_as_publisher(self._target, self._settings.paths.key_dir)
        path = f"/v1/database/{quote(self._name, safe='')}"
        started = time.perf_counter()
        answer = self._target.request("PUT", path, body=program)
        if answer.status == 400:  # not without asking: clients would break, or data be lost
            query = agree_to_change(
                self._target, path, program, self._name, self._source, self._yes, lambda: self._read() != program
            )
            started = time.perf_counter()
            answer = self._target.request("PUT", path, query=query, body=program)
        if not answer.ok:
            raise module_refused(answer, self._target, self._name, self._source)
        return answer, time.perf_counter() - started

    def _has_syntax_error(self) -> bool:
        for path in program_files(self._source):
            if path.suffix != ".py":
                continue
            try:
                compile(path.read_bytes(), shown(path), "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                text = "".join(traceback.format_exception_only(error)).rstrip()
                click.secho(f"{text}\nnot published; what runs goes on", fg="red")
                return True
        return False

    def follow_log(self, target: Server) -> None:
        """Prints what the module logs, for ever; to be run in a thread of its own."""
        path = f"/v1/database/{quote(self._name, safe='')}/logs"
        seen_us = self._started_us
        while True:
            try:
                for line in target.lines(path, {"num_lines": str(CATCH_UP_LINES), "follow": "true"}):
                    record = json.loads(line)
                    if record["ts"] <= seen_us:
                        continue
                    seen_us = record["ts"]
                    click.echo(record_text(record))
                    if source := source_line(record, self._source):
                        click.secho(source, dim=True)
            except click.ClickException:
                pass  # no server, or no such database yet: publishing says so
            time.sleep(RETRY_S)


class Helpers:
    """What runs beside, and ends with the command."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None
        self._page: PageServer | None = None
        self._client: subprocess.Popen[bytes] | None = None
        self._ending = False

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._page is not None:
            self._page.close()
        if self._client is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._client.pid, signal.SIGTERM)
            self._client.wait()
        if self._server is not None:
            self._ending = True
            self._server.terminate()
            self._server.wait()

    def server(self, settings: Settings, target: Server, data_dir: Path, check_determinism: bool) -> None:
        """Starts a server where none answers. ClickException if that is not for us to do, or fails."""
        try:
            target.request("GET", "/v1/ping", authorized=False)
        except click.ClickException:
            parts = urlsplit(target.url)
            if parts.hostname not in LOOPBACK or parts.scheme != "http":
                raise
        else:
            if check_determinism:
                raise click.UsageError(
                    f"a server runs at {target.url} already: end it, or start it with --check-determinism yourself"
                )
            return
        command = [sys.executable, "-P", "-m", "spacetimedb.cli.main", "start", "--data-dir", str(data_dir.absolute())]
        command += ["--listen-addr", f"127.0.0.1:{parts.port or 80}", "--jwt-key-dir", str(settings.paths.key_dir)]
        command += ["--check-determinism"] * check_determinism
        # A group of its own: Ctrl-C is for us, and we end it.
        self._server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        listens = threading.Event()
        said: list[str] = []
        threading.Thread(target=self._read, args=(self._server, listens, said), daemon=True).start()
        if not listens.wait(START_S) or self._server.poll() is not None:
            raise click.ClickException("no server answers, and none could be started:\n" + "".join(said))
        click.echo(f"server    {target.url} (started; data in {data_dir})")

    def _read(self, server: subprocess.Popen[str], listens: threading.Event, said: list[str]) -> None:
        assert server.stdout is not None
        for line in server.stdout:
            if listens.is_set():
                click.secho(f"server: {line.rstrip()}", dim=True)
            else:
                said.append(line)
                if "listening on" in line:
                    listens.set()
        if listens.is_set() and not self._ending:
            click.secho("the server ended; start again with `spacetime dev`", fg="red")
        listens.set()

    def client(self, command: str, folder: Path, config: dict[str, str]) -> None:
        """Runs the project's own command, which the environment tells the database and the server's address."""
        environment = {"SPACETIMEDB_DB_NAME": config["database"], "SPACETIMEDB_HOST": config["url"]}
        self._client = subprocess.Popen(
            command, shell=True, cwd=folder, env=os.environ | environment, start_new_session=True
        )
        click.echo(f"running   {command}")

    def page(self, folder: Path, port: int, config: dict[str, str]) -> str:
        """Serves the page; at another port if that one is taken. Returns where."""
        try:
            self._page = PageServer(folder, port, config)
        except OSError:
            self._page = PageServer(folder, 0, config)
        return self._page.url


def saves(source: Path) -> Iterator[None]:
    """One item whenever files of the module have been saved, and now and then without reason: no save is missed."""
    from watchfiles import Change, watch

    folder = (source if source.is_dir() else source.parent).resolve()
    file = None if source.is_dir() else source.resolve()

    def wanted(_change: Change, path: str) -> bool:
        return Path(path) == file if file is not None else path.endswith(".py")

    for _ in watch(
        folder,
        watch_filter=wanted,
        debounce=SETTLE_MS,
        step=STEP_MS,
        recursive=source.is_dir(),
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
    ):
        yield


def source_line(record: dict[str, Any], source: Path) -> str | None:
    """The line of source that a record of the module's log is about, if it is an error and the file is here."""
    name, number = record.get("filename"), record.get("line_number")
    if str(record["level"]).lower() not in ("error", "panic") or not name or not number:
        return None
    path = source.resolve().parent / str(name)
    try:
        line = path.read_text().splitlines()[int(number) - 1]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    return f"    {number} | {line}"


def shown(path: Path) -> str:
    """As short as it can be named from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd())) or "."
    except ValueError:
        return str(path)
