"""A runtime for each test that asks for one."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.runtime import FakeRuntime

Start = Callable[..., FakeRuntime]


def settled(condition: Callable[[], bool], *, seconds: float = 5) -> None:
    """Wait until *condition* holds, but not for ever."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert holds


async def until(condition: Callable[[], bool]) -> None:
    """Wait in an event loop until *condition* holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.005)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start runtimes that end with the test."""
    running: list[FakeRuntime] = []

    def begin(*faults: Any, **options: Any) -> FakeRuntime:
        runtime = FakeRuntime(faults=set(faults), **options)
        running.append(runtime)
        return runtime

    yield begin
    for runtime in running:
        runtime.close()


@pytest.fixture
def runtime(start: Start) -> FakeRuntime:
    """A runtime without faults."""
    return start()
