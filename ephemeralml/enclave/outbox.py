"""Sealed bytes on their way to one peer, without a task unless the peer is slow."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from ephemeralml.enclave.budget import ByteBudget
from ephemeralml.errors import UnavailableError
from ephemeralml.transport.streams import Stream


class StreamOutbox:
    """Writes straight to the stream while it takes bytes, and queues behind it while it does not.

    Args:
        stream: Where the bytes go.
        budget: Write buffers of everybody together; told of what waits here.
        clock: Seconds of a steady clock.
        drained: Called when waiting bytes have gone.
    """

    def __init__(
        self, stream: Stream, budget: ByteBudget, clock: Callable[[], float], drained: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._budget = budget
        self._clock = clock
        self._drained = drained
        self._queue: deque[bytes | bytearray] = deque()
        self._held = 0
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self.stalled_since: float | None = None
        """When the peer last took something, while bytes wait for it; else None."""
        self.broken = False
        """Whether the connection is of no more use."""

    @property
    def buffered(self) -> int:
        """Bytes that wait for the peer."""
        return self._held

    def write(self, data: bytes | bytearray) -> None:
        """Append *data*; never blocks. After the connection broke, bytes go nowhere."""
        if self.broken:
            return
        if self._task is None and self._hand_over(data):
            return
        self._hold(len(data))
        if self._task is not None:
            self._queue.append(data)
        elif not self.broken:
            self.stalled_since = self._clock()
            self._task = asyncio.get_running_loop().create_task(self._wait(len(data)))

    def end(self) -> None:
        """End the stream once everything has been taken."""
        self._ending = True
        if self._task is None:
            self._stream.close()

    def gone(self) -> None:
        """Forget what waits: the connection is over."""
        self.broken = True
        if self._task is not None:
            self._task.cancel()
        self._queue.clear()
        self._hold(-self._held)
        self.stalled_since = None

    def _hand_over(self, data: bytes | bytearray) -> bool:
        """Give *data* to the stream; return False where it wants us to wait before the next.

        `Stream.send` hands bytes over first and waits afterwards, if at all, so
        one step of it without a task is a complete write: in the usual case it
        returns, else the rest of it is only the waiting, which `_wait` does.
        """
        sending: Coroutine[Any, Any, None] = self._stream.send(data)
        try:
            sending.send(None)
        except StopIteration:
            return True
        except UnavailableError:
            self.broken = True
            return True
        sending.close()
        return False

    async def _wait(self, handed_over: int) -> None:
        """Wait until the stream takes more, and give it what has gathered."""
        try:
            await self._stream.send(b"")
            self._took(handed_over)
            while self._queue:
                data = self._queue.popleft()
                await self._stream.send(data)
                self._took(len(data))
        except UnavailableError:
            self.broken = True
            self._queue.clear()
            self._hold(-self._held)
        self._task = None
        self.stalled_since = None
        self._drained()
        if self._ending and self._task is None:
            self._stream.close()

    def _took(self, count: int) -> None:
        self._hold(-count)
        self.stalled_since = self._clock()

    def _hold(self, change: int) -> None:
        self._held += change
        self._budget.adjust(change)
