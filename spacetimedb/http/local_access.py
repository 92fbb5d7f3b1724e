"""Whether a request comes from somebody who sits at this machine: what opens the dashboard without a token.

The connection has to come from a loopback address, and nothing may hint at somebody else behind it:

    Host            localhost or a loopback address: a name of another site that was made to lead here (DNS rebinding)
                    shows in it
    Origin          absent, or this very server: pages of other sites cannot ask through the browser of a person here
    Sec-Fetch-Site  absent, same-origin or none: the same, for requests that carry no Origin
    forwarding      none of the headers that proxies add: what comes through a proxy comes from anywhere
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final

from .messages import Request

FORWARDED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

_HOST: Final = re.compile(r"([^:\[\]]+|\[[^\[\]]+\])(?::\d+)?")
"""Name or address, and port, of a Host header."""


def is_local(request: Request) -> bool:
    """Whether the request comes from this machine, as the head of this file says."""
    hosts = [value for name, value in request.headers if name == "host"]
    if request.peer is None or not _is_loopback(request.peer) or len(hosts) != 1:
        return False
    host = hosts[0].strip().lower()
    parts = _HOST.fullmatch(host)
    if parts is None or not (parts[1] == "localhost" or _is_loopback(parts[1].strip("[]"))):
        return False
    if any(request.header(name) is not None for name in FORWARDED):
        return False
    if any(value.lower() != f"http://{host}" for name, value in request.headers if name == "origin"):
        return False
    return request.header("sec-fetch-site") in (None, "same-origin", "none")


def _is_loopback(text: str) -> bool:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
