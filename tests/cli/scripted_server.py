"""An HTTP server that answers from a table and remembers what it was asked, for unit tests of the command line."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Asked:
    """One request: `query` holds the last value of each parameter."""

    def __init__(self, method: str, target: str, token: str | None, body: bytes) -> None:
        parts = urlsplit(target)
        self.method, self.path, self.token, self.body = method, parts.path, token, body
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"


class ScriptedServer:
    """`answers["PUT /v1/database/x"] = (status, body)`; a dict or list as body is sent as JSON; missing: 404."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[Asked] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                super().handle_one_request()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                bearer = self.headers.get("authorization")
                asked = Asked(self.command, self.path, bearer and bearer.removeprefix("Bearer "), body)
                outer.asked.append(asked)
                status, content = outer.answers.get(repr(asked), (404, ""))
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response_only(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def requests(self) -> list[str]:
        return [repr(asked) for asked in self.asked]
