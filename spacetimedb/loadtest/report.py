"""The report of a run: its JSON (`report`), and one HTML file that needs nothing else (`html_report`).

JSON: {"version": 1, "scenario", "database", "server", "begun", "seconds", "options", "machine", "totals": {"sent",
"answered", "failed", "lost", "rows", "calls_per_s", "rows_per_s"}, "calls" | "tasks" | "ages": {name: {"count", "mean",
"p50", "p90", "p95", "p99", "p999", "max"}}, "all_calls", "all_ages": the same over all names, "errors": {text: count},
"bots": {"cpu_s", "memory_mb", "memory_kb_per_bot"}, "required": {text: {"value", "shown", "holds"}}, "found",
"series": [points]}.
Times in milliseconds. A point, about the time since the one before: {"t", "clients", "target_clients", "calls_per_s",
"rows_per_s", "failed", "failed_per_s", "lost", "latency_ms", "task_ms", "age_ms", "server": {"cpu_percent",
"memory_mb", ...}, "bots_cpu_percent", "bots_memory_mb"}.
"""

from __future__ import annotations

import html
import json
import os
import platform
from typing import Any

from .conditions import Condition
from .figures import Histograms, summary_ms
from .run import Conductor, Found

Report = dict[str, Any]
WIDTH, HEIGHT, LEFT, BOTTOM = 560, 200, 56, 22

CHARTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Calls per second", "", (("answered", "calls_per_s"), ("failed", "failed_per_s"))),
    ("Latency of calls", "ms", (("p50", "latency_ms.p50"), ("p90", "latency_ms.p90"), ("p99", "latency_ms.p99"))),
    ("Update age", "ms", (("p50", "age_ms.p50"), ("p90", "age_ms.p90"), ("p99", "age_ms.p99"))),
    ("Rows received per second", "", (("rows", "rows_per_s"),)),
    ("Clients", "", (("connected", "clients"), ("wanted", "target_clients"))),
    ("CPU, 100 = one core", "%", (("server", "server.cpu_percent"), ("bots", "bots_cpu_percent"))),
    ("Memory", "MB", (("server", "server.memory_mb"), ("bots", "bots_memory_mb"))),
)


def report(conductor: Conductor, begun: str, options: dict[str, Any], found: Found | None) -> Report:
    """Everything about a run that has ended."""
    totals, conductor_options = conductor.totals, conductor.options
    most = max((point["clients"] for point in conductor.points), default=0)
    peak = max((point["bots_memory_mb"] for point in conductor.points), default=0.0)
    return {
        "version": 1,
        "scenario": conductor_options.name,
        "database": conductor_options.settings.database,
        "server": conductor_options.settings.url,
        "begun": begun,
        "seconds": round(totals.seconds, 2),
        "options": options,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "totals": {
            "sent": totals.sent,
            "answered": totals.answered,
            "failed": totals.failed,
            "lost": totals.lost,
            "rows": totals.rows,
            "calls_per_s": round(totals.answered / max(totals.seconds, 1e-9), 1),
            "rows_per_s": round(totals.rows / max(totals.seconds, 1e-9), 1),
        },
        "calls": _by_name(totals.calls),
        "tasks": _by_name(totals.tasks),
        "ages": _by_name(totals.ages),
        "all_calls": summary_ms(totals.calls.merged()),
        "all_ages": summary_ms(totals.ages.merged()),
        "errors": dict(sorted(totals.errors.by_text.items(), key=lambda item: -item[1])),
        "bots": {
            "cpu_s": round(conductor.cpu_s, 2),
            "most": most,
            "memory_mb": peak,
            "memory_kb_per_bot": round((peak - conductor.empty / 1e6) * 1000 / most, 1) if most else 0.0,
        },
        "required": {c.text: _judged(c, conductor) for c in conductor_options.conditions},
        "found": None if found is None else {"clients": found.clients, "steps": found.steps},
        "series": conductor.points,
    }


def _by_name(histograms: Histograms) -> dict[str, dict[str, float]]:
    return {name: summary_ms(found) for name, found in sorted(histograms.by_name.items()) if found.get_total_count()}


def _judged(condition: Condition, conductor: Conductor) -> dict[str, Any]:
    value = condition.value(conductor.totals)
    return {"value": value, "shown": condition.shown(value), "holds": condition.holds(conductor.totals)}


def html_report(run: Report) -> str:
    """One page with plots, light and dark, with nothing to load."""
    parts = [
        f"<h1>{_text(run['scenario'])}</h1>",
        f"<p class=soft>{_text(run['database'])} on {_text(run['server'])}, {_text(run['begun'])}, "
        f"{run['seconds']:.0f} s, up to {run['bots']['most']:,} bots</p>",
        _table("Totals", [name.replace("_per_s", "/s") for name in run["totals"]], [list(run["totals"].values())]),
    ]
    if run["required"]:
        rows = [[c, j["shown"], "holds" if j["holds"] else "BROKEN"] for c, j in run["required"].items()]
        parts.append(_table("Required", ["condition", "value", ""], rows))
    if run["found"]:
        rows = [[c, v, "holds" if held else "BROKEN"] for c, v, held in run["found"]["steps"]]
        parts.append(_table(f"Holds up to {run['found']['clients']:,} bots", ["bots", "value", ""], rows))
    charts = [_chart(title, unit, lines, run["series"]) for title, unit, lines in CHARTS]
    parts.append("<div class=charts>" + "".join(charts) + "</div>")
    for title, key in (("Calls, ms", "calls"), ("Tasks, ms", "tasks"), ("Update age by table, ms", "ages")):
        if run[key]:
            columns = list(next(iter(run[key].values())))
            parts.append(_table(title, ["", *columns], [[n, *f.values()] for n, f in run[key].items()]))
    if run["errors"]:
        parts.append(_table("Errors", ["text", "times"], list(run["errors"].items())))
    title = _text(f"Load test: {run['scenario']}")
    data = json.dumps(run["options"])
    return (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f'<link rel=icon href="data:,"><title>{title}</title><style>{_STYLE}</style><main>{"".join(parts)}'
        f"<p class=soft>Options: <code>{_text(data)}</code></p></main><script>{_SCRIPT}</script></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _table(title: str, head: list[Any], rows: list[Any]) -> str:
    top = "".join(f"<th>{_text(cell)}" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_number(cell)}" for cell in row) for row in rows)
    return f"<h2>{_text(title)}</h2><div class=scroll><table><tr>{top}{body}</table></div>"


def _value(point: dict[str, Any], path: str) -> float | None:
    found: Any = point
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found)


def _chart(title: str, unit: str, lines: tuple[tuple[str, str], ...], series: list[dict[str, Any]]) -> str:
    times = [point["t"] for point in series]
    last = max(times, default=1.0) or 1.0
    values = {name: [_value(point, path) for point in series] for name, path in lines}
    top = _ceiling(max((v for row in values.values() for v in row if v is not None), default=1.0))

    def x(t: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 8) * t / last, 1)

    def y(v: float) -> float:
        return round(8 + (HEIGHT - BOTTOM - 8) * (1 - v / top), 1)

    marks = []
    for n in range(5):
        v, t = top * n / 4, last * n / 4
        marks.append(
            f"<line class=grid x1={LEFT} x2={WIDTH - 8} y1={y(v)} y2={y(v)} /><text x={LEFT - 6} y={y(v) + 4} "
        )
        marks.append(
            f"text-anchor=end>{v:,.4g}</text><text x={x(t)} y={HEIGHT - 4} "
            f"text-anchor={'end' if n == 4 else 'middle'}>{t:.0f} s</text>"
        )
    legend = []
    for n, (name, row) in enumerate(values.items()):
        path, pen = "", "M"
        for t, found in zip(times, row, strict=True):
            if found is None:
                pen = "M"
            else:
                path += f"{pen}{x(t)} {y(found)}"
                pen = "L"
        marks.append(f'<path class=c{n} d="{path}" />')
        legend.append(f"<span class=c{n}>{_text(name)}</span>")
    data = _text(json.dumps({"x": [x(t) for t in times], "t": times, "lines": values, "unit": unit}))
    named = f"{title}, {unit}" if unit else title
    return (
        f"<figure><figcaption>{_text(named)} <small>{''.join(legend)}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{_text(named)}" data-points="{data}">'
        f"{''.join(marks)}<line class=cursor y1=8 y2={HEIGHT - BOTTOM} x1=-9 x2=-9 /></svg><output></output></figure>"
    )


def _ceiling(value: float) -> float:
    """The next number that makes a readable axis."""
    if value <= 0:
        return 1.0
    size = 1.0
    while size * 10 <= value:
        size *= 10
    while size > value:
        size /= 10
    return next(size * step for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10) if size * step >= value * 0.9999)


_STYLE = """
:root{color-scheme:light dark;--ground:#f7f7f8;--surface:#fff;--line:#e3e5e9;--text:#1b1f27;--soft:#5b6472;
--c0:#3f5bd9;--c1:#0f8a7e;--c2:#c2413a}
@media(prefers-color-scheme:dark){:root{--ground:#111318;--surface:#181b21;--line:#2a2f38;--text:#e6e8ec;--soft:#a3abb8;
--c0:#8ea2ff;--c1:#4fd0c0;--c2:#ff8f86}}
body{margin:0;background:var(--ground);color:var(--text);font:14px/1.5 system-ui,sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1180px;margin:0 auto;padding:24px}h1{font-size:22px;margin:0}h2{font-size:15px;margin:24px 0 8px}
.soft,small{color:var(--soft)}.scroll{overflow-x:auto}
table{border-collapse:collapse;background:var(--surface);border:1px solid var(--line)}
th,td{padding:4px 12px;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:16px;margin-top:24px}
figure{margin:0;padding:12px;background:var(--surface);border:1px solid var(--line);border-radius:6px}
figcaption{font-weight:600}figcaption span{margin-left:10px;font-weight:400}svg{width:100%;display:block}
svg text{font-size:11px;fill:var(--soft)}.grid{stroke:var(--line)}.cursor{stroke:var(--soft)}
path{fill:none;stroke-width:1.8}path.c0{stroke:var(--c0)}path.c1{stroke:var(--c1)}path.c2{stroke:var(--c2)}
span.c0{color:var(--c0)}span.c1{color:var(--c1)}span.c2{color:var(--c2)}output{display:block;min-height:1.5em;color:var(--soft)}
code{overflow-wrap:anywhere}
"""
_SCRIPT = """
for (const svg of document.querySelectorAll("svg")) {
  const data = JSON.parse(svg.dataset.points), cursor = svg.querySelector(".cursor"), output = svg.nextElementSibling;
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    let near = 0;
    data.x.forEach((x, n) => { if (Math.abs(x - at) < Math.abs(data.x[near] - at)) near = n; });
    cursor.setAttribute("x1", data.x[near]); cursor.setAttribute("x2", data.x[near]);
    const texts = Object.entries(data.lines).map(([name, row]) => `${name} ${row[near] ?? "–"} ${data.unit}`);
    output.textContent = `${data.t[near]} s: ${texts.join(", ")}`;
  });
}
"""
