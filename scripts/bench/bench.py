"""All benchmarks in one run: a server of its own, the official npm client, one table and a JSON file.

    scripts/bench/run [--only transfer,fanout,...] [--seconds 20] [--json FILE] [--compare EARLIER] [--show FILE]

Every figure that depends on the machine stands next to one measured in the same run: throughput is quoted over the echo
floor (a bare Node WebSocket server), latency next to one fdatasync.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SAMPLES = ROOT / "scripts" / "samples"
sys.path.insert(0, str(ROOT / "tests"))

from server_process import ServerProcess, cpu_seconds, descendants  # noqa: E402

IDLE_CONNECTIONS = 1000
IDLE_CPU_SECONDS = 10.0
SETTLE_SECONDS = 10.0
SETTLED_CPU_S = 0.02
SCRAPE_EVERY_S = 1.0
Figures = dict[str, Any]


class Goal:
    """What a figure should reach; `upstream` is the Rust server's on such a machine."""

    def __init__(self, benchmark: str, figure: str, limit: float, upstream: str, *, at_least: bool = False) -> None:
        self.benchmark, self.figure, self.limit, self.upstream, self.at_least = (
            benchmark,
            figure,
            limit,
            upstream,
            at_least,
        )

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def text(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


GOALS = [
    Goal("transfer", "failed", 0, "0"),
    Goal("transfer", "tps_over_floor", 0.40, "0.60-0.69", at_least=True),
    Goal("transfer", "server_cpu_s_per_1000_tx", 0.025, "0.015"),
    Goal("sequential", "p50_over_limit", 1.0, "p50 1.5 ms"),
    Goal("fanout", "missing_rows", 0, "0"),
    Goal("fanout", "age_p99_ms", 30, "12"),
    Goal("fanout", "server_cpu_s_per_1000_messages", 0.015, "0.021"),
    Goal("fanout-500", "missing_rows", 0, "0"),
    Goal("fanout-500", "server_cpu_s_per_1000_messages", 0.064, "0.064"),
    Goal("large-table", "rows_per_cpu_s", 4_000_000, "5-14 million", at_least=True),
    Goal("large-table", "populate_s", 2.0, "0.7"),
    Goal("large-table", "call_p99_ms", 50, "-"),
    Goal("large-table", "missing_rows", 0, "0"),
    Goal("points", "many_over_few", 1.3, "1.8"),
    Goal("points", "missing", 0, "0"),
    Goal("shared", "cpu_us_per_message", 12, "-"),
    Goal("shared", "missing", 0, "0"),
    Goal("chunks", "first_result_p50_ms", 20, "-"),
    Goal("chunks", "cold_first_result_ms", 20, "-"),
    Goal("chunks", "call_p99_ms", 50, "-"),
    Goal("chunks", "missing", 0, "0"),
    Goal("recovery", "row_ops_per_cpu_s", 400_000, "1.5 million", at_least=True),
    Goal("recovery", "snapshot_start_s", 5.0, "-"),
    Goal("recovery", "keeper_us_per_tx", 2.0, "-"),
    Goal("recovery", "call_p99_with_snapshot_ms", 20, "-"),
    Goal("idle", "resident_mb", 160, "-"),
    Goal("idle", "cpu_percent", 1.0, "-"),
    Goal("connections", "mb_per_1000", 60, "182"),
    Goal("scrape", "scrape_p50_ms", 20, "-"),
    Goal("scrape", "call_p99_over_quiet", 1.5, "-"),
]


def node(script: str, **options: Any) -> Figures:
    """Runs one of the .mjs benchmarks and returns the JSON that it prints."""
    arguments: list[str] = []
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    done = subprocess.run(["node", script, *arguments], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr or done.stdout}")
    figures: Figures = json.loads(done.stdout)
    return figures


def fdatasync_ms(folder: Path) -> float:
    """Median of 200 fdatasyncs after an append of 100 bytes, in the folder where the server writes."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(200):
            file.write(bytes(100))
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2] * 1000


def resident_kb(pid: int) -> int:
    """Proportional set size of the process tree: pages shared between its processes count once."""
    total = 0
    for process in descendants(pid):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


SHOWN = (
    *("tps", "p50_ms", "p99_ms", "echo_floor_rps", "rows_delivered_per_s", "messages_delivered_per_s", "skipped"),
    *("age_p50_ms", "age_p99_ms", "client_cpu_s_per_1000_tx", "processes", "connect_ms", "first_error"),
    *("subscribe_p50_ms", "subscribe_max_ms", "call_p50_ms", "calls_meanwhile", "few_cpu_us", "many_cpu_us"),
    *("scrapes", "scrape_max_ms", "quiet_p99_ms"),
    *("clients", "messages", "first_result_p99_ms", "move_p50_ms"),
)


class Bench:
    """One run against one server."""

    def __init__(self, server: ServerProcess, seconds: int) -> None:
        self.server, self.seconds = server, seconds
        self.fdatasync_ms = fdatasync_ms(server.root)

    def idle(self) -> Figures:
        """Memory and CPU of a server with one database that nobody uses."""
        self._settle()
        before, begun = cpu_seconds(self.server.pid), time.perf_counter()
        time.sleep(min(IDLE_CPU_SECONDS, self.seconds))
        used = (cpu_seconds(self.server.pid) - before) / (time.perf_counter() - begun)
        return {
            "resident_mb": round(resident_kb(self.server.pid) / 1000, 1),
            "processes": len(list(descendants(self.server.pid))),
            "cpu_percent": round(used * 100, 2),
        }

    def _settle(self) -> None:
        """Until the process that will load the next program, started after a publish, has got ready."""
        used, deadline = -1.0, time.perf_counter() + SETTLE_SECONDS
        while time.perf_counter() < deadline and (now := cpu_seconds(self.server.pid)) - used > SETTLED_CPU_S:
            used = now
            time.sleep(1)

    def transfer(self) -> Figures:
        return node("transfer.mjs", **self._common("bank"), connections=64, inflight=40)

    def transfer_skewed(self) -> Figures:
        return node("transfer.mjs", **self._common("bank"), connections=64, inflight=40, alpha=1.5)

    def sequential(self) -> Figures:
        figures = node("transfer.mjs", **self._common("bank"), connections=1, inflight=1, no_floor=True)
        limit = 2 * self.fdatasync_ms + 1.5
        return figures | {
            "fdatasync_ms": round(self.fdatasync_ms, 3),
            "p50_over_limit": round(figures["p50_ms"] / limit, 3),
        }

    def fanout(self) -> Figures:
        return self._fanout(subscribers=200, moved=20, rate=20)

    def fanout_500(self) -> Figures:
        return self._fanout(subscribers=50, moved=500, rate=20)

    def large_table(self) -> Figures:
        """First subscriptions to 1,000,000 rows of 24 bytes."""
        figures = node("large_table.mjs", url=self.server.ws_url, db="rows", server_pid=self.server.pid)
        return _flat(figures, "subscribe", "call")

    def points(self) -> Figures:
        """10,000 subscriptions to a value each, against 100."""
        figures = _flat(node("subscriptions.mjs", **self._common("rows"), mode="points"), "few", "many")
        return figures | {
            "missing": sum(max(0, figures[f"{n}_calls"] - figures[f"{n}_updates"]) for n in ("few", "many"))
        }

    def shared(self) -> Figures:
        """1,000 clients with the same query."""
        return node("subscriptions.mjs", **self._common("rows"), mode="shared")

    def chunks(self) -> Figures:
        """Semijoins of 1,200 rows out of 1,200,000; the cold one is by a reader that knows neither table."""
        figures = _flat(
            node("subscriptions.mjs", **self._common("rows"), mode="chunks"), "first_result", "move", "call"
        )
        return figures | {"missing": figures["wanted_updates"] - figures["updates"]}

    def recovery(self) -> Figures:
        """Replay, a start from a snapshot, what the log keeper costs, and calls while a snapshot is taken."""
        import recovery

        return recovery.measure(self.server, self.server.root / "recovery")

    def connections(self) -> Figures:
        """Memory of 1,000 open connections that subscribe to nothing."""
        before = resident_kb(self.server.pid)
        with self._idle_clients() as opened:
            after = resident_kb(self.server.pid)
        return opened | {"mb_per_1000": round((after - before) / 1000 * 1000 / IDLE_CONNECTIONS, 1)}

    def scrape(self) -> Figures:
        """/v1/metrics while 1,000 clients are connected: how long it takes, and whether calls notice it."""
        options = self._common("bank") | {"connections": 1, "inflight": 1, "no_floor": True}
        with self._idle_clients():
            quiet = node("transfer.mjs", **options)
            with _Scrapes(self.server.base_url) as scrapes:
                scraped = node("transfer.mjs", **options)
        times = sorted(scrapes.times_ms)
        return {
            "scrapes": len(times),
            "scrape_p50_ms": round(times[len(times) // 2], 2),
            "scrape_max_ms": round(times[-1], 2),
            "quiet_p99_ms": quiet["p99_ms"],
            "call_p50_ms": scraped["p50_ms"],
            "call_p99_ms": scraped["p99_ms"],
            "call_p99_over_quiet": round(scraped["p99_ms"] / quiet["p99_ms"], 3),
        }

    @contextmanager
    def _idle_clients(self) -> Iterator[Figures]:
        options = ["--url", self.server.ws_url, "--db", "ticker", "--connections", str(IDLE_CONNECTIONS)]
        with subprocess.Popen(
            ["node", "idle.mjs", *options], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdout is not None
            assert client.stdin is not None
            yield dict(json.loads(client.stdout.readline()))
            client.stdin.close()

    def _fanout(self, **options: int) -> Figures:
        figures = node("fanout.mjs", **self._common("ticker"), **options)
        return figures | {f"age_{name}": value for name, value in figures["age"].items()}

    def _common(self, database: str) -> dict[str, Any]:
        return {"url": self.server.ws_url, "db": database, "server_pid": self.server.pid, "seconds": self.seconds}


BENCHMARKS: dict[str, Callable[[Bench], Figures]] = {
    "idle": Bench.idle,
    "connections": Bench.connections,
    "scrape": Bench.scrape,
    "fanout": Bench.fanout,
    "fanout-500": Bench.fanout_500,
    "large-table": Bench.large_table,
    "points": Bench.points,
    "shared": Bench.shared,
    "chunks": Bench.chunks,
    "recovery": Bench.recovery,
    "transfer": Bench.transfer,
    "transfer-skewed": Bench.transfer_skewed,
    "sequential": Bench.sequential,
}
"""In the order in which they run."""


class _Scrapes:
    """Asks for the metrics every SCRAPE_EVERY_S, in a thread. `times_ms`: how long each answer took."""

    def __init__(self, base_url: str) -> None:
        self.times_ms: list[float] = []
        self._url = base_url + "/v1/metrics"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Scrapes:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SCRAPE_EVERY_S):
            begun = time.perf_counter()
            with urlopen(self._url) as answer:
                answer.read()
            self.times_ms.append((time.perf_counter() - begun) * 1000)


def _flat(figures: Figures, *names: str) -> Figures:
    """Figures with those of these groups beside the others."""
    return figures | {f"{name}_{key}": value for name in names for key, value in figures[name].items()}


def environment(bench: Bench) -> Figures:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    node_version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "node": node_version,
        "fdatasync_ms": round(bench.fdatasync_ms, 3),
        "seconds": bench.seconds,
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }


class Run(NamedTuple):
    """What was measured, as it stands in the JSON file."""

    machine: Figures
    results: dict[str, Figures]

    @classmethod
    def read(cls, path: str) -> Run:
        """Ends the program if the file is none."""
        try:
            run = json.loads(Path(path).read_text())
            return cls(dict(run["machine"]), {name: dict(figures) for name, figures in run["results"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise SystemExit(f"{path}: this is no JSON of `spacetime bench`") from None

    def figure(self, benchmark: str, name: str) -> Any:
        """None if it was not measured."""
        return self.results.get(benchmark, {}).get(name)


def show(console: Console, run: Run, earlier: Run | None) -> None:
    """The table: one line per figure that has a goal, then the plain figures of every benchmark. What was measured
    earlier stands beside."""
    console.print(_line(run.machine))
    if earlier is not None:
        console.print("before: " + _line(earlier.machine), style="dim")
    before_and_change = ("before", "change") if earlier is not None else ()
    table = Table("benchmark", "figure", *before_and_change[:1], "measured", *before_and_change[1:])
    for title in ("goal", "upstream (Rust)", ""):
        table.add_column(title)
    for goal in GOALS:
        if goal.benchmark in run.results:
            value = run.figure(goal.benchmark, goal.figure)
            cells = [f"{value}"]
            if earlier is not None:
                before = earlier.figure(goal.benchmark, goal.figure)
                cells = ["-" if before is None else f"{before}", f"{value}", _change(goal, before, value)]
            reached = value is not None and goal.holds(value)
            verdict = "ok" if reached else "SHORT"
            table.add_row(goal.benchmark, goal.figure, *cells, goal.text(), goal.upstream, verdict)
    console.print(table)
    more = Table("benchmark", "figures" if earlier is None else "figures (and before)")
    for name, figures in run.results.items():
        shown = [_plain(key, figures[key], earlier and earlier.figure(name, key)) for key in SHOWN if key in figures]
        more.add_row(name, ", ".join(filter(None, shown)))
    console.print(more)


def _line(machine: Figures) -> str:
    return " · ".join(f"{name} {value}" for name, value in machine.items())


def _change(goal: Goal, before: float | None, now: float | None) -> str:
    if before is None or now is None or before == now:
        return ""
    word = "better" if (now > before) == goal.at_least else "worse"
    return f"{(now - before) / before * 100:+.1f} % {word}" if before else word


def _plain(name: str, value: object, before: object) -> str:
    if value is None:
        return ""
    return f"{name} {value}" + ("" if before is None else f" ({before})")


UNITS = {
    "failed": "failed calls",
    "tps_over_floor": "throughput over the echo floor",
    "server_cpu_s_per_1000_tx": "server CPU s per 1000 calls",
    "p50_over_limit": "p50 over (2 x fdatasync + 1.5 ms)",
    "missing_rows": "missing rows",
    "age_p99_ms": "age of an update, p99 ms",
    "server_cpu_s_per_1000_messages": "server CPU s per 1000 messages",
    "resident_mb": "memory of all processes, MB",
    "cpu_percent": "CPU, %",
    "mb_per_1000": "MB for 1000 connections",
    "rows_per_cpu_s": "rows of a first subscription per server CPU s",
    "row_ops_per_cpu_s": "row operations replayed per CPU s",
    "snapshot_start_s": "CPU s to start with 1,000,000 rows from a snapshot",
    "keeper_us_per_tx": "log keeper CPU us per transfer, 500 at a time",
    "call_p99_with_snapshot_ms": "calls while a snapshot is taken, p99 ms",
    "populate_s": "seconds to insert 1,000,000 rows",
    "call_p99_ms": "other calls meanwhile, p99 ms",
    "many_over_few": "CPU per update, 10,000 over 100 subscriptions",
    "missing": "missing updates",
    "cpu_us_per_message": "server CPU us per message, 1,000 clients",
    "scrape_p50_ms": "one answer of /v1/metrics with 1,000 clients, p50 ms",
    "call_p99_over_quiet": "p99 of calls while scraped once a second, over without",
    "first_result_p50_ms": "join of 1,200 rows, first result p50 ms",
    "cold_first_result_ms": "the same of tables that nobody has asked for, ms",
}


def markdown(results: dict[str, Figures], machine: Figures) -> str:
    """The table of the README."""
    lines = [
        f"{machine['cores']} cores ({machine['cpu']}), CPython {machine['python']}, Node {machine['node']}, "
        f"fdatasync {machine['fdatasync_ms']} ms; `scripts/bench/run`:",
        "",
        "| Benchmark | Figure | Measured | Goal | Rust server |",
        "|---|---|---|---|---|",
    ]
    for goal in GOALS:
        if goal.benchmark in results:
            value = results[goal.benchmark][goal.figure]
            unit = UNITS.get(goal.figure, goal.figure)
            lines.append(f"| {goal.benchmark} | {unit} | {value} | {goal.text()} | {goal.upstream} |")
    return "\n".join(lines)


def plain_figures(results: dict[str, Figures]) -> str:
    """A sentence of figures that depend on the machine, for the README."""
    transfer, sequential, crowd = (results[name] for name in ("transfer", "sequential", "fanout-500"))
    rows = crowd["rows_delivered_per_s"]
    text = (
        f"In plain figures of the same run: {transfer['tps']:,} confirmed calls a second over 64 connections, p50 "
        f"{transfer['p50_ms']:.0f} ms with 40 in flight on each; one call at a time answers in "
        f"{sequential['p50_ms']:.2f} ms (p50), synced to disk; {rows:,} rows a second delivered to 50 subscribers."
    )
    return textwrap.fill(text, 120)


def write_readme(results: dict[str, Figures], machine: Figures) -> None:
    """Replaces the table and the sentence in the README's section; the introduction before them stays."""
    path = ROOT / "README.md"
    text = path.read_text()
    head, _, rest = text.partition("## Measured\n")
    introduction = rest.lstrip().split("\n\n")[0]
    after = rest[rest.index("\n## ") :]
    parts = [introduction, markdown(results, machine), plain_figures(results)]
    path.write_text(head + "## Measured\n\n" + "\n\n".join(parts) + "\n" + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--only", default="", help="benchmarks to run, with commas between them: " + ",".join(BENCHMARKS)
    )
    parser.add_argument("--seconds", type=int, default=15, help="length of each measurement")
    parser.add_argument("--readers", type=int, help="reader processes of the server")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--compare", type=Run.read, help="JSON of an earlier run, shown beside")
    parser.add_argument("--show", type=Run.read, help="JSON of a run to show instead of measuring")
    parser.add_argument("--readme", action="store_true", help="put the figures into the README (all benchmarks)")
    parser.add_argument("--data-dir", type=Path, help="where the server writes (default: a temporary folder)")
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name] or list(BENCHMARKS)
    if unknown := [name for name in chosen if name not in BENCHMARKS]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    console = Console(width=120 if not sys.stdout.isatty() else None)
    if options.show:
        show(console, options.show, options.compare)
        return
    with tempfile.TemporaryDirectory(prefix="spacetimedb-bench-", dir=options.data_dir) as folder:
        server = ServerProcess(Path(folder), readers=options.readers).start()
        try:
            server.publish(SAMPLES / "ticker.py", "ticker")
            bench = Bench(server, options.seconds)
            results: dict[str, Figures] = {}
            for name in chosen:
                if name in ("transfer", "transfer-skewed", "sequential", "scrape"):
                    server.publish(SAMPLES / "bank.py", "bank")
                if name in ("large-table", "points", "shared", "chunks"):
                    server.publish(SAMPLES / "rows.py", "rows")
                console.print(f"running {name} ...", style="dim")
                results[name] = BENCHMARKS[name](bench)
            machine = environment(bench)
        finally:
            server.stop()
    show(console, Run(machine, results), options.compare)
    if options.readme:
        write_readme(results, machine)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
