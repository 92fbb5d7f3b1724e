"""The metrics over HTTP: documented, accepted by Prometheus' own checker, right, cheap."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from patience import PATIENCE_S, until
from prometheus_client.parser import text_string_to_metric_families
from server_process import SAMPLES, RequestFailed, ServerProcess

from spacetimedb.client.blocking import connect
from spacetimedb.http.server_routes import PROMETHEUS_NAMES
from spacetimedb.workers.metric_families import FAMILIES
from spacetimedb.workers.reader.exposition import NAMES

CORE = Path(__file__).resolve().parents[1] / "vectors" / "metrics" / "core.json"
DOCS = Path(__file__).resolve().parents[2] / "docs"
MODULE = b"""
from spacetimedb import (
    AnonymousViewContext, HttpError, Module, Pk, ProcedureContext, ReducerContext, ReducerError, Row, every, u32
)

m = Module()

@m.table(public=True)
class Note(Row):
    id: Pk[u32]
    text: str = ""

@m.reducer
def add(ctx: ReducerContext, n: u32) -> None:
    for i in range(n):
        ctx.db[Note].insert(Note(id=i, text="x" * 10))

@m.reducer
def touch(ctx: ReducerContext) -> None:
    ctx.db[Note].id.update(Note(id=0, text="touch"))

@m.reducer
def refuse(ctx: ReducerContext) -> None:
    raise ReducerError("no")

@m.reducer
def crash(ctx: ReducerContext) -> None:
    raise KeyError("inside")

@m.view
def first(ctx: AnonymousViewContext) -> list[Note]:
    return [note for note in [ctx.db[Note].id.find(0)] if note]

@m.procedure
def fetch(ctx: ProcedureContext) -> None:
    try:
        ctx.http.get("http://192.168.0.1/")
    except HttpError:
        pass

@m.every(50)
def beat(ctx: ReducerContext) -> None:
    ctx.db[Note].id.update(Note(id=0, text="beat")) if ctx.db[Note].id.find(0) else None
"""

OF_OTHER_TIMES = {
    "spacetime_client_outgoing_queue_disconnects_total",
    "spacetime_worker_ws_client_rejections_total",
    "spacetime_worker_ws_clients_idle_timed_out_total",
    "spacetime_replay_total_time_seconds",
    "spacetime_replay_commitlog_num_commits",
}
"""Metrics that are not there as long as no client is too slow, silent, or refused, and nothing was recovered."""

Samples = dict[str, list[tuple[dict[str, str], float]]]


def scrape(server: ServerProcess) -> Samples:
    """Samples by name; the database is `database_identity` in all."""
    found: Samples = defaultdict(list)
    for name, labels, number in samples_of(scrape_text(server)):
        database = {"database_identity": labels["db"]} if "db" in labels else {}
        found[name].append((labels | database, number))
    return found


def samples_of(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Names, labels and values as they stand in a text: the parser names counters by its own rules if it is told."""
    for family in text_string_to_metric_families(re.sub("(?m)^# TYPE .*\n", "", text)):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def scrape_text(server: ServerProcess, query: str = "") -> str:
    """The answer as it is."""
    with urlopen(server.base_url + "/v1/metrics" + query, timeout=PATIENCE_S) as answer:
        assert answer.headers["content-type"].startswith("text/plain")
        return str(answer.read().decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    """Sum of the samples with these labels."""
    return sum(v for found, v in samples[name] if found.items() >= labels.items())


def await_value(server: ServerProcess, wanted: float, name: str, **labels: str) -> Samples:
    """Scrapes until a value is there: figures of tables and readers may be a second old."""
    deadline = time.monotonic() + PATIENCE_S
    while value(samples := scrape(server), name, **labels) != wanted:
        assert time.monotonic() < deadline, (name, labels, samples[name])
    return samples


@contextmanager
def live_query(server: ServerProcess, identity: str) -> Iterator[None]:
    """While somebody subscribes, and is seen to: costs of queries are told only then."""
    with connect(server.ws_url, "metered") as client:
        client.subscribe("SELECT * FROM note")
        await_value(server, 1, "spacetime_query_subscribers", database_identity=identity)
        yield


@pytest.fixture(scope="module")
def used(server: ServerProcess) -> tuple[ServerProcess, str]:
    """A server whose database `metered` has done a bit of everything; with the database's identity."""
    identity = server.publish(MODULE, "metered")
    server.call("metered", "add", 20)
    for reducer in ("refuse", "crash"):
        with pytest.raises(RequestFailed):
            server.call("metered", reducer)
    server.call("metered", "fetch")
    server.sql("metered", "DELETE FROM note WHERE id = 19")
    with connect(server.ws_url, "metered") as client:
        client.subscribe("SELECT * FROM note", "SELECT * FROM first")
        client.call("add", 0)
        client.call("touch")
        await_value(server, 1, "spacetime_worker_connected_clients", database_identity=identity)
        await_value(server, 3, "spacetime_websocket_requests_total", database_identity=identity)
    return server, identity


def test_counts(used: tuple[ServerProcess, str]) -> None:
    server, identity = used
    samples = await_value(server, 19, "spacetime_num_table_rows", database_identity=identity, table_name="note")
    mine = {"database_identity": identity}
    assert value(samples, "spacetime_num_txns_total", **mine, reducer="add", committed="true") == 2
    assert value(samples, "spacetime_txn_elapsed_time_sec_count", **mine, reducer="add") == 2
    assert value(samples, "spacetime_reducer_failures_total", **mine, reducer="refuse", outcome="error") == 1
    assert value(samples, "spacetime_reducer_failures_total", **mine, reducer="crash", outcome="internal") == 1
    assert value(samples, "spacetime_num_txns_total", **mine, reducer="crash", committed="false") == 1
    assert value(samples, "spacetime_reducer_failure_seconds_count", **mine, reducer="crash", outcome="internal") == 1
    assert value(samples, "spacetime_txn_elapsed_time_sec_count", db=identity, reducer="add") == 2
    assert value(samples, "spacetime_num_txns_total", **mine, txn_type="Sql", committed="true") == 1
    inserted = value(samples, "spacetime_num_rows_inserted_total", **mine, table_name="note")
    deleted = value(samples, "spacetime_num_rows_deleted_total", **mine, table_name="note")
    assert inserted - deleted == 19
    assert deleted >= 1
    assert value(samples, "spacetime_table_size_bytes", **mine, table_name="note") == pytest.approx(19 * 18, abs=20)
    assert value(samples, "spacetime_scheduled_function_delay_seconds_count", **mine, function="beat") > 0
    assert value(samples, "spacetime_worker_ws_clients_spawned", **mine) == 1
    assert value(samples, "spacetime_worker_ws_clients_closed_connection", **mine) == 1
    assert value(samples, "spacetime_websocket_requests_total", **mine, protocol="binary") == 3
    assert value(samples, "spacetime_commitlog_sync_seconds_count", **mine) > 0
    assert value(samples, "spacetime_message_log_size_bytes", **mine) > 0
    assert value(samples, "spacetime_update_age_seconds_count", **mine) > 0
    assert value(samples, "spacetime_procedure_num_http_requests", **mine) == 1
    assert value(samples, "spacetime_procedure_num_failed_http_requests", **mine) == 1
    assert value(samples, "process_cpu_seconds_total", process="supervisor") > 0
    assert value(samples, "process_resident_memory_bytes", **mine, process="actor") > 1e6


def test_queries_are_named_to_this_machine_and_the_owner(used: tuple[ServerProcess, str]) -> None:
    server, identity = used
    query = "SELECT * FROM note WHERE id = 7"
    mine = {"database_identity": identity, "query": query}
    with connect(server.ws_url, "metered") as first, connect(server.ws_url, "metered") as second:
        first.subscribe(query)
        await_value(server, 1, "spacetime_query_subscribers", **mine)
        second.subscribe(query)  # nothing else happens
        await_value(server, 2, "spacetime_query_subscribers", **mine)
        elsewhere = {"host": "some.where"}
        answer = server.request("GET", "/v1/metrics", authorized=False, headers=elsewhere)
        assert query not in answer.text
        assert identity in answer.text
        assert query in server.request("GET", "/v1/metrics", headers=elsewhere).text


def test_histograms_are_cumulative(used: tuple[ServerProcess, str]) -> None:
    server, identity = used
    buckets = [
        v
        for labels, v in scrape(server)["spacetime_txn_elapsed_time_sec_bucket"]
        if labels["database_identity"] == identity and labels["reducer"] == "add"
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 2


def test_every_family_is_documented_and_every_documented_one_exists(used: tuple[ServerProcess, str]) -> None:
    server, identity = used
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    assert rows
    kinds = {name: kind for name, kind, _labels in rows}
    with live_query(server, identity):
        found = _kinds(scrape_text(server))
    # The server has other databases, too, with which other things may have happened.
    assert {name: kind for name, kind in found.items() if kinds.get(name) != kind} == {}
    assert kinds.keys() - found.keys() <= OF_OTHER_TIMES
    assert kinds.keys() >= OF_OTHER_TIMES
    documented = {name: set(re.findall(r"\w+", labels)) for name, _kind, labels in rows}
    for name, labels, _value in samples_of(scrape_text(server)):
        told = documented[name if name in documented else name.rpartition("_")[0]]
        assert labels.keys() - {"database_identity", "le"} == told, name


def test_upstreams_core_metrics_are_as_upstream_has_them(used: tuple[ServerProcess, str]) -> None:
    server, identity = used
    text = scrape_text(server)
    kinds, left_out = _kinds(text), _left_out()
    samples: Samples = defaultdict(list)
    for name, found_labels, number in samples_of(text):
        if identity in found_labels.values():
            samples[name].append((found_labels, number))
    core = json.loads(CORE.read_text())
    assert left_out < {metric["name"] for metric in core}
    for metric in core:
        name, labels = metric["name"], set(metric["labels"])
        if name in left_out:
            assert name not in NAMES, f"{name} is there, say the documents"
        elif name in OF_OTHER_TIMES:
            family = FAMILIES[name]
            assert (family.kind_name, {family.database, *family.labels}) == (metric["type"], labels), name
        else:
            assert kinds[name] == metric["type"], name
            is_histogram = metric["type"] == "histogram"
            found = samples[name + "_count" if is_histogram else name]
            assert found, name
            assert {frozenset(label) for label, _value in found} == {frozenset(labels)}, name
            if is_histogram:
                bounds = [
                    label["le"] for label, _value in samples[name + "_bucket"] if label.items() >= found[0][0].items()
                ]
                assert [float(bound) for bound in bounds] == [*map(float, metric["buckets"]), math.inf], name


def _left_out() -> set[str]:
    """The core metrics that are not there, as the documents say."""
    found = re.search(r"^Of SpacetimeDB's core metrics .*?$(.*?)^$", (DOCS / "metrics.md").read_text(), re.S | re.M)
    assert found
    return set(re.findall(r"`(\w+)`", found[0]))


def test_counters_move_as_they_should(used: tuple[ServerProcess, str]) -> None:
    server, identity = used
    mine = {"database_identity": identity}
    before = scrape(server)
    queries = ("SELECT * FROM note WHERE id = 3", "SELECT * FROM note WHERE id = 4 AND text = 'a'",
               "SELECT * FROM note WHERE text = 'touch'", "SELECT * FROM first")  # fmt: skip
    with connect(server.ws_url, "metered") as client:
        for query in queries:
            subscription = client.subscribe(query)
        client.call("touch")
        await_value(server, 4, "spacetime_query_subscriptions", **mine)
        client.unsubscribe(subscription)
        requests = value(before, "spacetime_websocket_requests_total", **mine) + 6
        samples = await_value(server, requests, "spacetime_websocket_requests_total", **mine)
        assert value(samples, "spacetime_subscription_connections", **mine) == 1
    assert server.sql("metered", "SELECT * FROM note")

    def grown(name: str, **labels: str) -> float:
        return value(samples, name, **mine, **labels) - value(before, name, **mine, **labels)

    by_touch = {"txn_type": "Reducer", "reducer_or_query": "touch", "table_name": "note"}
    assert grown("spacetime_websocket_request_msg_size_count") == 6
    assert grown("spacetime_websocket_request_msg_size_sum") > 60
    assert grown("spacetime_num_rows_inserted_total", **by_touch) == 1
    assert grown("spacetime_num_rows_deleted_total", **by_touch) == 1
    assert grown("spacetime_num_index_rows_inserted_total", **by_touch) == 1
    assert grown("spacetime_num_bytes_written_total", txn_type="Reducer") > 0
    assert grown("spacetime_num_queries_subscribed") == 4
    assert 3 <= grown("spacetime_num_new_queries_subscribed") <= 4
    assert grown("spacetime_num_queries_evaluated", workload="Subscribe") == 4
    for scan, columns in (("fully_indexed", ""), ("indexed_with_filter", "text"), ("sequential", "text")):
        labels = {"scan_type": scan, "table": "note", "unindexed_columns": columns}
        assert grown("spacetime_subscription_queries_total", **labels) == 1
    assert grown("spacetime_num_delta_queries_evaluated") >= grown("spacetime_num_delta_queries_matched") >= 1
    assert grown("view_calls", view="first") >= 1
    assert grown("view_calls_triggered_by_reducer", reducer="touch") == 1
    assert value(samples, "view_total_time_usec", **mine) >= value(samples, "view_call_time_usec", **mine) > 0
    for kind in ("Subscribe", "Reducer", "Internal"):
        assert grown("spacetime_num_bytes_sent_to_clients_total", txn_type=kind) > 0
    sent = sum(
        v for labels, v in samples["spacetime_num_bytes_sent_to_clients_total"] if labels.items() >= mine.items()
    )
    assert value(samples, "spacetime_websocket_sent_msg_size_bytes_sum", **mine) == sent
    assert grown("spacetime_websocket_sent_msg_size_bytes_count") >= 7
    assert grown("spacetime_websocket_pong_rtt_secs_count") == 1
    assert grown("spacetime_request_round_trip_time_count", txn_type="Reducer", reducer_symbol="touch") == 1
    assert grown("spacetime_reducer_plus_query_duration_sec_count", reducer="touch") >= 1
    assert grown("spacetime_worker_instance_operation_queue_length_histogram_count") >= 1
    assert value(samples, "spacetime_module_instances", **mine, module_type="Wasm") == 1
    assert value(samples, "spacetime_module_host_init_attempts_total", **mine) == 1
    assert value(samples, "spacetime_module_host_init_failures_total", **mine) == 0
    samples = scrape(server)
    assert grown("spacetime_http_response_size_bytes_total") > 19 * 10


def _kinds(text: str) -> dict[str, str]:
    """Kinds of metrics by name."""
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))


def test_prometheus_own_checker_accepts_its_names(used: tuple[ServerProcess, str]) -> None:
    server, _identity = used
    assert _complaints(scrape_text(server, "?names=prometheus")) == {}


def test_it_complains_only_of_names_that_are_upstreams(used: tuple[ServerProcess, str]) -> None:
    server, _identity = used
    text = scrape_text(server)
    assert set(_complaints(text)) == PROMETHEUS_NAMES.keys()
    renamed = {PROMETHEUS_NAMES.get(name, name): kind for name, kind in _kinds(text).items()}
    assert renamed == _kinds(scrape_text(server, "?names=prometheus"))
    with pytest.raises(RequestFailed, match="unknown variant `ours`, expected one of `prometheus`"):
        server.request("GET", "/v1/metrics?names=ours")


def _complaints(text: str) -> dict[str, str]:
    """What Prometheus' own checker says, by metric."""
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    found = dict(line.split(" ", 1) for line in (done.stdout + done.stderr).splitlines())
    assert (done.returncode == 0) == (not found)
    return found


def test_processes_that_come_and_go(used: tuple[ServerProcess, str]) -> None:
    server, identity = used
    name = "process_resident_memory_bytes"
    server.call("metered", "fetch")
    samples = scrape(server)
    assert value(samples, name, process="outbound", database_identity=identity) > 1e6
    server.publish(MODULE, "metered")
    until(lambda: value(scrape(server), name, process="loader", database_identity=""))  # the one for the next publish


def test_alerts_and_dashboard_ask_for_what_there_is(used: tuple[ServerProcess, str]) -> None:
    server, identity = used
    rules = DOCS / "monitoring" / "alerts.yml"
    done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 rules found" in done.stdout
    asked = _dashboard_expressions()
    with live_query(server, identity):
        names = {*scrape(server), *_kinds(scrape_text(server))}
    for text in [*asked, rules.read_text()]:
        for name in re.findall(r"\b(?:spacetime|process)_\w+", text):
            assert name in names, name


def test_a_prometheus_scrapes_it(used: tuple[ServerProcess, str], tmp_path: Path) -> None:
    server, identity = used
    (tmp_path / "prometheus.yml").write_text(
        (DOCS / "monitoring" / "prometheus.yml")
        .read_text()
        .replace("127.0.0.1:3000", f"127.0.0.1:{server.port}")
        .replace("scrape_interval: 5s", "scrape_interval: 500ms")
        .replace("alerts.yml", str(DOCS / "monitoring" / "alerts.yml"))
    )
    with subprocess.Popen(
        [
            "prometheus",
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            "--web.listen-address=127.0.0.1:0",
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said: list[str] = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r'msg="Listening on" address=(\S+)', line):
                    break
            else:
                raise AssertionError("".join(said))
            prometheus = f"http://{found[1]}/api/v1/"
            rows = f'spacetime_num_table_rows{{db="{identity}",table_name="note"}}'
            with connect(server.ws_url, "metered") as client:
                client.subscribe("SELECT * FROM note")
                assert _answer(prometheus, rows)[0]["value"][1] == "19"
                # Every expression of the dashboard and of the alerts has something to show.
                for expression in _dashboard_expressions():
                    assert _answer(prometheus, expression.replace("$database", ".+"))
                rules = [rule for group in _read(prometheus + "rules")["groups"] for rule in group["rules"]]
                assert len(rules) == 3
                for rule in rules:
                    assert _answer(prometheus, rule["query"].rpartition(" > ")[0])
        finally:
            process.terminate()


def _dashboard_expressions() -> list[str]:
    dashboard = json.loads((DOCS / "monitoring" / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 8
    return asked


def _answer(prometheus: str, expression: str) -> list[dict[str, Any]]:
    """What a Prometheus says; waits until there is something."""
    deadline = time.monotonic() + 60
    while True:
        try:
            result: list[dict[str, Any]] = _read(f"{prometheus}query?query={quote(expression)}")["result"]
        except HTTPError as error:
            if error.code != 503:  # 503: it is not ready yet
                raise AssertionError(expression, error.read()) from None
        else:
            if result:
                return result
        assert time.monotonic() < deadline, expression
        time.sleep(0.1)


def _read(url: str) -> dict[str, Any]:
    with urlopen(url, timeout=10) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
    return data


def test_a_scrape_is_cheap(used: tuple[ServerProcess, str]) -> None:
    server, _identity = used
    server.publish(SAMPLES / "ticker.py", "metered-too")
    times = []
    for _ in range(10):
        started = time.perf_counter()
        scrape_text(server)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5
