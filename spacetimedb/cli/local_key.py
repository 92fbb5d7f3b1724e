"""How a command of the user who runs a server shows that it may publish there: it signs with the server's own key."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..auth.keys import PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, KeyFileError, KeyPair
from ..auth.publishers import BY_KEY, PUBLISHER_CLAIM, PUBLISHER_TOKEN_SECONDS
from ..auth.tokens import TokenError, Tokens
from .api import Server


def act_as_publisher(target: Server, key_directory: Path) -> None:
    """Lets the requests to `target` publish, as the identity that they come from anyway, if the server's private key is
    ours to read. Does nothing otherwise."""
    try:
        public = (key_directory / PUBLIC_KEY_FILE).read_bytes()
        private = (key_directory / PRIVATE_KEY_FILE).read_bytes()
    except OSError:
        return
    try:
        answer = target.request("GET", "/v1/identity/public-key", authorized=False)
    except click.ClickException:
        return  # the request that matters says so
    if not answer.ok or answer.body.strip() != public.strip() or target.token is None:
        return
    try:
        tokens = Tokens(KeyPair(private, public))
        claims = tokens.verify_local(target.token)
    except (KeyFileError, TokenError):
        return
    extra = {**claims.extra, PUBLISHER_CLAIM: BY_KEY}
    expires = int(time.time()) + PUBLISHER_TOKEN_SECONDS
    target.token = tokens.sign(claims.issuer, claims.subject, claims.audience, expires, extra).token
