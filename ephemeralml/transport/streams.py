"""What a byte stream can do, whatever carries it.

Streams move bytes and nothing else. `Stream` is for asyncio, `SyncStream` for
threads. Faults of the network are `UnavailableError`, never a socket's own.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from ephemeralml.errors import UnavailableError
from ephemeralml.transport.address import Address

DEFAULT_TIMEOUT = 15.0
"""Seconds to wait for a connection."""
READ_BYTES = 256 << 10
"""Most bytes taken from a socket at once, and kept before reading pauses."""
WRITE_BYTES = 512 << 10
"""Default bytes that may wait for the peer before `Stream.send` waits too."""


class DeadlineError(UnavailableError):
    """Nothing happened in the time that was given."""


class Stream(Protocol):
    """A byte stream in an event loop. One task receives; any task sends."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for admission and logs: an IP address, ``unix``, or ``vsock:CID``."""

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what has come, at least one byte; ``b""`` once the peer has ended.

        Raises:
            UnavailableError: The connection broke.
        """

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Hand *data* over for sending; waits only while too much is waiting already.

        The caller does not change *data* afterwards.

        Raises:
            UnavailableError: The connection broke.
        """

    async def send_eof(self) -> None:
        """End our direction once all is sent; the other goes on, except on a websocket.

        A websocket ends both directions at once: there this begins its closing
        handshake, so a channel calls it when both its closes have passed.
        """

    def close(self) -> None:
        """End both directions once what waits has been sent."""

    async def wait_closed(self) -> None:
        """Wait until the connection is gone; never raises for how it went."""

    def abort(self) -> None:
        """End both directions at once and drop what waits."""


class SyncStream(Protocol):
    """A byte stream for threads. One thread receives, one sends, any closes."""

    def receive(self, max_bytes: int = READ_BYTES, timeout: float | None = None) -> bytes:
        """Return what has come, at least one byte; ``b""`` once the peer has ended.

        Raises:
            DeadlineError: Nothing came within *timeout* seconds; 0 only looks.
            UnavailableError: The connection broke.
        """

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None = None) -> None:
        """Send all of *data*.

        Raises:
            DeadlineError: The peer took none of it for *timeout* seconds; the stream is of no more use.
            UnavailableError: The connection broke.
        """

    def send_eof(self) -> None:
        """End our direction; see `Stream.send_eof`."""

    def close(self) -> None:
        """End both directions; a thread that waits in `receive` wakes up. May be called again."""


Handler = Callable[[Stream], Awaitable[None]]
"""Serves one connection; the listener closes the stream when it returns or fails."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What becomes of one websocket connection that was admitted."""

    serve: Handler
    """Called once it has opened, if it ever does."""
    ended: Callable[[], None]
    """Called once it is gone, whether it opened or not."""


Admit = Callable[[str], Visit | None]
"""Asked about a websocket connection, by its peer, before a byte of its opening is read; None refuses it."""


class Listener(Protocol):
    """An open ear."""

    @property
    def address(self) -> Address:
        """Where it listens, with the port that was chosen for 0."""

    @property
    def connections(self) -> int:
        """Connections whose handler runs."""

    def close(self) -> None:
        """Take no more connections; those there are go on."""

    async def wait_closed(self) -> None:
        """Wait until `close` was called and every handler has returned."""

    def abort(self) -> None:
        """Take no more connections and cancel every handler."""
