"""One TLS connection for two threads.

The blocking WebSocket client reads in a thread of its own while others write,
and an OpenSSL connection takes one call at a time (SSL_CTX_new(3), threads);
Python serialises them itself only from 3.13 on. Without that an opening
request was lost about once in five hundred connections. Here every call into
TLS is made under one lock and never blocks; waiting happens outside of it.
"""

import select
import socket
import ssl
import threading
import time
from typing import Any

_WAIT_SECONDS = 0.1
"""A waiting reader looks this often whether its connection was closed here."""


class SharedTls:
    """Stands where `websockets` expects an `ssl.SSLContext`.

    Args:
        context: Does the work.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, sock: socket.socket, *, server_hostname: str | None = None) -> "_TlsSocket":
        """Make the handshake, within the socket's own timeout, and return the connection."""
        return _TlsSocket(self._context.wrap_socket(sock, server_hostname=server_hostname))


class _TlsSocket:
    """What `websockets` asks of a socket, safe with one reader beside one writer."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._timeout: float | None = None
        self._closed = False
        tls.setblocking(False)

    def recv(self, size: int) -> bytes:
        while not self._closed:
            with self._lock:
                try:
                    return self._tls.recv(size)
                except ssl.SSLWantReadError:
                    events = select.POLLIN
                except ssl.SSLWantWriteError:
                    events = select.POLLOUT
            self._wait(events, _WAIT_SECONDS)
        return b""

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while view:
            if self._closed:
                raise OSError("the connection was closed")
            with self._lock:
                try:
                    view = view[self._tls.send(view) :]
                    continue
                except ssl.SSLWantReadError:
                    events = select.POLLIN
                except ssl.SSLWantWriteError:
                    events = select.POLLOUT
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("the peer takes nothing")
            self._wait(events, _WAIT_SECONDS)

    def _wait(self, events: int, seconds: float) -> None:
        poller = select.poll()
        try:
            poller.register(self._tls, events)
        except ValueError:  # closed by another thread
            return
        poller.poll(seconds * 1_000)

    def settimeout(self, seconds: float | None) -> None:
        # Of sends alone: the reader is ended by `close`.
        self._timeout = seconds

    def shutdown(self, how: int) -> None:
        # The TCP connection's: SSLSocket.shutdown would make later reads return ciphertext.
        socket.socket.shutdown(self._tls, how)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            self._tls.close()

    def fileno(self) -> int:
        return self._tls.fileno()

    def getsockname(self) -> Any:
        return self._tls.getsockname()

    def getpeername(self) -> Any:
        return self._tls.getpeername()
