"""Threads that an interrupted command leaves behind instead of waiting for them.

The standard library's executor waits for its threads when a block is left and once
more when the interpreter ends, so whoever presses Ctrl-C waits for a slow server.
These threads end with the process.
"""

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class DaemonPool:
    """At most *threads* threads for the calls that are submitted. Use it in a ``with``.

    Leaving the block waits for what was begun, and begins nothing more. Where an
    order to stop (`KeyboardInterrupt`, `SystemExit`) leaves it, nothing is waited for.

    Args:
        threads: How many calls run at once.
        name: What the threads are called.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads
        self._name = name
        self._threads: list[threading.Thread] = []
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Have *call* run as soon as a thread is free."""
        future: Future[Result] = Future()
        self._calls.put((future, call))
        if len(self._threads) < self._most:
            thread = threading.Thread(target=_work, args=(self._calls,), name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def map(self, call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return what *call* returns for each of *items*, in their order; its first error is raised."""
        futures = [self.submit(lambda item=item: call(item)) for item in items]  # type: ignore[misc]
        return [future.result() for future in futures]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while not self._calls.empty():
            waiting = self._calls.get()
            if waiting is not None:
                waiting[0].cancel()
        for _ in self._threads:
            self._calls.put(None)
        if error is None or isinstance(error, Exception):
            for thread in self._threads:
                thread.join()


def _work(calls: "queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]") -> None:
    while (waiting := calls.get()) is not None:
        future, call = waiting
        if not future.set_running_or_notify_cancel():
            continue
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is wanted
            future.set_exception(error)
        else:
            future.set_result(result)
        del waiting, future, call  # nothing is kept alive by a thread that waits
