"""Bounded random access to bytes, for the format checks."""

import os
from typing import Protocol

from ephemeralml.errors import MalformedError


class ByteSource(Protocol):
    """Bytes of known length that can be read piecewise."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, start: int, length: int) -> bytes:
        """Return exactly *length* bytes from *start*.

        Raises:
            MalformedError: They reach beyond the end.
        """


class BufferSource:
    """A `ByteSource` over memory."""

    __slots__ = ("_view",)

    def __init__(self, data: bytes | memoryview) -> None:
        self._view = memoryview(data)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._view)

    def read(self, start: int, length: int) -> bytes:
        """Return exactly *length* bytes from *start*."""
        _within(start, length, self.size)
        return bytes(self._view[start : start + length])


class FileSource:
    """A `ByteSource` over an open file.

    It reads instead of mapping, so that a file cut short meanwhile is an error, not a signal.
    """

    __slots__ = ("_fd", "_size")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size

    @property
    def size(self) -> int:
        """Length in bytes, when it was opened."""
        return self._size

    def read(self, start: int, length: int) -> bytes:
        """Return exactly *length* bytes from *start*."""
        _within(start, length, self._size)
        data = bytearray()
        while len(data) < length:
            part = os.pread(self._fd, length - len(data), start + len(data))
            if not part:
                raise MalformedError("the file became shorter while it was read")
            data += part
        return bytes(data)


def _within(start: int, length: int, size: int) -> None:
    if start < 0 or length < 0 or start + length > size:
        raise MalformedError(f"{length} bytes at {start} reach beyond the end of {size} bytes")
