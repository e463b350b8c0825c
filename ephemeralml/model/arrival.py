"""Blobs as they arrive: many ranges in flight, written and hashed in order (model-package.md section 4)."""

import hashlib
import hmac
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ephemeralml.errors import RejectedError
from ephemeralml.model.blobs import BlobStore
from ephemeralml.model.hashing import Meter
from ephemeralml.model.manifest import ManifestFile
from ephemeralml.model.part_folder import PartFolder
from ephemeralml.progress import Progress

RANGES_IN_FLIGHT = 8
RANGE_BYTES = 16 << 20
READ_BYTES = 1 << 20


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
    longer than one of their size.

    Raises:
        RejectedError: A blob is another (code BLOB_DIGEST_MISMATCH), or changes
            while it is read (OBJECT_CHANGED, BLOB_TRUNCATED).
        UnavailableError: One is missing, out of reach, or cannot be written.
    """
    progress.step("download")
    meter = Meter(progress, sum(file.blob_size for file in files))
    pending: deque[tuple[_Blob, int, Future[bytearray]]] = deque()
    with part.writing(), ThreadPoolExecutor(RANGES_IN_FLIGHT, thread_name_prefix="download") as pool:
        try:
            for blob, start, end in _ranges(files, part, meter):
                pending.append((blob, start, pool.submit(_fetch, store, blob.file.blob, start, end)))
                if len(pending) == RANGES_IN_FLIGHT:
                    _land(pending, meter)
            while pending:
                _land(pending, meter)
        finally:
            # After a failure nothing more is begun; what is in flight ends by its own deadline.
            for blob, _, future in pending:
                future.cancel()
                blob.close()


def _ranges(files: Sequence[ManifestFile], part: PartFolder, meter: Meter) -> Iterator[tuple[_Blob, int, int]]:
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
        for start in range(have, file.blob_size, RANGE_BYTES):
            yield blob, start, min(start + RANGE_BYTES, file.blob_size)


def _fetch(store: BlobStore, key: str, start: int, end: int) -> bytearray:
    data = bytearray(end - start)
    with memoryview(data) as view:
        store.read_into(key, start, view)
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
