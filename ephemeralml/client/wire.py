"""Moves a session's bytes for threads, without a thread of its own.

Whoever waits for a reply reads for everybody (the leader); when its own reply
is there it hands the reading to another that waits. So several threads ask at
once over one session, and a single one pays for no hand-over.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from ephemeralml.client.call import Ask, Call, TimedOutError, TruncatedError
from ephemeralml.client.exchange import Exchange
from ephemeralml.client.selection import Selection
from ephemeralml.errors import EphemeralError, UnavailableError
from ephemeralml.transport.streams import DeadlineError, SyncStream

_CLOSE_SECONDS = 2.0
_SEND_SECONDS = 60.0


class Wire:
    """An `Exchange` on a blocking stream; every method may be called from any thread.

    Args:
        stream: Where the bytes go; closed by `close` and `abort`.
        exchange: Whose bytes they are.
    """

    def __init__(self, stream: SyncStream, exchange: Exchange) -> None:
        self.exchange = exchange
        """Touch it only with `lock` held, but for what never changes."""
        self.lock = threading.Lock()
        """Guards the exchange, what is queued, and who reads."""
        self._stream = stream
        self._sending = threading.Lock()
        self._outgoing: deque[bytes | bytearray] = deque()
        self._reading = False
        self._waiting: list[tuple[Call | None, threading.Condition]] = []
        self._retired = False

    def handshake(self, timeout: float) -> None:
        """Send the hello, verify the offer, confirm the keys.

        Raises:
            EphemeralError: Why there is no session.
        """
        deadline = time.monotonic() + timeout
        self._queue_output()
        self._flush()
        while not self.exchange.ready:
            if self.exchange.fault is not None:
                raise self.exchange.fault
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOutError(
                    f"no session within {timeout:g} s", hint="is the runtime overloaded, or something else listening?"
                )
            self._read(left)

    def close(self) -> None:
        """Tell the runtime, end calls in flight, and let the connection go."""
        with self.lock:
            self._wake(self.exchange.close())
            self._queue_output()
            alone = not self._reading
            self._reading = True
        self._flush(_CLOSE_SECONDS)
        deadline = time.monotonic() + _CLOSE_SECONDS
        # A courtesy to the peer, whose close ends the connection cleanly; nothing of ours depends on it.
        while alone and not self.exchange.finished and (left := deadline - time.monotonic()) > 0:
            self._read(left)
        self.abort()

    def abort(self) -> None:
        """Let the connection go without a word."""
        self._stream.close()
        self._lose(TruncatedError("the session was closed here"))

    def retire(self) -> None:
        """Close as soon as nobody waits for a reply: now, or when the last one has it."""
        with self.lock:
            self._retired = True
        self._close_if_retired()

    def start(self, ask: Ask, selection: Selection, deadline: float, *, live: bool) -> Call:
        """Send a request as soon as the peer takes another stream; errors as `Exchange.start`."""
        with self.lock:
            if self.exchange.full:
                self._wait_locked(None, lambda: not self.exchange.full or self.exchange.over, deadline)
            call = self.exchange.start(ask, selection, live=live)
            self._queue_output()
        self._flush(min(_SEND_SECONDS, max(0.0, deadline - time.monotonic())))
        return call

    def look(self) -> None:
        """Read what has come while nobody waited, a close above all."""
        with self.lock:
            if self._reading or self.exchange.over:
                return
            self._reading = True
        try:
            self._read(0)
        finally:
            with self.lock:
                self._reading = False
                self._promote()

    def wait(self, call: Call, ready: Callable[[], bool], deadline: float) -> None:
        """Wait until *ready*; a caller that gives up, for whatever reason, cancels *call*."""
        try:
            with self.lock:
                self._wait_locked(call, ready, deadline)
        except BaseException as error:
            mine = error if isinstance(error, EphemeralError) else TimedOutError("the caller gave up")
            self.cancel(call, mine)
            raise
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self._retired:
            with self.lock:
                awaited = self.exchange.awaited
            if not awaited:
                self.close()

    def cancel(self, call: Call, error: EphemeralError) -> None:
        """Give up on *call* for the reason that *error* states."""
        with self.lock:
            self.exchange.cancel(call, error)
            self._queue_output()
        self._flush()

    # -- who reads; called with the lock held

    def _wait_locked(self, call: Call | None, ready: Callable[[], bool], deadline: float) -> None:
        """Wait until *ready*, reading for everybody if nobody else does."""
        try:
            while not ready():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimedOutError("no complete reply in the time that was given")
                if self._reading:
                    self._follow(call, left)
                else:
                    self._lead(left)
        finally:
            self._promote()

    def _follow(self, call: Call | None, left: float) -> None:
        waiter = (call, threading.Condition(self.lock))
        self._waiting.append(waiter)
        try:
            waiter[1].wait(left)
        finally:
            self._waiting.remove(waiter)

    def _lead(self, left: float) -> None:
        self._reading = True
        self.lock.release()
        try:
            self._read(left)
        finally:
            self.lock.acquire()
            self._reading = False

    def _promote(self) -> None:
        """Let another waiting thread read, now that this one stops."""
        if self._waiting and not self._reading:
            self._waiting[0][1].notify()

    def _wake(self, changed: list[Call]) -> None:
        """Rouse whoever waits for one of *changed*, or for a free stream."""
        for call, condition in self._waiting:
            if call is None or call in changed:
                condition.notify()

    # -- bytes; called without the lock, but for _queue_output

    def _read(self, left: float) -> None:
        """Read once, at most *left* seconds, and hand on what came; only the reader calls it."""
        try:
            data = self._stream.receive(timeout=left)
        except DeadlineError:
            return
        except UnavailableError as error:
            self._lose(TruncatedError(error.message))
            return
        with self.lock:
            changed = self.exchange.receive_data(data) if data else self.exchange.eof_received()
            self._queue_output()
            self._wake(changed)
        self._flush()

    def _queue_output(self) -> None:
        data = self.exchange.data_to_send()
        if data:
            self._outgoing.append(data)

    def _flush(self, seconds: float = _SEND_SECONDS) -> None:
        """Send what is queued, in the order in which it was sealed.

        A peer that takes none of it for *seconds* is lost: half a record may
        have gone, and nothing could follow that.

        A thread that finds another one sending leaves its bytes to it: that one
        looks again after it has let go.
        """
        while self._outgoing and self._sending.acquire(blocking=False):
            try:
                with self.lock:
                    data = self._outgoing.popleft() if len(self._outgoing) == 1 else b"".join(self._outgoing)
                    self._outgoing.clear()
                if data:
                    self._stream.send(data, timeout=seconds)
            except UnavailableError as error:
                self._lose(TruncatedError(error.message))
            except BaseException:
                self._lose(TruncatedError("sending was interrupted half-way"))
                raise
            finally:
                self._sending.release()

    def _lose(self, error: TruncatedError) -> None:
        with self.lock:
            self._outgoing.clear()
            self._wake(self.exchange.lose(error))
