"""Runs one load against a server of its own. `scripts/loads/run` prepares the environment and calls this."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parent / "samples"
LISTENS = re.compile(r"listening on http://(\S+)")


class Load(NamedTuple):
    """A scenario beside this file, the sample module it needs, and the options of `spacetime loadtest`."""

    scenario: str
    module: str
    options: str


LOADS = {
    "closed": Load("pingers", "pings", "--workers 1 --clients 200 --think 0 --seconds 15 --warm-up 5"),
    "rows": Load("watchers", "ticker", "--workers 1 --clients 10 --seconds 15 --warm-up 5 --unconfirmed"),
    "players": Load(
        "pingers",
        "pings",
        "--stage 40s:5000 --stage 70s:5000 --rate 5000 --warm-up 50 --connect-rate 250",
    ),
    "idle": Load("idle", "pings", "--stage 40s:10000 --stage 50s:10000 --warm-up 60 --connect-rate 300"),
    "game": Load("game", "agar", "--clients 400 --find=age.p99<100ms"),
}
REQUIRED = {
    "closed": ("calls.rate >= 8000", "failed == 0", "lost == 0"),
    "rows": ("rows.rate >= 60000", "failed == 0", "lost == 0"),
    "players": ("clients >= 5000", "task.p99 < 1000ms", "failed == 0", "lost == 0"),
    "idle": ("clients >= 10000",),
    "game": (),
}


def main(name: str, further: list[str]) -> int:
    """The exit status of the load test: 0 if what is required of this load holds."""
    load = LOADS[name]
    with tempfile.TemporaryDirectory(prefix="spacetime-load-") as folder:
        spacetime = [sys.executable, "-m", "spacetimedb.cli.main", "--root-dir", folder]
        where = ["--listen-addr", "127.0.0.1:0", "--data-dir", f"{folder}/data"]
        server = subprocess.Popen([*spacetime, "start", *where], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            found = LISTENS.search(server.stdout.readline())
            if found is None:
                print("The server did not start; the reason stands above.")
                return 1
            url = f"http://{found[1]}"
            module = str(SAMPLES / f"{load.module}.py")
            publish = ["publish", "--server", url, "--module-path", module, "--yes", load.module]
            subprocess.run([*spacetime, *publish], check=True, stdout=subprocess.DEVNULL)
            required = [f"--require={condition}" for condition in REQUIRED[name]]
            scenario = str(HERE / f"{load.scenario}.py")
            options = re.sub(r"--stage \S+", "", load.options) if "--stage" in further else load.options
            test = ["loadtest", scenario, "--server", url, *options.split(), *required, *further]
            return subprocess.run([*spacetime, *test]).returncode
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in LOADS:
        sys.exit(f"scripts/loads/run {'|'.join(LOADS)} [options of `spacetime loadtest`]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
