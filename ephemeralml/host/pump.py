"""A WebSocket connection joined to the target: the slower sibling of `splice`.

WebSocket framing needs a library, so one side is a stream with its own
buffers; the other is the plain socket. One chunk per direction is in hand at a
time.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable

from ephemeralml.errors import UnavailableError
from ephemeralml.host.splice import Outcome, reset_on_close
from ephemeralml.transport.streams import Stream


class Pump:
    """A relayed connection between a stream and a socket, which it owns.

    Args:
        front: The client's side.
        back: The target's side.
        chunk_bytes: Most bytes in hand per direction.
        on_close: Called once, after the socket is closed.
    """

    def __init__(
        self, front: Stream, back: socket.socket, chunk_bytes: int, on_close: Callable[["Pump", Outcome], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._front = front
        self._back = back
        self._chunk_bytes = chunk_bytes
        self._on_close = on_close
        self._delivered = [0, 0]
        self._waiting = [0, 0]
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._outcome: Outcome | None = None

    @property
    def delivered(self) -> tuple[int, int]:
        """Bytes taken by the target and by the client."""
        return self._delivered[0], self._delivered[1]

    @property
    def waiting(self) -> tuple[int, int]:
        """Bytes that the target and the client have not taken yet."""
        return self._waiting[0], self._waiting[1]

    def lost(self) -> Outcome | None:
        """Return None: each side's own task notices its end."""
        return None

    def close(self, outcome: Outcome) -> None:
        """Order the end; `run` brings it about."""
        if self._outcome is None:
            self._outcome = outcome
        for task in self._tasks:
            task.cancel()

    async def run(self) -> None:
        """Copy in both directions until both have ended or one side broke."""
        self._tasks = (self._loop.create_task(self._up()), self._loop.create_task(self._down()))
        outcome, cancelled = Outcome.DONE, False
        try:
            await asyncio.gather(*self._tasks)
        except (UnavailableError, OSError):
            outcome = Outcome.RESET
        except asyncio.CancelledError:
            outcome, cancelled = Outcome.DRAINED, self._outcome is None
        cancelled |= await _end(self._tasks)
        self._finish(self._outcome or outcome)
        if cancelled:
            raise asyncio.CancelledError

    def _finish(self, outcome: Outcome) -> None:
        if outcome is Outcome.DONE:
            self._front.close()
        else:
            reset_on_close(self._back)
            self._front.abort()
        self._back.close()
        self._on_close(self, outcome)

    async def _up(self) -> None:
        while data := await self._front.receive(self._chunk_bytes):
            self._waiting[0] = len(data)
            await self._loop.sock_sendall(self._back, data)
            self._waiting[0] = 0
            self._delivered[0] += len(data)
        with contextlib.suppress(OSError):
            self._back.shutdown(socket.SHUT_WR)

    async def _down(self) -> None:
        while data := await self._loop.sock_recv(self._back, self._chunk_bytes):
            self._waiting[1] = len(data)
            await self._front.send(data)
            self._waiting[1] = 0
            self._delivered[1] += len(data)
        await self._front.send_eof()


async def _end(tasks: tuple[asyncio.Task[None], ...]) -> bool:
    """Cancel *tasks* and wait until none waits for a socket any more; returns whether we were cancelled meanwhile.

    A socket is closed only after that: its number is soon another's.
    """
    cancelled = False
    for task in tasks:
        task.cancel()
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError:
            cancelled = True
    for task in tasks:
        if not task.cancelled():
            task.exception()  # the first is known to our caller, the other follows from it
    return cancelled
