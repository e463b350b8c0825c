"""The packages that a host offers to its enclave: folders, buckets, prefixes.

Only what a package consists of can be asked for; whatever else lies in the
folder or bucket is out of reach. What is sent is verified by who receives it.
"""

import hashlib
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.storage.base import Storage
from ephemeralml.storage.retry import TransientFault

PACKAGE_NAME = re.compile(r"(?!blobs$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A package's name in a path; ``blobs`` would be taken for the folder of the package without one."""
_KEY = re.compile(r"(?:([^/]+)/)?(manifest\.json|keys\.json|blobs/[0-9a-f]{64}\.(?:eml|raw))")
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not block, it is refused after


class MissingError(UnavailableError):
    """The package has no such object."""


class ChangedError(UnavailableError):
    """The object is another than it was when it was first asked for."""


class RefusedError(UnavailableError):
    """The folder or bucket does not give the object, and asking again will not help."""


class OpenObject(Protocol):
    """One version of one object. Close it."""

    size: int
    etag: str
    """Strong, with its quotes: two versions never share one."""

    @property
    def file(self) -> BinaryIO | None:
        """The file behind it, for the kernel to send; None where there is none."""

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill *buffer* from byte *start*.

        Raises:
            UnavailableError: It cannot be read; `ChangedError` where it is another now.
        """

    def close(self) -> None:
        """Let go of it."""


class PackageSource(Protocol):
    """One package. Calls block and come from several threads."""

    def open(self, key: str) -> OpenObject:
        """Open an object of the package.

        Raises:
            MissingError: There is none.
            RefusedError: It cannot be had: no permission, no credentials, no such bucket.
            UnavailableError: It cannot be reached now.
        """


def split_path(path: str) -> tuple[str, str] | None:
    """Return package name and key of a path below ``/package/``; None for what no package can hold."""
    match = _KEY.fullmatch(path)
    if match is None or (match[1] is not None and not PACKAGE_NAME.fullmatch(match[1])):
        return None
    return match[1] or "", match[2]


class _File:
    """An `OpenObject` over an open file."""

    def __init__(self, fd: int, found: os.stat_result) -> None:
        self.size = found.st_size
        version = f"{found.st_dev} {found.st_ino} {found.st_mtime_ns} {found.st_size}"
        self.etag = f'"{hashlib.sha256(version.encode()).hexdigest()[:32]}"'
        self.file: BinaryIO | None = os.fdopen(fd, "rb")

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill *buffer* from byte *start*."""
        assert self.file is not None
        done = 0
        while done < len(buffer):
            count = os.preadv(self.file.fileno(), [buffer[done:]], start + done)
            if not count:
                raise ChangedError("the file became shorter")
            done += count

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


class FolderSource:
    """A package folder; links in it are not followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, key: str) -> OpenObject:
        """Open the file of *key*; see `PackageSource.open`."""
        parent = fd = -1
        try:
            parent = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            head, _, tail = key.rpartition("/")
            if head:
                child = os.open(head, _OPEN | os.O_DIRECTORY, dir_fd=parent)
                os.close(parent)
                parent = child
            fd = os.open(tail, _OPEN, dir_fd=parent)
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                os.close(fd)
                raise MissingError(f"{key} is no regular file")
            return _File(fd, found)
        except FileNotFoundError as error:
            raise MissingError(f"the package has no {key}") from error
        except PermissionError as error:
            raise RefusedError(f"cannot open {key}: {error.strerror}") from error
        except OSError as error:
            raise UnavailableError(f"cannot open {key}: {error.strerror}") from error
        finally:
            if parent >= 0:
                os.close(parent)


class _Stored:
    """An `OpenObject` over a storage adapter, which holds on to the version it saw first."""

    file: BinaryIO | None = None

    def __init__(self, source: "StorageSource", storage: Storage, key: str, size: int, etag: str) -> None:
        self._source = source
        self._storage = storage
        self._key = key
        self.size = size
        self.etag = etag

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill *buffer* from byte *start*."""
        try:
            self._storage.read_into(self._key, start, buffer)
        except RejectedError as error:
            self._source.forget(self._storage)
            raise ChangedError(error.message, hint=error.hint) from error
        except UnavailableError as error:
            raise _lasting(error) from error

    def close(self) -> None:
        """Nothing is open."""


class StorageSource:
    """A package in a bucket.

    An adapter pins the first version of each object it sees. When one has
    changed, the adapter is dropped: a boot in progress fails, the next one
    sees the new package.

    Args:
        make: Opens an adapter whose keys are the package's.
    """

    def __init__(self, make: Callable[[], Storage]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._storage: Storage | None = None
        self._token = b""

    def open(self, key: str) -> OpenObject:
        """Look *key* up; see `PackageSource.open`."""
        with self._lock:
            if self._storage is None:
                try:
                    self._storage, self._token = self._make(), os.urandom(16)
                except UnavailableError as error:
                    raise _lasting(error) from error
            storage, token = self._storage, self._token
        try:
            size = storage.size(key)
        except RejectedError as error:
            self.forget(storage)
            raise ChangedError(error.message, hint=error.hint) from error
        except UnavailableError as error:
            raise _lasting(error, storage, key) from error
        etag = hashlib.sha256(token + key.encode() + size.to_bytes(8, "big")).hexdigest()[:32]
        return _Stored(self, storage, key, size, f'"{etag}"')

    def forget(self, storage: Storage) -> None:
        """Drop *storage*, unless it was replaced already."""
        with self._lock:
            if self._storage is storage:
                self._storage = None


def _lasting(error: UnavailableError, storage: Storage | None = None, key: str = "") -> UnavailableError:
    """Return *error* as what it means for whoever asks again.

    What an adapter has tried again itself may pass, and stays. Anything else is
    a store's own word. Where *storage* is given, it is asked whether *key* is
    missing, which its first answer may not tell from a missing bucket or right.
    """
    if isinstance(error.__cause__, TransientFault):
        return error
    if storage is not None:
        try:
            if not storage.exists(key):
                return MissingError(error.message, hint=error.hint)
        except UnavailableError as said:
            error = said if error.hint is None else error
        except RejectedError:
            pass
    return error if isinstance(error.__cause__, TransientFault) else RefusedError(error.message, hint=error.hint)
