"""Objects behind an HTTP/1.1 server, read by range.

Inside a Nitro enclave the server is the host's (nitro-platform.md section 7) and *connect*
dials vsock; elsewhere it is any server with ranges. It can delay or break a read,
never change what is accepted: who reads verifies, and a server that swaps the object
between two ranges is named as such.
"""

from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import quote

from ephemeralml.errors import EphemeralError, MalformedError, UnavailableError
from ephemeralml.progress import Progress
from ephemeralml.storage.base import SILENT, ByteSource, Closing
from ephemeralml.storage.http_pool import Pool, describe
from ephemeralml.storage.keys import check_key
from ephemeralml.storage.missing import no_object
from ephemeralml.storage.pins import Pins, Version, changed
from ephemeralml.storage.ranges import check_bounds, check_content_range, fill, header, truncated
from ephemeralml.storage.retry import Deadline, Retries, TransientFault

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpStorage(Closing):
    """A `Storage` for reading below *prefix* of one server.

    Args:
        connect: Returns a new connection, not open yet; its `connect` must keep its `timeout`.
        prefix: Where on the server the keys begin, such as ``/package/NAME/``.
        name: How messages call the place; *prefix* if not given.
        retries: How patient to be, and the deadline of the whole.
    """

    def __init__(
        self,
        connect: Callable[[], HTTPConnection],
        prefix: str = "/",
        *,
        name: str | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._retries = retries or Retries()
        self._pool = Pool(connect, self._retries.policy.stall)
        self._prefix = "/" + f"{prefix.strip('/')}/".lstrip("/")
        self._name = f"{(name or self._prefix).rstrip('/')}/"
        self._pins = Pins()

    def size(self, key: str) -> int:
        """Return the length of object *key*."""
        what = f"read {self._name}{check_key(key)}"
        return self._retries.call(what, lambda limit: self._head(key, limit)).size

    def exists(self, key: str) -> bool:
        """Tell whether there is an object *key*."""
        what = f"look for {self._name}{check_key(key)}"
        return self._retries.call(what, lambda limit: self._status(key, limit)) == 200

    def digest(self, key: str) -> bytes | None:
        """Return None: no digest is kept here."""
        self.size(key)
        return None

    def read(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes of *key* from *start* up to *end*."""
        pinned = self._pins.get(key)
        check_bounds(key, start, end, pinned.size if pinned else self.size(key))
        data = bytearray(end - start)
        self.read_into(key, start, memoryview(data))
        return bytes(data)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of *key* from *start*."""
        check_key(key)
        fill(
            self._retries,
            f"read {self._name}{key}",
            start,
            buffer,
            lambda offset, view, limit: self._fetch(key, offset, view, limit),
        )

    def write(self, key: str, stream: Iterable[bytes]) -> None:  # noqa: ARG002 - the protocol's
        """Refuse: this place is read only."""
        raise UnavailableError(f"cannot write {self._name}{key}: only reading works over HTTP")

    def put(
        self,
        key: str,
        source: ByteSource,  # noqa: ARG002 - the protocol's, as those below
        *,
        sha256: bytes,  # noqa: ARG002
        force: bool = False,  # noqa: ARG002
        progress: Progress = SILENT,  # noqa: ARG002
    ) -> int | None:
        """Refuse: this place is read only."""
        raise UnavailableError(f"cannot write {self._name}{key}: only reading works over HTTP")

    def list(self, prefix: str) -> Iterator[str]:
        """Refuse: such a server lists nothing."""
        raise UnavailableError(f"cannot list {self._name}{prefix}: a server of files lists nothing")

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _target(self, key: str) -> str:
        return self._prefix + quote(key, safe="/")

    def _status(self, key: str, limit: Deadline) -> int:
        with self._pool.exchange("HEAD", self._target(key), {"Accept-Encoding": "identity"}, limit) as response:
            response.read()
            if response.status not in (200, 404, 410):
                raise self._refusal("look for", key, response)
            return response.status

    def _head(self, key: str, limit: Deadline) -> Version:
        with self._pool.exchange("HEAD", self._target(key), {"Accept-Encoding": "identity"}, limit) as response:
            response.read()
            if response.status != 200:
                raise self._refusal("read", key, response)
            return self._pins.note(key, Version(_length(key, response), _strong_etag(response)))

    def _fetch(self, key: str, start: int, view: memoryview, limit: Deadline) -> None:
        pinned = self._pins.get(key)
        headers = {"Range": header(start, len(view)), "Accept-Encoding": "identity"}
        if pinned and pinned.tag:
            headers["If-Match"] = pinned.tag
        with self._pool.exchange("GET", self._target(key), headers, limit) as response:
            if response.status != 206:
                raise self._refusal("read", key, response, end=start + len(view))
            total = check_content_range(key, response.getheader("Content-Range"), start, len(view))
            if response.getheader("Content-Encoding", "identity") != "identity":
                raise MalformedError(f"{self._name}{key} comes encoded, although it was asked for as it is")
            self._pins.note(key, Version(total, _strong_etag(response)))
            read_body(response, view)

    def _refusal(  # noqa: PLR0911 - one line for each answer
        self, action: str, key: str, response: HTTPResponse, end: int = 0
    ) -> EphemeralError | TransientFault:
        """Return what an answer without the bytes means."""
        place = f"{self._name}{key}"
        match response.status:
            case 404 | 410:
                return no_object(place)
            case 401 | 403:
                return UnavailableError(f"not allowed to {action} {place}: the server answers {response.status}")
            case 412:
                return changed(place, self._pins.get(key))
            case 416:
                return truncated(place, end)
            case status if status in _PASSING:
                return TransientFault(f"the server answers {status}", retry_after=_retry_after(response))
            case 200 if end:
                return UnavailableError(f"cannot {action} {place}: the server knows no ranges")
            case status:
                return UnavailableError(f"cannot {action} {place}: the server answers {status}")


def read_body(response: HTTPResponse, view: memoryview) -> None:
    """Fill *view* with a response's body, without a copy in between.

    Raises:
        TransientFault: The body ended before, or the connection did; with the bytes that came.
    """
    done = 0
    try:
        while done < len(view):
            count = response.readinto(view[done : done + (1 << 20)])
            if not count:
                raise TransientFault("the answer broke off", done=done)
            done += count
        response.read(1)  # only now does `http.client` see the end, and keep the connection
    except OSError as error:
        raise TransientFault(describe(error), done=done) from error


def _strong_etag(response: HTTPResponse) -> str | None:
    tag = response.getheader("ETag", "")
    return tag if len(tag) <= 1024 and tag.startswith('"') and tag.endswith('"') and len(tag) > 1 else None


def _length(key: str, response: HTTPResponse) -> int:
    text = response.getheader("Content-Length", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise MalformedError(f"{key}: the server does not tell its length")
    return int(text)


def _retry_after(response: HTTPResponse) -> float | None:
    text = response.getheader("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 4 else None
