"""Ed25519 keys, with the strict verification that receipts ask for.

`cryptography` refuses S ≥ L and recomputes R, but takes public keys and R of
small order, under which one signature fits every message. Their fourteen
encodings are a closed list (air-v1 section 8, L2), so membership is the test.
"""

import hashlib
import hmac
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ephemeralml.errors import MalformedError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_PEM_BYTES = 16_384


def _small_order_encodings() -> frozenset[bytes]:
    high = [bytes([first]) + b"\xff" * 30 + bytes([last]) for first in (0xEC, 0xED, 0xEE) for last in (0x7F, 0xFF)]
    low = [
        bytes(32),
        bytes(31) + b"\x80",
        b"\x01" + bytes(31),
        b"\x01" + bytes(30) + b"\x80",
    ]
    order_eight = [
        bytes.fromhex(stem + last)
        for stem, lasts in (
            ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc", ("05", "85")),
            ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03", ("7a", "fa")),
        )
        for last in lasts
    ]
    return frozenset(high + low + order_eight)


SMALL_ORDER_ENCODINGS = _small_order_encodings()
"""All 32-byte strings that decode to a point of order 1, 2, 4 or 8, canonical or not."""


class PublicKey:
    """An Ed25519 public key.

    Holding one means 32 bytes, no more: a string that is no curve point, or one
    of small order, simply verifies nothing.
    """

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != PUBLIC_KEY_BYTES:
            raise MalformedError(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, not {len(raw)}")
        self.raw = bytes(raw)
        """The 32 bytes of RFC 8032, section 5.1.2."""
        self._key = Ed25519PublicKey.from_public_bytes(self.raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``ed25519:HEX`` or bare lower-case HEX.

        Raises:
            MalformedError: *text* is neither.
        """
        digits = text.removeprefix("ed25519:")
        if len(digits) != 2 * PUBLIC_KEY_BYTES or not set(digits) <= set("0123456789abcdef"):
            raise MalformedError("a public key is ed25519: and 64 lower-case hex digits")
        return cls(bytes.fromhex(digits))

    @property
    def keyid(self) -> str:
        """First 16 hex digits of the SHA-256 of the key, as DSSE envelopes name it."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def small_order(self) -> bool:
        """Whether the key has small order, so that its signatures prove nothing."""
        return self.raw in SMALL_ORDER_ENCODINGS

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether *signature* is this key's over *message*, strictly.

        Beyond RFC 8032, section 5.1.7, neither the key nor R may have small order.
        """
        if len(signature) != SIGNATURE_BYTES or self.small_order or signature[:32] in SMALL_ORDER_ENCODINGS:
            return False
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return f"ed25519:{self.raw.hex()}"

    def __repr__(self) -> str:
        return f"PublicKey({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and hmac.compare_digest(self.raw, other.raw)

    def __hash__(self) -> int:
        return hash(self.raw)


class PrivateKey:
    """An Ed25519 private key; its bytes leave it only through `to_pem`."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())
        """The public half."""

    @classmethod
    def generate(cls) -> Self:
        """Make a key from the operating system's random source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Make the key of a 32-byte seed (RFC 8032, section 5.1.5)."""
        if len(seed) != 32:
            raise MalformedError(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read an unencrypted PKCS #8 PEM file.

        Raises:
            MalformedError: Not PEM, encrypted, or not an Ed25519 key.
        """
        if len(pem) > MAX_PEM_BYTES:
            raise MalformedError(f"a key file of {len(pem)} bytes, at most {MAX_PEM_BYTES} are allowed")
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise MalformedError("not an unencrypted PKCS #8 private key in PEM") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise MalformedError("the private key is not an Ed25519 key")
        return cls(key)

    def to_pem(self) -> bytes:
        """Return the key as unencrypted PKCS #8 PEM; the caller keeps it at mode 0600."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over *message* (RFC 8032, section 5.1.6)."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public})"
