"""HPKE base mode, single shot (RFC 9180), for one recipient key per session.

A thin layer over `cryptography`'s suite that fixes sizes and turns every
failure of opening into one error: which part failed is nobody's business.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, assert_never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from ephemeralml.errors import MalformedError, RejectedError


class Kem(Enum):
    """Key encapsulation mechanisms by their number in the HPKE registry."""

    X25519 = 0x0020
    """DHKEM(X25519, HKDF-SHA256), RFC 9180 section 7.1."""
    X_WING = 0x647A
    """ML-KEM-768 + X25519: public key = 1,184 bytes ML-KEM ‖ 32 bytes X25519."""

    @property
    def public_key_bytes(self) -> int:
        """Size of an encoded public key."""
        return 32 if self is Kem.X25519 else 1_216

    @property
    def enc_bytes(self) -> int:
        """Size of the encapsulated secret."""
        return 32 if self is Kem.X25519 else 1_120


class Aead(Enum):
    """The ciphers that HPKE and the channel's records use."""

    CHACHA20_POLY1305 = "chacha20poly1305"
    AES_256_GCM = "aes256gcm"


TAG_BYTES = 16
_ML_KEM_768_KEY_BYTES = 1_184


def _suite(kem: Kem, aead: Aead) -> hpke.Suite:
    return hpke.Suite(
        hpke.KEM.X25519 if kem is Kem.X25519 else hpke.KEM.MLKEM768_X25519,
        hpke.KDF.HKDF_SHA256,
        hpke.AEAD.CHACHA20_POLY1305 if aead is Aead.CHACHA20_POLY1305 else hpke.AEAD.AES_256_GCM,
    )


@dataclass(frozen=True, slots=True)
class RecipientKey:
    """A recipient's key pair, made for one session and dropped after one use."""

    kem: Kem
    public: bytes
    """Encoded public key, `Kem.public_key_bytes` long."""
    _private: Any

    def __repr__(self) -> str:
        return f"RecipientKey({self.kem.name})"

    def open(self, aead: Aead, sealed: bytes, info: bytes, *, plaintext_bytes: int) -> bytes:
        """Open ``enc ‖ ct`` of a plaintext of known length.

        Raises:
            MalformedError: *sealed* has another length.
            RejectedError: It does not open (code HPKE_OPEN_FAILED).
        """
        if len(sealed) != self.kem.enc_bytes + plaintext_bytes + TAG_BYTES:
            raise MalformedError(f"an HPKE ciphertext of {len(sealed)} bytes")
        try:
            return _suite(self.kem, aead).decrypt(sealed, self._private, info)
        except (InvalidTag, ValueError) as error:
            raise RejectedError("an HPKE ciphertext that does not open", code="HPKE_OPEN_FAILED") from error


def generate(kem: Kem) -> RecipientKey:
    """Make a fresh recipient key pair."""
    x25519 = X25519PrivateKey.generate()
    x25519_public = x25519.public_key().public_bytes_raw()
    match kem:
        case Kem.X25519:
            return RecipientKey(kem, x25519_public, x25519)
        case Kem.X_WING:
            ml_kem = MLKEM768PrivateKey.generate()
            public = ml_kem.public_key().public_bytes_raw() + x25519_public
            return RecipientKey(kem, public, hpke.MLKEM768X25519PrivateKey(ml_kem, x25519))
        case _:
            assert_never(kem)


def seal(kem: Kem, aead: Aead, public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Return ``enc ‖ ct`` of *plaintext* to an encoded public key, with empty aad.

    Raises:
        MalformedError: The public key has another length, or is no key.
    """
    if len(public_key) != kem.public_key_bytes:
        raise MalformedError(f"a {kem.name} public key of {len(public_key)} bytes")
    key: Any
    try:
        if kem is Kem.X25519:
            key = X25519PublicKey.from_public_bytes(public_key)
        else:
            key = hpke.MLKEM768X25519PublicKey(
                MLKEM768PublicKey.from_public_bytes(public_key[:_ML_KEM_768_KEY_BYTES]),
                X25519PublicKey.from_public_bytes(public_key[_ML_KEM_768_KEY_BYTES:]),
            )
        return _suite(kem, aead).encrypt(plaintext, key, info)
    except ValueError as error:
        raise MalformedError(f"not a usable {kem.name} public key") from error
