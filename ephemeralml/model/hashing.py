"""Digests of model files: flat, and as a tree over chunks (model-package.md section 6).

`hashlib` releases the interpreter's lock, so chunks hash on all cores; the flat
digest, which cannot, runs beside them.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence

from ephemeralml.crypto import merkle
from ephemeralml.progress import Progress


def chunk_digest(chunk: bytes | bytearray | memoryview) -> bytes:
    """Return d[i] of a chunk."""
    return hashlib.sha256(chunk).digest()


def chunk_root(digests: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 tree hash over the chunks' digests; an empty file has one, of nothing."""
    return merkle.root(digests)


def worker_count() -> int:
    """Return how many threads hash or decrypt at once."""
    return min(len(os.sched_getaffinity(0)), 16)


class Meter:
    """Adds up what several threads have done and tells one `Progress`."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Note that *count* more bytes are finished."""
        with self._lock:
            self._done += count
            self._progress.advance(self._done, self._total)


class OrderedDigest:
    """SHA-256 of parts that several threads bring in any order.

    It has no thread of its own: whoever brings the part that is due hashes it,
    and those that wait behind it. So the flat digest, which cannot be made on
    several threads at once, still takes only idle time of the threads there are.
    """

    def __init__(self, beginning: bytes = b"") -> None:
        """Begin with *beginning*, before part 0."""
        self._flat = hashlib.sha256(beginning)
        self._waiting: dict[int, tuple[memoryview, Callable[[], None]]] = {}
        self._next = 0
        self._busy = False
        self._lock = threading.Lock()

    def offer(self, index: int, part: memoryview, done: Callable[[], None]) -> None:
        """Take part *index*; *done* is called, by any thread, once it was hashed and its memory is free."""
        with self._lock:
            self._waiting[index] = (part, done)
            if self._busy:
                return
            self._busy = True
        while True:
            with self._lock:
                due = self._waiting.pop(self._next, None)
                if due is None:
                    self._busy = False
                    return
            self._flat.update(due[0])
            self._next += 1
            due[1]()

    def digest(self) -> bytes:
        """Return the digest of all parts; every one was offered before."""
        if self._waiting or self._busy:
            raise RuntimeError("a part of the digest is missing")
        return self._flat.digest()
