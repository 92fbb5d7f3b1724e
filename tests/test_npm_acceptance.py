"""The official client, npm `spacetimedb`, with upstream's test modules (tests/modules) and our generated bindings.

The scenarios are in npm/acceptance.mjs: every column type, every rule on the order of callbacks, event tables, views,
procedures.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from server_process import ServerProcess

from spacetimedb.codegen.files import write_files
from spacetimedb.codegen.typescript import typescript_files
from spacetimedb.hosts.program import load_program
from spacetimedb.schema.validation import validate

TESTS = Path(__file__).parent
NPM = TESTS / "npm"
SECONDS = 300
MODULES = {
    "every_type": "sdk_test",
    "every_key": "sdk_test",
    "callback_order": "sdk_test",
    "event_tables": "event_table",
    "views_without_key": "view",
    "views_with_key": "procedural_view_pk",
    "query_views": "view_pk",
    "procedures": "procedure",
}
"""The module of each scenario."""


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bindings for each module, as JavaScript."""
    folder = tmp_path_factory.mktemp("bindings")
    for module in set(MODULES.values()):
        definition = validate(load_program(source(module).read_bytes()).describe())
        write_files(folder / module, typescript_files(definition))
    (folder / "package.json").write_text('{"type": "module"}')
    node("transpile.mjs", [str(folder)])
    (folder / "node_modules").symlink_to(NPM / "node_modules")
    return folder


def source(module: str) -> Path:
    return TESTS / "modules" / f"{module}.py"


def node(script: str, arguments: Iterable[str]) -> None:
    command = ["node", script, *arguments]
    run = subprocess.run(command, cwd=NPM, capture_output=True, text=True, timeout=SECONDS)
    assert run.returncode == 0, run.stderr or run.stdout


@pytest.mark.parametrize("scenario", MODULES)
def test_scenario(server: ServerProcess, bindings: Path, scenario: str) -> None:
    database = f"acceptance-{scenario.replace('_', '-')}"
    server.publish(source(MODULES[scenario]), database)
    node("acceptance.mjs", [scenario, server.ws_url, database, str(bindings / MODULES[scenario])])
