"""Streams over sockets in an event loop.

A protocol of asyncio's rather than its StreamReader: a send goes straight to
the socket, a receive costs one copy and no task switch when bytes are there.
"""

import asyncio
import socket
import threading
from collections import deque
from typing import cast

from ephemeralml.errors import UnavailableError
from ephemeralml.transport.streams import READ_BYTES, WRITE_BYTES

_scratch = threading.local()


def _scratch_buffer() -> memoryview:
    """Return this thread's read buffer.

    One for all connections: asyncio fills it and calls `buffer_updated` before
    anything else runs in this thread, and there its bytes are copied out.
    """
    view: memoryview | None = getattr(_scratch, "view", None)
    if view is None:
        view = _scratch.view = memoryview(bytearray(READ_BYTES))
    return view


class SocketStream(asyncio.BufferedProtocol):
    """A `Stream` over a connected stream socket of any family.

    Args:
        read_limit: Bytes kept unread before reading pauses.
        write_limit: Bytes waiting unsent before `send` waits.
    """

    def __init__(self, *, read_limit: int = READ_BYTES, write_limit: int = WRITE_BYTES) -> None:
        self._read_limit = read_limit
        self._write_limit = write_limit
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._reader: asyncio.Future[None] | None = None
        self._writers: deque[asyncio.Future[None]] = deque()
        self._reading_paused = False
        self._writing_paused = False
        self._eof = False
        self._lost: UnavailableError | None = None
        self._closed = self._loop.create_future()
        self.peer = ""
        """Who is at the other end."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport that asyncio made."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._write_limit, low=self._write_limit // 2)
        sock: socket.socket = transport.get_extra_info("socket")
        self.peer = _peer_name(sock.family, transport.get_extra_info("peername"))
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where asyncio shall read to."""
        return _scratch_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Keep what asyncio has read."""
        self._chunks.append(bytes(_scratch_buffer()[:nbytes]))
        self._held += nbytes
        if self._held >= self._read_limit and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        """Note the peer's end; ours goes on."""
        self._eof = True
        self._wake_reader()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake everyone who waits."""
        self._eof = True
        self._lost = UnavailableError("the connection was closed")
        if exc is not None:
            self._lost = UnavailableError(f"the connection broke: {_reason(exc)}")
            self._lost.__cause__ = exc
        self._wake_reader()
        while self._writers:
            _finish(self._writers.popleft())
        _finish(self._closed)

    def pause_writing(self) -> None:
        """Note that too much waits to be sent."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Note that enough has been sent."""
        self._writing_paused = False
        while self._writers:
            _finish(self._writers.popleft())

    # the owner's side

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what has come; see `Stream.receive`."""
        if self._reader is not None:
            raise RuntimeError("another task receives from this stream")
        while not self._chunks:
            if self._lost is not None and self._lost.__cause__ is not None:
                raise UnavailableError(self._lost.message) from self._lost
            if self._eof:
                return b""
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        self._held -= len(chunk)
        if self._reading_paused and self._held <= self._read_limit // 2 and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return chunk

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Hand *data* over; see `Stream.send`."""
        if self._lost is not None or self._transport is None or self._transport.is_closing():
            raise UnavailableError("the connection was closed") from self._lost
        self._transport.write(data)
        if self._writing_paused:
            await self._drained()

    async def send_eof(self) -> None:
        """End our direction; see `Stream.send_eof`."""
        if self._transport is not None and not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError as error:  # the peer has reset the connection, and the loop has not noticed yet
                raise UnavailableError(f"the connection broke: {_reason(error)}") from error

    def close(self) -> None:
        """End both directions; see `Stream.close`."""
        if self._transport is not None:
            self._transport.close()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""
        await asyncio.shield(self._closed)

    def abort(self) -> None:
        """End both directions at once; see `Stream.abort`."""
        if self._transport is not None:
            self._transport.abort()

    async def _drained(self) -> None:
        waiter = self._loop.create_future()
        self._writers.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._writers:
                self._writers.remove(waiter)
        if self._lost is not None:
            raise UnavailableError(self._lost.message) from self._lost

    def _wake_reader(self) -> None:
        if self._reader is not None:
            _finish(self._reader)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _peer_name(family: int, name: object) -> str:
    if family in (socket.AF_INET, socket.AF_INET6) and isinstance(name, tuple):
        return str(name[0])
    if family == getattr(socket, "AF_VSOCK", None) and isinstance(name, tuple):
        return f"vsock:{name[0]}"
    return "unix"
