"""GET for the public keys of foreign token issuers."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Final

import trio

FETCH_S: Final = 5.0
MAX_BYTES: Final = 1 << 20


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: object, **_named: object) -> None:
        return None


async def fetch_url(url: str) -> bytes:
    """The body of a 200 answer. Raises OSError or ValueError. The address was checked by `auth.issuers`."""
    return await trio.to_thread.run_sync(_fetch, url, abandon_on_cancel=True)


def _fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(_NoRedirects)
    with opener.open(url, timeout=FETCH_S) as response:
        if response.status != 200:
            raise OSError(f"status {response.status}")
        body: bytes = response.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise ValueError("the document is too long")
    return body
