"""Tokens: JSON Web Tokens, signed by this server (ES256) or by an OpenID Connect issuer (ES256, RS256).

A token of our own is `b64(header).b64(payload).b64(signature)`, base64url without padding, with the header
`{"typ":"JWT","alg":"ES256"}` and the payload keys in this order:

    hex_identity  64 hex digits of the identity that follows from iss and sub
    sub           UUID text;  iss  "localhost";  aud  ["spacetimedb"]
    iat           Unix seconds;  exp  null, or Unix seconds for the short-lived tokens of WebSocket clients
    ...           further claims of a token that was signed again

A token with the issuer "spacetimedb-dashboard" lets its bearer act as the identity in hex_identity for a while: this
server gives it to the dashboard of its own machine. No foreign issuer can have that name, as it is no URL.

It is plain ASCII JSON without `>`, `?`, `~`, so that its base64url text holds neither `-` nor `_`.

Verification: first against the local key, whatever the issuer says (that is what makes a re-signed token of a foreign
issuer valid). If that fails and the issuer is not "localhost", against the keys the issuer publishes. The algorithm is
bound to the key, never to what the token claims: the local key and P-256 keys verify ES256 only, RSA keys RS256 only.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import uuid
from collections import OrderedDict
from typing import Any, Final

import msgspec

from spacetimedb.types.special import Identity

from .identity import derive_identity
from .issuers import IssuerKeys, KeysUnavailable, PublicKey
from .keys import KeyPair
from .publishers import BY_PLACE, PUBLISHER_CLAIM

LOCAL_ISSUER: Final = "localhost"
DASHBOARD_ISSUER: Final = "spacetimedb-dashboard"
DASHBOARD_TOKEN_SECONDS: Final = 900
AUDIENCE: Final = "spacetimedb"
WEBSOCKET_TOKEN_SECONDS: Final = 60
EXPIRY_LEEWAY_SECONDS: Final = 60
MAX_NAME_BYTES: Final = 128
"""Longest `iss` and `sub`, in bytes of UTF-8."""
MAX_TOKEN_LENGTH: Final = 64 * 1024
"""Longest token that is looked at; a longer one is no token."""
VERIFIED_TOKENS: Final = 1024
"""Tokens whose valid signature is remembered; the one remembered longest makes room."""

_KNOWN_CLAIMS: Final = frozenset({"hex_identity", "sub", "iss", "aud", "iat", "exp"})
_ALGORITHMS: Final = (
    *("HS256", "HS384", "HS512", "ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"),
)
_HEADER: Final = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"ES256"}').rstrip(b"=")


class TokenError(Exception):
    """A token, or the header that should hold one, is refused: HTTP status and text of the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Claims(msgspec.Struct, frozen=True):
    """What a valid token says. `payload` is its payload's JSON text as it was signed, `extra` the claims of no meaning
    here."""

    identity: Identity
    subject: str
    issuer: str
    audience: tuple[str, ...]
    issued_at: int
    expires_at: int | None
    extra: dict[str, Any]
    payload: str
    token: str


class _Parsed(msgspec.Struct, frozen=True):
    """A token taken apart, nothing about it verified."""

    signed: bytes
    algorithm: str
    key_id: str | None
    signature: bytes
    payload: bytes


def bearer_token(authorization: str) -> str:
    """The token in an `Authorization` header; TokenError 400 unless it is `Bearer <token>`."""
    scheme, _, token = authorization.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token:
        raise TokenError(400, "Authorization is invalid: malformed token")
    return token


class Tokens:
    """Mints and verifies tokens; one per process.

    `issuers` gives the keys of foreign issuers, None trusts no other issuer than this server.
    """

    def __init__(self, keys: KeyPair, issuers: IssuerKeys | None = None) -> None:
        self.keys = keys
        self.issuers = issuers
        self._verified: OrderedDict[str, Claims] = OrderedDict()

    @property
    def public_pem(self) -> bytes:
        """The public key file, verbatim."""
        return self.keys.public_pem

    # Minting

    def mint(self, is_local_publisher: bool = False) -> Claims:
        """A new identity (random subject, local issuer) and its token, which does not expire.

        `is_local_publisher`: it is for a program on this machine, and may publish where such programs may.
        """
        extra = {PUBLISHER_CLAIM: BY_PLACE} if is_local_publisher else {}
        return self.sign(LOCAL_ISSUER, str(uuid.uuid4()), (AUDIENCE,), None, extra)

    def websocket_token(self, claims: Claims) -> Claims:
        """The same claims signed again by this server, valid for a minute."""
        expires = int(time.time()) + WEBSOCKET_TOKEN_SECONDS
        if claims.expires_at is not None:
            expires = min(expires, claims.expires_at)
        acts_as = claims.identity if claims.issuer == DASHBOARD_ISSUER else None
        return self.sign(claims.issuer, claims.subject, claims.audience, expires, claims.extra, acts_as)

    def dashboard_token(self, identity: Identity) -> Claims:
        """Lets its bearer act as an identity for DASHBOARD_TOKEN_SECONDS."""
        expires = int(time.time()) + DASHBOARD_TOKEN_SECONDS
        return self.sign(DASHBOARD_ISSUER, "dashboard", (AUDIENCE,), expires, {}, identity)

    def sign(
        self,
        issuer: str,
        subject: str,
        audience: tuple[str, ...],
        expires_at: int | None,
        extra: dict[str, Any],
        acts_as: Identity | None = None,
    ) -> Claims:
        """A token with these claims, issued now (`expires_at` in Unix seconds). `acts_as`: see DASHBOARD_ISSUER."""
        identity = derive_identity(issuer, subject) if acts_as is None else acts_as
        issued_at = int(time.time())
        claims: dict[str, Any] = {
            "hex_identity": identity.hex(),
            "sub": subject,
            "iss": issuer,
            "aud": list(audience),
            "iat": issued_at,
            "exp": expires_at,
        }
        claims.update(extra)
        payload = json.dumps(claims, separators=(",", ":"))
        signed = _HEADER + b"." + _encode(payload.encode())
        token = (signed + b"." + _encode(self.keys.sign(signed))).decode()
        return Claims(identity, subject, issuer, audience, issued_at, expires_at, dict(extra), payload, token)

    # Verifying

    def verify_local(self, token: str) -> Claims:
        """Verify against the local key alone. Raises TokenError 401."""
        known = self._verified.get(token)
        if known is not None:
            _check_expiry(known.expires_at)
            return known
        parsed = _parse(token)
        if parsed.algorithm != "ES256":
            raise _invalid("InvalidAlgorithm")
        if not self.keys.verify(parsed.signed, parsed.signature):
            raise _invalid("InvalidSignature")
        claims = _check_claims(token, parsed.payload, signed_here=True)
        if not 0 < len(claims.issuer.encode("utf-8", "replace")) <= MAX_NAME_BYTES:
            raise TokenError(401, f"Error fetching public key for issuer {claims.issuer}")
        self._verified[token] = claims
        if len(self._verified) > VERIFIED_TOKENS:
            self._verified.popitem(last=False)
        return claims

    async def verify(self, token: str) -> Claims:
        """Verify against the local key, then against the keys of the token's issuer. Raises TokenError 401."""
        try:
            return self.verify_local(token)
        except TokenError as error:
            local_error = error
        parsed = _parse(token)
        body = _claims_object(parsed.payload)
        issuer = body["iss"]
        _check_expiry(body.get("exp"))
        if issuer in (LOCAL_ISSUER, DASHBOARD_ISSUER):
            raise local_error
        unavailable = TokenError(401, f"Error fetching public key for issuer {issuer}")
        if self.issuers is None or len(issuer.encode("utf-8", "replace")) > MAX_NAME_BYTES:
            raise unavailable
        try:
            keys = await self.issuers.keys(issuer)
        except KeysUnavailable:
            raise unavailable from None
        _check_foreign_signature(parsed, keys)
        return _check_claims(token, parsed.payload)


def _check_foreign_signature(parsed: _Parsed, keys: list[PublicKey]) -> None:
    if parsed.key_id is not None:
        keys = [key for key in keys if key.key_id == parsed.key_id]
        if not keys:
            raise TokenError(401, "Specified key ID not found in JWKs")
    if parsed.algorithm not in ("ES256", "RS256"):
        raise _invalid("InvalidAlgorithm")
    fitting = [key for key in keys if key.algorithm == parsed.algorithm]
    if keys and not fitting:
        raise _invalid("InvalidAlgorithm")
    if not any(key.verify(parsed.signed, parsed.signature) for key in fitting):
        raise _invalid("InvalidSignature")


def _invalid(text: str) -> TokenError:
    return TokenError(401, f"Invalid token: {text}")


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: str) -> bytes:
    """base64url without padding, strictly."""
    for offset, symbol in enumerate(text):
        if not (symbol.isascii() and (symbol.isalnum() or symbol in "-_")):
            raise _invalid(f"Base64 error: Invalid symbol {ord(symbol)}, offset {offset}.")
    if len(text) % 4 == 1:
        raise _invalid(f"Base64 error: Invalid input length: {len(text)}")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise _invalid(f"Base64 error: Invalid input length: {len(text)}") from None
    if _encode(data).decode() != text:
        # Bits beyond the last byte are set: two texts must not mean the same token.
        raise _invalid(f"Base64 error: Invalid last symbol {ord(text[-1])}, offset {len(text) - 1}.")
    return data


def _parse(token: str) -> _Parsed:
    """Take a token apart. Raises TokenError 401."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_LENGTH:
        raise _invalid("InvalidToken")
    header = _json_object(_decode(parts[0]), frozenset({"alg", "kid", "typ"}))
    algorithm = header.get("alg")
    if algorithm is None:
        raise _invalid(_missing("alg", _decode(parts[0])))
    if algorithm not in _ALGORITHMS:
        shown = json.dumps(algorithm)[1:-1] if isinstance(algorithm, str) else algorithm
        known = ", ".join(f"`{name}`" for name in _ALGORITHMS)
        raise _invalid(f"JSON error: unknown variant `{shown}`, expected one of {known}")
    key_id = header.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        raise _invalid("JSON error: invalid type for `kid`, expected a string")
    signed = f"{parts[0]}.{parts[1]}".encode()
    return _Parsed(signed, algorithm, key_id, _decode(parts[2]), _decode(parts[1]))


def _missing(name: str, text: bytes) -> str:
    return f"JSON error: missing field `{name}` at line 1 column {len(text)}"


def _json_object(text: bytes, known: frozenset[str]) -> dict[str, Any]:
    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs if name in known]
        for name in known:
            if names.count(name) > 1:
                raise ValueError(f"duplicate field `{name}`")
        return dict(pairs)

    try:
        value = json.loads(text.decode(), object_pairs_hook=collect, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise _invalid(f"JSON error: expected value at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise _invalid("Utf8 error: invalid utf-8 sequence") from None
    except RecursionError:
        raise _invalid("JSON error: recursion limit exceeded") from None
    except ValueError as error:
        raise _invalid(f"JSON error: {error} at line 1 column {len(text)}") from None
    if not isinstance(value, dict):
        raise _invalid("JSON error: invalid type, expected a map at line 1 column 0")
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"expected value, not {name}")


def _claims_object(text: bytes) -> dict[str, Any]:
    """The payload with the types of the known claims checked. Raises TokenError 401."""
    body = _json_object(text, _KNOWN_CLAIMS)
    for name in ("sub", "iss", "iat"):
        if name not in body:
            raise _invalid(_missing(name, text))

    def wrong(name: str, expected: str) -> TokenError:
        return _invalid(f"JSON error: invalid type of `{name}`, expected {expected} at line 1 column {len(text)}")

    for name in ("sub", "iss"):
        if not isinstance(body[name], str):
            raise wrong(name, "a string")
    if not _is_seconds(body["iat"]):
        raise wrong("iat", "an integer")
    if body.get("exp") is not None and not _is_seconds(body["exp"]):
        raise wrong("exp", "an integer")
    if body.get("hex_identity") is not None and not isinstance(body["hex_identity"], str):
        raise wrong("hex_identity", "a string")
    audience = body.get("aud")
    if isinstance(audience, str):
        body["aud"] = [audience]
    elif audience is None:
        body["aud"] = []
    elif not isinstance(audience, list) or not all(isinstance(item, str) for item in audience):
        raise wrong("aud", "a string or a list of strings")
    return body


def _is_seconds(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _check_expiry(expires_at: int | None) -> None:
    if expires_at is not None and expires_at < int(time.time()) - EXPIRY_LEEWAY_SECONDS:
        raise _invalid("ExpiredSignature")


def _check_claims(token: str, payload: bytes, signed_here: bool = False) -> Claims:
    """The claims of a token whose signature is good (`signed_here`: by this server). Raises TokenError 401."""
    body = _claims_object(payload)
    _check_expiry(body.get("exp"))
    subject, issuer = body["sub"], body["iss"]
    if not subject:
        raise TokenError(401, "Subject empty")
    if len(subject.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise TokenError(401, f"Subject too long: {json.dumps(subject, ensure_ascii=False)}")
    identity = derive_identity(issuer, subject)
    stated = body.get("hex_identity")
    if stated is not None:
        try:
            stated_identity = Identity.from_hex(stated)
        except ValueError:
            raise _invalid("JSON error: invalid value of `hex_identity`, expected 64 hex digits") from None
        if signed_here and issuer == DASHBOARD_ISSUER:
            identity = stated_identity
        if stated_identity != identity:
            raise TokenError(
                401,
                f"Identity mismatch: token identity Identity({stated}) does not match computed identity "
                f"Identity({identity.hex()})",
            )
    own = _KNOWN_CLAIMS if signed_here else _KNOWN_CLAIMS | {PUBLISHER_CLAIM}
    extra = {name: value for name, value in body.items() if name not in own}
    return Claims(
        identity,
        subject,
        issuer,
        tuple(body["aud"]),
        body["iat"],
        body.get("exp"),
        extra,
        payload.decode(),
        token,
    )
