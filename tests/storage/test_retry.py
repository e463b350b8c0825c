import math
import threading

import pytest

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.storage.retry import Deadline, Retries, RetryPolicy, TransientFault


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failing(times: int, **more: float) -> tuple[list[Deadline], "object"]:
    calls: list[Deadline] = []

    def action(limit: Deadline) -> str:
        calls.append(limit)
        if len(calls) <= times:
            raise TransientFault("the store answers 503", **more)  # type: ignore[arg-type]
        return "done"

    return calls, action


def retries(clock: Clock, seconds: float | None = None, **policy: float) -> Retries:
    return Retries(RetryPolicy(**policy), Deadline(seconds, clock=clock), clock.sleep)  # type: ignore[arg-type]


def test_a_fault_that_passes_is_tried_again(clock: Clock) -> None:
    calls, action = failing(4)
    assert retries(clock).call("read x", action) == "done"  # type: ignore[arg-type]
    assert len(calls) == 5


def test_waits_grow_and_jitter(clock: Clock) -> None:
    _, action = failing(4)
    retries(clock).call("read x", action)  # type: ignore[arg-type]
    for wait, base in zip(clock.slept, (0.2, 0.4, 0.8, 1.6), strict=True):
        assert base <= wait <= base + 0.2
    assert len({wait % 0.1 for wait in clock.slept}) == 4


def test_no_wait_exceeds_the_longest(clock: Clock) -> None:
    _, action = failing(9)
    retries(clock, tries=10, longest_wait=0.5).call("read x", action)  # type: ignore[arg-type]
    assert max(clock.slept) <= 0.5


def test_a_server_may_ask_for_a_longer_wait_within_bounds(clock: Clock) -> None:
    _, action = failing(1, retry_after=3)
    retries(clock).call("read x", action)  # type: ignore[arg-type]
    assert clock.slept == [3]
    _, action = failing(1, retry_after=9999)
    retries(clock).call("read x", action)  # type: ignore[arg-type]
    assert clock.slept == [3, 5]


def test_the_last_failure_is_told(clock: Clock) -> None:
    calls, action = failing(99)
    with pytest.raises(UnavailableError, match=r"cannot read x: the store answers 503, 5 times") as caught:
        retries(clock).call("read x", action)  # type: ignore[arg-type]
    assert len(calls) == 5
    assert isinstance(caught.value.__cause__, TransientFault)


def test_what_will_not_pass_is_not_tried_again(clock: Clock) -> None:
    calls = []

    def action(_limit: Deadline) -> None:
        calls.append(1)
        raise RejectedError("no", code="OBJECT_CHANGED")

    with pytest.raises(RejectedError):
        retries(clock).call("read x", action)
    assert len(calls) == 1


@pytest.mark.parametrize("of", ["everything", "the call"])
def test_no_try_begins_after_the_deadline(clock: Clock, of: str) -> None:
    calls, action = failing(99)
    patient = retries(clock, 1.0, tries=99) if of == "everything" else retries(clock, tries=99, call_seconds=1.0)
    with pytest.raises(UnavailableError, match="in time"):
        patient.call("read x", action)  # type: ignore[arg-type]
    assert clock.now == pytest.approx(101.0)
    assert 3 <= len(calls) <= 5


def test_nothing_begins_after_the_deadline(clock: Clock) -> None:
    calls, action = failing(0)
    late = retries(clock, 1.0)
    clock.now += 1
    with pytest.raises(UnavailableError, match="the deadline of 1 s has passed"):
        late.call("read x", action)  # type: ignore[arg-type]
    assert calls == []


def test_a_deadline_counts_down(clock: Clock) -> None:
    deadline = Deadline(10, clock=clock)
    clock.now += 4
    assert deadline.left() == 6
    assert deadline.timeout(20) == 6
    assert deadline.timeout(2) == 2
    assert deadline.within(3).left() == 3
    assert deadline.within(30).left() == 6
    clock.now += 100
    assert deadline.left() == 0
    assert deadline.timeout(5) > 0
    with pytest.raises(UnavailableError, match="cannot read x"):
        deadline.check("read x")


def test_no_deadline_never_ends() -> None:
    assert Deadline().left() == math.inf
    assert Deadline().timeout(7) == 7
    Deadline().check("anything")


def test_many_threads_share_one_deadline(clock: Clock) -> None:
    patient = retries(clock, 5)
    done = []

    def work() -> None:
        _, action = failing(2)
        done.append(patient.call("read x", action))  # type: ignore[arg-type]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == ["done"] * 4
