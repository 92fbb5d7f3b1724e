"""The examples of docs/client.md run as they stand, against a server with the README's module."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from server_process import ServerProcess

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "client.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    (source,) = re.findall(r"`notes\.py`:\n\n```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (folder / "notes.py").write_text(source)
    server.publish(folder / "notes.py", "notes-of-docs")
    return folder


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run(server: ServerProcess, folder: Path, number: int) -> None:
    text = EXAMPLES[number].replace("ws://127.0.0.1:3000", server.ws_url).replace('"notes"', '"notes-of-docs"')
    assert server.ws_url in text
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
