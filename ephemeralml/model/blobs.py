"""Where a package's blobs lie, as seen by whoever reads them."""

from typing import Protocol

from ephemeralml.errors import RejectedError
from ephemeralml.model.manifest import ManifestFile


class BlobStore(Protocol):
    """A package folder, or a storage adapter. Trusted for nothing: what it gives is verified."""

    def size(self, key: str) -> int:
        """Return the length of blob *key*.

        Raises:
            UnavailableError: There is none.
        """

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of *key* from *start*.

        Raises:
            RejectedError: It ends before (code BLOB_TRUNCATED).
            UnavailableError: It is missing or cannot be read.
        """


def check_size(store: BlobStore, file: ManifestFile) -> None:
    """Refuse a blob whose length is not the manifest's, before memory is taken for it.

    Raises:
        RejectedError: With code SIZE_MISMATCH.
        UnavailableError: There is no such blob.
    """
    actual = store.size(file.blob)
    if actual != file.blob_size:
        raise RejectedError(
            f"{file.path}: its blob has {actual} bytes, the manifest says {file.blob_size}",
            code="SIZE_MISMATCH",
            expected=file.blob_size,
            actual=actual,
        )
