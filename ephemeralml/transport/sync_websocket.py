"""WebSockets for threads; see `websocket` for event loops."""

import threading
from ssl import SSLContext, create_default_context
from typing import TYPE_CHECKING, Any

from ephemeralml.errors import UnavailableError
from ephemeralml.transport.address import Address, Scheme
from ephemeralml.transport.faults import unreachable
from ephemeralml.transport.shared_tls import SharedTls
from ephemeralml.transport.streams import READ_BYTES, DeadlineError
from ephemeralml.transport.websocket import MAX_MESSAGE, missing, refused, settings

if TYPE_CHECKING:
    from websockets.sync.connection import Connection


class WebSocketSyncStream:
    """A `SyncStream` over a `websockets` connection, which it owns."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._receiving = threading.Lock()
        self._rest = memoryview(b"")
        self._sending = threading.Lock()

    def receive(self, max_bytes: int = READ_BYTES, timeout: float | None = None) -> bytes:
        """Return what has come; see `SyncStream.receive`."""
        from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

        with self._receiving:
            while not self._rest:
                try:
                    message = self._connection.recv(timeout)
                except TimeoutError as error:
                    raise DeadlineError(f"nothing came within {timeout:g} s") from error
                except ConnectionClosedOK:
                    return b""
                except ConnectionClosed as error:
                    raise UnavailableError("the websocket broke") from error
                if isinstance(message, str):
                    self._connection.close(1003, "binary messages only")
                    raise UnavailableError("the peer sent a text message, a channel's are binary")
                self._rest = memoryview(message)
            piece, self._rest = bytes(self._rest[:max_bytes]), self._rest[max_bytes:]
            return piece

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None = None) -> None:  # noqa: ARG002
        """Send all of *data*.

        *timeout* is not honoured here: `websockets` has no deadline for sending;
        its keepalive breaks a connection whose peer no longer answers.
        """
        from websockets.exceptions import ConnectionClosed

        view = memoryview(data)
        with self._sending:
            for start in range(0, len(view), MAX_MESSAGE):
                try:
                    self._connection.send(view[start : start + MAX_MESSAGE])
                except ConnectionClosed as error:
                    raise UnavailableError("the websocket was closed") from error

    def send_eof(self) -> None:
        """End both directions: a websocket has no half-close."""
        self.close()

    def close(self) -> None:
        """End both directions; see `SyncStream.close`."""
        self._connection.close()


def connect(address: Address, *, timeout: float, tls: SSLContext | None) -> WebSocketSyncStream:
    """Return a stream to a websocket server.

    Raises:
        UnavailableError: Nobody answers there, or not with a websocket at the channel's path.
    """
    try:
        import websockets.exceptions
        import websockets.sync.client
    except ModuleNotFoundError as error:
        raise missing() from error
    more: dict[str, Any] = {}
    if address.scheme is Scheme.WSS:
        more["ssl"] = SharedTls(tls if tls is not None else create_default_context())
    try:
        # Entered here and left in `close`: newer versions insist on the context manager.
        connection = websockets.sync.client.connect(
            str(address), open_timeout=timeout, **more, **settings()
        ).__enter__()
    except OSError as error:
        raise unreachable(address, error) from error
    except websockets.exceptions.WebSocketException as error:
        raise refused(address, error) from error
    return WebSocketSyncStream(connection)
