"""Public keys of foreign issuers (OpenID Connect discovery).

    GET {issuer without trailing /}/.well-known/openid-configuration  ->  {"jwks_uri": ...}
    GET {jwks_uri}                                                    ->  {"keys": [JWK, ...]}

Any unverified token names an issuer, so fetching is fenced in: https only (http for localhost and 127.0.0.1, for
development), an optional list of allowed issuers, a bounded cache that remembers failures too, and size limits. The
transport itself, with its timeout, is passed in.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

REFRESH_SECONDS: Final = 300
"""Keys older than this are fetched again when next asked for."""
EXPIRY_SECONDS: Final = 7200
"""Keys older than this are not used any more, even if they cannot be fetched again."""
FAILURE_SECONDS: Final = 30
"""How long a failed fetch is remembered."""
MAX_ISSUERS: Final = 256
"""Issuers in the cache; the one used longest ago makes room."""
MAX_DOCUMENT_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 64
"""Keys taken from one key set."""
MIN_RSA_BITS: Final = 2048

Fetch = Callable[[str], Awaitable[bytes]]
"""GET a URL and return the body of a 200 answer; raises what it likes. It has a timeout and follows no redirects."""


class KeysUnavailable(Exception):
    """The keys of an issuer cannot be had."""


class PublicKey(msgspec.Struct, frozen=True):
    """One verification key, bound to its only algorithm: ES256 (P-256) or RS256 (RSA)."""

    algorithm: str
    key_id: str | None
    key: Any

    def verify(self, signed: bytes, signature: bytes) -> bool:
        if self.algorithm == "ES256":
            return bool(_ES256.verify(signed, self.key, signature))
        return bool(_RS256.verify(signed, self.key, signature))


_ES256: Final = ECAlgorithm(ECAlgorithm.SHA256)
_RS256: Final = RSAAlgorithm(RSAAlgorithm.SHA256)


def public_key(jwk: object) -> PublicKey | None:
    """The key in a JWK, None if it is of no use here (symmetric, another curve, weak, not for signatures)."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or "d" in jwk:
        return None
    key_id = jwk.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        return None
    # The type of the key decides; what the key set says about `alg` may only agree.
    algorithm = {"EC": "ES256", "RSA": "RS256"}.get(str(jwk.get("kty")))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return PublicKey("ES256", key_id, key)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return PublicKey("RS256", key_id, key)
    return None


def may_fetch(url: str) -> bool:
    """Whether a URL may be fetched: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        parts.port  # noqa: B018  (a bad port raises)
    except ValueError:
        return False
    if not host or parts.username is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in ("localhost", "127.0.0.1"))


class _Entry(msgspec.Struct):
    """`keys` None: the fetch at `fetched_at` (monotonic seconds) failed."""

    keys: list[PublicKey] | None
    fetched_at: float
    retry_at: float


class IssuerKeys:
    """The keys of issuers, cached. `allowed` None allows every issuer whose URL may be fetched."""

    def __init__(self, fetch: Fetch, allowed: frozenset[str] | None = None) -> None:
        self._fetch = fetch
        self._allowed = allowed
        self._cache: OrderedDict[str, _Entry] = OrderedDict()

    async def keys(self, issuer: str) -> list[PublicKey]:
        """The keys of `issuer` (its exact string: with a trailing slash it is another one). Raises KeysUnavailable."""
        if self._allowed is not None and issuer not in self._allowed:
            raise KeysUnavailable(issuer)
        now = time.monotonic()
        entry = self._cache.get(issuer)
        if entry is not None:
            self._cache.move_to_end(issuer)
            if now < entry.retry_at:
                if entry.keys is None:
                    raise KeysUnavailable(issuer)
                return entry.keys
        try:
            keys = await self._load(issuer)
        except Exception as error:
            old = entry.keys if entry is not None and now - entry.fetched_at < EXPIRY_SECONDS else None
            fetched_at = entry.fetched_at if entry is not None and old is not None else now
            self._remember(issuer, _Entry(old, fetched_at, now + FAILURE_SECONDS))
            if old is not None:
                return old
            raise KeysUnavailable(issuer) from error
        self._remember(issuer, _Entry(keys, now, now + REFRESH_SECONDS))
        return keys

    def _remember(self, issuer: str, entry: _Entry) -> None:
        self._cache[issuer] = entry
        self._cache.move_to_end(issuer)
        if len(self._cache) > MAX_ISSUERS:
            self._cache.popitem(last=False)

    async def _load(self, issuer: str) -> list[PublicKey]:
        discovery = await self._get(issuer.rstrip("/") + "/.well-known/openid-configuration")
        found = await self._get(str(discovery["jwks_uri"]))
        listed = found["keys"]
        if not isinstance(listed, list):
            raise KeysUnavailable("no list of keys")
        return [key for key in map(public_key, listed[:MAX_KEYS]) if key is not None]

    async def _get(self, url: str) -> dict[str, Any]:
        if not may_fetch(url):
            raise KeysUnavailable(f"{url} may not be fetched")
        body = await self._fetch(url)
        if len(body) > MAX_DOCUMENT_BYTES:
            raise KeysUnavailable(f"{url} is too long")
        value = json.loads(body)
        if not isinstance(value, dict):
            raise KeysUnavailable(f"{url} is no object")
        return value
