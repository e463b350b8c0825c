"""Uploads to GCS through resumable sessions, also beyond the end of the process.

GCS keeps what a session received, and tells how much. The session's URL is all that is
needed to go on, and nobody lists it: it is noted in a private folder until the upload
is done. It is a secret, as whoever has it can write the object, and appears nowhere else.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ephemeralml.errors import UnavailableError
from ephemeralml.storage.gcs_faults import explained, meaning
from ephemeralml.storage.retry import Deadline, Retries, TransientFault

if TYPE_CHECKING:
    import requests

CHUNK = 16 << 20
"""Bytes of one request."""
_UNIT = 256 << 10
"""What GCS persists is a multiple of this."""
_URL_BYTES = 8192
_RECEIVED = re.compile(r"bytes=0-([0-9]{1,18})", re.ASCII)


class SessionLostError(Exception):
    """GCS no longer knows the session; the upload has to begin anew."""


@dataclass(frozen=True, slots=True)
class Note:
    """Where the session of one upload is remembered: same place, same bytes, same file."""

    folder: Path | None
    place: str
    sha256: bytes

    def load(self, endpoint: str) -> str | None:
        """Return the session's URL, or None if there is none for this *endpoint*."""
        if self.folder is None:
            return None
        with contextlib.suppress(OSError, UnicodeDecodeError):
            fd = os.open(self._path(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(fd, "rb") as file:
                url = file.read(_URL_BYTES + 1).decode("ascii")
            if len(url) <= _URL_BYTES and urlsplit(url)[:2] == urlsplit(endpoint)[:2]:
                return url
        return None

    def save(self, url: str) -> None:
        """Remember *url*; a folder that cannot be written only costs the resumption."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(dir=self.folder)  # mode 0600
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(url)
            Path(temporary).replace(self._path())

    def drop(self) -> None:
        """Forget the session."""
        if self.folder is not None:
            with contextlib.suppress(OSError):
                self._path().unlink(missing_ok=True)

    def _path(self) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(b"\0".join((self.place.encode(), self.sha256))).hexdigest()
        return self.folder / f"{name}.session"


class Session:
    """One resumable session: bytes go in order, and again from where GCS says it stopped."""

    def __init__(self, http: "requests.Session", url: str, place: str, retries: Retries) -> None:
        self._http = http
        self._url = url
        self._place = place
        self._retries = retries
        self._finished = False

    @property
    def complete(self) -> bool:
        """Whether GCS has made the object."""
        return self._finished

    def received(self, size: int) -> int:
        """Return how many bytes GCS holds; notes it if the object is complete.

        Raises:
            SessionLostError: GCS no longer knows the session.
            UnavailableError: It cannot be asked.
        """
        return self._retries.call(f"write {self._place}", lambda limit: self._status(str(size), limit))

    def push(self, base: int, data: bytes, total: int | None) -> None:
        """Send *data*, which begins at *base*; with *total*, the object's size, it is complete if this reaches it.

        Raises:
            SessionLostError: GCS no longer knows the session.
            UnavailableError: The bytes cannot be stored.
        """
        there: int | None = base
        shown = "*" if total is None else str(total)
        end = base + len(data)

        def step(limit: Deadline) -> None:
            nonlocal there
            if there is None:
                there = self._status(shown, limit)
            if self.complete or (there >= end and end != total):
                return
            if there < base:
                raise UnavailableError(f"cannot write {self._place}: the store lost bytes that it had")
            span = f"{there}-{end - 1}" if there < end else "*"
            payload = memoryview(data)[there - base :]
            before, there = there, None
            there = self._put(f"bytes {span}/{shown}", payload, limit)
            if there <= before and not self.complete:
                raise TransientFault("the store took nothing")

        while not self.complete and (there is None or there < end or end == total):
            self._retries.call(f"write {self._place}", step)

    def cancel(self) -> None:
        """Let GCS forget the session; a failure to say so costs nothing."""
        with contextlib.suppress(UnavailableError, TransientFault), explained("abort the upload of", self._place):
            self._http.delete(self._url, timeout=self._retries.policy.stall).close()

    def _status(self, shown: str, limit: Deadline) -> int:
        return self._put(f"bytes */{shown}", b"", limit)

    def _put(self, content_range: str, payload: "bytes | memoryview", limit: Deadline) -> int:
        """Send one request; return how many bytes GCS holds after it."""
        stall = self._retries.policy.stall
        with (
            explained("write", self._place),
            self._http.put(
                self._url,
                data=BytesIO(payload) if payload else b"",  # in small blocks, as in `s3_upload`
                headers={"Content-Range": content_range, "Content-Type": "application/octet-stream"},
                timeout=(limit.timeout(stall), limit.timeout(stall)),
                allow_redirects=False,
            ) as answer,
        ):
            return self._judge(answer)

    def _judge(self, answer: "requests.Response") -> int:
        if answer.status_code in (200, 201):
            self._finished = True
            return 0
        if answer.status_code == 308:
            match = _RECEIVED.fullmatch(answer.headers.get("Range", ""))
            count = int(match[1]) + 1 if match else 0
            return count - count % _UNIT
        if answer.status_code in (404, 410):
            raise SessionLostError
        raise meaning(answer.status_code, "write", self._place, asked=answer.headers.get("Retry-After"))


def open_session(
    note: Note, endpoint: str, begin: Callable[[], str], size: int, make: Callable[[str], Session]
) -> tuple[Session, int]:
    """Return the noted session and how much GCS has of it, or else a new one and 0."""
    url = note.load(endpoint)
    if url is not None:
        session = make(url)
        with contextlib.suppress(SessionLostError, UnavailableError):
            return session, session.received(size)
        note.drop()
    url = begin()
    note.save(url)
    return make(url), 0
