"""Checks every plaintext digest of a package: ``model verify --full`` (model-package.md section 1).

Nothing is kept: a chunk is opened, hashed and forgotten, so a model larger than
the memory is verified too.
"""

import hmac
import queue
import threading
from functools import partial

from ephemeralml.crypto.aead_stream import TAG_BYTES
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.errors import RejectedError
from ephemeralml.model import lanes
from ephemeralml.model.blobs import BlobStore
from ephemeralml.model.container import Blob, open_blobs
from ephemeralml.model.hashing import Meter, OrderedDigest, chunk_digest, worker_count
from ephemeralml.model.verify import VerifiedManifest
from ephemeralml.progress import Progress, Silent

SPARE_BUFFERS = 2
"""Beyond one for each thread: chunks that wait for their turn in a flat digest."""


def verify_plaintext(
    verified: VerifiedManifest,
    store: BlobStore,
    *,
    dek: SecretBytes | None = None,
    progress: Progress | None = None,
) -> None:
    """Read every file of a package and check its plaintext.

    1. Every blob's size and header are the manifest's.     SIZE_MISMATCH, HEADER_MISMATCH
    2. Every chunk opens.                                   CHUNK_AUTH_FAILED
    3. The chunk root of every file.                        CHUNK_ROOT_MISMATCH
    4. The SHA-256 of every file.                           FILE_DIGEST_MISMATCH

    Raises:
        IncompleteError: The package is encrypted and there is no *dek*.
        MalformedError: A container's header does not parse.
        RejectedError: A check fails.
        UnavailableError: A blob is missing.
    """
    progress = progress or Silent()
    progress.step("verify contents")
    # 1
    blobs = open_blobs(verified, store, dek)
    try:
        # 2
        contents = [_Contents(blob) for blob in blobs]
        _read(contents, Meter(progress, sum(blob.file.size for blob in blobs)))
        for content in contents:
            # 3
            content.blob.check_root(content.digests)
            # 4
            content.check_flat()
    finally:
        for blob in blobs:
            blob.close()


class _Contents:
    """What was read of one file."""

    __slots__ = ("blob", "digests", "flat")

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        self.digests = [b""] * blob.chunks
        self.flat = OrderedDigest()

    def check_flat(self) -> None:
        actual, expected = self.flat.digest(), self.blob.file.sha256
        if not hmac.compare_digest(actual, expected):
            raise RejectedError(
                f"{self.blob.file.path}: its contents are not those the manifest was signed for",
                code="FILE_DIGEST_MISMATCH",
                expected=expected.hex(),
                actual=actual.hex(),
            )


def _read(contents: list[_Contents], meter: Meter) -> None:
    """Read all chunks of all files, several at once."""
    chunks = iter([(content, index) for content in contents for index in range(content.blob.chunks)])
    largest = max(min(content.blob.file.size, content.blob.file.chunk_size) for content in contents)
    free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
    workers = worker_count()
    for _ in range(workers + SPARE_BUFFERS):
        free.put(lanes.scratch(largest))

    def lane(stop: threading.Event) -> None:
        window = lanes.scratch(largest + TAG_BYTES)
        # The memory comes first: the lowest chunk not yet hashed always has some, so none waits for ever.
        while (memory := free.get()) is not None and not stop.is_set():
            content, index = next(chunks, (None, 0))
            if content is None:
                free.put(memory)
                return
            plain = content.blob.read_chunk(index, window, memory)
            content.digests[index] = chunk_digest(plain)
            length = len(plain)
            content.flat.offer(index, plain, partial(free.put, memory))
            meter.add(length)

    def wake() -> None:
        for _ in range(workers):
            free.put(None)

    lanes.run([lane] * workers, name="verify", on_stop=wake)
