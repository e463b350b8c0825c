"""The threads that an interruption leaves behind."""

import threading
import time

import pytest

from ephemeralml.daemon_pool import DaemonPool


def test_results_come_in_order_and_no_more_threads_run_than_were_asked_for() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def call(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return number

    with DaemonPool(3, "test") as pool:
        assert pool.map(call, range(12)) == list(range(12))
    assert most <= 3
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]


def test_an_error_is_raised_where_the_result_is_wanted_and_the_rest_not_begun() -> None:
    begun: list[int] = []

    def call(number: int) -> None:
        begun.append(number)
        time.sleep(0.01)
        if number == 0:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"), DaemonPool(2, "test") as pool:
        pool.map(call, range(100))
    assert len(begun) < 10


def test_an_order_to_stop_waits_for_nobody() -> None:
    hold = threading.Event()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), DaemonPool(2, "test") as pool:  # noqa: PT012 - the order comes inside
        future = pool.submit(lambda: hold.wait(30))
        waiting = [pool.submit(lambda: hold.wait(30)) for _ in range(5)]
        raise KeyboardInterrupt
    assert time.monotonic() - began < 5
    assert any(one.cancelled() for one in waiting)
    hold.set()
    assert future.result(5)
