"""HTTP requests of procedures: what is sent, what is refused, when it ends."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spacetimedb import HttpError
from spacetimedb.hosts import outbound_http
from spacetimedb.hosts.outbound_http import REFUSED, Address, exchange, is_public
from spacetimedb.module.http import HttpResponse


def everything(_address: Address) -> bool:
    return True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self.send_response(int(path[4:7]))
            self.send_header("location", self.path.partition("?")[2])
            self.send_header("content-length", "0")
            self.end_headers()
            return
        if path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
                time.sleep(0.05)
            return
        names = ("host", "accept", "x-one", "authorization", "content-type", "content-length")
        shown = [f"{name}: {self.headers[name]}" for name in names if name in self.headers]
        text = "\n".join([f"{self.command} {self.path}", *shown, body.decode()]).encode()
        self.send_response(404 if path == "/missing" else 200)
        self.send_header("X-Twice", "1")
        self.send_header("X-Twice", "2")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_POST = do_HEAD = do_PUT = answer

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def get(url: str, timeout: float = 5.0) -> HttpResponse:
    return exchange("GET", url, b"", (), timeout, everything)


def test_a_request_and_its_answer(address: str) -> None:
    headers = (("X-One", "ä"), ("Content-Type", "text/plain"))
    answer = exchange("POST", f"http://{address}/a b?c=d&e=f#g", "grün".encode(), headers, 5.0, everything)
    lines = answer.text.split("\n")
    assert lines[0] == "POST /a%20b?c=d&e=f"
    assert f"host: {address}" in lines
    assert "accept: */*" in lines
    assert "content-length: 5" in lines
    assert lines[-1] == "grün"
    assert [value for name, value in answer.headers if name == "x-twice"] == ["1", "2"]
    assert get(f"http://{address}/missing").status == 404
    assert exchange("HEAD", f"http://{address}/", b"", (), 5.0, everything).body == b""


def test_redirects(address: str) -> None:
    assert get(f"http://{address}/to/302?/there").text.startswith("GET /there")
    given = (("authorization", "secret"), ("content-type", "text/plain"))

    def post(status: int, target: str) -> str:
        return exchange("POST", f"http://{address}/to/{status}?{target}", b"body", given, 5.0, everything).text

    seen = post(303, "/next")
    assert seen.startswith("GET /next")
    assert "content-type" not in seen
    assert "authorization: secret" in seen
    assert post(307, "/next").endswith("body")
    other = address.replace("127.0.0.1", "localhost")
    assert "authorization" not in post(307, f"http://{other}/next")
    with pytest.raises(HttpError, match="too many redirects"):
        get(
            f"http://{address}/to/302?/to/302?/to/302?/to/302?/to/302?/to/302?/to/302?/to/302?/to/302?/to/302?/to/302?/x"
        )


def test_what_is_refused_on_the_way(address: str) -> None:
    host = ipaddress.ip_address("127.0.0.1")
    with pytest.raises(HttpError, match=f"error following redirect for url .*{REFUSED}"):
        exchange("GET", f"http://{address}/to/302?http://10.0.0.1/", b"", (), 5.0, lambda a: a == host)


SPECIAL = """
127.0.0.1 10.1.2.3 192.168.0.9 169.254.169.254 100.64.0.1 0.0.0.0 255.255.255.255
::1 fe80::1 fe80::1%eth0 fd00::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:a00:1:: 2001:db8::1
"""


@pytest.mark.parametrize("text", SPECIAL.split())
def test_special_addresses(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "172.32.0.1", "2606:4700::1111", "11.0.0.1"])
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://127.0.0.1:1/", REFUSED),
        ("http://[::ffff:127.0.0.1]/", REFUSED),
        (
            "http://user:pass@localhost:1/a?secret=1#part",
            "error sending request for url (http://localhost:1/a): client error (Connect): dns error: " + REFUSED,
        ),
        (
            "http://2130706433/",
            "error sending request for url (http://2130706433/): client error (Connect): dns error: " + REFUSED,
        ),
        ("ftp://example.com/?secret", "builder error for url (ftp://example.com/): URL scheme is not allowed"),
        ("/path", "builder error: relative URL without a base"),
        ("http:///path", "builder error: empty host"),
        ("http://a:port/", "builder error: Port could not be cast to integer value as 'port'"),
    ],
)
def test_refusals(url: str, text: str) -> None:
    with pytest.raises(HttpError) as caught:
        exchange("GET", url, b"", (), 5.0)
    assert str(caught.value) == text


def test_what_goes_wrong(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(HttpError, match=r"tcp connect error: Connection refused \(os error"):
        get(f"http://127.0.0.1:{port}/")
    with pytest.raises(HttpError, match="invalid HTTP method"):
        exchange("GET /", f"http://{address}/", b"", (), 5.0, everything)
    with pytest.raises(HttpError, match="Invalid header value"):
        exchange("GET", f"http://{address}/", b"", (("x-one", "a\r\nx-two: b"),), 5.0, everything)


def test_one_deadline_for_all(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HttpError, match=r"/drip\): operation timed out"):
        get(f"http://{address}/drip?secret", 0.3)
    monkeypatch.setattr(outbound_http, "MAX_RESPONSE_BYTES", 10)
    with pytest.raises(HttpError, match="longer than 10 bytes"):
        get(f"http://{address}/")
