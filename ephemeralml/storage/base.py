"""Where packages lie, behind one interface (model-package.md section 4).

Keys are relative paths with ``/``. An adapter is trusted for nothing: who reads
verifies. Adapters raise `UnavailableError` for what is missing or out of reach.
"""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

from ephemeralml.progress import Progress, Silent

SILENT = Silent()
"""The progress nobody watches, as a default."""


class ByteSource(Protocol):
    """Bytes of known length that can be read at any place, from any thread."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from *start* up to *end*; fewer only if the source shrank.

        Raises:
            UnavailableError: They cannot be read.
        """


class Storage(Protocol):
    """A folder, bucket or server that holds objects by key.

    The first look at an object pins its version (ETag, generation or inode); every
    later one through the same `Storage` must find that version again.
    """

    def size(self, key: str) -> int:
        """Return the length of object *key*.

        Raises:
            RejectedError: It is no longer the object seen first (code OBJECT_CHANGED).
            UnavailableError: There is none, or it cannot be reached.
        """

    def exists(self, key: str) -> bool:
        """Tell whether there is an object *key*.

        Raises:
            UnavailableError: That cannot be found out.
        """

    def digest(self, key: str) -> bytes | None:
        """Return the SHA-256 kept beside object *key*, or None where none is kept.

        Whoever may write the object may write this too: it saves an upload, and
        proves nothing.

        Raises:
            UnavailableError: There is no such object, or it cannot be reached.
        """

    def read(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes of *key* from *start* up to *end*; errors as `read_into`."""

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of *key* from *start*; any number of threads at once.

        Raises:
            RejectedError: It ends before (code BLOB_TRUNCATED), or is no longer the
                object seen first (OBJECT_CHANGED).
            UnavailableError: It is missing, or cannot be reached.
        """

    def write(self, key: str, stream: Iterable[bytes]) -> None:
        """Store the bytes of *stream* as the new object *key*, complete or not at all.

        Raises:
            UnavailableError: It cannot be stored, or exists already.
        """

    def put(
        self, key: str, source: ByteSource, *, sha256: bytes, force: bool = False, progress: Progress = SILENT
    ) -> int | None:
        """Store *source*, whose digest is *sha256*, as *key*, complete or not at all.

        An interrupted upload of the same bytes is continued. An equal object is left alone.

        Returns:
            How many bytes were sent now, those of an interrupted upload not among
            them; None if an equal object lay there already.

        Raises:
            RejectedError: A differing object lies there and *force* is not given (code
                OBJECT_EXISTS), or *source* does not have that digest (DIGEST_MISMATCH).
            UnavailableError: It cannot be stored.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with *prefix*, in order."""

    def close(self) -> None:
        """Give up connections; nothing may be asked afterwards."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """The `with` statement for adapters."""

    def close(self) -> None:
        """Give up connections; nothing may be asked afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
