"""Takes the README's picture: a server, bots, and a page that has joined them for a while. Or the dashboard's pictures.

.venv/bin/python scripts/screenshot.py [FILE]
.venv/bin/python scripts/screenshot.py --dashboard [FOLDER]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import trio

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from browser import open_browser  # noqa: E402
from server_process import SAMPLES, ServerProcess  # noqa: E402

BOTS = 30
WARM_UP_SECONDS = 25.0
SEARCH_SECONDS = 60.0
CHART_SECONDS = 60.0
PAGE_SECONDS = 2.0
DASHBOARD_PAGES = {
    "overview-dark": "",
    "tables": "#/db/agar/tables/player",
    "reducers": "#/db/agar/reducers/enter_game",
    "subscriptions": "#/db/agar/subscriptions",
    "schema": "#/db/agar/schema",
    "sql-dark": "#/db/agar/sql",
    "logs": "#/db/agar/logs",
}
CHARTS = ("overview-dark", "subscriptions")
STATEMENT = "SELECT name, mass FROM score WHERE mass > 50 ORDER BY mass DESC LIMIT 15"
CROWD = (
    "[...game.connection.rows.circle.values()].filter(c => { const e = game.connection.rows.entity.get(c.entity_id),"
)
CROWD += " m = game.connection.rows.entity.get(game.myCircles()[0]?.entity_id);"
CROWD += " return e && m && Math.abs(e.x - m.x) < 130 && Math.abs(e.y - m.y) < 80; }).length >= 5"


async def take(server: ServerProcess, path: Path) -> None:
    """Joins, waits for company, and takes the picture."""
    async with open_browser() as browser:
        page = await browser.page(f"{server.base_url}/demo/", width=1200, height=700)
        await page.until("document.querySelector('#status.online')")
        await trio.sleep(WARM_UP_SECONDS)
        with trio.move_on_after(SEARCH_SECONDS):
            while True:
                await page.evaluate("game.join('You')")
                await page.move_mouse(600, 350)
                await trio.sleep(1.5)
                if await page.evaluate(CROWD):
                    break
        await page.screenshot(path)


async def take_dashboard(server: ServerProcess, folder: Path) -> None:
    """Pictures of the dashboard's pages while the bots play."""
    folder.mkdir(parents=True, exist_ok=True)
    async with open_browser() as browser:
        for name, address in DASHBOARD_PAGES.items():
            page = await browser.page(f"{server.base_url}/v1/ping", width=1280, height=800)
            if name.endswith("-dark"):
                dark = [{"name": "prefers-color-scheme", "value": "dark"}]
                await page.command("Emulation.setEmulatedMedia", features=dark)
            await page.go(f"{server.base_url}/dashboard/{address}")
            await page.until("document.querySelector('main h1')")
            await trio.sleep(CHART_SECONDS if name in CHARTS else PAGE_SECONDS)
            if name == "sql-dark":
                await page.evaluate(f"document.querySelector('textarea').value = {json.dumps(STATEMENT)}")
                await page.evaluate("document.querySelector('button.primary').click()")
                await trio.sleep(PAGE_SECONDS)
            if name == "tables":
                await page.evaluate(
                    "[...document.querySelectorAll('button')].find(b => b.textContent === 'Live').click()"
                )
                await trio.sleep(PAGE_SECONDS)
            await page.screenshot(folder / f"{name}.png")


def main() -> None:
    takes_dashboard = sys.argv[1:2] == ["--dashboard"]
    given = sys.argv[2:] if takes_dashboard else sys.argv[1:]
    usual = HERE.parent / "docs" / "screenshots" if takes_dashboard else HERE / "demo.png"
    path = Path(given[0]) if given else usual
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder)).start()
        try:
            server.publish(SAMPLES / "agar.py", "agar")
            command = [sys.executable, str(HERE / "bots.py"), "--url", server.base_url, "--bots", str(BOTS)]
            with subprocess.Popen(command) as bots:
                try:
                    trio.run(take_dashboard if takes_dashboard else take, server, path)
                finally:
                    bots.terminate()
        finally:
            server.stop()
    print(path)


if __name__ == "__main__":
    main()
