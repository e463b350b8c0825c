"""Streams over sockets for threads."""

import contextlib
import select
import socket
import threading

from ephemeralml.errors import UnavailableError
from ephemeralml.transport.streams import READ_BYTES, DeadlineError


class SocketSyncStream:
    """A `SyncStream` over a connected stream socket of any family.

    The socket itself never blocks; waiting is `poll`'s, so that a receiver's
    deadline and a sender's are their own. Owns the socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._socket = sock
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._closed = False

    def receive(self, max_bytes: int = READ_BYTES, timeout: float | None = None) -> bytes:
        """Return what has come; see `SyncStream.receive`."""
        with self._receiving:
            view = self._buffer[:max_bytes]
            while True:
                self._check_open()
                try:
                    return bytes(view[: self._socket.recv_into(view)])
                except BlockingIOError:
                    self._wait(select.POLLIN, timeout, "nothing came")
                except OSError as error:
                    raise _broken(error) from error

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None = None) -> None:
        """Send all of *data*; see `SyncStream.send`."""
        with self._sending, memoryview(data) as view:
            sent = 0
            while sent < len(view):
                self._check_open()
                try:
                    sent += self._socket.send(view[sent:])
                except BlockingIOError:
                    self._wait(select.POLLOUT, timeout, "nothing could be sent")
                except OSError as error:
                    raise _broken(error) from error

    def send_eof(self) -> None:
        """End our direction; see `SyncStream.send_eof`."""
        with self._sending, contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End both directions; see `SyncStream.close`."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        # Whoever waits has been woken by the shutdown; the descriptor is not
        # given up while somebody may still poll it under its number.
        with self._receiving, self._sending:
            self._socket.close()

    def _wait(self, event: int, timeout: float | None, what: str) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
            raise DeadlineError(f"{what} within {timeout:g} s")

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError("the connection was closed")


def _broken(error: OSError) -> UnavailableError:
    return UnavailableError(f"the connection broke: {error.strerror or type(error).__name__}")
