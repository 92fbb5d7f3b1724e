"""HTTP requests that procedures make: `exchange` sends one and waits for the whole answer.

A module must not reach what only the server's own machine or network can reach. So an address is looked up here,
checked, and then connected to as a number: a name cannot change its meaning between check and use. Redirects are
followed here for the same reason. Nothing is kept between two requests: no connections, no cookies.

One deadline covers everything from the first byte sent to the last byte of the body. Looking up a name is the
exception: the system's resolver has limits of its own.

Error texts follow the reference server's where it has one; the query part of an address is never shown, it may hold
secrets.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from spacetimedb.module.errors import HttpError
from spacetimedb.module.http import HttpResponse

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_TIMEOUT_S: Final = 180.0
MAX_REDIRECTS: Final = 10
MAX_RESPONSE_BYTES: Final = 64 << 20
PIECE_BYTES: Final = 64 << 10
REFUSED: Final = "refusing to connect to private or special-purpose addresses"

SPECIAL_NETWORKS: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        "::1/128",
        "::/128",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "::ffff:0:0/96",
        "100::/64",
        "100:0:0:1::/64",
        "2001::/23",
        "2001:2::/48",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
    )
)
"""The special-purpose address registries: everything a module may not connect to."""

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_FOR_ONE_HOST: Final = frozenset(("authorization", "cookie", "proxy-authorization"))
_METHOD: Final = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")
_SAFE_IN_TARGET: Final = "%/:=&?~+!$,;'@()*[]"

Pairs = tuple[tuple[str, str], ...]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether a module may connect to the address."""
    return not any(address in network for network in SPECIAL_NETWORKS)


def allowing(networks: Iterable[str]) -> Callable[[Address], bool]:
    """What to give `exchange` if modules may connect to these networks as well. Raises ValueError for what is none."""
    known = tuple(map(ipaddress.ip_network, networks))
    return lambda address: is_public(address) or any(address in network for network in known)


def exchange(
    method: str,
    url: str,
    body: bytes,
    headers: Pairs,
    timeout: float,
    allows: Callable[[Address], bool] = is_public,
) -> HttpResponse:
    """Sends a request, follows redirects, returns the answer whatever its status. Raises HttpError."""
    if math.isnan(timeout):
        raise HttpError("builder error: the timeout is not a number")
    deadline = time.monotonic() + min(timeout, MAX_TIMEOUT_S)
    if not _METHOD.fullmatch(method):
        raise HttpError("builder error: invalid HTTP method")
    for hop in range(MAX_REDIRECTS + 1):
        parts = _split(url)
        try:
            answer = _exchange_once(method, parts, body, headers, deadline, allows)
        except HttpError as error:
            raise (
                HttpError(f"error following redirect for url ({_shown(parts)}): {error}") if hop else error
            ) from None
        except _Failed as failed:
            raise HttpError(f"error sending request for url ({_shown(parts)}): {failed}") from None
        except TimeoutError:
            raise HttpError(f"error sending request for url ({_shown(parts)}): operation timed out") from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            text = f"{type(error).__name__}: {error}"
            raise HttpError(f"error sending request for url ({_shown(parts)}): client error: {text}") from None
        location = next((value for name, value in answer.headers if name == "location"), None)
        if answer.status not in _REDIRECTS or location is None:
            return answer
        target = urljoin(url, location)
        if answer.status == 303 or (answer.status in (301, 302) and method == "POST"):
            method, body = ("HEAD" if method == "HEAD" else "GET"), b""
            headers = tuple(pair for pair in headers if not pair[0].lower().startswith("content-"))
        if urlsplit(target).netloc != parts.netloc:
            headers = tuple(pair for pair in headers if pair[0].lower() not in _FOR_ONE_HOST)
        url = target
    raise HttpError(f"error following redirect for url ({_shown(_split(url))}): too many redirects")


class _Failed(Exception):
    """The request failed for the reason that is the text."""


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError as error:
        raise HttpError(f"builder error: {error}") from None
    if not parts.scheme:
        raise HttpError("builder error: relative URL without a base")
    if parts.scheme not in ("http", "https"):
        raise HttpError(f"builder error for url ({_shown(parts)}): URL scheme is not allowed")
    if not parts.hostname:
        raise HttpError("builder error: empty host")
    return parts


def _shown(parts: SplitResult) -> str:
    """An address for messages: without user, query and fragment."""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path or '/'}"


def _exchange_once(
    method: str,
    parts: SplitResult,
    body: bytes,
    headers: Pairs,
    deadline: float,
    allows: Callable[[Address], bool],
) -> HttpResponse:
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    raw = _connect(parts.hostname, port, deadline, allows)
    try:
        if parts.scheme == "https":
            raw = _secured(raw, parts.hostname)
        connection = http.client.HTTPConnection(parts.hostname, port)
        deadlined: Any = _DeadlineSocket(raw, deadline)
        connection.sock = deadlined
        given = {name.lower() for name, _value in headers}
        target = quote(parts.path or "/", safe=_SAFE_IN_TARGET)
        if parts.query:
            target += "?" + quote(parts.query, safe=_SAFE_IN_TARGET)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        if "host" not in given:
            connection.putheader("host", parts.netloc.rpartition("@")[2])
        if "accept" not in given:
            connection.putheader("accept", "*/*")
        connection.putheader("connection", "close")
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                connection.putheader(name, value.encode())
        if body or method in ("POST", "PUT", "PATCH"):
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        pieces = []
        size = 0
        while piece := answer.read(PIECE_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_RESPONSE_BYTES:
                raise _Failed(f"the answer is longer than {MAX_RESPONSE_BYTES} bytes")
        pairs = tuple((name.lower(), value) for name, value in answer.getheaders())
        return HttpResponse(answer.status, pairs, b"".join(pieces))
    finally:
        raw.close()


def _connect(host: str, port: int, deadline: float, allows: Callable[[Address], bool]) -> socket.socket:
    """A connection to the first address of the host that may be connected to and can be."""
    try:
        literal: Address | None = ipaddress.ip_address(host)
    except ValueError:
        literal = None
    if literal is not None:
        if not allows(literal):
            raise HttpError(REFUSED)
        addresses = [(socket.AF_INET if literal.version == 4 else socket.AF_INET6, host)]
    else:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            text = f"dns error: failed to lookup address information: {reason}"
            raise _Failed(f"client error (Connect): {text}") from None
        addresses = [(family, str(name[0])) for family, _type, _protocol, _canonical, name in found]
        addresses = [(f, a) for f, a in addresses if allows(ipaddress.ip_address(a.partition("%")[0]))]
        if not addresses:
            raise _Failed(f"client error (Connect): dns error: {REFUSED}")
    problem: OSError | None = None
    for family, address in addresses:
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.settimeout(_left(deadline))
            made.connect((address, port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError:
            made.close()
            raise
        except OSError as error:
            made.close()
            problem = error
        else:
            return made
    assert problem is not None
    raise _Failed(f"client error (Connect): tcp connect error: {problem.strerror} (os error {problem.errno})")


def _secured(raw: socket.socket, host: str) -> socket.socket:
    try:
        return ssl.create_default_context().wrap_socket(raw, server_hostname=host)
    except ssl.SSLError as error:
        raise _Failed(f"client error (Connect): {error.reason or error}") from None


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _DeadlineSocket:
    """A socket as http.client uses one; reading and sending end at the deadline. Its owner closes it."""

    def __init__(self, raw: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(_left(self._deadline))
        self._raw.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._raw, self._deadline))

    def close(self) -> None:
        """http.client closes before the answer is read."""


class _DeadlineReader(io.RawIOBase):
    def __init__(self, raw: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._raw.settimeout(_left(self._deadline))
        return self._raw.recv_into(buffer)
