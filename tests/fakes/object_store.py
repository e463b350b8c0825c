"""Objects in memory, with faults to order: what a store that nobody trusts may do."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SILENT = Silent()


class Source(Protocol):
    """What is uploaded."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> bytes: ...


class ObjectStore:
    """A store over a dictionary; `before_read` and `before_put` may raise, or change what lies there."""

    def __init__(self, folder: Path | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.digests: dict[str, bytes] = {}
        self.reads: list[tuple[str, int, int]] = []
        self.puts: list[str] = []
        self.before_read: Callable[[str, int], None] = lambda _key, _start: None
        self.before_put: Callable[[str], None] = lambda _key: None
        if folder is not None:
            for path in folder.rglob("*"):
                if path.is_file():
                    self.objects[path.relative_to(folder).as_posix()] = path.read_bytes()

    def _object(self, key: str) -> bytes:
        if key not in self.objects:
            raise UnavailableError(f"there is no object {key}")
        return self.objects[key]

    def exists(self, key: str) -> bool:
        return key in self.objects

    def size(self, key: str) -> int:
        return len(self._object(key))

    def digest(self, key: str) -> bytes | None:
        return self.digests.get(key)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        self.before_read(key, start)
        part = self._object(key)[start : start + len(buffer)]
        if len(part) != len(buffer):
            raise RejectedError(f"{key} ends too early", code="BLOB_TRUNCATED")
        buffer[:] = part
        self.reads.append((key, start, len(part)))

    def put(
        self, key: str, source: Source, *, sha256: bytes, force: bool = False, progress: Progress = SILENT
    ) -> int | None:
        self.before_put(key)
        if key in self.objects and not force:
            raise RejectedError(f"{key} exists and differs", code="OBJECT_EXISTS")
        data = source.read(0, source.size)
        progress.advance(len(data), len(data))
        self.objects[key] = data
        self.digests[key] = sha256
        self.puts.append(key)
        return len(data)

    def list(self, prefix: str) -> "Iterator[str]":
        yield from sorted(key for key in self.objects if key.startswith(prefix))

    @property
    def bytes_read(self) -> int:
        return sum(length for _, _, length in self.reads)
