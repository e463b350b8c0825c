"""The key server's audit log: one JSON line for each request, each bound to all before it.

A line's ``hash`` is SHA-256 over the hash before and the line without it. The
state's database remembers count and hash from time to time, so that a log cut
short is found too. Never in a line: plaintext, ciphertext, credentials.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError

FILE = "audit.jsonl"
MAX_LINE_BYTES = 262_144
"""Longer than any entry: an encryption context of 8,192 characters takes 98,304 bytes of JSON."""
GENESIS = bytes(32)
BROKEN = "KMS_AUDIT_BROKEN"

_SUFFIX = b',"hash":"'
_SUFFIX_BYTES = len(_SUFFIX) + 64 + 2


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log ends."""

    count: int = 0
    hash: bytes = GENESIS

    def encode(self) -> bytes:
        """Return the form that the state's database keeps."""
        return self.count.to_bytes(8, "big") + self.hash

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote."""
        return cls(int.from_bytes(data[:8], "big"), data[8:])


class AuditLog:
    """An audit log that is being written."""

    def __init__(self, descriptor: int, head: Head) -> None:
        self._descriptor = descriptor
        self.head = head
        """The last line's place and hash."""

    @classmethod
    def open(cls, path: Path, known: Head | None = None) -> Self:
        """Open a log to append to, having verified it; half a line at its end is cut off.

        A process that dies may leave half a line, whose request nobody had an
        answer to.

        Raises:
            RejectedError: With code KMS_AUDIT_BROKEN, as `verify`.
            UnavailableError: It cannot be read or written.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnavailableError(f"cannot write the audit log {path}: {error.strerror}") from error
        try:
            head, whole = _read(path, known)
            if whole < os.fstat(descriptor).st_size:
                os.ftruncate(descriptor, whole)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, head)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            OSError: It could not be written; the request must then not be answered.
        """
        count = self.head.count + 1
        text = json.dumps({"number": count, **entry}, separators=(",", ":"))
        body = text.encode()[:-1]
        digest = hashlib.sha256(self.head.hash + body).digest()
        line = body + _SUFFIX + digest.hex().encode() + b'"}\n'
        if len(line) > MAX_LINE_BYTES:
            raise OSError("a line longer than the audit log takes")
        written = os.write(self._descriptor, line)
        if written != len(line):
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError("the audit log's disk is full")
        self.head = Head(count, digest)

    def sync(self) -> None:
        """Have everything on disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def verify(path: Path, known: Head | None = None) -> Head:
    """Verify a whole log and return where it ends.

    1. Each line is JSON, numbered one after the other from 1.
    2. Each line's hash is that of the hash before and the line.
    3. *known*, which the state remembers, is among them.

    Lines after *known* that were cut off cannot be missed by anybody; that is
    why it is remembered often.

    Raises:
        RejectedError: With code KMS_AUDIT_BROKEN and the line's number.
        UnavailableError: It cannot be read.
    """
    return _read(path, known)[0]


def _read(path: Path, known: Head | None) -> tuple[Head, int]:
    head, whole = Head(), 0
    found = known is None or known.count == 0
    for line in _lines(path):
        if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
            break
        head = _next(head, line)
        whole += len(line)
        if known is not None and head.count == known.count:
            if head.hash != known.hash:
                raise RejectedError(
                    f"line {head.count} is not the one that the state remembers: the log was replaced", code=BROKEN
                )
            found = True
    if not found:
        assert known is not None
        raise RejectedError(f"the log ends at line {head.count}; the state remembers {known.count}", code=BROKEN)
    return head, whole


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                yield line
    except OSError as error:
        raise UnavailableError(f"cannot read the audit log {path}: {error.strerror}") from error


def _next(head: Head, line: bytes) -> Head:
    number = head.count + 1
    body, suffix = line[: -_SUFFIX_BYTES - 1], line[-_SUFFIX_BYTES - 1 :]
    digest = hashlib.sha256(head.hash + body).digest()
    if len(line) > MAX_LINE_BYTES or suffix != _SUFFIX + digest.hex().encode() + b'"}\n':
        raise RejectedError(f"line {number} was changed, inserted, or follows one that was removed", code=BROKEN)
    try:
        entry = strict_json.parse_object(line, max_bytes=MAX_LINE_BYTES)
    except MalformedError as error:
        raise RejectedError(f"line {number} is not JSON", code=BROKEN) from error
    if entry.get("number") != number:
        raise RejectedError(f"line {number} bears another number", code=BROKEN)
    return Head(number, digest)
