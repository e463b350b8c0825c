"""Model files in memory: anonymous, sealed once verified, mapped without a copy.

A `Destination` is filled, then sealed into a `LoadedFile` (model-package.md
section 4). After that nobody, this process included, can change or resize it,
so what was hashed is what an engine maps. No byte of a model reaches a disk.
"""

import fcntl
import mmap
import os

from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.model.roles import Role

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class LoadedFile:
    """A file of a model in sealed memory.

    Views stay valid after `close`: the mapping lives as long as the last of them.
    """

    __slots__ = ("_map", "fd", "path", "role", "size")

    def __init__(self, path: str, role: Role, fd: int, size: int) -> None:
        self.path = path
        """Where the manifest puts it."""
        self.role = role
        """What it is for."""
        self.size = size
        """Its length in bytes."""
        self.fd = fd
        """The sealed anonymous file, or -1 after `close`."""
        self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ) if size else None

    @property
    def fd_path(self) -> str:
        """A path that opens the file within this process, for engines that take only paths."""
        return f"/proc/self/fd/{self.fd}"

    def view(self) -> memoryview:
        """Return the contents, read-only and without a copy."""
        return memoryview(self._map) if self._map is not None else memoryview(b"")

    def read(self, *, max_bytes: int) -> bytes:
        """Return a copy of the contents.

        Raises:
            MalformedError: The file is longer than *max_bytes*.
        """
        if self.size > max_bytes:
            raise MalformedError(f"{self.path} has {self.size} bytes, at most {max_bytes} are allowed")
        return bytes(self.view())

    def close(self) -> None:
        """Close the descriptor and give up the mapping once no view is left."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._map = None

    def __repr__(self) -> str:
        return f"LoadedFile({self.path!r}, {self.role.value}, {self.size} bytes)"


class Destination:
    """Anonymous memory of a fixed size, written once and then sealed."""

    __slots__ = ("_fd", "_map", "_size")

    def __init__(self, size: int) -> None:
        """Reserve *size* bytes; pages are taken only as they are written.

        Raises:
            UnavailableError: The kernel gives no anonymous file of that size.
        """
        self._size = size
        self._map: mmap.mmap | None = None
        try:
            self._fd = os.memfd_create("model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise UnavailableError(f"no anonymous memory file: {error.strerror}") from error
        try:
            os.ftruncate(self._fd, size)
            if size:
                self._map = mmap.mmap(self._fd, size)
        except (OSError, OverflowError, ValueError) as error:
            os.close(self._fd)
            self._fd = -1
            raise UnavailableError(f"no memory for a file of {size} bytes") from error

    def buffer(self) -> memoryview:
        """Return the memory to write to; every view of it must be released before `seal`."""
        return memoryview(self._map) if self._map is not None else memoryview(bytearray())

    def write(self, start: int, data: memoryview) -> None:
        """Copy *data* to *start*.

        The kernel fills a new page without clearing it first and without a
        fault for each, which is faster than to decrypt into a mapping, and
        nothing that is not authentic ever stands here.

        Raises:
            UnavailableError: There is no more memory.
        """
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], start + done)
        except OSError as error:
            raise UnavailableError(f"no memory for a file of {self._size} bytes: {error.strerror}") from error

    def seal(self, path: str, role: Role) -> LoadedFile:
        """Make the contents immutable for everyone and return them.

        Raises:
            RuntimeError: A view of `buffer` is still held, or this was sealed or discarded before.
            UnavailableError: The process has no descriptor or address left for it.
        """
        if self._fd < 0:
            raise RuntimeError("this memory was sealed or discarded before")
        self._unmap()
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
        try:
            loaded = LoadedFile(path, role, self._fd, self._size)
        except OSError as error:
            raise UnavailableError(f"cannot map {path}: {error.strerror}") from error
        self._fd = -1
        return loaded

    def discard(self) -> None:
        """Give the memory back; harmless after `seal`."""
        if self._fd >= 0:
            self._unmap()
            os.close(self._fd)
            self._fd = -1

    def _unmap(self) -> None:
        if self._map is not None:
            try:
                self._map.close()
            except BufferError as error:
                raise RuntimeError("a view of the memory is still held") from error
            self._map = None


def load_bytes(path: str, role: Role, data: bytes) -> LoadedFile:
    """Return *data* as a sealed file."""
    destination = Destination(len(data))
    with destination.buffer() as buffer:
        buffer[:] = data
    return destination.seal(path, role)
