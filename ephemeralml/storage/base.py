"""Where packages lie, behind one interface (model-package.md section 4).

Keys are relative paths with ``/``. An adapter is trusted for nothing: who reads
verifies. Adapters raise `UnavailableError` for what is missing or out of reach.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol


class Storage(Protocol):
    """A folder, bucket or server that holds objects by key."""

    def size(self, key: str) -> int:
        """Return the length of object *key*.

        Raises:
            UnavailableError: There is none, or it cannot be reached.
        """

    def read(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes of *key* from *start* up to *end*; errors as `read_into`."""

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of *key* from *start*.

        Raises:
            RejectedError: It ends before (code BLOB_TRUNCATED).
            UnavailableError: It is missing, or cannot be reached.
        """

    def write(self, key: str, stream: Iterable[bytes]) -> None:
        """Store the bytes of *stream* as *key*, complete or not at all.

        Raises:
            UnavailableError: It cannot be stored, or exists already.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with *prefix*, in order."""
