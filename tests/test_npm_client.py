"""The official client, npm `spacetimedb`, against a real server; the scenarios are in npm/scenarios.mjs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from server_process import ServerProcess

NPM = Path(__file__).resolve().parent / "npm"
SECONDS = 300
SCENARIOS = re.findall(r"^export async function (\w+)\(server\)", (NPM / "scenarios.mjs").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def database(npm_database: str) -> str:
    assert (NPM / "node_modules" / "spacetimedb").is_dir(), "run scripts/setup: tests/npm is not installed"
    return npm_database


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_official_client(server: ServerProcess, database: str, scenario: str) -> None:
    run = subprocess.run(
        ["node", "run.mjs", scenario, server.ws_url, database], cwd=NPM, capture_output=True, text=True, timeout=SECONDS
    )
    assert run.returncode == 0, run.stderr or run.stdout


def test_the_client_is_the_one_that_games_use() -> None:
    package = (NPM / "node_modules" / "spacetimedb" / "package.json").read_text()
    assert '"version": "2.10.1"' in package
