"""Objects as files below a folder."""

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from io import RawIOBase
from pathlib import Path

from ephemeralml.errors import EphemeralError, UnavailableError
from ephemeralml.progress import Progress
from ephemeralml.storage.base import SILENT, ByteSource, Closing
from ephemeralml.storage.blocks import checked, equal, occupied, shown
from ephemeralml.storage.keys import check_key
from ephemeralml.storage.missing import no_object
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
        folder = -1
        try:
            folder, name = self._folder(key)
            return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise UnavailableError(f"cannot look for {key}: {error.strerror}") from error
        finally:
            if folder >= 0:
                os.close(folder)

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
    ) -> int | None:
        """Store *source*, whose digest is *sha256*, as *key*, complete or not at all."""
        if self.exists(key):
            if equal(self, key, source, sha256):
                return None
            if not force:
                raise occupied(key)
        self._store(key, shown(checked(key, source, sha256, BLOCK), source.size, progress), replace=force)
        self._pins.forget(key)
        return source.size

    def _store(self, key: str, stream: Iterable[bytes], *, replace: bool) -> None:
        temporary = f".part-{secrets.token_hex(8)}"
        folder = fd = -1
        try:
            folder, name = self._folder(key, create=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
            with os.fdopen(fd, "wb", buffering=0) as file:
                for block in stream:
                    _write_all(file, block)
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)  # unlike a rename, replaces nothing
            os.fsync(folder)
        except OSError as error:
            raise UnavailableError(f"cannot store {key}: {error.strerror}") from error
        finally:
            if fd >= 0:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
            if folder >= 0:
                os.close(folder)

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

    def _folder(self, key: str, *, create: bool = False) -> tuple[int, str]:
        """Open the folder of *key* segment by segment, so that no link leads out; return it and the last segment."""
        *folders, name = check_key(key).split("/")
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
        if create:
            self._root.mkdir(parents=True, exist_ok=True)
        parent = os.open(self._root, flags)
        try:
            for folder in folders:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, dir_fd=parent)
                child = os.open(folder, flags | os.O_NOFOLLOW, dir_fd=parent)
                os.close(parent)
                parent = child
        except OSError:
            os.close(parent)
            raise
        return parent, name

    def _open(self, key: str) -> int:
        folder = -1
        try:
            folder, name = self._folder(key)
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except FileNotFoundError as error:
            raise no_object(str(self._root / key)) from error
        except OSError as error:
            raise UnavailableError(f"cannot open {key}: {error.strerror}") from error
        finally:
            if folder >= 0:
                os.close(folder)
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


def _write_all(file: RawIOBase, block: bytes) -> None:
    """Write *block* whole: an unbuffered write may stop before its end, as on a disk that fills."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) or 0 :]
