"""The dashboard in headless Chromium: every page against one server, and no error in any console.

With SPACETIMEDB_SCREENSHOTS set to a folder the pages are drawn there, as docs/screenshots was.
"""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, Page, open_browser
from server_process import RequestFailed, ServerProcess

MODULE = Path(__file__).parent / "everything.py"
LARGE_ROWS = 1_000_000
FILLS = 50
"""Calls that insert them: one alone would pass the budget of a reducer on a busy machine."""
FIRST_VIEW_SECONDS = 5.0
"""A second is the goal, on a machine that is free for it."""
SLOWER_SECONDS = 5.0
NOTE_ERRORS = """
window.problems = [];
addEventListener('error', event => problems.push(event.message));
addEventListener('unhandledrejection', event => problems.push(String(event.reason)));
const tell = console.error;
window.asked = [];
const plainly = fetch;
window.fetch = (path, options) => (asked.push(options?.body ?? ''), plainly(path, options));
console.error = (...words) => { problems.push(words.join(' ')); tell(...words); };
"""
PUT = [
    *("7", "true", "-3", "18446744073709551615", "-170141183460469231731687303715884105728"),
    *("115792089237316195423570985008687907853269984665640564039457584007913129639935", "1e-7", "né 'quoted'", "00ff"),
    *("c2" * 32, "0a" * 16, "2026-01-31T12:00:00Z", "1.5 s"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    running = ServerProcess(tmp_path_factory.mktemp("dashboard"), in_memory=True).start()
    try:
        running.publish(MODULE, "world")
        yield running
    finally:
        running.stop()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as opened:
        yield opened


@asynccontextmanager
async def opened(
    browser: Browser, server: ServerProcess, address: str, name: str, *, dark: bool = False, width: int = 1280
) -> AsyncIterator[Page]:
    """A page of the dashboard that must not have complained at its end."""
    page = await browser.page("about:blank?", width=width, height=800)
    await page.command("Page.enable")
    await page.command("Page.addScriptToEvaluateOnNewDocument", source=NOTE_ERRORS)
    if dark:
        dark_mode = [{"name": "prefers-color-scheme", "value": "dark"}]
        await page.command("Emulation.setEmulatedMedia", features=dark_mode)
    await page.go(f"{server.base_url}/dashboard/{address}")
    await page.until("document.querySelector('main h1')")
    yield page
    folder = os.environ.get("SPACETIMEDB_SCREENSHOTS")
    if folder:
        await page.screenshot(Path(folder) / f"{name}.png")
    assert await page.evaluate("problems") == []


async def text_of(page: Page, selector: str) -> str:
    """The text of the first element that fits, once it has one."""
    text: str = await page.until(f"document.querySelector({json.dumps(selector)})?.textContent")
    return text


async def put(page: Page, selector: str, value: str) -> None:
    """Types into a field."""
    await page.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
    await page.evaluate(f"document.querySelector({json.dumps(selector)}).select?.()")
    await page.type(value)


async def press(page: Page, text: str) -> None:
    """Clicks the button with this text."""
    wanted = f"[...document.querySelectorAll('main button')].find(b => b.textContent === {json.dumps(text)})"
    await page.until(wanted)
    await page.evaluate(f"{wanted}.click()")


async def test_overview_and_load_test(browser: Browser, server: ServerProcess) -> None:
    seen = []
    for _ in range(3):
        async with opened(browser, server, "", "first") as page:
            await page.until("document.querySelector('.figures .number')?.textContent === '1'")
            seen.append(await page.evaluate("performance.now() / 1000"))
    assert min(seen) < FIRST_VIEW_SECONDS
    async with opened(browser, server, "", "overview") as page:
        await page.until("document.querySelectorAll('.chart polyline').length >= 4")
        calls = "document.querySelector('.chart .figure').textContent"
        await page.until(f"{calls} === '0/s'")
        server.call("world", "set_score", 1, 12)
        assert await page.until(f"{calls} !== '0/s' && {calls}") != "–"
    point: dict[str, Any] = {"run": "r", "scenario": "players.py", "database": "world", "elapsed_s": 1.0, "clients": 5}
    async with opened(browser, server, "#/loadtest", "loadtest") as page:
        assert "No load test is running" in await text_of(page, ".empty")
        for second in range(1, 4):
            figures = {"calls_per_s": 900.0 * second, "calls": 900 * second, "latency_ms": {"p50": 2.0, "p99": 9.0}}
            body = point | figures | {"elapsed_s": float(second), "required": {"call.p99 < 50ms": True}}
            server.request("POST", "/dashboard/api/loadtest", json.dumps(body), authorized=False)
        assert await page.until("document.querySelectorAll('.chart polyline').length >= 4")
        assert "players.py on world" in await text_of(page, "main .hint")
        assert "call.p99 < 50ms: holds" in await text_of(page, ".badge.public")


async def test_table_live_and_edited(browser: Browser, server: ServerProcess) -> None:
    async with opened(browser, server, "#/db/world/tables/player", "tables") as page:
        names = "[...document.querySelectorAll('tbody tr td:nth-child(2)')].map(c => c.textContent).join()"
        await page.until(f"{names} === 'Ann,Bob'")
        await press(page, "Live")
        await page.until("document.querySelector('.live-state.live')")
        server.call("world", "join", "Cid")
        await page.until(f"{names} === 'Ann,Bob,Cid'")
        # A cell changed in place, what the server says to it, then what it takes.
        cell = "document.querySelector('tbody tr:nth-child(3) td:nth-child(4)')"
        await page.evaluate(f"{cell}.dispatchEvent(new MouseEvent('dblclick', {{bubbles: true}}))")
        await put(page, "td.editing input", "many")
        await page.press_enter()
        assert "(expected) String != I64" in await text_of(page, "td .beside:not([hidden])")
        await put(page, "td.editing input", "41")
        await page.press_enter()
        await page.until(f"{cell}.textContent === '41'")
        assert server.sql("world", "SELECT score FROM player WHERE name = 'Cid'") == [[41]]
        # A new row that is refused beside its field, then goes in; and out again.
        await press(page, "New row")
        await page.until("document.querySelectorAll('form.insert input').length === 7")
        for at, value in enumerate(("", "Ann", "novice", "5", "resting(3)", "", "['a', 'b']"), start=1):
            if value:
                await put(page, f"form.insert .field:nth-child({at}) input", value)
        await press(page, "Insert row")
        assert "Unique constraint violation" in await text_of(page, "form.insert .refused:nth-child(2) .message")
        await put(page, "form.insert .field:nth-child(2) input", "Dan")
        await press(page, "Insert row")
        await page.until(f"{names} === 'Ann,Bob,Cid,Dan'")
        assert server.sql("world", "SELECT state, tags FROM player WHERE name = 'Dan'") == [[[1, 3], ["a", "b"]]]
        remove = "document.querySelector('tbody tr:nth-child(4) .actions button').click()"
        await page.evaluate(f"{remove}, {remove}")
        await page.until(f"{names} === 'Ann,Bob,Cid'")
        await put(page, ".bar input", "score > 10 AND nonsense")
        await press(page, "Filter")
        assert "nonsense" in await text_of(page, ".failure")
    async with opened(browser, server, "#/db/world/tables/everything", "everything") as page:
        await page.until("document.querySelectorAll('tbody tr').length === 1")
        sent = await page.evaluate("[...document.querySelectorAll('tbody td')].map(c => c.textContent)")
        await press(page, "Live")
        await page.until(
            "document.querySelector('.live-state.live') && document.querySelectorAll('tbody tr').length === 1"
        )
        assert "18446744073709551615" in sent
        assert await page.evaluate("[...document.querySelectorAll('tbody td')].map(c => c.textContent)") == sent
    async with opened(browser, server, "#/db/world/tables/shout", "events") as page:
        await page.until("document.querySelector('.live-state.live')")
        server.call("world", "join", "Eve")
        assert await text_of(page, "tbody tr td") == "Eve"


async def test_reducer_forms(browser: Browser, server: ServerProcess) -> None:
    async with opened(browser, server, "#/db/world/reducers/join", "reducer") as page:
        await put(page, "form input", "  ")
        await press(page, "Call")
        assert await text_of(page, ".result.bad") == "a player needs a name"
    async with opened(browser, server, "#/db/world/reducers/put", "form", dark=True) as page:
        await page.until("document.querySelectorAll('form > .fields > .field').length === 18")
        for at, value in enumerate(PUT, start=1):
            if value == "true":
                await page.evaluate(f"document.querySelector('form > .fields > :nth-child({at}) input').click()")
            else:
                await put(page, f"form > .fields > :nth-child({at}) input", value)
        field = "document.querySelector('form > .fields > :nth-child({})')"
        for _ in range(2):
            await page.evaluate(f"{field.format(17)}.querySelector('.list > button').click()")
        # The second of two optional sums is walking(x, y).
        option = f"{field.format(17)}.querySelectorAll('.items > li')[1]"
        await page.evaluate(f"{option}.querySelector('input').click()")
        await page.until(f"{option}.querySelectorAll('.sum input').length === 2")
        for at, value in ((0, "1.5"), (1, "abc")):
            await page.evaluate(f"{option}.querySelectorAll('.sum input')[{at}].focus()")
            await page.type(value)
        for at, value in ((1, "2"), (2, "-0.5")):
            await put(page, f"form > .fields > :nth-child(18) .fields > :nth-child({at}) input", value)
        await page.evaluate(f"{field.format(16)}.querySelector('select').value = 'away'")
        await page.evaluate(f"{field.format(16)}.querySelector('select').dispatchEvent(new Event('change'))")
        await press(page, "Call")
        message = "[...document.querySelectorAll('.refused .message')].map(m => m.textContent).filter(Boolean)"
        assert await page.until(f"{message}.length && {message}") == ['invalid type: string "abc", expected f32']
        assert await page.evaluate("document.activeElement.value") == "abc"
        await page.evaluate("document.activeElement.select()")
        await page.type("2.25")
        await press(page, "Call")
        assert (await text_of(page, ".result.good")).startswith("Committed.")
        (row,) = server.sql("world", "SELECT * FROM everything WHERE id = 7")
        assert row[1:6] == [True, -3, 2**64 - 1, 2**127, "0x" + "f" * 64]
        assert row[8:12] == [1e-7, "né 'quoted'", "00ff", ["0x" + "c2" * 32]]
        assert row[12:15] == [[int("0a" * 16, 16)], [1769860800000000], [1500000]]
        assert row[16:20] == [[1, []], [0, []], [2, []], [2.0, -0.5]]
    async with opened(browser, server, "#/db/world/reducers/add", "procedure") as page:
        for at, value in ((1, "40"), (2, "2")):
            await put(page, f"form > .fields > :nth-child({at}) input", value)
        await press(page, "Call")
        assert await text_of(page, ".result.good code") == "42"


async def test_sql_logs_clients(browser: Browser, server: ServerProcess) -> None:
    async with opened(browser, server, "#/db/world/sql", "sql", dark=True) as page:
        await put(page, "textarea", "SELECT name, score FROM player WHERE score > 5 ORDER BY name LIMIT 2")
        await press(page, "Run")
        assert await page.until("document.querySelectorAll('tbody tr').length === 2")
        assert await text_of(page, "tbody td") == "Ann"
        await page.evaluate("window.files = [], URL.createObjectURL = blob => (files.push(blob), 'blob:x')")
        await page.evaluate("HTMLAnchorElement.prototype.click = () => {}")
        await press(page, "CSV")
        await press(page, "JSON")
        assert await page.evaluate("files[0].text()") == "name,score\r\nAnn,12\r\nBob,7"
        assert json.loads(await page.evaluate("files[1].text()"))[1] == {"name": "Bob", "score": 7}
        await press(page, "Explain")
        await page.until("document.querySelector('th').textContent.startsWith('step')")
        await put(page, "textarea", "SELEKT")
        await press(page, "Run")
        assert "SELEKT" in await text_of(page, ".failure")
        await page.until("document.querySelectorAll('.history button').length === 1")
    async with opened(browser, server, "#/db/world/logs", "logs") as page:
        await page.until("document.querySelector('.live-state.live')")
        server.call("world", "grumble", "the soup is cold")
        await page.until("[...document.querySelectorAll('.line.error')].some(l => l.textContent.includes('soup'))")
        assert await page.evaluate("document.querySelectorAll('.line.debug').length") > 0
        await page.evaluate(
            "(select => { select.value = 'Error'; select.dispatchEvent(new Event('change')) })"
            "(document.querySelector('.tools select'))"
        )
        await page.until("!document.querySelector('.line.debug, .line.info, .line.warn')")
        assert await page.evaluate("document.querySelector('.log').textContent.includes('soup')")
    async with opened(browser, server, "#/db/world/clients", "clients") as page:
        # The page's own connection.
        await page.until("document.querySelectorAll('tbody tr').length === 1")
        address = f"{server.ws_url}/v1/database/world/subscribe"
        await page.evaluate(f"window.more = new WebSocket('{address}', 'v2.bsatn.spacetimedb'), 1")
        await page.until("document.querySelectorAll('tbody tr').length === 2")
        await page.evaluate("more.close()")
        await page.until("document.querySelectorAll('tbody tr').length === 1")


async def test_schedules_and_schema(browser: Browser, server: ServerProcess) -> None:
    async with opened(browser, server, "#/db/world/schedules", "schedules") as page:
        assert "every 1 h" in (await text_of(page, "tbody tr"))
        # The page is subscribed to that table.
        async with opened(browser, server, "#/db/world/subscriptions", "subscriptions") as other:
            assert await text_of(other, "tbody td") == 'SELECT * FROM "tick"'
        server.sql("world", 'UPDATE tick SET scheduled_at = "Interval"(60000000)')
        await page.until("document.querySelector('tbody tr').textContent.includes('every 1 min')")
    async with opened(browser, server, "#/db/world/schema", "schema") as page:
        await page.until("document.querySelectorAll('.diagram .title').length === 7")
        assert await page.evaluate("document.querySelectorAll('.edge').length") == 2
        assert await text_of(page, ".diagram .calls") == "calls tick"


async def test_narrow_and_dark(browser: Browser, server: ServerProcess) -> None:
    async with opened(browser, server, "#/db/world/tables/player", "narrow-dark", dark=True, width=400) as page:
        await page.until("document.querySelectorAll('tbody tr').length")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 400
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = await page.evaluate(ground)
        await page.evaluate("document.querySelector('.top button').click()")
        await page.until("document.querySelector('nav').getBoundingClientRect().left >= 0")
        await page.evaluate("document.querySelector('nav [aria-label=\"Light or dark\"]').click()")
        assert await page.evaluate(ground) != dark
        await page.press("Escape", 27)
        assert await page.evaluate("document.querySelector('.top button').getAttribute('aria-expanded')") == "false"
        # The choice is kept.
        await page.command("Page.reload")
        await page.until(f"document.querySelector('main h1') && {ground} !== {json.dumps(dark)}")


async def test_keys_alone(browser: Browser, server: ServerProcess) -> None:
    async with opened(browser, server, "", "keys") as page:
        await page.press("Tab", 9)
        await page.press_enter()  # Skip to content
        await page.until("document.activeElement === document.querySelector('main')")
        assert await text_of(page, "main h1") == "Overview"
        await page.evaluate("document.querySelector('nav a[href=\"#/loadtest\"]').focus()")
        await page.press_enter()
        await page.until("document.querySelector('main h1').textContent === 'Load test'")
        assert await page.evaluate("document.activeElement.textContent") == "Load test"  # where it was
    async with opened(browser, server, "#/db/nowhere/logs", "no-database", width=400) as page:
        await page.until("document.querySelector('main .empty')")
        assert not await page.evaluate("document.querySelector('nav [aria-current]')")


async def test_narrow_pages_do_not_overlap(browser: Browser, server: ServerProcess) -> None:
    with pytest.raises(RequestFailed):
        server.call("world", "join", " ")
    async with opened(browser, server, "#/db/world/logs", "narrow-logs", width=400) as page:
        await page.until(
            "[...document.querySelectorAll('.line.error .from')].some(at => at.textContent.includes('join'))"
        )
        places = "[...document.querySelectorAll('.line.error > *')].map(part => part.getBoundingClientRect().toJSON())"
        time, level, text = (await page.evaluate(places))[:3]
        assert time["right"] <= level["left"]
        assert level["bottom"] <= text["top"]
        assert text["right"] <= 400
    async with opened(browser, server, "#/db/world/schema", "narrow-schema", width=400) as page:
        await page.until("document.querySelectorAll('.edge').length === 2")
        right = "Math.max(...[...document.querySelectorAll('.edge')].map(e => e.getBBox().x + e.getBBox().width))"
        assert await page.evaluate(right) <= await page.evaluate(
            "document.querySelector('.diagram svg').width.baseVal.value"
        )


async def test_a_large_table_opens_as_fast(browser: Browser, server: ServerProcess) -> None:
    for _ in range(FILLS):
        server.call("world", "fill", LARGE_ROWS // FILLS)
    took: dict[str, float] = {"player": 60.0, "item": 60.0}
    for table in ("player", "item") * 2:
        async with opened(browser, server, f"#/db/world/tables/{table}", table) as page:
            await page.until("document.querySelectorAll('tbody tr').length && document.querySelector('.pager .where')")
            took[table] = min(took[table], await page.evaluate("performance.now() / 1000"))
            if table == "item":
                # Rows come as they lie in memory: an order would cost more the more there are.
                assert any("LIMIT 100" in text for text in await page.evaluate("asked"))
                assert not any("ORDER BY" in text for text in await page.evaluate("asked"))
                assert f"of {LARGE_ROWS // 1000:,},0" in await text_of(page, ".pager .where")
                assert await page.evaluate("document.querySelectorAll('tbody tr').length") == 100
    assert took["item"] < took["player"] + SLOWER_SECONDS
    async with opened(browser, server, "#/db/world/tables/item", "last") as page:
        await press(page, "Last")
        await page.until(f"document.querySelector('.pager .where').textContent.startsWith('Rows {LARGE_ROWS + 1:,}')")
        await press(page, "First")
        await page.until("document.querySelector('.pager .where').textContent.startsWith('Rows 1–')")
        await press(page, "Live")
        await page.until("document.querySelector('.live-state.live')")
        server.sql("world", "UPDATE item SET kind = 'seen' WHERE item_id = 2")
        await page.until("document.querySelector('tbody tr:nth-child(2) td:nth-child(3)').textContent === 'seen'")


def own_address() -> str | None:
    """An address of this machine that is no loopback one, None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith("127.") else address


def status_of(url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


async def test_from_another_address(browser: Browser, tmp_path: Path) -> None:
    """Without a token there is nothing but a form for it; this machine by another name is no exception."""
    options = ("--listen-addr", "0.0.0.0:0")
    server = ServerProcess(tmp_path, in_memory=True, options=options).start()
    try:
        server.publish(MODULE, "world")
        address = own_address()
        asked = [(server.base_url, {"host": "game.example"}), (server.base_url, {"x-forwarded-for": "10.0.0.1"})]
        if address is not None:
            elsewhere = f"http://{address}:{server.port}"
            asked += [(elsewhere, {}), (elsewhere, {"host": "localhost"})]
        for base, headers in asked:
            for path in ("", "/metrics", "/loadtest"):
                status, body = status_of(f"{base}/dashboard/api{path}", headers)
                assert (status, b"world" in body) == (401, False), (base, headers, path)
        assert status_of(f"{server.base_url}/dashboard/api", {})[0] == 200
        if address is None:
            return
        page = await browser.page(f"http://{address}:{server.port}/dashboard/")
        await page.until("document.querySelector('.login input')")
        for token in (str(server.identity()["token"]), server.owner_token):
            await page.evaluate("document.querySelector('.login input').focus()")
            await page.type(token)
            await page.evaluate("document.querySelector('.login button').click()")
            if token != server.owner_token:
                assert "owns no database" in await page.until("document.querySelector('.login .message').textContent")
        await page.until("document.querySelector('main tbody a')?.textContent === 'world'")
        assert await text_of(page, ".access") == "With a token"
        await page.go(f"http://{address}:{server.port}/dashboard/#/db/world/tables/secret")
        await page.until("document.querySelector('tbody td')?.textContent === 'colour'")
    finally:
        server.stop()
