"""Serves a folder of plain files to the browser of whoever develops: `spacetime dev`'s page."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: object, config: dict[str, str], directory: str) -> None:
        self._config = config
        super().__init__(*args, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """A file, or where the database is."""
        if self.path.partition("?")[0] != "/config.json":
            super().do_GET()
            return
        body = json.dumps(self._config).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        """Nothing is cached: files change while one develops."""
        self.send_header("cache-control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line."""


class PageServer:
    """A folder on 127.0.0.1, in a thread of its own. Raises OSError if the port is taken; port 0 picks one."""

    def __init__(self, folder: Path, port: int, config: dict[str, str]) -> None:
        handler = partial(_Handler, config=config, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
