"""Bytes on their way to a peer that may be slow."""

import asyncio
from collections import deque

from ephemeralml.enclave.budget import ByteBudget
from ephemeralml.enclave.outbox import StreamOutbox
from ephemeralml.errors import UnavailableError


class Pipe:
    """A stream whose peer takes bytes when the test says so: the order of a real one, hand over, then wait."""

    peer = "test"

    def __init__(self) -> None:
        self.sent = bytearray()
        self.full = False
        self.lost = False
        self.closed = False
        self.waiters: deque[asyncio.Future[None]] = deque()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self.lost:
            raise UnavailableError("the connection was closed")
        self.sent += data
        if self.full:
            waiter = asyncio.get_running_loop().create_future()
            self.waiters.append(waiter)
            await waiter
            if self.lost:
                raise UnavailableError("the connection broke")

    def take(self, *, all_of_it: bool = True) -> None:
        self.full = not all_of_it
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def break_off(self) -> None:
        self.lost = True
        self.take()

    def close(self) -> None:
        self.closed = True


class Case:
    def __init__(self) -> None:
        self.pipe = Pipe()
        self.budget = ByteBudget(1_000)
        self.now = 10.0
        self.drained = 0
        self.outbox = StreamOutbox(self.pipe, self.budget, lambda: self.now, self.on_drained)  # type: ignore[arg-type]

    def on_drained(self) -> None:
        self.drained += 1


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_quick_peer_needs_no_task_and_no_budget() -> None:
    case = Case()
    case.outbox.write(b"one")
    case.outbox.write(b"two")
    assert case.pipe.sent == b"onetwo"
    assert case.outbox.buffered == 0
    assert case.budget.used == 0
    assert case.outbox.stalled_since is None
    assert len(asyncio.all_tasks()) == 1


async def test_what_waits_keeps_its_order_and_is_counted() -> None:
    case = Case()
    case.pipe.full = True
    for piece in (b"one", b"two", b"three"):
        case.outbox.write(piece)
    await settle()
    assert case.pipe.sent == b"one"
    assert case.outbox.buffered == case.budget.used == 11
    assert case.outbox.stalled_since == 10.0
    case.now = 20.0
    case.pipe.take(all_of_it=False)  # takes one more, and is full again
    await settle()
    assert case.pipe.sent == b"onetwo"
    assert case.outbox.buffered == 8
    assert case.outbox.stalled_since == 20.0
    case.pipe.take()
    await settle()
    assert case.pipe.sent == b"onetwothree"
    assert (case.outbox.buffered, case.budget.used, case.drained) == (0, 0, 1)
    assert case.outbox.stalled_since is None
    case.outbox.write(b"four")
    assert case.pipe.sent == b"onetwothreefour"


async def test_the_stream_is_closed_behind_what_waits() -> None:
    case = Case()
    case.pipe.full = True
    case.outbox.write(b"last words")
    case.outbox.end()
    await settle()
    assert not case.pipe.closed
    case.pipe.take()
    await settle()
    assert case.pipe.closed


async def test_with_nothing_waiting_it_is_closed_at_once() -> None:
    case = Case()
    case.outbox.end()
    assert case.pipe.closed


async def test_a_broken_connection_swallows_and_owes_nothing() -> None:
    case = Case()
    case.pipe.full = True
    case.outbox.write(b"one")
    case.outbox.write(b"two")
    await settle()
    case.pipe.break_off()
    await settle()
    assert case.outbox.broken
    assert (case.outbox.buffered, case.budget.used, case.drained) == (0, 0, 1)
    case.outbox.write(b"three")
    assert case.budget.used == 0
    other = Case()
    other.pipe.lost = True
    other.outbox.write(b"one")
    assert other.outbox.broken


async def test_gone_pays_everything_back() -> None:
    case = Case()
    case.pipe.full = True
    case.outbox.write(b"one")
    case.outbox.write(b"two")
    await settle()
    case.outbox.gone()
    await settle()
    assert (case.outbox.buffered, case.budget.used, case.drained) == (0, 0, 0)
    assert len(asyncio.all_tasks()) == 1
