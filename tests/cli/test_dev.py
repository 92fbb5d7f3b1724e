"""`spacetime init` and `spacetime dev` as a newcomer meets them: a new project, saves, mistakes, the page."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import trio
from browser import open_browser
from server_process import descendants, wait_for_end

from spacetimedb.cli.api import Server
from spacetimedb.cli.config import Paths
from spacetimedb.cli.dev import Development
from spacetimedb.cli.options import Settings
from spacetimedb.client.trio import connect

PATIENCE_S = 120.0


def spacetime(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spacetimedb.cli.main", "--root-dir", str(folder / "root"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


class Dev:
    """A running `spacetime dev` whose output can be waited for."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.lines: list[str] = []
        self._more = threading.Condition()
        self.keyboard, terminal = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "spacetimedb.cli.main", "--root-dir", str(folder / "root"), "dev", *arguments],
            cwd=folder,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        os.close(terminal)
        threading.Thread(target=self._read, daemon=True).start()

    def type(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.lines.append(line.rstrip())
                self._more.notify_all()

    def until(self, pattern: str, since: int = 0) -> re.Match[str]:
        """The first line from number `since` on that matches."""
        deadline = time.monotonic() + PATIENCE_S
        with self._more:
            while True:
                for line in self.lines[since:]:
                    if found := re.search(pattern, line):
                        return found
                left = deadline - time.monotonic()
                assert left > 0, f"no {pattern!r} in:\n" + "\n".join(self.lines)
                self._more.wait(left)

    def stop(self) -> None:
        """Ctrl-C; nothing is left running."""
        tree = list(descendants(self.process.pid))
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(PATIENCE_S) == 0, "\n".join(self.lines)
        assert not wait_for_end(tree, PATIENCE_S)
        os.close(self.keyboard)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "Guest Book"
    made = spacetime(tmp_path, "init", str(folder))
    assert made.returncode == 0, made.stderr
    assert "spacetime dev" in made.stdout
    return folder


@pytest.fixture
def dev(project: Path) -> Iterator[Dev]:
    """With a server of its own, since none answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Dev(project, "-s", f"http://127.0.0.1:{port}", "--page-port", "0")
    try:
        running.until("watching")
        yield running
        running.stop()
    finally:
        if running.process.poll() is None:
            for pid in list(descendants(running.process.pid)):
                os.kill(pid, signal.SIGKILL)


def test_the_new_projects_tests_pass(project: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=project, capture_output=True, text=True)
    assert "3 passed" in done.stdout, done.stdout


def test_init_spares_what_is_there(project: Path) -> None:
    again = spacetime(project.parent, "init", str(project))
    assert again.returncode == 1
    assert "is not empty" in again.stderr


async def test_saves_mistakes_and_the_page(dev: Dev, project: Path) -> None:
    page_url = dev.until(r"^page +(\S+)")[1]
    server_url = dev.until(r"^server +(\S+)")[1]
    module = project / "module.py"
    source = module.read_text()

    async def said(pattern: str, since: int = 0) -> None:
        await trio.to_thread.run_sync(dev.until, pattern, since)

    async with open_browser() as browser, connect(server_url, "guest-book") as client:
        page = await browser.page(page_url)
        await page.until("document.getElementById('status').textContent === '2 here'")
        await client.call("write", "Ann", "Hello from Python")
        await page.until("document.querySelector('#messages li')?.textContent === 'AnnHello from Python'")
        await said("INFO: write module.py:.*Ann wrote 17 characters")

        at = len(dev.lines)
        module.write_text(source.replace("MAX_CHARACTERS = 500", "MAX_CHARACTERS = 5"))
        await said("guest-book is live", at)
        await page.evaluate("document.getElementById('text').value = 'far too long'")
        await page.evaluate("document.getElementById('form').requestSubmit()")
        await page.until("document.getElementById('error').textContent === 'at most 5 characters, please'")

        at = len(dev.lines)
        module.write_text(source.replace("m = Module()", "m = Module("))
        await said(r"m = Module\($", at)
        await said("SyntaxError: '\\(' was never closed", at)
        await said("what runs goes on", at)

        at = len(dev.lines)
        module.write_text(source.replace("m = Module()", "m = Module()\n1 / 0"))
        await said("ZeroDivisionError", at)

        at = len(dev.lines)
        module.write_text(source.replace('raise ReducerError("write something first")', "raise KeyError(text)"))
        await said("guest-book is live", at)
        with pytest.raises(Exception, match="fatal"):
            await client.call("write", "Ann", " ")
        await said(r"^    \d+ \|         raise KeyError\(text\)", at)

        at = len(dev.lines)
        module.write_text(source.replace("    written_at: Timestamp", "    written_at: Timestamp\n    likes: u64 = 0"))
        await said("likes", at)
        dev.type("n\n")
        await said("clients would break", at)
        assert client.is_active

        at = len(dev.lines)
        module.write_text(source.replace("written_at: Timestamp", "when: Timestamp").replace("written_at=", "when="))
        await said("migration function", at)
        await said("DESTROY", at)  # and asks, which is in vain as soon as the file is saved again
        module.write_text(source)
        await said("guest-book is live", at)
        assert client.is_active
        await page.until("document.getElementById('status').textContent === '2 here'")


def test_a_folder_without_a_module_is_explained(tmp_path: Path) -> None:
    done = spacetime(tmp_path, "dev")
    assert done.returncode == 1
    assert "holds no Python module" in done.stderr


def test_pages_are_never_cached(dev: Dev) -> None:
    with urlopen(dev.until(r"^page +(\S+)")[1] + "app.js", timeout=PATIENCE_S) as answer:
        assert answer.headers["cache-control"] == "no-store"


def test_what_failed_is_not_tried_again_before_a_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = tmp_path / "module.py"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        server = Server(f"http://127.0.0.1:{unused.getsockname()[1]}")
        session = Development(Settings(Paths.locate(tmp_path)), server, module, "game", frozenset())

        def said() -> str:
            session.publish()
            session.publish()
            return capsys.readouterr().out

        assert said().count("cannot be read") == 1
        module.write_text("def broken(")
        assert said().count("SyntaxError") == 1
        module.write_text("fine = 1")
        assert said().count("no server answers") == 1
        module.write_text("def broken(")
        assert said().count("SyntaxError") == 1
