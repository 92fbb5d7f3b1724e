"""What type checkers make of the module API: right uses pass mypy --strict and pyright, wrong uses are reported.

Needs node with pyright from tests/npm/package.json, as `scripts/setup` installs it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USES = Path(__file__).parent / "uses"
PYRIGHT = ROOT / "tests" / "npm" / "node_modules" / "pyright" / "index.js"
WRONG = "wrong_uses.py"
CHECK_SECONDS = 300

Checker = Callable[..., dict[tuple[str, int], str]]


def run_mypy(*files: Path) -> dict[tuple[str, int], str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--show-absolute-path", "--no-error-summary"]
    command += map(str, files)
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CHECK_SECONDS)
    assert output.returncode in (0, 1), output.stdout + output.stderr
    return errors(output.stdout, r"^(.*?):(\d+): error: (.*)")


def run_pyright(*files: Path) -> dict[tuple[str, int], str]:
    node = shutil.which("node")
    assert node is not None, "node is not installed"
    assert PYRIGHT.exists(), "pyright is not installed: run npm install in tests/npm"
    command = [node, str(PYRIGHT), "--pythonpath", sys.executable, *map(str, files)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CHECK_SECONDS)
    assert output.returncode in (0, 1), output.stdout + output.stderr
    assert "error" in output.stdout, output.stdout  # "0 errors" at least: it did run
    return errors(output.stdout, r"^\s*(/.*?):(\d+):\d+ - error: (.*)")


def errors(output: str, pattern: str) -> dict[tuple[str, int], str]:
    """(File name, line) -> text of the errors a checker printed."""
    hits = re.findall(pattern, output, re.MULTILINE)
    return {(Path(file).name, int(line)): text for file, line, text in hits}


@pytest.fixture(scope="module", params=[run_mypy, run_pyright], ids=["mypy", "pyright"])
def reported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], str]:
    """What one run of a checker says about the right uses, the samples and the wrong uses."""
    wrong = tmp_path_factory.mktemp("wrong") / WRONG
    wrong.write_text((USES / "wrong_uses.txt").read_text())
    checker: Checker = request.param
    return checker(USES / "right_uses.py", *(ROOT / "scripts" / "samples").glob("*.py"), wrong)


def test_right_uses_are_accepted(reported: dict[tuple[str, int], str]) -> None:
    """Every feature of the API, with the types of its results asserted, and the samples."""
    assert {place: text for place, text in reported.items() if place[0] != WRONG} == {}


def test_wrong_uses_are_reported_and_nothing_else(reported: dict[tuple[str, int], str]) -> None:
    lines = (USES / "wrong_uses.txt").read_text().splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    found = {line: text for (file, line), text in reported.items() if file == WRONG}
    missed = [lines[n - 1].strip() for n in sorted(expected - found.keys())]
    excess = {lines[n - 1].strip(): text for n, text in found.items() if n not in expected}
    assert (missed, excess) == ([], {})
    assert len(expected) > 50


def test_the_right_uses_are_a_valid_module() -> None:
    """What checkers accept also loads."""
    command = [sys.executable, "-c", "import right_uses; print(len(right_uses.m.describe().tables))"]
    output = subprocess.run(command, cwd=USES, capture_output=True, text=True, timeout=CHECK_SECONDS)
    assert output.stdout == "5\n", output.stderr
