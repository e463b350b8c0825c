"""Listening by address, in an event loop.

Each connection is its own task; whatever its handler raises ends that
connection only.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

from ephemeralml.errors import UnavailableError
from ephemeralml.transport import tcp, unix, vsock
from ephemeralml.transport.address import Address, Scheme
from ephemeralml.transport.async_socket import SocketStream
from ephemeralml.transport.faults import unlistenable
from ephemeralml.transport.streams import READ_BYTES, WRITE_BYTES, Admit, Handler, Listener, Stream, Visit

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

HANDSHAKE_SECONDS = 10.0
"""How long TLS and a websocket's opening may take."""

_log = logging.getLogger(__name__)


class _Listening:
    """What the two kinds of listeners share: the tasks of their connections."""

    def __init__(self, address: Address) -> None:
        self.address = address
        """Where it listens, with the port that was chosen for 0."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: Any = None
        self._cleanup: Callable[[], None] = lambda: None

    @property
    def connections(self) -> int:
        """Connections whose handler runs."""
        return len(self._tasks)

    def close(self) -> None:
        """Take no more connections; see `Listener.close`."""
        self._stop()
        self._cleanup()

    async def wait_closed(self) -> None:
        """Wait until every handler has returned; see `Listener.wait_closed`."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def abort(self) -> None:
        """Cancel every handler; see `Listener.abort`."""
        self.close()
        for task in self._tasks:
            task.cancel()

    def _stop(self) -> None:
        self._server.close()

    async def serve(self, stream: Stream, handler: Handler) -> None:
        """Run *handler* on *stream* to its end."""
        try:
            await handler(stream)
        except asyncio.CancelledError:
            stream.abort()
            raise
        except UnavailableError:
            stream.abort()
        except Exception as error:  # noqa: BLE001 - one connection's fault must not reach the others
            # The type alone: a message or a traceback could hold what a peer sent.
            _log.error("a connection's handler failed: %s", type(error).__name__)
            stream.abort()
        else:
            stream.close()


class _SocketListener(_Listening):
    """Listens on plain sockets."""

    def __init__(self, address: Address, handler: Handler) -> None:
        super().__init__(address)
        self._handler = handler

    def accepted(self, stream: SocketStream) -> None:
        task = asyncio.get_running_loop().create_task(self.serve(stream, self._handler))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self, sockets: list[socket.socket], *, read_limit: int, write_limit: int, backlog: int) -> None:
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []

        def protocol() -> SocketStream:
            return _Accepted(self.accepted, read_limit=read_limit, write_limit=write_limit)

        try:
            for sock in sockets:
                servers.append(await loop.create_server(protocol, sock=sock, backlog=backlog))  # noqa: PERF401 - kept on failure
        except OSError as error:
            for server in servers:
                server.close()
            for sock in sockets:
                sock.close()
            self._cleanup()
            raise unlistenable(self.address, error) from error
        self._server = _All(servers)


class _Accepted(SocketStream):
    """A stream that reports itself once its connection stands."""

    def __init__(self, accepted: Callable[[SocketStream], None], *, read_limit: int, write_limit: int) -> None:
        super().__init__(read_limit=read_limit, write_limit=write_limit)
        self._accepted = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._accepted(self)


class _All:
    """Several servers that close together."""

    def __init__(self, servers: list[asyncio.Server]) -> None:
        self._servers = servers

    def close(self) -> None:
        for server in self._servers:
            server.close()


class _WebSocketListener(_Listening):
    """Listens for websockets."""

    def __init__(self, address: Address, admit: Admit) -> None:
        super().__init__(address)
        self._admit = admit
        self._opening: set[ServerConnection] = set()

    async def accepted(self, stream: Stream, visit: Visit) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.serve(stream, visit.serve)
            await stream.wait_closed()
        finally:
            self._tasks.discard(task)

    def _stop(self) -> None:
        self._server.close(close_connections=False)
        for connection in tuple(self._opening):
            connection.transport.abort()

    async def start(self, *, tls: SSLContext | None, opening_seconds: float, write_limit: int) -> None:
        from ephemeralml.transport import websocket

        self._server = await websocket.serve(
            self.address,
            self._admit,
            self.accepted,
            opening=self._opening,
            tls=tls,
            open_timeout=opening_seconds,
            write_limit=write_limit,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.address = replace(self.address, port=port)


async def listen(
    address: Address,
    handler: Handler,
    *,
    tls: SSLContext | None = None,
    read_limit: int = READ_BYTES,
    write_limit: int = WRITE_BYTES,
    backlog: int = 1_024,
) -> Listener:
    """Listen, and run *handler* in a task of its own for every connection.

    When the handler returns its stream is closed; when it raises, aborted.

    Args:
        address: Where; port 0 lets the system choose.
        handler: Serves one connection.
        tls: For wss, which needs it.
        read_limit: Bytes kept unread before reading pauses.
        write_limit: Bytes waiting unsent before `Stream.send` waits.
        backlog: Connections that may wait to be accepted.

    Raises:
        UnavailableError: The address is taken, not ours, or needs a right we lack.
    """
    if address.scheme in (Scheme.WS, Scheme.WSS):
        visit = Visit(handler, lambda: None)
        return await listen_websocket(address, lambda _peer: visit, tls=tls, write_limit=write_limit)
    listener = _SocketListener(address, handler)
    match address.scheme:
        case Scheme.TCP:
            sockets = await tcp.listen(address)
            listener.address = replace(address, port=sockets[0].getsockname()[1])
        case Scheme.UNIX:
            sock, bound = unix.listen(address)
            sockets, listener._cleanup = [sock], bound.remove  # noqa: SLF001 - our own part, two classes up
        case _:
            sockets = [vsock.listen(address)]
            listener.address = replace(address, port=sockets[0].getsockname()[1])
    await listener.start(sockets, read_limit=read_limit, write_limit=write_limit, backlog=backlog)
    return listener


async def listen_websocket(
    address: Address,
    admit: Admit,
    *,
    tls: SSLContext | None = None,
    opening_seconds: float = HANDSHAKE_SECONDS,
    write_limit: int = WRITE_BYTES,
) -> Listener:
    """Listen for websockets on behalf of an owner that counts connections before they open.

    Args:
        address: Where; port 0 lets the system choose.
        admit: Asked about every connection before its opening is read; over TLS, once that stands.
        tls: For wss, which needs it.
        opening_seconds: How long TLS and an opening may take.
        write_limit: Bytes waiting unsent before `Stream.send` waits.

    Raises:
        UnavailableError: As `listen`.
    """
    listener = _WebSocketListener(address, admit)
    await listener.start(tls=tls, opening_seconds=opening_seconds, write_limit=write_limit)
    return listener
