"""The server's key pair: P-256, with which it signs its tokens (ES256).

On disk: the private key as PKCS#8 PEM, the public one as SubjectPublicKeyInfo PEM, by default `id_ecdsa` and
`id_ecdsa.pub` in the key directory, both with mode 0600. The public file is served verbatim, so its text is kept.

This module and `tokens.py` are the only ones that import `cryptography`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

PRIVATE_KEY_FILE: Final = "id_ecdsa"
PUBLIC_KEY_FILE: Final = "id_ecdsa.pub"
SIGNATURE_SIZE: Final = 64
"""Bytes of an ES256 signature: r and s, 32 bytes big-endian each."""
_ES256: Final = ec.ECDSA(SHA256())


class KeyFileError(Exception):
    """The key files cannot be used; the text is for the operator."""


class KeyPair:
    """A P-256 pair; `public_pem` is the text of the public key file."""

    __slots__ = ("_private", "_public", "private_pem", "public_pem")

    def __init__(self, private_pem: bytes, public_pem: bytes) -> None:
        """Raises KeyFileError if a text is no PEM of a P-256 key or the two do not belong together."""
        try:
            private = serialization.load_pem_private_key(private_pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise KeyFileError("Unable to read private key for JWT token signing") from None
        try:
            public = serialization.load_pem_public_key(public_pem)
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFileError("Unable to read public key for JWT token verification") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
            raise KeyFileError("The private key for JWT token signing is not a P-256 key")
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise KeyFileError("The public key for JWT token verification is not a P-256 key")
        if private.public_key().public_numbers() != public.public_numbers():
            raise KeyFileError("The keys for JWT tokens do not belong together")
        self._private = private
        self._public = public
        self.private_pem = private_pem
        self.public_pem = public_pem

    @classmethod
    def generate(cls) -> KeyPair:
        private = ec.generate_private_key(ec.SECP256R1())
        private_pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public_pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(private_pem, public_pem)

    @classmethod
    def load_or_create(cls, private_path: Path, public_path: Path) -> KeyPair:
        """The pair in these files; a new one, written to them, if neither can be read.

        Raises KeyFileError if exactly one can be read, or they hold no pair.
        """
        private_pem, public_pem = _read(private_path), _read(public_path)
        if private_pem is None and public_pem is None:
            pair = cls.generate()
            _write(private_path, pair.private_pem)
            _write(public_path, pair.public_pem)
            return pair
        if public_pem is None:
            raise KeyFileError("Unable to read public key for JWT token verification")
        if private_pem is None:
            raise KeyFileError("Unable to read private key for JWT token signing")
        return cls(private_pem, public_pem)

    def sign(self, data: bytes) -> bytes:
        """The ES256 signature (64 bytes) of `data`."""
        r, s = decode_dss_signature(self._private.sign(data, _ES256))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether `signature` is an ES256 signature of `data` by this pair."""
        if len(signature) != SIGNATURE_SIZE:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        try:
            self._public.verify(encode_dss_signature(r, s), data, _ES256)
        except InvalidSignature:
            return False
        return True


def key_paths(
    public_flag: Path | None,
    private_flag: Path | None,
    public_config: Path | None,
    private_config: Path | None,
    key_directory: Path | None,
) -> tuple[Path, Path]:
    """(private, public) file: the flags (both or neither), then the configuration file, then the key directory.

    Raises KeyFileError if none of them says where.
    """
    if public_flag is not None and private_flag is not None:
        return private_flag, public_flag
    if public_flag is None and private_flag is None:
        if public_config is not None and private_config is not None:
            return private_config, public_config
        if key_directory is not None:
            return key_directory / PRIVATE_KEY_FILE, key_directory / PUBLIC_KEY_FILE
    raise KeyFileError(
        "cannot omit --jwt-{pub,priv}-key-path when those options are not specified in config.toml",
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _write(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
