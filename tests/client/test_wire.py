"""Streams that break, stall or interrupt, below a real exchange."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from ephemeralml.client.async_session import AsyncSession
from ephemeralml.client.call import SessionEndedError, TimedOutError, TruncatedError
from ephemeralml.client.exchange import Exchange
from ephemeralml.client.session import Session
from ephemeralml.client.wire import Wire
from ephemeralml.errors import UnavailableError
from ephemeralml.transport.streams import DeadlineError
from tests.client.test_exchange import Memory
from tests.fakes.runtime import Connection, FakeRuntime

ASKED = {"model": "minilm", "input": "a"}


class Spoilt:
    """A stream to a runtime in memory, which tests can spoil."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.memory = Memory()
        self.peer = Connection(runtime, self.memory)  # type: ignore[arg-type]
        self.incoming: deque[bytes] = deque()
        self.before_send: Callable[[], None] = lambda: None
        self.before_receive: Callable[[], None] = lambda: None
        self.closed = False
        self.limits: list[float | None] = []

    def send(self, data: Any, timeout: float | None = None) -> None:
        self.limits.append(timeout)
        self.before_send()
        self.peer.feed(bytes(data))
        if self.memory.sent:
            self.incoming.append(self.memory.take())

    def receive(self, max_bytes: int = 0, timeout: float | None = None) -> bytes:
        self.before_receive()
        if not self.incoming:
            raise DeadlineError("nothing came")
        return self.incoming.popleft()

    def send_eof(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def fails(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def begin(runtime: FakeRuntime) -> tuple[Spoilt, Session]:
    stream = Spoilt(runtime)
    wire = Wire(stream, Exchange(policy=runtime.policy()))
    wire.handshake(5)
    return stream, Session(wire)


def test_stream_that_breaks_while_receiving(runtime: FakeRuntime) -> None:
    stream, session = begin(runtime)
    assert session.post("/v1/embeddings", json=ASKED).ok

    def broken_after_the_look() -> None:
        if stream.incoming:
            raise UnavailableError("the connection broke: reset by peer")

    stream.before_receive = broken_after_the_look
    with pytest.raises(TruncatedError, match="reset by peer"):
        session.post("/v1/embeddings", json=ASKED)
    with pytest.raises(SessionEndedError):
        session.post("/v1/embeddings", json=ASKED)


def test_stream_that_breaks_while_sending(runtime: FakeRuntime) -> None:
    stream, session = begin(runtime)
    stream.before_send = fails(UnavailableError("the connection broke: broken pipe"))
    with pytest.raises(TruncatedError, match="broken pipe"):
        session.post("/v1/embeddings", json=ASKED)
    stream.before_send = lambda: None
    with pytest.raises(SessionEndedError):
        session.get("/healthz")
    session.close()
    assert stream.closed


def test_peer_that_takes_nothing_is_not_waited_for_beyond_the_callers_time(runtime: FakeRuntime) -> None:
    stream, session = begin(runtime)
    stream.before_send = fails(DeadlineError("nothing could be sent"))
    with pytest.raises(TruncatedError, match="nothing could be sent"):
        session.post("/v1/embeddings", json=ASKED, timeout=0.5)
    assert stream.limits[-1] is not None
    assert 0 < stream.limits[-1] <= 0.5
    session.close()


def test_interrupted_caller_cancels_its_request(runtime: FakeRuntime) -> None:
    stream, session = begin(runtime)
    stream.before_receive = lambda: fails(KeyboardInterrupt())() if stream.incoming else None
    with pytest.raises(KeyboardInterrupt):
        session.post("/v1/embeddings", json=ASKED)
    assert runtime.cancelled.is_set()
    stream.before_receive = lambda: None
    assert session.post("/v1/embeddings", json=ASKED).ok


def test_caller_interrupted_while_it_sends_takes_the_session_with_it(runtime: FakeRuntime) -> None:
    stream, session = begin(runtime)
    stream.before_send = fails(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        session.post("/v1/embeddings", json=ASKED)
    stream.before_send = lambda: None
    with pytest.raises(SessionEndedError, match="is over"):
        session.post("/v1/embeddings", json=ASKED)
    assert runtime.prompts == []


def test_bytes_of_two_threads_leave_in_the_order_in_which_they_were_sealed(runtime: FakeRuntime) -> None:
    stream, session = begin(runtime)
    inside, go_on, held = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        if not held.is_set():
            held.set()
            inside.set()
            assert go_on.wait(5)

    stream.before_send = hold
    replies: list[Any] = []
    threads = [
        threading.Thread(target=lambda: replies.append(session.post("/v1/embeddings", json=ASKED, timeout=10)))
        for _ in range(3)
    ]
    threads[0].start()
    assert inside.wait(5)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert [reply.status for reply in replies] == [200, 200, 200]


def test_handshake_in_which_nothing_comes(runtime: FakeRuntime) -> None:
    stream = Spoilt(runtime)
    stream.incoming = deque(maxlen=0)
    wire = Wire(stream, Exchange(policy=runtime.policy()))
    with pytest.raises(TimedOutError):
        wire.handshake(0.01)
    wire.abort()
    assert stream.closed


def test_closing_waits_for_the_runtimes_close_but_not_for_ever(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ephemeralml.client.wire._CLOSE_SECONDS", 0.05)
    stream, session = begin(runtime)
    stream.before_receive = fails(DeadlineError("nothing came"))
    session.close()
    session.close()
    assert stream.closed


class AsyncSpoilt:
    """The same for an event loop."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.inner = Spoilt(runtime)
        self.arrived = asyncio.Event()
        self.before_send: Callable[[], Any] | None = None
        self.broken: UnavailableError | None = None

    async def send(self, data: Any) -> None:
        if self.before_send is not None:
            await self.before_send()
        self.inner.send(data)
        self.arrived.set()

    async def receive(self, max_bytes: int = 0) -> bytes:
        while not self.inner.incoming:
            if self.broken is not None:
                raise self.broken
            self.arrived.clear()
            await self.arrived.wait()
        return self.inner.receive()

    def close(self) -> None:
        self.inner.close()

    def abort(self) -> None:
        self.inner.close()

    async def wait_closed(self) -> None: ...


async def async_begin(runtime: FakeRuntime) -> tuple[AsyncSpoilt, AsyncSession]:
    stream = AsyncSpoilt(runtime)
    session = AsyncSession(stream, Exchange(policy=runtime.policy()))  # type: ignore[arg-type]
    await session.handshake(5)
    return stream, session


async def test_async_stream_that_breaks_while_sending(runtime: FakeRuntime) -> None:
    stream, session = await async_begin(runtime)

    async def broken() -> None:
        raise UnavailableError("the connection broke: broken pipe")

    stream.before_send = broken
    with pytest.raises(TruncatedError, match="broken pipe"):
        await session.post("/v1/embeddings", json=ASKED)
    with pytest.raises(SessionEndedError):
        await session.get("/healthz")
    await session.close()
    assert stream.inner.closed


async def test_async_stream_that_breaks_while_receiving(runtime: FakeRuntime) -> None:
    stream, session = await async_begin(runtime)
    stream.broken = UnavailableError("the connection broke: reset by peer")
    stream.arrived.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(SessionEndedError):
        await session.post("/v1/embeddings", json=ASKED)
    await session.close()


async def test_task_cancelled_while_it_sends_takes_the_session_with_it(runtime: FakeRuntime) -> None:
    stream, session = await async_begin(runtime)
    never = asyncio.Event()

    async def stuck() -> None:
        await never.wait()

    stream.before_send = stuck
    task = asyncio.create_task(session.post("/v1/embeddings", json=ASKED))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.inner.closed
    with pytest.raises(SessionEndedError):
        await session.get("/healthz")
    await session.close()


async def test_task_that_finds_another_sending_leaves_its_bytes_to_it(runtime: FakeRuntime) -> None:
    stream, session = await async_begin(runtime)
    gate = asyncio.Event()

    async def gated() -> None:
        await gate.wait()

    stream.before_send = gated
    tasks = [asyncio.create_task(session.post("/v1/embeddings", json=ASKED)) for _ in range(3)]
    await asyncio.sleep(0.01)
    gate.set()
    assert [(await task).status for task in tasks] == [200, 200, 200]
    await session.close()
