"""`spacetime loadtest` against a real server: figures, stalls, thresholds, `--auto`, and the page it writes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from browser import open_browser
from conftest import ServerFactory
from server_process import SAMPLES, ServerProcess

from spacetimedb.client.address import Address
from spacetimedb.loadtest import run
from spacetimedb.loadtest.conditions import ConditionError, parse_condition
from spacetimedb.loadtest.crowd import Settings
from spacetimedb.loadtest.figures import Histograms, Portion, Recorder, Totals, histogram
from spacetimedb.loadtest.stages import Stage, StageError, clients_at, parse_stage

TESTS = Path(__file__).resolve().parent.parent
SECONDS = 180.0
PINGS = b"""
from spacetimedb import Identity, Module, Pk, ReducerContext, ReducerError, Row, Timestamp

m = Module()

@m.table(public=True)
class Ping(Row):
    who: Pk[Identity]
    at: Timestamp

@m.reducer
def ping(ctx: ReducerContext) -> None:
    ctx.db[Ping].who.delete(ctx.sender)
    ctx.db[Ping].insert(Ping(who=ctx.sender, at=ctx.timestamp))

@m.reducer
def refuse(ctx: ReducerContext) -> None:
    raise ReducerError("not today")
"""
SCENARIO = """
from spacetimedb.loadtest import Bot, task

THINK = 0.02

async def start(bot: Bot) -> None:
    await bot.subscribe("SELECT * FROM ping")

@task(weight=3)
async def ping(bot: Bot) -> None:
    await bot.call("ping")

@task(weight=1, think=(0.0, 0.01))
async def refuse(bot: Bot) -> None:
    await bot.call("refuse")
"""


def load(server: ServerProcess, folder: Path, *options: str, scenario: str | None = SCENARIO) -> tuple[int, str, Any]:
    """Exit status, output, and the JSON of one load test."""
    result = folder / "figures.json"
    command = [sys.executable, "-m", "spacetimedb.cli.main", "--root-dir", str(folder), "loadtest"]
    if scenario is not None:
        (folder / "pings.py").write_text(scenario)
        command.append(str(folder / "pings.py"))
    command += ["--server", server.base_url, "--json", str(result), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    return done.returncode, done.stdout + done.stderr, json.loads(result.read_text()) if result.exists() else None


async def test_a_short_test_is_measured_judged_and_drawn(server: ServerProcess, tmp_path: Path) -> None:
    server.publish(PINGS, "load-pings")
    page = tmp_path / "report.html"
    required = ("--require", "call.p99 < 1us", "--require", "lost == 0", "--require", "age.ping.p50 < 5s")
    code, said, run = load(
        server,
        tmp_path,
        "-d",
        "load-pings",
        "-c",
        "6",
        "--workers",
        "2",
        "--seconds",
        "2",
        "--html",
        str(page),
        *required,
    )
    assert code == 1, said
    assert re.search(r"Does not hold: call.p99 < 1us \([\d.,]+ ms\)", said)
    assert {text: judged["holds"] for text, judged in run["required"].items()} == {
        "call.p99 < 1us": False,
        "lost == 0": True,
        "age.ping.p50 < 5s": True,
    }
    totals = run["totals"]
    assert totals["sent"] == totals["answered"] > 50
    assert totals["failed"] == run["errors"]["not today"] == run["calls"]["refuse"]["count"]
    assert run["calls"]["ping"]["count"] > run["calls"]["refuse"]["count"], "by weight"
    assert run["ages"]["ping"]["count"] > run["calls"]["ping"]["count"], "every bot hears of every ping"
    assert max(point["clients"] for point in run["series"]) == 6
    assert any(point["server"].get("cpu_percent", 0) > 0 for point in run["series"])
    assert server.request("GET", "/dashboard/api/loadtest").json()["points"][-1]["state"] == "finished"
    async with open_browser() as browser:
        shown = await browser.page("data:text/html,before")
        await shown.command("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
        await shown.command("Page.enable")
        await shown.command("Page.navigate", url=page.as_uri())
        await shown.until("window.wrong && document.readyState === 'complete'")
        assert await shown.evaluate("wrong") == []
        assert await shown.evaluate("document.querySelectorAll('figure svg path').length") >= 7
        assert await shown.evaluate("document.querySelector('figure svg path').getTotalLength()") > 100


LISTEN = """
var wrong = [];
addEventListener("error", event => wrong.push(String(event.message)), true);
console.error = (...words) => wrong.push(words.join(" "));
"""


def test_a_stall_cannot_hide(start_server: ServerFactory, tmp_path: Path) -> None:
    """Open loop: tasks that were due while the actor stood still count from when they were due."""
    server = start_server(in_memory=True)
    server.publish(PINGS, "load-stall")
    actor = next(pid for pid, line in server.processes().items() if "actor" in line)

    def stall() -> None:
        deadline = time.monotonic() + SECONDS / 2
        while time.monotonic() < deadline and not server.sql("load-stall", "SELECT * FROM ping"):
            time.sleep(0.05)
        os.kill(actor, signal.SIGSTOP)
        time.sleep(2.0)  # the length of the stall
        os.kill(actor, signal.SIGCONT)

    thread = threading.Thread(target=stall)
    thread.start()
    open_loop = ("-d", "load-stall", "-c", "4", "--workers", "1", "--seconds", "5", "--rate", "100")
    code, said, run = load(
        server, tmp_path, *open_loop, scenario=SCENARIO.replace("@task(weight=1", "@task(weight=0.001")
    )
    thread.join()
    assert code == 0, said
    assert run["totals"]["lost"] == 0
    assert run["all_calls"]["p99"] > 1500, run["all_calls"]
    assert run["all_calls"]["p90"] > 400, "many were due meanwhile, not only the four that were under way"
    assert max(point["latency_ms"].get("p99", 0) for point in run["series"]) > 1500
    playing = [point for point in run["series"][:-1] if point["clients"] == 4]
    assert min(point["calls_per_s"] for point in playing) < 50, "the stall is to be seen in the series"


@pytest.mark.parametrize(
    ("module", "reducers"),
    [
        (SAMPLES / "agar.py", {"steer", "say", "enter_game"}),
        (TESTS / "dashboard" / "everything.py", None),
        (b"from spacetimedb import Module\nm = Module()\n", set()),
    ],
    ids=["game", "every-type", "empty"],
)
def test_a_scenario_out_of_any_schema(
    server: ServerProcess,
    tmp_path: Path,
    module: Path | bytes,
    reducers: set[str] | None,
    request: pytest.FixtureRequest,
) -> None:
    name = "load-" + request.node.callspec.id
    server.publish(module, name)
    options = ("--auto", name, "-c", "10", "--workers", "1", "--seconds", "1.5", "--think", "0.01")
    code, said, run = load(server, tmp_path, *options, scenario=None)
    assert code == 0, said
    called = set(run["calls"])
    assert called == reducers if reducers is not None else called
    assert run["totals"]["lost"] == 0
    assert max(point["clients"] for point in run["series"]) == 10
    assert not [text for text in run["errors"] if "decode" in text or "Error:" in text], run["errors"]


def test_mistakes_are_told(server: ServerProcess, tmp_path: Path) -> None:
    server.publish(PINGS, "load-mistakes")
    short = ("-d", "load-mistakes", "-c", "1", "--workers", "1", "--seconds", "1")
    pong = "async def f(bot):\n    await bot.call('pong')\n"
    code, said, _ = load(server, tmp_path, *short, "--require", "call.pong.p99 < 1s", scenario=pong)
    assert code == 1
    assert "call.pong.p99 < 1s (nothing was measured)" in said
    assert "there is no reducer 'pong'; there are ping, refuse" in said
    code, said, _ = load(server, tmp_path, *short, scenario="x = 1\n")
    assert code == 1
    assert "bots have nothing to do" in said
    code, said, run = load(server, tmp_path, *short, scenario="async def f(bot):\n    bot.call('ping')\n")
    assert (code, run["totals"]["sent"]) == (0, 0)
    assert "coroutine 'Bot.call' was never awaited" in said, "and the test came to its end"
    code, said, _ = load(server, tmp_path, *short, "--clock", "ping.when")
    assert code == 2
    assert "table ping has no column 'when'" in said


@pytest.mark.parametrize(("condition", "clients"), [("lost == 0", 4), ("calls.rate > 1000000", 0)])
def test_search(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: str, clients: int
) -> None:
    """The largest number at which it holds; one that fails is tried twice, and bots that must go lose nothing."""
    server.publish(PINGS, "load-search")
    scenario = tmp_path / "scenario.py"
    scenario.write_text("async def ping(bot):\n    await bot.call('ping')\n")
    monkeypatch.setattr(run, "SETTLE_S", 0)
    monkeypatch.setattr(run, "MEASURE_S", 1)
    settings = Settings(url=server.ws_url, database="load-search", seed="1")
    definition = Address.parse(server.ws_url, "load-search").fetch_definition().decode()
    options = run.Options(settings, "search", str(scenario), definition, 1)
    conductor, found = trio.run(run.search, options, parse_condition(condition), 4, 4, lambda *_: None)
    assert found.clients == clients
    tried = [step[0] for step in found.steps]
    assert tried == ([4] if clients else [4, 4, 2, 2, 1, 1])
    assert conductor.so_far.lost == 0
    assert conductor.so_far.sent == conductor.so_far.answered > 0


def test_a_point_is_about_its_own_second(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bots that are to go have gone at the end of the step that says so; a busy machine may need a few tries."""
    server.publish(PINGS, "load-points")
    scenario = tmp_path / "scenario.py"
    scenario.write_text("async def start(bot):\n    await bot.subscribe('SELECT * FROM ping')\n")
    monkeypatch.setattr(run, "STEP_S", 0.3)
    settings = Settings(url=server.ws_url, database="load-points", seed="1")
    definition = Address.parse(server.ws_url, "load-points").fetch_definition().decode()
    options = run.Options(settings, "points", str(scenario), definition, 1)

    async def have_gone() -> bool:
        async with run.conduct(options, lambda *_: None) as conductor:
            for _ in range(100):
                _, point = await conductor.step(2, 0.0)
                if point["clients"] == 2:
                    _, point = await conductor.step(0, 0.0)
                    if point["clients"] == 0:
                        return True
        return False

    assert trio.run(have_gone)


def test_stages_are_lines() -> None:
    stages = [parse_stage("10s:100"), parse_stage("1m:100"), parse_stage("500ms:0")]
    assert stages[1] == Stage(60.0, 100)
    assert [clients_at(stages, t) for t in (0, 5, 10, 69, 70.25, 99)] == [0, 50, 100, 100, 50, 0]
    with pytest.raises(StageError, match="DURATION:CLIENTS"):
        parse_stage("10")


def test_conditions() -> None:
    totals = Totals()
    rng = random.Random(1)
    recorder = Recorder()
    for _ in range(1000):
        recorder.record("steer", rng.uniform(0.001, 0.002))
    totals.add([Portion(0, sent=1000, failed=5, rows=3000, calls=recorder.take())], 2.0)
    for clients in (9, 7, 8):
        totals.saw(clients)
    for text in (
        "call.p99 < 3ms",
        "call.steer.max<=2.1ms",
        "failed < 1%",
        "failed == 5",
        "calls.rate >= 500",
        "rows.rate > 1",
        "clients >= 7",
    ):
        assert parse_condition(text).holds(totals), text
    for text in ("call.p50 < 900us", "call.other.p99 < 1s", "age.p99 < 1s", "failed == 0", "lost > 0", "clients > 7"):
        assert not parse_condition(text).holds(totals), text
    for text in ("p99 < 1ms", "call.p99 < 50", "call.p98 < 1s", "failed < 1ms", "call.p99 ~ 3"):
        with pytest.raises(ConditionError):
            parse_condition(text)


def test_a_recorder_is_as_exact_as_a_histogram() -> None:
    recorder, exact, found = Recorder(), histogram(), Histograms()
    rng = random.Random(2)
    for _ in range(3000):
        seconds = 10 ** rng.uniform(-6, 3)
        recorder.record("x", seconds)
        exact.record_value(int(seconds * 1e6))
    recorder.record("x", 0)
    exact.record_value(1)
    found.add(recorder.take())
    assert found.by_name["x"].encode() == exact.encode()
    assert recorder.take() == {}
