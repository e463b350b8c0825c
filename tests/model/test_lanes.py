import threading

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.model import lanes


def test_all_lanes_run_at_once_and_end_before_it_returns() -> None:
    barrier = threading.Barrier(4, timeout=10)
    ended = []

    def lane(stop: threading.Event) -> None:
        barrier.wait()
        ended.append(stop.is_set())

    lanes.run([lane] * 4, name="test")
    assert ended == [False] * 4


def test_the_first_error_stops_the_others_and_is_raised_when_they_ended() -> None:
    ended = threading.Event()
    running = threading.Event()

    def waiting(stop: threading.Event) -> None:
        running.set()
        assert stop.wait(10)
        ended.set()

    def failing(stop: threading.Event) -> None:
        assert running.wait(10)
        raise UnavailableError("the network is gone")

    with pytest.raises(UnavailableError, match="network"):
        lanes.run([waiting, failing], name="test")
    assert ended.is_set()


def test_a_lane_that_waits_for_another_is_woken() -> None:
    woken = threading.Event()
    seen: list[tuple[bool, bool]] = []

    def waiting(stop: threading.Event) -> None:
        seen.append((woken.wait(5), stop.is_set()))

    def failing(stop: threading.Event) -> None:
        raise UnavailableError("x")

    with pytest.raises(UnavailableError):
        lanes.run([waiting, failing], name="test", on_stop=woken.set)
    assert seen == [(True, True)]


def test_nobody_is_woken_where_nothing_failed() -> None:
    lanes.run([lambda _: None], name="test", on_stop=lambda: pytest.fail("woken"))


def test_memory_has_the_size_that_was_asked_for_and_is_clear() -> None:
    for size in (0, 1, 5_000, 5 << 20):
        memory = lanes.scratch(size)
        assert (len(memory), any(memory[:100])) == (size, False)
        memory[:] = b"x" * size


def test_an_impossible_size_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="no memory"):
        lanes.scratch(1 << 62)
