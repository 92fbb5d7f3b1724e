"""The game's page in headless Chromium: two people join, each sees the other move, and both outlive the server."""

from __future__ import annotations

from browser import Page, open_browser
from conftest import ServerFactory
from server_process import SAMPLES

MOVED = 15.0  # board units: more than a rounding, less than a second's way


async def join(page: Page, name: str) -> int:
    """Enters the game the way a person does; returns the player's id."""
    await page.until("game.connection.rows.player && document.querySelector('#status.online')")
    await page.evaluate("document.querySelector('#name').select()")
    await page.type(name)
    await page.press_enter()
    await page.until("game.myCircles().length === 1 && document.body.classList.contains('playing')")
    return int(await page.evaluate("game.me().player_id"))


def place(player: int) -> str:
    """Expression for where a player's circle is, as the page's cache has it: [x, y]."""
    return (
        f"[...game.connection.rows.circle.values()].filter(c => c.player_id === {player})"
        ".map(c => game.connection.rows.entity.get(c.entity_id)).map(e => [e.x, e.y])[0]"
    )


async def sees_moving(watcher: Page, mover: Page, player: int, name: str) -> None:
    """`mover` steers towards the middle of the board; `watcher` sees that on its own connection."""
    await watcher.until(f"[...game.connection.rows.player.values()].some(p => p.name === '{name}')")
    x, y = await watcher.until(place(player))
    await mover.move_mouse(1200 if x < 500 else 80, 700 if y < 500 else 80)
    await watcher.until(f"(([x, y]) => Math.hypot(x - {x}, y - {y}) > {MOVED})({place(player)})")


async def test_two_people_play_and_outlive_the_server(start_server: ServerFactory) -> None:
    server = start_server()
    server.publish(SAMPLES / "agar.py", "agar")
    async with open_browser() as browser:
        url = f"{server.base_url}/demo/"
        ann, bob = await browser.page(url), await browser.page(url)
        ann_id, bob_id = await join(ann, "Ann"), await join(bob, "Bob")
        assert ann_id != bob_id
        await sees_moving(bob, ann, ann_id, "Ann")
        await sees_moving(ann, bob, bob_id, "Bob")
        assert await ann.until("[...document.querySelectorAll('#leaderboard b')].map(b => b.textContent).sort()") == [
            "Ann",
            "Bob",
        ]

        me = await ann.evaluate("game.connection.identity")
        await ann.go(f"{url}?db=agar")
        assert await join(ann, "Ann") == ann_id, "the saved token brings the same player back"
        assert await ann.evaluate("game.connection.identity") == me

        server.kill()
        for page in (ann, bob):
            await page.until("document.querySelector('#status.offline, #status.connecting')")
        server.start()
        for page, player in ((ann, ann_id), (bob, bob_id)):
            await page.until("document.querySelector('#status.online') && game.myCircles().length === 1")
            assert await page.evaluate("game.me().player_id") == player
        await sees_moving(bob, ann, ann_id, "Ann")


async def test_chat_reaches_everybody(start_server: ServerFactory) -> None:
    server = start_server(in_memory=True)
    server.publish(SAMPLES / "agar.py", "agar")
    async with open_browser() as browser:
        ann, bob = [await browser.page(f"{server.base_url}/demo/") for _ in range(2)]
        await join(ann, "Ann")
        await ann.press_enter()
        await ann.type("hello <b>all</b>")
        await ann.press_enter()
        said = await bob.until("document.querySelector('#chat li')?.textContent")
        assert said == "Annhello <b>all</b>"
