"""Objects as files below a folder."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ephemeralml.errors import EphemeralError, UnavailableError
from ephemeralml.progress import Progress
from ephemeralml.storage.base import SILENT, ByteSource, Closing
from ephemeralml.storage.blocks import checked, equal, occupied, shown
from ephemeralml.storage.keys import check_key
from ephemeralml.storage.pins import Pins, Version
from ephemeralml.storage.ranges import check_bounds, truncated

BLOCK = 4 << 20
"""Bytes copied at a time."""
_DIGEST_BLOCK = 1 << 20


class FileStorage(Closing):
    """A `Storage` over the folder *root*; links below it are never followed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pins = Pins()

    def size(self, key: str) -> int:
        """Return the length of object *key*."""
        fd = self._open(key)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def exists(self, key: str) -> bool:
        """Tell whether there is an object *key*."""
        return self._path(key).is_file()

    def digest(self, key: str) -> bytes | None:
        """Return the SHA-256 of object *key*; a file system keeps none, so it is made."""
        fd = self._open(key)
        digest = hashlib.sha256()
        try:
            while block := os.read(fd, _DIGEST_BLOCK):
                digest.update(block)
        except OSError as error:
            raise UnavailableError(f"cannot read {key}: {error.strerror}") from error
        finally:
            os.close(fd)
        return digest.digest()

    def read(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes of *key* from *start* up to *end*."""
        check_bounds(key, start, end, self.size(key))
        data = bytearray(end - start)
        self.read_into(key, start, memoryview(data))
        return bytes(data)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of *key* from *start*."""
        fd = self._open(key)
        try:
            done = 0
            while done < len(buffer):
                count = os.preadv(fd, [buffer[done:]], start + done)
                if not count:
                    raise truncated(key, start + len(buffer))
                done += count
        except OSError as error:
            raise UnavailableError(f"cannot read {key}: {error.strerror}") from error
        finally:
            os.close(fd)

    def write(self, key: str, stream: Iterable[bytes]) -> None:
        """Store the bytes of *stream* as the new object *key*, complete or not at all."""
        self._store(key, stream, replace=False)

    def put(
        self, key: str, source: ByteSource, *, sha256: bytes, force: bool = False, progress: Progress = SILENT
    ) -> bool:
        """Store *source*, whose digest is *sha256*, as *key*, complete or not at all."""
        if self.exists(key):
            if equal(self, key, source, sha256):
                return False
            if not force:
                raise occupied(key)
        self._store(key, shown(checked(key, source, sha256, BLOCK), source.size, progress), replace=force)
        self._pins.forget(key)
        return True

    def _store(self, key: str, stream: Iterable[bytes], *, replace: bool) -> None:
        target = self._path(key)
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(dir=target.parent, prefix=".part-")
            with os.fdopen(fd, "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                for block in stream:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                Path(temporary).replace(target)
                temporary = None
            else:
                os.link(temporary, target)  # unlike a rename, a link replaces nothing
        except OSError as error:
            raise UnavailableError(f"cannot store {key}: {error.strerror}") from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with *prefix*, in order."""
        try:
            found = sorted(
                path.relative_to(self._root).as_posix()
                for path in self._root.rglob("*")
                if stat.S_ISREG(path.lstat().st_mode) and not path.name.startswith(".part-")
            )
        except OSError as error:
            raise UnavailableError(f"cannot list {str(self._root)!r}: {error.strerror}") from error
        yield from (key for key in found if key.startswith(prefix))

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*check_key(key).split("/"))

    def _open(self, key: str) -> int:
        """Open *key* segment by segment, so that no link leads out of the folder."""
        self._path(key)
        *folders, name = key.split("/")
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        parent = fd = -1
        try:
            parent = os.open(self._root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            for folder in folders:
                child = os.open(folder, flags | os.O_DIRECTORY, dir_fd=parent)
                os.close(parent)
                parent = child
            fd = os.open(name, flags, dir_fd=parent)
        except FileNotFoundError as error:
            raise UnavailableError(f"there is no object {key}") from error
        except OSError as error:
            raise UnavailableError(f"cannot open {key}: {error.strerror}") from error
        finally:
            if parent >= 0:
                os.close(parent)
        try:
            self._check(key, os.fstat(fd))
        except EphemeralError:
            os.close(fd)
            raise
        return fd

    def _check(self, key: str, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise UnavailableError(f"{key} is no regular file")
        self._pins.note(key, Version(found.st_size, f"{found.st_dev}.{found.st_ino}.{found.st_mtime_ns}"))
