"""The engine's thread and its queue."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from ephemeralml.enclave.api.errors import bad_parameter
from ephemeralml.enclave.api.messages import ApiResponse, json_response
from ephemeralml.enclave.worker import EngineWorker, Job, QueueFullError


class Slices:
    """Work of so many slices that notes the order in which it ran."""

    def __init__(self, name: str, count: int, order: list[str], gate: threading.Event | None = None) -> None:
        self.name, self.left, self.order, self.gate = name, count, order, gate
        self.started = threading.Event()

    def advance(self) -> ApiResponse | None:
        self.started.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        self.order.append(self.name)
        self.left -= 1
        return json_response({"name": self.name}) if self.left == 0 else None


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def advance(self) -> ApiResponse | None:
        raise self.error


@pytest.fixture
def worker() -> Iterator[EngineWorker]:
    made = EngineWorker("test", limit=4)
    yield made
    made.close(timeout=5)


def submit(worker: EngineWorker, work: object) -> tuple[Job, "asyncio.Future[ApiResponse]"]:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[ApiResponse] = loop.create_future()
    job = Job(work, loop, done.set_result)  # type: ignore[arg-type]
    worker.submit(job)
    return job, done


async def test_slices_take_turns(worker: EngineWorker) -> None:
    order: list[str] = []
    gate = threading.Event()
    first, first_done = submit(worker, Slices("long", 3, order, gate))
    _, second_done = submit(worker, Slices("short", 1, order))
    gate.set()
    assert (await second_done).status == 200
    assert (await first_done).status == 200
    assert order == ["long", "short", "long", "long"]
    assert first.response is not None


async def test_the_queue_is_bounded(worker: EngineWorker) -> None:
    gate = threading.Event()
    blocking = Slices("blocking", 1, [], gate)
    submit(worker, blocking)
    blocking.started.wait(5)
    waiting = [submit(worker, Slices("waiting", 1, [])) for _ in range(4)]
    with pytest.raises(QueueFullError):
        submit(worker, Slices("one too many", 1, []))
    assert worker.waiting == 4
    worker.cancel(waiting[0][0])
    assert worker.waiting == 3
    submit(worker, Slices("fits now", 1, []))
    gate.set()
    for _, done in waiting[1:]:
        assert (await done).status == 200
    assert not waiting[0][1].done()


async def test_a_cancelled_job_is_not_delivered_and_not_run_on(worker: EngineWorker) -> None:
    order: list[str] = []
    gate = threading.Event()
    work = Slices("cancelled", 3, order, gate)
    job, done = submit(worker, work)
    work.started.wait(5)
    worker.cancel(job)
    gate.set()
    _, other = submit(worker, Slices("other", 1, order))
    await other
    assert order == ["cancelled", "other"]
    assert not done.done()


async def test_errors_are_answers_and_the_thread_lives_on(worker: EngineWorker) -> None:
    _, bad = submit(worker, Failing(bad_parameter("input", "no")))
    assert (await bad).status == 400
    _, broken = submit(worker, Failing(ValueError("the prompt was: hunter2")))
    answer = await broken
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    _, fine = submit(worker, Slices("fine", 1, []))
    assert (await fine).status == 200


async def test_close_drops_what_waits() -> None:
    worker = EngineWorker("closing", limit=4)
    gate = threading.Event()
    blocking = Slices("blocking", 1, [], gate)
    _, first = submit(worker, blocking)
    blocking.started.wait(5)
    _, second = submit(worker, Slices("never", 1, []))
    threading.Timer(0.05, gate.set).start()
    worker.close(timeout=5)
    assert (await first).status == 200
    await asyncio.sleep(0)
    assert not second.done()
