"""What is about to be stored: in blocks, against its digest, beside what lies there already."""

import hashlib
from collections.abc import Iterable, Iterator

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.progress import Progress
from ephemeralml.storage.base import ByteSource, Storage

DIGEST_METADATA = "sha256"
"""Name of the metadata entry that holds an object's SHA-256 in hex."""
_COMPARED = 4 << 20


def occupied(place: str) -> RejectedError:
    """Return the error for a place where a differing object lies."""
    return RejectedError(f"{place} exists and differs", code="OBJECT_EXISTS", hint="give --force to replace it")


def settle(storage: Storage, key: str, sha256: bytes, place: str, error: UnavailableError, *, force: bool) -> None:
    """Return if *key* holds the bytes although the last request failed.

    The answer to a request that the store did may be lost; tried again, it meets its own object.

    Raises:
        RejectedError: Another object came to lie there meanwhile (code OBJECT_EXISTS).
        UnavailableError: *error*, where there is no object, or an old one.
    """
    if not storage.exists(key):
        raise error
    if storage.digest(key) != sha256:
        raise (error if force else occupied(place)) from error.__cause__


def checked(name: str, source: ByteSource, sha256: bytes, block: int) -> Iterator[bytes]:
    """Yield the bytes of *source* in blocks, and fail after the last if they are not those of *sha256*.

    Raises:
        RejectedError: The source changed, or never had that digest (code DIGEST_MISMATCH).
    """
    digest = hashlib.sha256()
    for start in range(0, source.size, block):
        data = source.read(start, min(source.size, start + block))
        digest.update(data)
        yield data
    if digest.digest() != sha256:
        raise RejectedError(
            f"{name}: the bytes to store are not those announced",
            code="DIGEST_MISMATCH",
            expected=sha256.hex(),
            actual=digest.hexdigest(),
        )


def shown(blocks: Iterable[bytes], size: int, progress: Progress) -> Iterator[bytes]:
    """Yield *blocks*, telling *progress* of each that was taken."""
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        progress.advance(done, size)


def joined(stream: Iterable[bytes], length: int, failure: str) -> Iterator[bytes]:
    """Yield the bytes of *stream* in blocks of *length*, the last one shorter.

    Raises:
        UnavailableError: The stream failed; the message begins with *failure*.
    """
    gathered = bytearray()
    try:
        for block in stream:
            gathered += block
            while len(gathered) >= length:
                yield bytes(gathered[:length])
                del gathered[:length]
    except OSError as error:
        raise UnavailableError(f"{failure}: {error.strerror or type(error).__name__}") from error
    if gathered:
        yield bytes(gathered)


def equal(storage: Storage, key: str, source: ByteSource, sha256: bytes) -> bool:
    """Tell whether object *key* is what *source* holds: by the digest kept beside it, or else by reading it."""
    size = storage.size(key)
    if size != source.size:
        return False
    kept = storage.digest(key)
    if kept is not None:
        return kept == sha256
    digest = hashlib.sha256()
    for start in range(0, size, _COMPARED):
        digest.update(storage.read(key, start, min(size, start + _COMPARED)))
    return digest.digest() == sha256


def digest_in(metadata: dict[str, str]) -> bytes | None:
    """Return the SHA-256 that *metadata* holds, or None if there is none that can be read."""
    text = metadata.get(DIGEST_METADATA, "")
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    return digest if len(digest) == 32 and text == digest.hex() else None
