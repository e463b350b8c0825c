"""Bytes to upload: a file, or what is in memory."""

import os
from pathlib import Path

from ephemeralml.errors import UnavailableError
from ephemeralml.storage.base import Closing


class BytesSource:
    """A `ByteSource` in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self._data)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from *start* up to *end*."""
        return self._data[start:end]


class FileSource(Closing):
    """A `ByteSource` over the regular file *path*, open until `close`.

    Raises:
        UnavailableError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise UnavailableError(f"cannot open {self._name}: {error.strerror}") from error
        self._size = os.fstat(self._fd).st_size

    @property
    def size(self) -> int:
        """How many bytes the file had when it was opened."""
        return self._size

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from *start* up to *end*; fewer if the file shrank."""
        try:
            data = os.pread(self._fd, end - start, start)
            while len(data) < end - start and (more := os.pread(self._fd, end - start - len(data), start + len(data))):
                data += more
        except OSError as error:
            raise UnavailableError(f"cannot read {self._name}: {error.strerror}") from error
        return data

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
