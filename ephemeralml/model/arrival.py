"""Blobs as they arrive: many ranges in flight, written and hashed in order (model-package.md section 4).

Ranges are short, so that whatever ends a download, be it SIGKILL, costs less than a
second of it: only what lies in the file counts, and only ranges that are whole get there.
"""

import hashlib
import hmac
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ephemeralml.daemon_pool import DaemonPool
from ephemeralml.errors import RejectedError
from ephemeralml.model.blobs import BlobStore
from ephemeralml.model.hashing import Meter
from ephemeralml.model.manifest import ManifestFile
from ephemeralml.model.part_folder import PartFolder
from ephemeralml.progress import Progress

RANGES_IN_FLIGHT = 8
RANGE_BYTES = 8 << 20
"""The longest range."""
READ_BYTES = 1 << 20
_FIRST_BYTES = 1 << 20
_LEAST_BYTES = 256 << 10
_QUICK, _SLOW = 0.1, 0.5
"""Seconds below which ranges get longer, and above which they get shorter."""


class _Pace:
    """How long the next range is: about a quarter of a second, at whatever rate the line has."""

    def __init__(self) -> None:
        self._length = _FIRST_BYTES

    @property
    def length(self) -> int:
        """Bytes of the next range."""
        return min(self._length, RANGE_BYTES)

    def note(self, length: int, seconds: float) -> None:
        """Learn from a range of *length* that took so long; those asked for at another pace say nothing."""
        if length != self._length:
            return
        if seconds < _QUICK:
            self._length = min(2 * length, RANGE_BYTES)
        elif seconds > _SLOW:
            self._length = max(length // 2, _LEAST_BYTES)


@dataclass(slots=True)
class _Blob:
    """One blob on its way."""

    file: ManifestFile
    fd: int
    flat: Any = field(default_factory=hashlib.sha256)

    def keep(self, meter: Meter) -> int:
        """Hash the beginning that an earlier attempt left, and return its length."""
        have = os.fstat(self.fd).st_size
        if have > self.file.blob_size:
            os.ftruncate(self.fd, 0)
            return 0
        for start in range(0, have, READ_BYTES):
            known = os.pread(self.fd, min(READ_BYTES, have - start), start)
            self.flat.update(known)
            meter.add(len(known))
        return have

    def append(self, data: bytearray, start: int) -> None:
        """Write and hash the next range."""
        self.flat.update(data)
        with memoryview(data) as rest:
            written = 0
            while written < len(data):
                written += os.pwrite(self.fd, rest[written:], start + written)

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def check(self) -> None:
        """Refuse a blob that is complete and not the signed one."""
        os.fsync(self.fd)
        actual = self.flat.digest()
        if not hmac.compare_digest(actual, self.file.blob_sha256):
            raise RejectedError(
                f"{self.file.path}: its blob is not the one the manifest was signed for",
                code="BLOB_DIGEST_MISMATCH",
                expected=self.file.blob_sha256.hex(),
                actual=actual.hex(),
            )


def receive(files: Sequence[ManifestFile], store: BlobStore, part: PartFolder, progress: Progress) -> None:
    """Fetch the blobs of *files* into *part*, each checked against its signed digest.

    What an earlier attempt left of a blob is hashed with the rest, not trusted.
    Ranges of several blobs are in flight at once, so many small files take no
    longer than one of their size. What an interruption leaves of them is in
    *part*; it waits for no server.

    Raises:
        RejectedError: A blob is another (code BLOB_DIGEST_MISMATCH), or changes
            while it is read (OBJECT_CHANGED, BLOB_TRUNCATED).
        UnavailableError: One is missing, out of reach, or cannot be written.
    """
    progress.step("download")
    total = sum(file.blob_size for file in files)
    progress.advance(0, total)
    meter, pace = Meter(progress, total), _Pace()
    pending: deque[tuple[_Blob, int, Future[bytearray]]] = deque()
    with part.writing(), DaemonPool(RANGES_IN_FLIGHT, "download") as pool:
        try:
            for blob, start, end in _ranges(files, part, meter, pace):
                pending.append((blob, start, pool.submit(partial(_fetch, store, blob.file.blob, start, end, pace))))
                if len(pending) == RANGES_IN_FLIGHT:
                    _land(pending, meter)
            while pending:
                _land(pending, meter)
        finally:
            # After a failure nothing more is begun; what is in flight ends by its own deadline.
            for blob, _, future in pending:
                future.cancel()
                blob.close()


def _ranges(
    files: Sequence[ManifestFile], part: PartFolder, meter: Meter, pace: _Pace
) -> Iterator[tuple[_Blob, int, int]]:
    """Yield what is still to be fetched, in order; blobs that are complete are checked on the way."""
    for file in files:
        blob = _Blob(file, part.open_blob(file.blob))
        try:
            have = blob.keep(meter)
            if have == file.blob_size:
                blob.check()
        except BaseException:
            blob.close()
            raise
        if have == file.blob_size:
            blob.close()
        while have < file.blob_size:
            start, have = have, min(have + pace.length, file.blob_size)
            yield blob, start, have


def _fetch(store: BlobStore, key: str, start: int, end: int, pace: _Pace) -> bytearray:
    data = bytearray(end - start)
    begun = time.monotonic()
    with memoryview(data) as view:
        store.read_into(key, start, view)
    pace.note(end - start, time.monotonic() - begun)
    return data


def _land(pending: deque[tuple[_Blob, int, Future[bytearray]]], meter: Meter) -> None:
    """Write the oldest range behind what is there, so that the file's length says where to go on."""
    blob, start, future = pending[0]
    data = future.result()
    blob.append(data, start)
    meter.add(len(data))
    pending.popleft()
    if start + len(data) == blob.file.blob_size:
        try:
            blob.check()
        finally:
            blob.close()
