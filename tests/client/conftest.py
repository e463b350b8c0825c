"""A runtime for each test that asks for one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.runtime import FakeRuntime

Start = Callable[..., FakeRuntime]


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
