"""Tokens: what is minted, what is accepted, and the text of every refusal."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from spacetimedb.auth import issuers, tokens
from spacetimedb.auth.identity import derive_identity
from spacetimedb.auth.issuers import IssuerKeys, KeysUnavailable, may_fetch, public_key
from spacetimedb.auth.keys import KeyFileError, KeyPair, key_paths
from spacetimedb.auth.tokens import TokenError, Tokens, bearer_token

KEYS = KeyPair.generate()
ISSUER = "https://id.example"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make(payload: object, keys: KeyPair = KEYS, header: object = None) -> str:
    text = payload if isinstance(payload, bytes) else json.dumps(payload, separators=(",", ":")).encode()
    head = json.dumps(header or {"typ": "JWT", "alg": "ES256"}).encode()
    signed = f"{b64(head)}.{b64(text)}"
    return f"{signed}.{b64(keys.sign(signed.encode()))}"


def now() -> int:
    return int(time.time())


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "me", "iss": "localhost", "iat": now(), **changes}


async def refusal(token: str, verifier: Tokens | None = None) -> str:
    with pytest.raises(TokenError) as caught:
        await (verifier or Tokens(KEYS)).verify(token)
    assert caught.value.status == 401
    return caught.value.text


def test_minted_token_is_exactly_laid_out() -> None:
    minted = Tokens(KEYS).mint()
    header, payload, _ = minted.token.split(".")
    assert base64.urlsafe_b64decode(header + "=") == b'{"typ":"JWT","alg":"ES256"}'
    text = base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True).decode()
    assert text == minted.payload
    body = json.loads(text)
    assert list(body) == ["hex_identity", "sub", "iss", "aud", "iat", "exp"]
    assert body["hex_identity"] == derive_identity("localhost", body["sub"]).hex() == minted.identity.hex()
    assert (body["iss"], body["aud"], body["exp"]) == ("localhost", ["spacetimedb"], None)
    assert abs(body["iat"] - now()) < 5


async def test_round_trip() -> None:
    verifier = Tokens(KEYS)
    minted = verifier.mint()
    for _ in range(2):  # the second time from memory
        seen = await verifier.verify(minted.token)
        assert seen == minted


async def test_websocket_token_keeps_issuer_and_extra_claims() -> None:
    verifier = Tokens(KEYS)
    long = await verifier.verify(make(claims(iss=ISSUER, aud="app", name="Zoë", roles=["a"])))
    short = verifier.websocket_token(long)
    body = json.loads(short.payload)
    assert list(body) == ["hex_identity", "sub", "iss", "aud", "iat", "exp", "name", "roles"]
    assert body["exp"] == body["iat"] + 60
    assert short.payload.isascii()
    assert await verifier.verify(short.token) == short
    assert short.identity == long.identity == derive_identity(ISSUER, "me")


async def test_remembered_token_still_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Tokens(KEYS)
    token = verifier.websocket_token(verifier.mint()).token
    await verifier.verify(token)
    real = time.time
    monkeypatch.setattr("spacetimedb.auth.tokens.time.time", lambda: real() + 119)
    await verifier.verify(token)
    monkeypatch.setattr("spacetimedb.auth.tokens.time.time", lambda: real() + 122)
    assert await refusal(token, verifier) == "Invalid token: ExpiredSignature"


def test_memory_of_verified_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "VERIFIED_TOKENS", 3)
    verifier = Tokens(KEYS)
    for _ in range(5):
        verifier.verify_local(verifier.mint().token)
    assert len(verifier._verified) == 3


async def test_expiry_has_a_minute_of_leeway() -> None:
    assert (await Tokens(KEYS).verify(make(claims(exp=now() - 58)))).expires_at is not None
    assert await refusal(make(claims(exp=now() - 62))) == "Invalid token: ExpiredSignature"
    for never in (None, 2**63):
        await Tokens(KEYS).verify(make(claims(exp=never)))


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("garbage", "Invalid token: InvalidToken"),
        ("a.b.c.d", "Invalid token: InvalidToken"),
        ("", "Invalid token: InvalidToken"),
        ("x" * 70000 + "..", "Invalid token: InvalidToken"),
        ("!.e30.e30", "Invalid token: Base64 error: Invalid symbol 33, offset 0."),
        ("e30.e30.a", "Invalid token: JSON error: missing field `alg` at line 1 column 2"),
        (make(b'{"sub":"x","iss":"localhost"}'), "Invalid token: JSON error: missing field `iat` at line 1 column 29"),
        (make({"iss": "localhost", "iat": 1}), "Invalid token: JSON error: missing field `sub` at line 1 column 27"),
        (make(claims(), header={"alg": "ES384"}), "Invalid token: InvalidAlgorithm"),
        (make(claims(), keys=KeyPair.generate()), "Invalid token: InvalidSignature"),
        (make(claims(sub="")), "Subject empty"),
        (make(claims(sub="é" * 65)), 'Subject too long: "' + "é" * 65 + '"'),
        (make(claims(iss="x" * 129)), "Error fetching public key for issuer " + "x" * 129),
        (make(claims(iss="")), "Error fetching public key for issuer "),
        (
            make(claims(hex_identity="c2" * 32)),
            f"Identity mismatch: token identity Identity({'c2' * 32}) does not match computed identity "
            f"Identity({derive_identity('localhost', 'me').hex()})",
        ),
    ],
)
async def test_refusals(token: str, text: str) -> None:
    assert await refusal(token) == text


@pytest.mark.parametrize(
    "changes",
    [
        {"iat": 1.5},
        {"iat": "1"},
        {"iat": True},
        {"iat": -1},
        {"exp": 1e12},
        {"exp": "9"},
        {"sub": 1},
        {"iss": None},
        {"aud": 3},
        {"aud": [1]},
        {"hex_identity": 7},
    ],
)
async def test_wrong_types(changes: dict[str, Any]) -> None:
    assert (await refusal(make(claims(**changes)))).startswith("Invalid token: JSON error: ")


@pytest.mark.parametrize(
    "payload", [b"[]", b"{", b"\xff", b'{"sub":"a","sub":"b","iss":"localhost","iat":1}', b"[" * 60000]
)
async def test_malformed_payloads(payload: bytes) -> None:
    assert (await refusal(make(payload))).startswith("Invalid token: ")


async def test_another_spelling_of_a_signature_is_refused() -> None:
    token = Tokens(KEYS).mint().token
    last = token[-1]
    other = next(symbol for symbol in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if symbol not in "AQgw" and symbol != last)
    assert "Invalid last symbol" in await refusal(token[:-1] + other)


async def test_symmetric_signature_with_the_public_key_is_refused() -> None:
    public = serialization.load_pem_public_key(KEYS.public_pem)
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    for secret in (point, KEYS.public_pem):
        for algorithm in ("HS256", "none"):
            signed = f"{b64(json.dumps({'alg': algorithm}).encode())}.{b64(json.dumps(claims()).encode())}"
            signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
            text = await refusal(f"{signed}.{b64(signature)}")
            assert text.startswith(("Invalid token: InvalidAlgorithm", "Invalid token: JSON error: unknown variant"))


def test_bearer() -> None:
    assert bearer_token("Bearer  abc ") == "abc"
    assert bearer_token("bEARER abc") == "abc"
    for bad in ("", "Bearer", "Bearer ", "Basic abc", "abc", "Bearerabc"):
        with pytest.raises(TokenError) as caught:
            bearer_token(bad)
        assert (caught.value.status, caught.value.text) == (400, "Authorization is invalid: malformed token")


# Keys


def test_key_files(tmp_path: Path) -> None:
    private, public = tmp_path / "a" / "id_ecdsa", tmp_path / "a" / "id_ecdsa.pub"
    made = KeyPair.load_or_create(private, public)
    assert (private.stat().st_mode & 0o777, public.stat().st_mode & 0o777) == (0o600, 0o600)
    again = KeyPair.load_or_create(private, public)
    assert again.public_pem == made.public_pem == public.read_bytes()
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert again.verify(b"x", made.sign(b"x"))
    assert not again.verify(b"y", made.sign(b"x"))
    assert not again.verify(b"x", b"")
    public.unlink()
    with pytest.raises(KeyFileError, match="Unable to read public key for JWT token verification"):
        KeyPair.load_or_create(private, public)
    private.rename(public)
    with pytest.raises(KeyFileError, match="Unable to read private key for JWT token signing"):
        KeyPair.load_or_create(private, public)
    with pytest.raises(KeyFileError, match="do not belong together"):
        KeyPair(made.private_pem, KEYS.public_pem)
    with pytest.raises(KeyFileError, match="Unable to read private key"):
        KeyPair(b"nonsense", KEYS.public_pem)


def test_where_the_keys_are() -> None:
    a, b, c, d, directory = (Path(name) for name in "abcde")
    assert key_paths(a, b, c, d, directory) == (b, a)
    assert key_paths(None, None, c, d, directory) == (d, c)
    assert key_paths(None, None, None, None, directory) == (directory / "id_ecdsa", directory / "id_ecdsa.pub")
    for public, private in ((a, None), (None, b)):
        with pytest.raises(KeyFileError):
            key_paths(public, private, c, d, directory)
    with pytest.raises(KeyFileError, match="cannot omit"):
        key_paths(None, None, None, None, None)


# Foreign issuers


def jwk(keys: KeyPair, **changes: object) -> dict[str, object]:
    public = serialization.load_pem_public_key(keys.public_pem)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return {**json.loads(ECAlgorithm.to_jwk(public)), **changes}


class Web:
    """An issuer's two documents; counts the requests."""

    def __init__(self, *keys: dict[str, object]) -> None:
        self.keys = list(keys)
        self.requests: list[str] = []
        self.broken = False

    async def __call__(self, url: str) -> bytes:
        self.requests.append(url)
        if self.broken:
            raise OSError("no route to host")
        if url == f"{ISSUER}/.well-known/openid-configuration":
            return json.dumps({"jwks_uri": f"{ISSUER}/keys"}).encode()
        assert url == f"{ISSUER}/keys"
        return json.dumps({"keys": self.keys}).encode()


async def test_foreign_token() -> None:
    foreign = KeyPair.generate()
    web = Web(jwk(foreign, kid="one"))
    verifier = Tokens(KEYS, IssuerKeys(web))
    good = make(claims(iss=ISSUER), foreign)
    assert (await verifier.verify(good)).identity == derive_identity(ISSUER, "me")
    named = make(claims(iss=ISSUER), foreign, {"alg": "ES256", "kid": "one"})
    assert (await verifier.verify(named)).issuer == ISSUER
    assert len(web.requests) == 2
    unknown = make(claims(iss=ISSUER), foreign, {"alg": "ES256", "kid": "two"})
    assert await refusal(unknown, verifier) == "Specified key ID not found in JWKs"
    forged = make(claims(iss=ISSUER), KeyPair.generate())
    assert await refusal(forged, verifier) == "Invalid token: InvalidSignature"
    assert len(web.requests) == 2
    assert await refusal(good) == f"Error fetching public key for issuer {ISSUER}"
    assert await refusal(make(claims(iss=ISSUER, exp=5), foreign), verifier) == "Invalid token: ExpiredSignature"


async def test_es256_token_against_an_rsa_key_is_refused() -> None:
    private = rsa.generate_private_key(65537, 2048)
    listed = {**json.loads(RSAAlgorithm.to_jwk(private.public_key())), "kid": "r"}
    listed.pop("key_ops", None)
    verifier = Tokens(KEYS, IssuerKeys(Web(listed)))
    foreign = KeyPair.generate()
    for header in ({"alg": "ES256"}, {"alg": "ES256", "kid": "r"}):
        assert await refusal(make(claims(iss=ISSUER), foreign, header), verifier) == "Invalid token: InvalidAlgorithm"
    head = b64(b'{"alg":"RS256"}')
    signed = f"{head}.{b64(json.dumps(claims(iss=ISSUER)).encode())}"
    signature = private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    assert (await verifier.verify(f"{signed}.{b64(signature)}")).subject == "me"


async def test_failed_fetch_is_remembered_and_old_keys_serve_on(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = KeyPair.generate()
    web = Web(jwk(foreign))
    cache = IssuerKeys(web)
    clock = [1000.0]
    monkeypatch.setattr("spacetimedb.auth.issuers.time.monotonic", lambda: clock[0])
    web.broken = True
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await cache.keys(ISSUER)
    assert len(web.requests) == 1
    clock[0] += issuers.FAILURE_SECONDS
    web.broken = False
    assert len(await cache.keys(ISSUER)) == 1
    web.broken = True
    clock[0] += issuers.REFRESH_SECONDS
    assert len(await cache.keys(ISSUER)) == 1
    clock[0] += issuers.EXPIRY_SECONDS
    with pytest.raises(KeysUnavailable):
        await cache.keys(ISSUER)


async def test_issuers_that_are_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web()
    monkeypatch.setattr(issuers, "MAX_ISSUERS", 3)
    cache = IssuerKeys(web)
    for issuer in (
        "http://id.example",
        "ftp://x",
        "nonsense",
        "https://",
        "https://u:p@x.example",
        "http://[",
        "file:///x",
    ):
        with pytest.raises(KeysUnavailable):
            await cache.keys(issuer)
    assert len(cache._cache) == 3
    with pytest.raises(KeysUnavailable):
        await IssuerKeys(web, frozenset({"https://other.example"})).keys(ISSUER)
    assert web.requests == []
    assert may_fetch("http://127.0.0.1:99/x")
    assert may_fetch("http://localhost/x")
    assert not may_fetch("https://x:notaport/")


def test_keys_of_no_use() -> None:
    good = jwk(KEYS)
    assert public_key(good) is not None
    small = json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key()))
    p384 = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key()))
    bad: list[object] = [
        {"kty": "oct", "k": "c2VjcmV0"},
        {**good, "alg": "HS256"},
        {**good, "use": "enc"},
        {**good, "x": "AA"},
        {**good, "kid": 5},
        {"kty": "EC"},
        {},
        None,
        small,
        p384,
    ]
    assert [public_key(item) for item in bad] == [None] * len(bad)
