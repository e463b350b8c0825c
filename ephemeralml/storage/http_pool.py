"""Kept connections to one HTTP/1.1 server, every wait on them bounded.

`http.client` speaks the protocol. Its timeout is per read, so a server that sends
a byte now and then could hold a caller for ever; the reader below asks the deadline
before each read of the socket, in the headers as in the body.
"""

import contextlib
import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, cast

from ephemeralml.errors import UnavailableError
from ephemeralml.storage.retry import Deadline, TransientFault

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER = 64 << 10
"""Read-ahead for headers; a body goes around it."""
IDLE = 64
"""Connections kept for the next request: as many as the enclave's host services take."""


class _Bounded(io.RawIOBase):
    """Reads of one socket, none of which lasts longer than the link allows."""

    def __init__(self, raw: io.RawIOBase, link: "_Link") -> None:
        self._raw = raw
        self._link = link

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        self._link.arm()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Link:
    """A connection, and how long the present exchange on it may take."""

    def __init__(self, connection: HTTPConnection, stall: float) -> None:
        self.connection = connection
        self.limit = Deadline()
        self.used = False
        self._stall = stall
        self._reading: socket.socket | None = None
        connection.response_class = cast("type[HTTPResponse]", partial(_response, self))

    def open(self) -> None:
        self.connection.timeout = self.limit.timeout(self._stall)
        self.connection.connect()

    def arm(self) -> None:
        """Let the next wait on the socket end with the deadline."""
        if self.limit.left() <= 0:
            raise TimeoutError("the deadline has passed")
        # `http.client` gives up its socket once the head says that nothing follows the body.
        sock = self.connection.sock or self._reading
        if sock is None:
            raise ConnectionError("the connection was closed")
        sock.settimeout(self.limit.timeout(self._stall))

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Stand in for the socket, of which `http.client` asks nothing else."""
        self._reading = self.connection.sock
        raw = cast("io.RawIOBase", self.connection.sock.makefile("rb", buffering=0))
        return io.BufferedReader(_Bounded(raw, self), BUFFER)


def _response(link: _Link, _socket: socket.socket, method: str | None = None) -> HTTPResponse:
    return HTTPResponse(cast("socket.socket", link), method=method)


class Pool:
    """Connections made by *connect*, kept alive between requests; for any number of threads.

    Args:
        connect: Returns a connection that is not open yet.
        stall: Seconds of silence after which a connection counts as dead.
    """

    def __init__(self, connect: Callable[[], HTTPConnection], stall: float) -> None:
        self._connect = connect
        self._stall = stall
        self._lock = threading.Lock()
        self._idle: list[_Link] = []
        self._closed = False

    @contextlib.contextmanager
    def exchange(
        self, method: str, path: str, headers: Mapping[str, str], limit: Deadline, body: bytes | None = None
    ) -> Iterator[HTTPResponse]:
        """Send a request and give its response; the connection is kept if the body was read to its end.

        Raises:
            TransientFault: The connection failed.
            UnavailableError: The server's certificate is not trusted.
        """
        link = response = None
        try:
            link, response = self._ask(method, path, headers, limit, body)
            yield response
        except ssl.SSLCertVerificationError as error:
            raise UnavailableError(f"the server's certificate is not trusted: {error.verify_message}") from error
        except (OSError, HTTPException) as error:
            raise TransientFault(describe(error)) from error
        finally:
            self._settle(link, response)

    def close(self) -> None:
        """Close the idle connections, and those in use as they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for link in idle:
            link.connection.close()

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], limit: Deadline, body: bytes | None
    ) -> tuple[_Link, HTTPResponse]:
        while True:
            link = self._take(limit)
            try:
                if not link.used:
                    link.open()
                link.arm()
                link.connection.request(method, path, body, dict(headers))
                return link, link.connection.getresponse()
            except (OSError, HTTPException) as error:
                link.connection.close()
                if not link.used or isinstance(error, TimeoutError):
                    raise
                # The server closed a kept connection in between: no fault, and not counted as a try.
            except BaseException:
                link.connection.close()
                raise

    def _take(self, limit: Deadline) -> _Link:
        with self._lock:
            link = self._idle.pop() if self._idle else None
        if link is None:
            link = _Link(self._connect(), self._stall)
        link.limit = limit
        return link

    def _settle(self, link: _Link | None, response: HTTPResponse | None) -> None:
        if link is None or response is None:
            return
        whole = response.isclosed() and not response.will_close
        response.close()
        link.used = True
        with self._lock:
            if whole and not self._closed and len(self._idle) < IDLE:
                self._idle.append(link)
                return
        link.connection.close()


def describe(error: BaseException) -> str:
    """Return what went wrong on a connection, without anything that the peer wrote."""
    if isinstance(error, TimeoutError):
        return "the server is silent"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "the connection broke off" if isinstance(error, HTTPException) else "the connection failed"
