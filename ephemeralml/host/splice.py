"""Two connected sockets, joined: what one sends the other receives.

This is the path that every byte of every request takes, so it works on the
sockets themselves, from the event loop's readiness callbacks: one `recv_into` a
buffer that all connections share, one `send`, nothing allocated and no task
woken. What a receiver does not take at once is kept, at most one chunk, and
nothing more is read from its sender until it is gone; so a direction never
holds more than a chunk, whatever either side does.
"""

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Callable
from enum import Enum

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Outcome(Enum):
    """How a relayed connection ended; all that is ever said about it besides sizes and times."""

    DONE = "done"
    """Both sides ended their stream."""
    RESET = "reset"
    """One side broke off; the other was reset."""
    IDLE = "idle"
    STALLED = "stalled"
    DRAINED = "drained"
    """Cut by the relay's own end."""


class Flow:
    """One direction: bytes of *source* into *sink*.

    Args:
        loop: The running loop.
        source: Read from; non-blocking.
        sink: Written to; non-blocking.
        buffer: Scratch space shared by every flow of the loop.
        ended: Called once, when no byte will come any more; True if the source broke.
    """

    __slots__ = ("_buffer", "_ended", "_loop", "_rest", "_sink", "_source", "delivered", "finished")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: socket.socket,
        sink: socket.socket,
        buffer: memoryview,
        ended: Callable[[bool], None],
    ) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._buffer = buffer
        self._ended = ended
        self._rest: memoryview | None = None
        self.delivered = 0
        """Bytes that the sink's kernel has taken."""
        self.finished = False
        """Whether the source ended, or the sink takes nothing any more."""

    @property
    def waiting(self) -> int:
        """Bytes read and not taken yet."""
        return 0 if self._rest is None else len(self._rest)

    @property
    def reading(self) -> bool:
        """Whether the loop would notice what happens to the source."""
        return not self.finished and self._rest is None

    def start(self) -> None:
        """Begin to copy."""
        self._loop.add_reader(self._source, self._readable)

    def stop(self) -> None:
        """Take the callbacks out of the loop; both sockets must still be open."""
        self.finished = True
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        self._rest = None

    def _readable(self) -> None:
        try:
            count = self._source.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._finish(broken=True)
            return
        if not count:
            self._end_stream()
            return
        try:
            sent = self._sink.send(self._buffer[:count])
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._finish(broken=False)
            return
        self.delivered += sent
        if sent < count:
            # The one copy: the buffer belongs to all flows.
            self._rest = memoryview(bytes(self._buffer[sent:count]))
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._writable)

    def _writable(self) -> None:
        rest = self._rest
        if rest is None:
            return
        try:
            sent = self._sink.send(rest)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._finish(broken=False)
            return
        self.delivered += sent
        if sent < len(rest):
            self._rest = rest[sent:]
            return
        self._rest = None
        self._loop.remove_writer(self._sink)
        self._loop.add_reader(self._source, self._readable)

    def _end_stream(self) -> None:
        """Pass the end of the stream on; the other direction is not touched (half-close)."""
        with contextlib.suppress(OSError):  # a sink that is gone shows it to its own reader
            self._sink.shutdown(socket.SHUT_WR)
        self._finish(broken=False)

    def _finish(self, *, broken: bool) -> None:
        self.stop()
        self._ended(broken)


class Splice:
    """A relayed connection: two flows over two sockets, which it owns.

    A sink that refuses bytes ends only its own flow: what the same peer sent
    before it went away is still read and delivered, and then its reset or end.

    Args:
        front: The client's side.
        back: The target's side.
        buffer: As `Flow`.
        on_close: Called once, after both sockets are closed.
    """

    __slots__ = ("_back", "_front", "_on_close", "_outcome", "down", "up")

    def __init__(
        self,
        front: socket.socket,
        back: socket.socket,
        buffer: memoryview,
        on_close: Callable[["Splice", Outcome], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._front = front
        self._back = back
        self._on_close = on_close
        self._outcome: Outcome | None = None
        self.up = Flow(loop, front, back, buffer, self._flow_ended)
        """Client to target."""
        self.down = Flow(loop, back, front, buffer, self._flow_ended)
        """Target to client."""

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, or None while it lasts."""
        return self._outcome

    @property
    def delivered(self) -> tuple[int, int]:
        """Bytes taken by the target and by the client."""
        return self.up.delivered, self.down.delivered

    @property
    def waiting(self) -> tuple[int, int]:
        """Bytes that the target and the client have not taken yet."""
        return self.up.waiting, self.down.waiting

    def start(self) -> None:
        """Begin to copy in both directions."""
        self.up.start()
        self.down.start()

    def lost(self) -> Outcome | None:
        """Return how a peer went that no callback tells of, because its socket is not read now; None if none did.

        A peer that ended its stream and then hung up altogether takes nothing any
        more; unix sockets know that, TCP shows it as a reset once written to.
        """
        for sock, reading, writing in ((self._front, self.up, self.down), (self._back, self.down, self.up)):
            if reading.reading:
                continue
            events = _events(sock)
            if events & select.POLLERR:
                return Outcome.RESET
            if events & select.POLLHUP and reading.finished and not writing.finished:
                return Outcome.DONE
        return None

    def close(self, outcome: Outcome) -> None:
        """Close both sockets; anything but a regular end reaches the peers as a reset."""
        if self._outcome is not None:
            return
        self._outcome = outcome
        self.up.stop()
        self.down.stop()
        for sock in (self._front, self._back):
            if outcome is not Outcome.DONE:
                reset_on_close(sock)
            sock.close()
        self._on_close(self, outcome)

    def _flow_ended(self, broken: bool) -> None:  # noqa: FBT001 - the flow's callback
        if broken:
            self.close(Outcome.RESET)
        elif self.up.finished and self.down.finished:
            self.close(Outcome.DONE)
        elif (outcome := self.lost()) is not None:
            self.close(outcome)


def _events(sock: socket.socket) -> int:
    """Return whether *sock* has an error or was hung up, without taking the error from it."""
    poll = select.poll()
    poll.register(sock, 0)
    return next((events for _, events in poll.poll(0)), 0)


def reset_on_close(sock: socket.socket) -> None:
    """Make `close` send a reset, where the family knows one, so that no cut looks like an end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
