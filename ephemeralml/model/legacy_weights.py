"""The reference system's encrypted weights: ChaCha20-Poly1305 over a whole file (legacy.md section 3).

``nonce 12 || ciphertext || tag 16``, no associated data. Libraries offer this
construction for what fits into memory, at most 2 GiB; weights are larger. So the
two halves of RFC 8439, section 2.8, run one after the other: first the tag over
the whole ciphertext, and only then the cipher, block by block. No byte is
decrypted that was not authenticated, and memory stays constant.
"""

import hmac
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from cryptography.hazmat.primitives.poly1305 import Poly1305

from ephemeralml.crypto.data_key import DEK_BYTES, SecretBytes
from ephemeralml.errors import MalformedError, RejectedError

NONCE_BYTES, TAG_BYTES = 12, 16
MAX_CIPHERTEXT_BYTES = (1 << 32) * 64 - 64
"""RFC 8439: a block counter of 32 bits, of which the first block makes the tag's key."""
READ_BYTES = 1 << 20


class Weights:
    """Encrypted weights whose tag was checked; only `authenticated` makes one."""

    def __init__(self, fd: int, length: int, key: memoryview, nonce: bytes) -> None:
        self._fd = fd
        self._length = length
        self._key = key
        self._nonce = nonce

    def head(self) -> bytes:
        """Return the first bytes of the plaintext, up to eight."""
        return next(self.blocks(), b"")[:8]

    def blocks(self) -> Iterator[bytes]:
        """Yield the plaintext in order."""
        cipher = _cipher(self._key, 1, self._nonce)
        for block in _ciphertext(self._fd, self._length):
            yield cipher.update(block)


@contextmanager
def authenticated(fd: int, name: str, dek: SecretBytes) -> Iterator[Weights]:
    """Check the tag over the file *fd* and yield its plaintext's reader.

    That the file stays as it is from here on is not certain; the caller holds
    the plaintext's digest against the signed one.

    Raises:
        MalformedError: The file is too short or too long to be such weights.
        RejectedError: The tag does not hold (code WEIGHTS_AUTH_FAILED).
    """
    length = os.fstat(fd).st_size - NONCE_BYTES - TAG_BYTES
    if not 0 < length <= MAX_CIPHERTEXT_BYTES:
        raise MalformedError(f"{name}: {length + NONCE_BYTES + TAG_BYTES} bytes are no encrypted weights")
    with dek.reveal() as key:
        if len(key) != DEK_BYTES:
            raise MalformedError(f"a data key has {DEK_BYTES} bytes")
        nonce = os.pread(fd, NONCE_BYTES, 0)
        tag = os.pread(fd, TAG_BYTES, NONCE_BYTES + length)
        if not hmac.compare_digest(_tag(fd, length, key, nonce), tag):
            raise RejectedError(
                f"{name}: not encrypted under this key, or changed since",
                code="WEIGHTS_AUTH_FAILED",
                hint="is it the DEK of this package?",
            )
        yield Weights(fd, length, key, nonce)


def _cipher(key: memoryview, counter: int, nonce: bytes) -> CipherContext:
    """Return ChaCha20 from block *counter*; the library's nonce begins with it, little-endian."""
    return Cipher(algorithms.ChaCha20(key, struct.pack("<I", counter) + nonce), mode=None).encryptor()


def _tag(fd: int, length: int, key: memoryview, nonce: bytes) -> bytes:
    """Return the tag that the ciphertext should have: Poly1305 over it, padded, and the two lengths."""
    poly = Poly1305(_cipher(key, 0, nonce).update(bytes(32)))
    for block in _ciphertext(fd, length):
        poly.update(block)
    poly.update(bytes(-length % 16))
    poly.update(struct.pack("<QQ", 0, length))
    return poly.finalize()


def _ciphertext(fd: int, length: int) -> Iterator[bytes]:
    position = 0
    while position < length:
        block = os.pread(fd, min(READ_BYTES, length - position), NONCE_BYTES + position)
        if not block:
            raise MalformedError("the encrypted weights became shorter while they were read")
        yield block
        position += len(block)
