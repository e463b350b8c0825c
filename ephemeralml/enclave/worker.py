"""One thread per engine, fed by a bounded queue.

A job runs in slices, and an unfinished one goes to the back of the queue after
each, so that a request of two thousand texts does not hold up one of one. The
event loop never waits here: it submits, and is called back once per job.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from ephemeralml.enclave import log
from ephemeralml.enclave.api.errors import ApiError, internal
from ephemeralml.enclave.api.messages import ApiResponse


class Work(Protocol):
    """What a job does, in its engine's thread."""

    def advance(self) -> ApiResponse | None:
        """Do one slice; return the response once there is one.

        Raises:
            ApiError: The request cannot be served; this is its answer.
        """


class QueueFullError(Exception):
    """The engine has as many jobs waiting as it may have."""


class Job:
    """A piece of work on its way through the queue."""

    __slots__ = ("_deliver", "_loop", "_work", "cancelled", "response")

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop, deliver: Callable[[ApiResponse], None]) -> None:
        self._work: Work | None = work
        self._loop = loop
        self._deliver: Callable[[ApiResponse], None] | None = deliver
        self.cancelled = False
        self.response: ApiResponse | None = None

    def forget(self) -> None:
        """Drop what the job holds; it will neither run on nor be delivered."""
        self.cancelled = True
        self._work = None
        self._deliver = None

    def advance(self) -> bool:
        """Do one slice in the worker's thread; return whether the job is over."""
        work = self._work
        if work is None:
            return True
        try:
            response = work.advance()
        except ApiError as error:
            response = error.response()
        except Exception as error:  # noqa: BLE001 - a server task's boundary: nothing a request does may stop the thread
            log.note(log.Event.REQUEST_FAILED, fault=log.Fault.of(error))
            response = internal().response()
        if response is None:
            return False
        self.response = response
        with contextlib.suppress(RuntimeError):  # the loop was closed first
            self._loop.call_soon_threadsafe(self._hand_over)
        return True

    def _hand_over(self) -> None:
        """Deliver the response, in the loop, unless the request was cancelled meanwhile."""
        if self._deliver is not None and self.response is not None:
            self._deliver(self.response)


class EngineWorker:
    """The thread that owns one engine."""

    def __init__(self, name: str, *, limit: int) -> None:
        self._limit = limit
        self._jobs: deque[Job] = deque()
        # One token per submitted job; a job taken back leaves its token behind,
        # which then finds nothing and is dropped.
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name[:24]}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in the queue, the running one not counted."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Append *job*.

        Raises:
            QueueFullError: The queue is at its limit.
        """
        if len(self._jobs) >= self._limit:
            raise QueueFullError
        self._jobs.append(job)
        self._tokens.put(True)

    def cancel(self, job: Job) -> None:
        """Take *job* out of the queue, or keep its result from being delivered."""
        job.forget()
        with contextlib.suppress(ValueError):  # it runs, or has run
            self._jobs.remove(job)

    def close(self, timeout: float | None = None) -> None:
        """Stop after the slice in progress; jobs still waiting are dropped."""
        self._jobs.clear()
        self._tokens.put(False)
        self._thread.join(timeout)

    def _run(self) -> None:
        while self._tokens.get():
            try:
                job = self._jobs.popleft()
            except IndexError:
                continue
            if not job.advance():
                self._jobs.append(job)
                self._tokens.put(True)
