"""The folder in which a download grows until it may have its name (model-package.md section 6).

It stands beside its destination, as ``NAME.part``, and belongs to one manifest:
a later attempt for the same one goes on where the last one stopped, any other
starts afresh. One process at a time has it.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from ephemeralml.errors import UnavailableError
from ephemeralml.model.package import BLOB_FOLDER, KEYS_NAME, MANIFEST_NAME

SUFFIX = ".part"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = {MANIFEST_NAME, KEYS_NAME, BLOB_FOLDER}


class PartFolder:
    """An unfinished package. Close it, or use it in a ``with``; what it holds stays until `discard` or `finish`."""

    def __init__(self, final: Path, fd: int) -> None:
        self.path = final.with_name(final.name + SUFFIX)
        """Where it grows."""
        self._final = final
        self._fd = fd

    @classmethod
    def open(cls, final: Path, manifest: bytes) -> Self:
        """Make the folder for a download of *manifest* to *final*, or take up the one that is there.

        Raises:
            UnavailableError: Something else has its name, another process has
                it, others may write to it, or the disk does not allow it.
        """
        path = final.with_name(final.name + SUFFIX)
        with _disk(path):
            path.mkdir(mode=0o755, exist_ok=True)
            fd = os.open(path, _FOLDER)
            try:
                _lock(fd, path)
                part = cls(final, fd)
                part._begin(manifest)
            except BlockingIOError as error:
                os.close(fd)
                raise UnavailableError(f"another download has {str(path)!r}", hint="wait for it to end") from error
            except BaseException:
                os.close(fd)
                raise
        return part

    def _begin(self, manifest: bytes) -> None:
        found = os.fstat(self._fd)
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
            # They could change what was checked, before or after it has its name.
            raise UnavailableError(
                f"other users may write to {str(self.path)!r}", hint="remove it, or download elsewhere"
            )
        names = self._names()
        if not names <= _OURS:
            raise UnavailableError(f"{str(self.path)!r} exists and is no download")
        if self._read_manifest(len(manifest)) != manifest:
            for name in names:
                if name == BLOB_FOLDER:
                    shutil.rmtree(name, dir_fd=self._fd)
                else:
                    os.unlink(name, dir_fd=self._fd)
            self.store(MANIFEST_NAME, manifest)
        if BLOB_FOLDER not in self._names():
            os.mkdir(BLOB_FOLDER, 0o755, dir_fd=self._fd)

    def _names(self) -> set[str]:
        with os.scandir(self._fd) as entries:
            return {entry.name for entry in entries}

    def _read_manifest(self, length: int) -> bytes | None:
        try:
            fd = os.open(MANIFEST_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)
        except OSError:
            return None  # none, or a link: either way it is not the one that is wanted
        with os.fdopen(fd, "rb") as file:
            return file.read(length + 1)

    def store(self, name: str, data: bytes) -> None:
        """Write a whole small file, in place of one that may be there."""
        with _disk(self.path), os.fdopen(os.open(name, _FILE | os.O_TRUNC, 0o644, dir_fd=self._fd), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def open_blob(self, key: str) -> int:
        """Open a file for blob *key*, with what an earlier attempt left in it; the caller closes it."""
        with _disk(self.path):
            folder = os.open(BLOB_FOLDER, _FOLDER, dir_fd=self._fd)
            try:
                return os.open(key.partition("/")[2], _FILE, 0o644, dir_fd=folder)
            finally:
                os.close(folder)

    def writing(self) -> AbstractContextManager[None]:
        """Return a context in which what the disk refuses is unavailable, and said to be resumable."""
        return _disk(self.path)

    def finish(self, *, replace: bool) -> None:
        """Give the folder its final name.

        Raises:
            UnavailableError: Something else has that name and *replace* is off,
                or the disk does not allow it.
        """
        old = None
        with _disk(self._final):
            os.fsync(self._fd)
            if os.path.lexists(self._final):
                if not replace:
                    raise UnavailableError(f"{str(self._final)!r} exists by now")
                aside = Path(tempfile.mkdtemp(dir=self._final.parent, prefix=f".{self._final.name}."))
                old = aside / "old"
                self._final.rename(old)
            try:
                self.path.rename(self._final)
            except OSError:
                if old is not None:
                    old.rename(self._final)
                raise
            finally:
                if old is not None:
                    shutil.rmtree(old.parent, ignore_errors=True)

    def discard(self) -> None:
        """Remove the folder and what arrived in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Let go of the folder; what is in it stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock(fd: int, path: Path) -> None:
    """Take the open folder *fd* for this process; who had it may have given it its name since it was opened.

    Raises:
        BlockingIOError: Another process has it, or it is no longer what is at *path*.
    """
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.path.samestat(os.fstat(fd), os.lstat(path)):
        raise BlockingIOError


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Say what the disk refused, and what is left of it."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        raise UnavailableError(
            f"cannot write {str(path)!r}: {error.strerror}", hint="what arrived is kept; the same command goes on"
        ) from error
