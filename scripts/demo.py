"""Runs the sample game until Ctrl-C: server, module, bots. `scripts/demo` prepares the environment and calls this."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
_LISTENS = re.compile(r"listening on (?:http://)?(\S+):(\d+)", re.IGNORECASE)


class Demo:
    """The processes of one demonstration; they end together."""

    def __init__(self, listen: str, bots: int, data: Path) -> None:
        self.listen, self.bots, self.data = listen, bots, data
        self.spacetime = [sys.executable, "-m", "spacetimedb.cli.main", "--root-dir", str(data)]
        self.children: list[subprocess.Popen[str]] = []

    def run(self) -> int:
        """Starts all, then waits for Ctrl-C or for the end of the server; returns the exit code."""
        where = ["--listen-addr", self.listen, "--data-dir", str(self.data / "data")]
        server = self._start([*self.spacetime, "start", *where])
        assert server.stdout is not None
        port = self._port(server.stdout)
        if port is None:
            print("The server did not start; the reason stands above.")
            print("Another port: DEMO_LISTEN=127.0.0.1:3210 scripts/demo")
            return 1
        url = f"http://127.0.0.1:{port}"
        publish = [
            "publish",
            "--server",
            url,
            "--module-path",
            str(HERE / "samples" / "agar.py"),
            "--delete-data=on-conflict",
            "--yes",
            "agar",
        ]
        if subprocess.run([*self.spacetime, *publish]).returncode:
            return 1
        self._start(
            [sys.executable, str(HERE / "bots.py"), "--url", url, "--db", "agar", "--bots", str(self.bots)], None
        )
        print(f"\n  {self.bots} bots are playing. Join them:  {url}/demo/\n", flush=True)
        look = f".venv/bin/spacetime --root-dir {os.path.relpath(self.data)} sql --server {url}"
        print(f"  Look inside:  {look} agar 'SELECT * FROM player'", flush=True)
        print("  Ctrl-C ends it; the next scripts/demo goes on where this one stopped.\n", flush=True)
        return server.wait()

    def _start(self, command: list[str], output: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdout=output, text=True, start_new_session=True)
        self.children.append(process)
        return process

    def _port(self, output: IO[str]) -> int | None:
        for line in output:
            print(f"  {line}", end="", flush=True)
            if found := _LISTENS.search(line):
                threading.Thread(target=self._show, args=(output,), daemon=True).start()
                return int(found[2])
        return None

    @staticmethod
    def _show(output: IO[str]) -> None:
        for line in output:
            print(f"  {line}", end="", flush=True)

    def stop(self) -> None:
        """Bots first, then the server, each given time to end well."""
        for process in reversed(self.children):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--listen", default="127.0.0.1:3000")
    parser.add_argument("--bots", type=int, default=30)
    parser.add_argument("--data", type=Path, default=Path(".demo"))
    options = parser.parse_args()
    demo = Demo(options.listen, options.bots, options.data.absolute())
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return demo.run()
    except KeyboardInterrupt:
        return 0
    finally:
        demo.stop()


if __name__ == "__main__":
    sys.exit(main())
