"""The examples of docs/modules.md run as they stand there, in order, in one name space."""

from __future__ import annotations

import linecache
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "modules.md"


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = GUIDE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 10
    guide = ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", guide)
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        name = f"modules.md:{line + 1}"
        source = "\n" * line + block[1]
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), guide.__dict__)
