"""Objects as files below a folder."""

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError


class FileStorage:
    """A `Storage` over the folder *root*; links below it are never followed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def size(self, key: str) -> int:
        """Return the length of object *key*."""
        fd = self._open(key)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def read(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes of *key* from *start* up to *end*."""
        if not 0 <= start <= end <= self.size(key):
            raise RejectedError(f"{key} has no bytes {start} to {end}", code="BLOB_TRUNCATED")
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
                    raise RejectedError(f"{key} ends before byte {start + len(buffer)}", code="BLOB_TRUNCATED")
                done += count
        except OSError as error:
            raise UnavailableError(f"cannot read {key}: {error.strerror}") from error
        finally:
            os.close(fd)

    def write(self, key: str, stream: Iterable[bytes]) -> None:
        """Store the bytes of *stream* as *key*, complete or not at all."""
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
        segments = key.split("/")
        if any(segment in ("", ".", "..") for segment in segments) or "\0" in key:
            raise MalformedError(f"{ascii(key)[:96]} is no key")
        return self._root.joinpath(*segments)

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
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise UnavailableError(f"{key} is no regular file")
        return fd
