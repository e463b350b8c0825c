"""WebSockets in an event loop, as byte streams: binary messages, any split (channel section 5).

A thin adapter over `websockets`, imported only when such an address is used.
There is no half-close: either side's close frame ends both directions.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, cast

from ephemeralml.errors import UnavailableError
from ephemeralml.transport.address import WEBSOCKET_PATH, Address, Scheme
from ephemeralml.transport.faults import unlistenable, unreachable
from ephemeralml.transport.streams import READ_BYTES, WRITE_BYTES, Admit, Stream, Visit

if TYPE_CHECKING:
    from websockets.asyncio.connection import Connection
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

MAX_MESSAGE = (1 << 20) + 24
"""Most bytes of one binary message: the largest record's frame."""
CLOSE_SECONDS = 5.0
"""How long a closing handshake may take."""

# What `websockets` would log holds peers' requests; failures are reported by our own errors.
SILENT = logging.Logger("ephemeralml.transport.websocket", level=logging.CRITICAL + 1)  # noqa: LOG001 - in no hierarchy


class WebSocketStream:
    """A `Stream` over a `websockets` connection, which it owns."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._rest = memoryview(b"")
        self._sending = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self.peer = _peer_name(connection.remote_address)
        """Who is at the other end."""

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what has come; see `Stream.receive`."""
        from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

        while not self._rest:
            try:
                message = await self._connection.recv()
            except ConnectionClosedOK:
                return b""
            except ConnectionClosed as error:
                raise UnavailableError("the websocket broke") from error
            if isinstance(message, str):
                await self._connection.close(1003, "binary messages only")
                raise UnavailableError("the peer sent a text message, a channel's are binary")
            self._rest = memoryview(message)
        piece, self._rest = bytes(self._rest[:max_bytes]), self._rest[max_bytes:]
        return piece

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Hand *data* over; see `Stream.send`."""
        from websockets.exceptions import ConnectionClosed

        view = memoryview(data)
        async with self._sending:
            for start in range(0, len(view), MAX_MESSAGE):
                try:
                    await self._connection.send(view[start : start + MAX_MESSAGE])
                except ConnectionClosed as error:
                    raise UnavailableError("the websocket was closed") from error

    async def send_eof(self) -> None:
        """End both directions: a websocket has no half-close."""
        self.close()

    def close(self) -> None:
        """Begin the closing handshake, behind what was sent."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._connection.close())

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""
        await self._connection.wait_closed()
        if self._closing is not None:
            await self._closing

    def abort(self) -> None:
        """Drop the connection without a closing handshake."""
        self._connection.transport.abort()


async def connect(
    address: Address,
    *,
    timeout: float,  # noqa: ASYNC109 - the library's own
    tls: SSLContext | None,
    write_limit: int = WRITE_BYTES,
) -> WebSocketStream:
    """Return a stream to a websocket server.

    Raises:
        UnavailableError: Nobody answers there, or not with a websocket at `WEBSOCKET_PATH`.
    """
    library = _library()
    try:
        connection = await library.client.connect(
            str(address),
            open_timeout=timeout,
            write_limit=write_limit,
            **_tls(address, tls),
            **settings(),
        )
    except OSError as error:
        raise unreachable(address, error) from error
    except library.exceptions.WebSocketException as error:
        raise refused(address, error) from error
    return WebSocketStream(connection)


def settings() -> dict[str, Any]:
    """Return what client and server, here and for threads, have in common."""
    return {
        "compression": None,  # what is carried is ciphertext
        "max_size": MAX_MESSAGE,
        "max_queue": 0,  # reading pauses as soon as one message waits, so that one bounds what is held
        "close_timeout": CLOSE_SECONDS,
        "logger": SILENT,
    }


def refused(address: Address, error: Exception) -> UnavailableError:
    """Return what to raise when *address* answers, and not as it should."""
    return UnavailableError(
        f"no websocket at {address}: {type(error).__name__}", hint=f"does a relay serve {WEBSOCKET_PATH} there?"
    )


def _tls(address: Address, tls: SSLContext | None) -> dict[str, Any]:
    return {"ssl": tls} if address.scheme is Scheme.WSS and tls is not None else {}


def _library() -> Any:
    try:
        import websockets.asyncio.client
        import websockets.asyncio.server
        import websockets.exceptions
    except ModuleNotFoundError as error:
        raise missing() from error

    class Library:
        client = websockets.asyncio.client
        server = websockets.asyncio.server
        exceptions = websockets.exceptions

    return Library


def missing() -> UnavailableError:
    """Return what to raise where the websockets package is not installed."""
    return UnavailableError("websocket addresses need the websockets package", hint="pip install 'ephemeralml[client]'")


def _peer_name(address: object) -> str:
    return str(address[0]) if isinstance(address, tuple) else "unix"


def _only_our_path(connection: "ServerConnection", request: "Request") -> "Response | None":
    if request.path == WEBSOCKET_PATH:
        return None
    return connection.respond(HTTPStatus.NOT_FOUND, f"channels are served at {WEBSOCKET_PATH}\n")


def _admitting(base: "type[ServerConnection]", admit: Admit, opening: "set[ServerConnection]") -> Any:
    """Return a kind of *base* that asks *admit* as soon as its transport stands, and says when that is gone."""

    class Admitted(base):  # type: ignore[misc, valid-type] # a parameter, since the library is imported late
        visit: Visit | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.visit = admit(_peer_name(transport.get_extra_info("peername")))
            if self.visit is None:
                # asyncio has not begun to read, and the library learns nothing of it.
                cast("asyncio.Transport", transport).abort()
                return
            opening.add(self)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.visit is None:
                return
            opening.discard(self)
            try:
                super().connection_lost(exc)
            finally:
                self.visit.ended()

    return Admitted


async def serve(
    address: Address,
    admit: Admit,
    accepted: Callable[[Stream, Visit], Awaitable[None]],
    *,
    opening: "set[ServerConnection]",
    tls: SSLContext | None,
    open_timeout: float,
    write_limit: int = WRITE_BYTES,
) -> "Server":
    """Listen, and await ``accepted(stream, visit)`` for every connection that opens at `WEBSOCKET_PATH`.

    Args:
        address: Where.
        admit: Asked before a connection's opening is read; over TLS, once that stands.
        accepted: Serves an open connection.
        opening: Holds the connections that were admitted and have not opened yet.
        tls: For wss.
        open_timeout: Seconds for an opening, and for TLS before it.
        write_limit: Bytes waiting unsent before `Stream.send` waits.

    Raises:
        UnavailableError: The address cannot be listened on.
    """
    if address.scheme is Scheme.WSS and tls is None:
        raise UnavailableError(f"cannot listen on {address} without a certificate", hint="listen on ws:// or give one")
    library = _library()

    async def handler(connection: "ServerConnection") -> None:
        opening.discard(connection)
        visit: Visit = cast("Any", connection).visit
        await accepted(WebSocketStream(connection), visit)

    try:
        server: Server = await library.server.serve(
            handler,
            address.host,
            address.port,
            ssl=tls,
            process_request=_only_our_path,
            open_timeout=open_timeout,
            write_limit=write_limit,
            server_header=None,
            create_connection=_admitting(library.server.ServerConnection, admit, opening),
            **settings(),
        )
    except OSError as error:
        raise unlistenable(address, error) from error
    return server
