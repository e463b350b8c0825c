"""A package as a folder: what may lie in it, and how its blobs are read.

The folder is operator-side input. Nothing in it is followed: links, FIFOs and
devices are refused, and so is any file that the manifest does not speak of
(model-package.md section 6).
"""

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model.envelope import MAX_ENVELOPE_BYTES
from ephemeralml.model.manifest import MAX_FILES, Manifest, Suite

MANIFEST_NAME = "manifest.json"
KEYS_NAME = "keys.json"
BLOB_FOLDER = "blobs"

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not block, it is refused after


class Package:
    """An opened package folder; a `BlobStore` over it. Close it, or use it in a ``with``."""

    def __init__(self, folder: Path, fd: int) -> None:
        self.folder = folder
        """The path as given."""
        self._fd = fd

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the package at *folder*; reads nothing yet.

        Raises:
            UnavailableError: There is no such folder, or it cannot be opened.
        """
        try:
            return cls(folder, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise UnavailableError(f"cannot open the package {str(folder)!r}: {error.strerror}") from error

    def manifest_bytes(self) -> bytes:
        """Return ``manifest.json`` as shipped.

        Raises:
            MalformedError: It is no regular file, or too large.
            UnavailableError: It is missing or cannot be read.
        """
        fd = self._open_regular(MANIFEST_NAME)
        try:
            size = os.fstat(fd).st_size
            if size > MAX_ENVELOPE_BYTES:
                raise MalformedError(f"{MANIFEST_NAME} has {size} bytes, at most {MAX_ENVELOPE_BYTES} are allowed")
            with os.fdopen(os.dup(fd), "rb") as file:
                return file.read(MAX_ENVELOPE_BYTES)
        finally:
            os.close(fd)

    def check_layout(self, manifest: Manifest) -> None:
        """Refuse a folder that holds anything but what *manifest* speaks of.

        Raises:
            MalformedError: An extra entry, a link or a special file.
            UnavailableError: A blob is missing.
        """
        allowed = {MANIFEST_NAME, BLOB_FOLDER} | (set() if manifest.suite is Suite.NONE else {KEYS_NAME})
        self._check_entries("", allowed, folders={BLOB_FOLDER})
        wanted = {file.blob.partition("/")[2] for file in manifest.files}
        present = self._check_entries(BLOB_FOLDER, wanted, folders=set())
        for file in manifest.files:
            if file.blob.partition("/")[2] not in present:
                raise _missing(file.blob)

    def holds(self, key: str) -> bool:
        """Return whether there is anything called *key*."""
        try:
            os.stat(key, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def size(self, key: str) -> int:
        """Return the length of blob *key*; errors as `read_into`."""
        fd = self._open_regular(key)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of blob *key* from *start*.

        Raises:
            MalformedError: It is a link or a special file.
            RejectedError: It ends before (code BLOB_TRUNCATED).
            UnavailableError: It is missing or cannot be read.
        """
        fd = self._open_regular(key)
        try:
            done = 0
            while done < len(buffer):
                count = os.preadv(fd, [buffer[done:]], start + done)
                if not count:
                    raise RejectedError(f"{key} became shorter while it was read", code="BLOB_TRUNCATED")
                done += count
        except OSError as error:
            raise UnavailableError(f"cannot read {key}: {error.strerror}") from error
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the folder."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_entries(self, folder: str, allowed: set[str], *, folders: set[str]) -> set[str]:
        """Return the names in *folder*, all of them in *allowed* and of their kind."""
        present: set[str] = set()
        fd = self._open_at(folder or ".", os.O_DIRECTORY)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    shown = ascii(f"{folder}/{entry.name}" if folder else entry.name)[:96]
                    if entry.name not in allowed or len(present) > MAX_FILES:
                        raise MalformedError(f"{shown} does not belong to the package")
                    is_wanted_kind = entry.is_dir if entry.name in folders else entry.is_file
                    if not is_wanted_kind(follow_symlinks=False):
                        raise MalformedError(f"{shown} is a link or another kind of file than it should be")
                    present.add(entry.name)
        finally:
            os.close(fd)
        return present

    def _open_regular(self, key: str) -> int:
        fd = self._open_at(key, 0)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise MalformedError(f"{key} is no regular file")
        return fd

    def _open_at(self, key: str, flags: int) -> int:
        """Open *key*, one or two segments, without following a link at either."""
        if self._fd < 0:
            raise RuntimeError("the package is closed")
        try:
            head, _, tail = key.partition("/")
            if not tail:
                return os.open(head, _OPEN | flags, dir_fd=self._fd)
            parent = os.open(head, _OPEN | os.O_DIRECTORY, dir_fd=self._fd)
            try:
                return os.open(tail, _OPEN | flags, dir_fd=parent)
            finally:
                os.close(parent)
        except FileNotFoundError as error:
            raise _missing(key) from error
        except OSError as error:
            raise _cannot_open(key, error) from error


def _missing(key: str) -> UnavailableError:
    return UnavailableError(f"the package lacks {key}", hint="fetch the package again")


def _cannot_open(key: str, error: OSError) -> MalformedError | UnavailableError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        return MalformedError(f"{key} is a link or another kind of file than it should be")
    return UnavailableError(f"cannot open {key}: {error.strerror}")
