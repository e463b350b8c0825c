"""Parts of a package's files, without loading them (model-package.md section 2)."""

from types import TracebackType
from typing import Self

from ephemeralml.crypto.aead_stream import TAG_BYTES
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.model import lanes
from ephemeralml.model.blobs import BlobStore
from ephemeralml.model.container import Blob, open_blobs
from ephemeralml.model.verify import VerifiedManifest


class PackageReader:
    """Reads ranges of a package's files, chunk by chunk; for one thread. Close it, or use it in a ``with``.

    Size and header of every blob are those of the signed manifest, and every
    chunk authenticated under the data key. That is *not* the publisher's word:
    whoever made the data key can have made the chunk. What must be the
    publisher's is loaded with `load_files` or checked with `verify_plaintext`.
    Suite ``none`` authenticates nothing here.
    """

    def __init__(self, blobs: list[Blob]) -> None:
        self._blobs = {blob.file.path: blob for blob in blobs}

    def read(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes of file *path* from *start* up to *end*.

        Raises:
            KeyError: The package has no such file.
            RejectedError: A chunk does not open (code CHUNK_AUTH_FAILED).
            UnavailableError: The blob cannot be read.
            ValueError: The file has no such bytes.
        """
        blob = self._blobs[path]
        if not 0 <= start <= end <= blob.file.size:
            raise ValueError(f"{path} has no bytes {start} to {end}")
        if start == end:
            return b""
        size = min(blob.file.chunk_size, blob.file.size)
        window, out = lanes.scratch(size + TAG_BYTES), lanes.scratch(size)
        found = bytearray()
        first = start // blob.file.chunk_size
        for index in range(first, (end - 1) // blob.file.chunk_size + 1):
            begin = index * blob.file.chunk_size
            found += blob.read_chunk(index, window, out)[max(start - begin, 0) : end - begin]
        return bytes(found)

    def close(self) -> None:
        """Drop the keys."""
        for blob in self._blobs.values():
            blob.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_container(verified: VerifiedManifest, store: BlobStore, *, dek: SecretBytes | None = None) -> PackageReader:
    """Open a package for reading parts of it.

    Raises:
        IncompleteError: The package is encrypted and there is no *dek*.
        MalformedError: A container's header does not parse.
        RejectedError: A blob's size or header is not that of the manifest.
        UnavailableError: A blob is missing.
    """
    return PackageReader(open_blobs(verified, store, dek))
