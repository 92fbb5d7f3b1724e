"""What the smoketests share: the command line as one user types it, and a subscriber that shows changes as it does.

Commands run in this process, against the real server; sources of modules are given as text.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

from click.testing import CliRunner, Result
from patience import until
from server_process import ServerProcess
from session_client import SessionClient

from spacetimedb.cli.api import Server
from spacetimedb.cli.main import main
from spacetimedb.cli.schema import Schema
from spacetimedb.cli.subscribe import Watch, row_printers
from spacetimedb.protocol import v2_client as v2

_names = itertools.count(1)

Rows = list[dict[str, Any]]
Changes = dict[str, dict[str, Rows]]
"""By table: rows of "deletes" and "inserts"."""


def inserts(table: str, *rows: dict[str, Any]) -> Changes:
    return {table: {"deletes": [], "inserts": list(rows)}}


def deletes(table: str, *rows: dict[str, Any]) -> Changes:
    return {table: {"deletes": list(rows), "inserts": []}}


class SubscriptionRefused(Exception):
    """The server's text."""


class Subscriber:
    """A connection with one query set; `initial` holds the rows that were there."""

    def __init__(
        self, url: str, database: str, queries: Sequence[str], token: str | None, confirmed: bool | None = None
    ) -> None:
        api = Server(url, token)
        described = api.request("GET", f"/v1/database/{database}/schema", query={"version": "10"})
        assert described.ok, described.text
        schema = Schema(described.json())
        self._watch = Watch(
            target=api,
            identity=database,
            queries=queries,
            printers=row_printers(schema),
            num_updates=None,
            print_initial_update=False,
            confirmed=confirmed,
        )
        query = "compression=None" + ("" if confirmed is None else f"&confirmed={str(confirmed).lower()}")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.session = SessionClient(url, database, ["v3.bsatn.spacetimedb"], query, headers)
        api.close()
        greeting = self.session.receive()
        assert isinstance(greeting, v2.InitialConnection)
        self.session.send(v2.subscribe(1, 1, queries))
        answer = self.session.receive()
        if isinstance(answer, v2.SubscriptionError):
            raise SubscriptionRefused(answer.error)
        assert isinstance(answer, v2.SubscribeApplied)
        self.is_closed = False
        self.initial = _parsed(self._watch.initial(answer))

    def next(self) -> Changes:
        """The changes of the next transaction."""
        message = self.session.receive()
        assert isinstance(message, v2.TransactionUpdate), message
        return _parsed(self._watch.changes(message.query_sets))

    def take(self, count: int) -> list[Changes]:
        return [self.next() for _ in range(count)]

    def close(self) -> None:
        """Says goodbye and waits for the server's."""
        self.session.close()
        self.is_closed = True


def _parsed(changes: dict[str, dict[str, list[str]]]) -> Changes:
    return {t: {kind: [json.loads(row) for row in rows] for kind, rows in of.items()} for t, of in changes.items()}


class User:
    """Somebody at a command line of their own (configuration below `home`), whose server is `server`."""

    def __init__(self, server: ServerProcess, home: Path) -> None:
        self.server = server
        self.home = home
        self._subscribers: list[Subscriber] = []
        config = home / "config" / "cli.toml"
        config.parent.mkdir(parents=True)
        host = server.base_url.removeprefix("http://")
        config.write_text(
            f'default_server = "here"\n\n[[server_configs]]\nnickname = "here"\nhost = "{host}"\nprotocol = "http"\n'
        )
        self.run("login", "--server-issued-login", "here")

    def try_run(self, *arguments: str, typed: str | None = None) -> Result:
        """`spacetime ARGUMENTS`, whatever its exit code."""
        return CliRunner().invoke(main, ["--root-dir", str(self.home), *arguments], input=typed)

    def run(self, *arguments: str, typed: str | None = None) -> str:
        """Its output; it must succeed."""
        result = self.try_run(*arguments, typed=typed)
        assert result.exit_code == 0, result.output
        return result.output

    def fails(self, *arguments: str, typed: str | None = None) -> str:
        """Its output; it must fail, and not by a bug."""
        result = self.try_run(*arguments, typed=typed)
        assert result.exit_code == 1, (result.exit_code, result.output)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.output

    def at_terminal(self, *arguments: str, typed: str) -> tuple[int, str]:
        """Exit code and output of a process that can ask at a terminal, where this is typed."""
        typing, keyboard = os.openpty()
        command = [sys.executable, "-m", "spacetimedb.cli.main", "--root-dir", str(self.home), *arguments]
        try:
            os.write(typing, typed.encode())
            done = subprocess.run(
                command, stdin=keyboard, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
        finally:
            os.close(typing)
            os.close(keyboard)
        return done.returncode, done.stdout

    @property
    def token(self) -> str:
        return self.run("login", "show", "--token").split()[-1]

    def source(self, text: str) -> str:
        """Path of a file with the module's text."""
        path = self.home / f"module_{next(_names)}.py"
        path.write_text(dedent(text))
        return str(path)

    def publish(self, text: str, name: str | None = None, *options: str) -> str:
        """Publishes a module; returns the database's name, a new one if none is given."""
        name = name or new_name()
        self.run("publish", name, "--module-path", self.source(text), *options)
        return name

    def try_publish(self, text: str, name: str, *options: str) -> Result:
        return self.try_run("publish", name, "--module-path", self.source(text), *options)

    def publish_fails(self, text: str, name: str | None = None, *options: str) -> str:
        return self.fails("publish", name or new_name(), "--module-path", self.source(text), *options)

    def call(self, database: str, function: str, *arguments: Any) -> str:
        return self.run("call", database, function, *map(_argument, arguments)).strip()

    def call_fails(self, database: str, function: str, *arguments: Any) -> str:
        return self.fails("call", database, function, *map(_argument, arguments))

    def sql(self, database: str, query: str) -> list[str]:
        """Lines of the table."""
        return [line.rstrip() for line in self.run("sql", database, query).splitlines() if line.strip()]

    def sql_rows(self, database: str, query: str) -> list[list[str]]:
        """Cells as they are shown, sorted."""
        return sorted([cell.strip() for cell in line.split("|")] for line in self.sql(database, query)[2:])

    def sql_fails(self, database: str, query: str) -> str:
        return self.fails("sql", database, query)

    def logs(self, database: str) -> str:
        return self.run("logs", database, "-n", "1000")

    def await_log(self, database: str, text: str, times: int = 1) -> str:
        return until(lambda: self.logs(database), lambda logs: logs.count(text) >= times)

    def identity(self, database: str) -> str:
        answer = self.server.request("GET", f"/v1/database/{database}/identity")
        return answer.text.strip().strip('"')

    def subscribe(self, database: str, *queries: str, confirmed: bool | None = None) -> Subscriber:
        made = Subscriber(self.server.base_url, database, queries, self.token, confirmed)
        self._subscribers.append(made)
        return made

    def leave(self) -> None:
        """Ends what is still connected."""
        for subscriber in self._subscribers:
            if not subscriber.is_closed:
                subscriber.session.drop()


def new_name() -> str:
    return f"smoke-{next(_names)}"


def _argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
