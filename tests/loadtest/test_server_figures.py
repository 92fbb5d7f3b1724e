"""The server's figures beside a load test, while its processes come and go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from spacetimedb.client.address import Address
from spacetimedb.loadtest.server_figures import ServerFigures


@contextmanager
def telling(*texts: str) -> Iterator[Address]:
    """A server that tells these metrics, one after the other."""
    rest = list(texts)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(rest.pop(0).encode())

        def log_message(self, *_words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Address(host="127.0.0.1", port=server.server_port, secure=False, path="", database="")
        finally:
            server.shutdown()
            thread.join()


def seconds(**used: float) -> str:
    """Metrics of processes."""
    return "".join(f'process_cpu_seconds_total{{process="{name}"}} {cpu}\n' for name, cpu in used.items())


def test_processor_time_while_processes_come_and_go() -> None:
    texts = (seconds(actor=100, loader=50), seconds(actor=101, outbound=0.5), seconds(actor=101.25, outbound=0.5))
    with telling(*texts) as address:
        figures = ServerFigures(address)
        assert "cpu_percent" not in figures.read(10.0)
        assert figures.read(12.0)["cpu_percent"] == 75.0
        assert figures.read(13.0)["cpu_percent"] == 25.0
