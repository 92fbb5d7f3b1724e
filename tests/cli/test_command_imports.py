"""What `spacetime` imports: the command that runs, nothing for the others."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

import spacetimedb
from spacetimedb.cli.main import COMMANDS, main

HEAVY = {
    "cryptography",
    "http.client",
    "jwt",
    "msgspec",
    "rich",
    "spacetimedb.cli.publish",
    "spacetimedb.module",
    "spacetimedb.workers",
    "trio",
    "watchfiles",
}


def imported(program: str) -> set[str]:
    """Names of the modules that are there after the program has run in an interpreter of its own."""
    code = f"import sys\n{program}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("\n")[0].rpartition("\n")[2].split())


def test_help_imports_no_command() -> None:
    program = "from spacetimedb.cli.main import main\nmain(['--help'], standalone_mode=False)"
    there = imported(program)
    assert "spacetimedb.cli.main" in there
    assert not there & HEAVY


def test_a_command_imports_what_it_needs() -> None:
    program = "from spacetimedb.cli.main import main\nmain(['sql', '--help'], standalone_mode=False)"
    assert imported(program) & HEAVY <= {"http.client", "msgspec", "spacetimedb.module"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_it_is_said_to_be(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_what_authors_import_is_light_until_asked_for() -> None:
    assert "spacetimedb.module" not in imported("import spacetimedb")
    there = imported("from spacetimedb import *\nassert Module and TestHost and u8")
    assert "spacetimedb.module" in there
    assert not there & {"trio", "rich", "click"}
    assert {"Module", "TestHost"} <= set(dir(spacetimedb))


@pytest.mark.parametrize("name", ["transaction_actor", "log_keeper"])
def test_the_processes_of_a_database_have_no_tasks(name: str) -> None:
    """There may be many, and each is started while somebody waits: without trio that takes a third less time."""
    there = imported(f"import spacetimedb.workers.{name}.{name}")
    assert f"spacetimedb.workers.{name}.{name}" in there
    assert not there & {"trio", "click", "cryptography"}
