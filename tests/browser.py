"""Headless Chromium over its DevTools protocol: as much of it as the tests of the game's page need."""

from __future__ import annotations

import atexit
import base64
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import trio
import trio_websocket
from patience import PATIENCE_S
from server_process import STOP_SECONDS, descendants, kill, wait_for_end, watchdog

NAMES = ("chromium", "chromium-browser", "google-chrome")
MAXIMUM_MESSAGE_BYTES = 64 * 1024 * 1024
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-dev-shm-usage"),
    *("--disable-backgrounding-occluded-windows", "--disable-extensions", "--disable-component-update"),
)


class PageError(Exception):
    """The page threw, or the browser refused a command."""


class Page:
    """One tab in a browser context of its own: no storage shared with other pages."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.command(method, self._session, **parameters)

    async def evaluate(self, expression: str) -> Any:
        """Value of an expression; a promise is awaited. PageError if it throws."""
        answer = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Waits in the page until the expression is truthy; returns its value."""
        return await self.evaluate(
            "new Promise(resolve => { const look = () => { let value; try { value = (" + expression + ") } catch {} "
            "if (value) resolve(value); else setTimeout(look, 15); }; look(); })"
        )

    async def go(self, url: str) -> None:
        """Navigates and returns when the page's scripts have run."""
        await self.command("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def move_mouse(self, x: float, y: float) -> None:
        await self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def type(self, text: str) -> None:
        await self.command("Input.insertText", text=text)

    async def press_enter(self) -> None:
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        await self.command("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        await self.command("Input.dispatchKeyEvent", type="keyUp", **key)

    async def press(self, key: str, code: int) -> None:
        """A key that types nothing; `code`: its Windows virtual key code."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    async def screenshot(self, path: Path) -> None:
        answer = await self.command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """A connection to a browser; commands go over one WebSocket and are matched by number."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._number = 0
        self._waiting: dict[int, tuple[trio.Event, list[dict[str, Any]]]] = {}
        self._contexts: list[str] = []

    async def listen(self) -> None:
        try:
            while True:
                message = json.loads(await self._socket.get_message())
                waiting = self._waiting.pop(message.get("id", 0), None)
                if waiting is not None:
                    waiting[1].append(message)
                    waiting[0].set()
        except trio_websocket.ConnectionClosed:
            return

    async def command(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One DevTools command; returns its result. PageError if refused, or unanswered for too long."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        answered, answers = self._waiting[self._number] = trio.Event(), []
        await self._socket.send_message(json.dumps(message))
        with trio.move_on_after(PATIENCE_S):
            await answered.wait()
        if not answers:
            raise PageError(f"no answer to {method} {parameters.get('expression', '')}")
        if "error" in answers[0]:
            raise PageError(f"{method}: {answers[0]['error']['message']}")
        result: dict[str, Any] = answers[0]["result"]
        return result

    async def page(self, url: str, *, width: int = 1280, height: int = 800) -> Page:
        """Opens a page of so many pixels at `url`."""
        context = (await self.command("Target.createBrowserContext"))["browserContextId"]
        self._contexts.append(context)
        target = await self.command(
            "Target.createTarget", url="about:blank", browserContextId=context, width=width, height=height
        )
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        await page.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await page.go(url)
        return page

    async def forget_pages(self) -> None:
        """Closes all pages, with what they stored."""
        while self._contexts:
            await self.command("Target.disposeBrowserContext", browserContextId=self._contexts.pop())


def executable() -> str:
    """Path of the browser; AssertionError if there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found, "run scripts/setup: Chromium is not installed"
    return found


class _Process:
    """The browser of this process, started when it is first wanted; its profile is thrown away with it."""

    def __init__(self) -> None:
        self._url: str | None = None

    def url(self) -> str:
        """Address of its DevTools. PageError if it does not start."""
        if self._url is None:
            profile = tempfile.TemporaryDirectory(prefix="spacetimedb-browser-", ignore_cleanup_errors=True)
            command = [executable(), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile.name}"]
            process = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            watchdog.tell(f"+{process.pid}")
            atexit.register(self._end, process, profile)
            assert process.stderr is not None
            self._url = self._devtools_url(process.stderr)
            threading.Thread(target=process.stderr.read, daemon=True).start()
        return self._url

    @staticmethod
    def _end(process: subprocess.Popen[bytes], profile: tempfile.TemporaryDirectory[str]) -> None:
        tree = list(descendants(process.pid))
        for pid in tree:
            kill(pid)
        process.wait()
        wait_for_end(tree, STOP_SECONDS)  # they write into the profile as long as they live
        profile.cleanup()

    @staticmethod
    def _devtools_url(stderr: IO[bytes]) -> str:
        said = b""
        for line in stderr:
            said += line
            if found := re.search(rb"DevTools listening on (ws://\S+)", line):
                return found[1].decode()
        raise PageError("the browser did not start:\n" + said.decode("utf-8", "replace"))


_process = _Process()


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """The browser that tests of this process share, which takes a second to start; the block's pages end with it."""
    url = await trio.to_thread.run_sync(_process.url)
    connecting = trio_websocket.open_websocket_url(url, max_message_size=MAXIMUM_MESSAGE_BYTES)
    async with connecting as socket, trio.open_nursery() as nursery:
        browser = Browser(socket)
        nursery.start_soon(browser.listen)
        try:
            yield browser
        finally:
            with trio.CancelScope(shield=True):
                await browser.forget_pages()
        nursery.cancel_scope.cancel()
