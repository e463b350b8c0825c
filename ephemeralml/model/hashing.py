"""Digests of model files: flat, and as a tree over chunks (model-package.md section 6).

`hashlib` releases the interpreter's lock, so chunks hash on all cores; the flat
digest, which cannot, runs beside them.
"""

import hashlib
import os
import threading
from collections.abc import Sequence

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
