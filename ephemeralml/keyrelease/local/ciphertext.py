"""What this key server's Encrypt returns (key-release.md section 8, Ciphertext).

    "EMLK" || u8 1 || key id 16 || u32be key version || nonce 12 || AES-256-GCM(ciphertext || tag)

The header up to and with the nonce is authenticated, and so is the encryption
context, its pairs in byte order of their keys.
"""

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ephemeralml.crypto.transcript import lp
from ephemeralml.errors import MalformedError, RejectedError

MAGIC = b"EMLK\x01"
NONCE_BYTES = 12
TAG_BYTES = 16
MAX_BYTES = 6_144
INVALID = "InvalidCiphertextException"

_HEADER = struct.Struct(">5s16sI12s")


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A ciphertext whose header was read and whose tag nobody has checked."""

    key_id: str
    version: int
    header: bytes
    sealed: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the header.

        Raises:
            MalformedError: With code InvalidCiphertextException.
        """
        if not _HEADER.size + TAG_BYTES <= len(data) <= MAX_BYTES:
            raise MalformedError("not a ciphertext of this key server: its size", code=INVALID)
        magic, key_id, version, _ = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise MalformedError("not a ciphertext of this key server: its first bytes", code=INVALID)
        return cls(str(uuid.UUID(bytes=key_id)), version, data[: _HEADER.size], data[_HEADER.size :])


def encrypt(
    material: bytes, plaintext: bytes, *, key_id: str, version: int, context: Mapping[str, str], nonce: bytes
) -> bytes:
    """Return the ciphertext of *plaintext* under one version of a key."""
    header = _HEADER.pack(MAGIC, uuid.UUID(key_id).bytes, version, nonce)
    return header + AESGCM(material).encrypt(nonce, plaintext, header + _context(context))


def decrypt(material: bytes, ciphertext: Ciphertext, context: Mapping[str, str]) -> bytes:
    """Return the plaintext.

    Raises:
        RejectedError: With code InvalidCiphertextException: changed bytes or another context.
    """
    nonce = ciphertext.header[-NONCE_BYTES:]
    try:
        return AESGCM(material).decrypt(nonce, ciphertext.sealed, ciphertext.header + _context(context))
    except InvalidTag as error:
        raise RejectedError("the ciphertext does not open under this key and context", code=INVALID) from error


def _context(context: Mapping[str, str]) -> bytes:
    pairs = sorted((key.encode(), value.encode()) for key, value in context.items())
    return b"".join(lp(key, value) for key, value in pairs)
