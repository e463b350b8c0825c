"""From a package's blobs to verified files in sealed memory.

A blob is read in chunks by several threads, each chunk lands where it belongs
in the destination, and the file is handed on only when the root over all chunk
digests is the one the signed manifest states. How a chunk becomes plaintext is
the suite's business: `ChunkReader` is that seam. Suite ``none`` copies; the
encrypted suites decrypt straight into the destination.
"""

import hmac
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Protocol

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.model.blobs import BlobStore, check_size
from ephemeralml.model.hashing import Meter, chunk_digest, chunk_root, worker_count
from ephemeralml.model.manifest import ManifestFile, Suite, chunk_count
from ephemeralml.model.memory_file import Destination, LoadedFile
from ephemeralml.model.verify import VerifiedManifest
from ephemeralml.progress import Progress, Silent


class ChunkReader(Protocol):
    """Turns chunks of one blob into plaintext."""

    def read_chunk(self, index: int, buffer: memoryview) -> None:
        """Fill *buffer* with the plaintext of chunk *index*, authenticated if the suite can."""


ReaderFactory = Callable[[BlobStore, ManifestFile], ChunkReader]


class PlainChunks:
    """`ChunkReader` of suite ``none``: the blob is the plaintext."""

    def __init__(self, store: BlobStore, file: ManifestFile) -> None:
        self._store = store
        self._file = file

    def read_chunk(self, index: int, buffer: memoryview) -> None:
        """Fill *buffer* with the plaintext of chunk *index*."""
        self._store.read_into(self._file.blob, index * self._file.chunk_size, buffer)


def load_files(
    verified: VerifiedManifest,
    store: BlobStore,
    *,
    reader: ReaderFactory | None = None,
    progress: Progress | None = None,
) -> Mapping[str, LoadedFile]:
    """Bring every file of a package into sealed memory, verified against its manifest.

    Args:
        verified: The package's manifest.
        store: Where its blobs are; trusted for nothing.
        reader: Opens a blob of an encrypted suite; not needed for suite ``none``.
        progress: Told of the bytes that arrived.

    Raises:
        RejectedError: A blob's size (code SIZE_MISMATCH) or contents
            (CHUNK_ROOT_MISMATCH) are not those of the manifest.
        UnavailableError: A blob is missing, or the package is encrypted and
            there is no *reader*.
    """
    manifest = verified.manifest
    if reader is None:
        if manifest.suite is not Suite.NONE:
            raise UnavailableError(f"nothing opens packages of suite {manifest.suite.value} here")
        reader = PlainChunks
    for file in manifest.files:
        check_size(store, file)
    progress = progress or Silent()
    progress.step("load")
    meter = Meter(progress, sum(file.size for file in manifest.files))
    loaded: dict[str, LoadedFile] = {}
    with ExitStack() as undo, ThreadPoolExecutor(worker_count(), thread_name_prefix="load") as pool:
        for file in manifest.files:
            loaded[file.path] = _load(file, reader(store, file), pool, meter)
            undo.callback(loaded[file.path].close)
        undo.pop_all()
    return loaded


def _load(file: ManifestFile, chunks: ChunkReader, pool: ThreadPoolExecutor, meter: Meter) -> LoadedFile:
    destination = Destination(file.size)
    try:
        with destination.buffer() as buffer:
            root = _fill(file, chunks, buffer, pool, meter)
        if not hmac.compare_digest(root, file.chunk_root):
            raise RejectedError(
                f"{file.path}: its contents are not those the manifest was signed for",
                code="CHUNK_ROOT_MISMATCH",
                expected=file.chunk_root.hex(),
                actual=root.hex(),
            )
        return destination.seal(file.path, file.role)
    finally:
        destination.discard()


def _fill(file: ManifestFile, chunks: ChunkReader, buffer: memoryview, pool: ThreadPoolExecutor, meter: Meter) -> bytes:
    """Write all chunks of *file* to *buffer* and return the root over their digests."""
    digests = [b""] * chunk_count(file.size, file.chunk_size)
    indices = iter(range(len(digests)))
    stop = threading.Event()

    def work() -> None:
        # Advancing a range iterator is atomic, so the workers share it without a lock.
        for index in indices:
            if stop.is_set():
                return
            start = index * file.chunk_size
            with buffer[start : min(start + file.chunk_size, file.size)] as part:
                chunks.read_chunk(index, part)
                digests[index] = chunk_digest(part)
                meter.add(len(part))

    workers = [pool.submit(work) for _ in range(min(worker_count(), len(digests)))]
    try:
        for worker in workers:
            worker.result()
    finally:
        # Nothing may still write once the caller gives the memory back.
        stop.set()
        wait(workers)
    return chunk_root(digests)
