"""Containers: STREAM over fixed chunks, with random access (model-package.md sections 2 and 6).

A container is a header of 96 bytes and one AEAD ciphertext for each chunk of
the plaintext. Every chunk has a nonce of its own, made from its index and from
whether it is the last, so a container that is cut, reordered or extended does
not open; the header is associated data of every chunk, and the file's path is
in the key. Nothing here reads or writes: chunks go in, chunks come out.

`ContainerKey.seal_into` and `ContainerKey.open_into` are mirror images. The
nonce repeats across containers on purpose: the salt of 32 random bytes gives
each container a key of its own, under which no nonce is used twice.
"""

import hashlib
import struct
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ephemeralml.crypto.data_key import DEK_BYTES
from ephemeralml.errors import MalformedError, RejectedError

HEADER_BYTES = 96
TAG_BYTES = 16
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 64 << 10, 64 << 20
MAX_CHUNKS = 1 << 32
"""The index has 32 bits."""

_MAGIC = b"EMLCTNR1"
_LAYOUT = struct.Struct(">8s B 3x I Q 32s 32s 8x")
_RESERVED = (slice(9, 12), slice(88, 96))
_INFO = b"ephemeralml/container/1"
_KEY_BYTES, _PREFIX_BYTES = 32, 7
_HASH_BYTES = 32


class StreamSuite(IntEnum):
    """The AEAD of a container, as its header numbers it."""

    CHACHA20POLY1305 = 1
    AES256GCM = 2


_CIPHERS: dict[StreamSuite, type[ChaCha20Poly1305] | type[AESGCM]] = {
    StreamSuite.CHACHA20POLY1305: ChaCha20Poly1305,
    StreamSuite.AES256GCM: AESGCM,
}


def path_hash(path: str) -> bytes:
    """Return what a header says of the file's path."""
    return hashlib.sha256(path.encode()).digest()


def chunk_count(size: int, chunk_size: int) -> int:
    """Return the chunks of *size* bytes; an empty file is one empty chunk."""
    return max(1, -(-size // chunk_size))


@dataclass(frozen=True, slots=True)
class Header:
    """The first 96 bytes of a container. Nothing in it is authentic before a chunk opened under it."""

    suite: StreamSuite
    chunk_size: int
    plaintext_size: int
    salt: bytes
    path_hash: bytes

    def __post_init__(self) -> None:
        power_of_two = self.chunk_size & (self.chunk_size - 1) == 0
        if not MIN_CHUNK_BYTES <= self.chunk_size <= MAX_CHUNK_BYTES or not power_of_two:
            raise MalformedError(f"a container's chunk size {self.chunk_size} is no power of two from 64 KiB to 64 MiB")
        if self.plaintext_size < 0 or self.chunks > MAX_CHUNKS:
            raise MalformedError(
                f"a container of {self.plaintext_size} bytes has more than 2^32 chunks, or less than 0"
            )
        if len(self.salt) != _HASH_BYTES or len(self.path_hash) != _HASH_BYTES:
            raise MalformedError("a container's salt and path hash have 32 bytes each")

    @property
    def chunks(self) -> int:
        """How many chunks follow."""
        return chunk_count(self.plaintext_size, self.chunk_size)

    def encode(self) -> bytes:
        """Return the header as it stands in a container."""
        return _LAYOUT.pack(_MAGIC, self.suite, self.chunk_size, self.plaintext_size, self.salt, self.path_hash)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a header; whether it is the one that was expected, the caller decides.

        Raises:
            MalformedError: Another length, magic or suite, a reserved byte that
                is not zero, or a size out of bounds.
        """
        if len(data) != HEADER_BYTES:
            raise MalformedError(f"a container's header has {HEADER_BYTES} bytes, not {len(data)}")
        magic, number, chunk_size, plaintext_size, salt, path = _LAYOUT.unpack(data)
        if magic != _MAGIC:
            raise MalformedError("no container: it does not begin with EMLCTNR1")
        if any(any(data[place]) for place in _RESERVED):
            raise MalformedError("a reserved byte of the container's header is not zero")
        try:
            suite = StreamSuite(number)
        except ValueError as error:
            raise MalformedError(f"a container of suite {number}, known are 1 and 2") from error
        return cls(suite, chunk_size, plaintext_size, salt, path)


class ContainerKey:
    """Seals or opens the chunks of one container, from as many threads as there are.

    Chunks are opened in any order and as often as wanted. Each is sealed once:
    a second plaintext under one nonce would give both away.
    """

    __slots__ = ("_aad", "_cipher", "_lock", "_prefix", "_sealed", "header")

    def __init__(self, dek: memoryview, header: Header) -> None:
        """Derive the container's key from the package's *dek*; keeps no reference to it."""
        if len(dek) != DEK_BYTES:
            raise ValueError(f"a data key has {DEK_BYTES} bytes")
        self.header = header
        """What the container begins with."""
        self._aad = hashlib.sha256(header.encode()).digest()
        self._lock = threading.Lock()
        self._sealed = bytearray()
        derived = _derive(dek, header)
        with memoryview(derived) as parts:
            self._prefix = bytes(parts[_KEY_BYTES:])
            self._cipher: ChaCha20Poly1305 | AESGCM | None = _CIPHERS[header.suite](parts[:_KEY_BYTES])
        derived[:] = bytes(len(derived))

    def chunk_bytes(self, index: int) -> int:
        """Return the length of plaintext chunk *index*; only the last may be short."""
        self._check(index)
        return min(self.header.chunk_size, self.header.plaintext_size - index * self.header.chunk_size)

    def seal_into(self, index: int, plaintext: memoryview, out: memoryview) -> None:
        """Write the ciphertext and tag of chunk *index*; *out* is 16 bytes longer than *plaintext*.

        Raises:
            RuntimeError: The chunk was sealed before, or the key was wiped.
        """
        self._check(index, plaintext=len(plaintext), ciphertext=len(out))
        with self._lock:
            self._sealed = self._sealed or bytearray(-(-self.header.chunks // 8))
            if self._sealed[index >> 3] & 1 << (index & 7):
                raise RuntimeError(f"chunk {index} was sealed before")
            self._sealed[index >> 3] |= 1 << (index & 7)
        self._keyed().encrypt_into(self._nonce(index), plaintext, self._aad, out)

    def open_into(self, index: int, ciphertext: memoryview, out: memoryview) -> None:
        """Write the plaintext of chunk *index*; *out* is 16 bytes shorter than *ciphertext*.

        Raises:
            RejectedError: The tag does not hold (code CHUNK_AUTH_FAILED); *out* is zeros then.
            RuntimeError: The key was wiped.
        """
        self._check(index, plaintext=len(out), ciphertext=len(ciphertext))
        try:
            self._keyed().decrypt_into(self._nonce(index), ciphertext, self._aad, out)
        except InvalidTag as error:
            # The library has written what it decrypted before it knew; nobody may see that.
            out[:] = bytes(len(out))
            raise RejectedError(
                f"chunk {index} does not open: it was changed or moved, or the key is that of another package",
                code="CHUNK_AUTH_FAILED",
            ) from error

    def wipe(self) -> None:
        """Drop the key; chunks that are in work still finish."""
        self._cipher = None
        self._prefix = b""

    def __repr__(self) -> str:
        return f"ContainerKey({self.header.suite.name}, {self.header.chunks} chunks)"

    def _nonce(self, index: int) -> bytes:
        last = index == self.header.chunks - 1
        return self._prefix + struct.pack(">I?", index, last)

    def _keyed(self) -> ChaCha20Poly1305 | AESGCM:
        if self._cipher is None:
            raise RuntimeError("the container's key was wiped")
        return self._cipher

    def _check(self, index: int, *, plaintext: int | None = None, ciphertext: int | None = None) -> None:
        if not 0 <= index < self.header.chunks:
            raise ValueError(f"chunk {index} of {self.header.chunks}")
        if plaintext is not None and (plaintext != self.chunk_bytes(index) or ciphertext != plaintext + TAG_BYTES):
            raise ValueError(f"chunk {index} in buffers of {plaintext} and {ciphertext} bytes")


def _derive(dek: memoryview, header: Header) -> bytearray:
    """Return file_key || nonce prefix."""
    derived = bytearray(_KEY_BYTES + _PREFIX_BYTES)
    HKDF(SHA256(), len(derived), header.salt, _INFO + header.path_hash).derive_into(dek, derived)
    return derived
