"""The socket that the server listens on."""

from __future__ import annotations

import errno
import socket


def listening_socket(host: str, port: int) -> socket.socket:
    """A listening TCP socket; raises OSError with a text that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        hint = "; stop what listens there or choose another --listen-addr" if error.errno == errno.EADDRINUSE else ""
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from None
    sock.listen(4096)
    sock.setblocking(False)
    return sock
