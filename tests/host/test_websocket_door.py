"""WebSocket connections that never open: counted from their accept, and released with their end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from ephemeralml.host.limits import Limits
from ephemeralml.host.relay import Relay
from ephemeralml.transport import Address
from tests.fakes.target import target

WS = Address.parse("ws://127.0.0.1:0/v1/channel")
TCP = Address.parse("tcp://127.0.0.1:0")
BEGUN = b"GET /v1/channel HTTP/1.1\r\n"

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def relaying(limits: Limits) -> AsyncIterator[tuple[Relay, Address, Address]]:
    async with target() as where:
        relay = Relay([WS, TCP], where, limits)
        ws, tcp = await relay.start()
        try:
            yield relay, ws, tcp
        finally:
            await relay.stop(drain=False)


@asynccontextmanager
async def peers(count: int, address: Address, said: bytes = b"") -> AsyncIterator[list[Ends]]:
    """TCP connections that say *said* and no more."""
    ends = [await asyncio.open_connection("127.0.0.1", address.port) for _ in range(count)]
    try:
        for _, writer in ends:
            writer.write(said)
        yield ends
    finally:
        for _, writer in ends:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def closed(reader: asyncio.StreamReader, seconds: float = 5) -> bool:
    """Whether the relay has ended the connection without a byte."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def active(relay: Relay, count: int) -> None:
    async with asyncio.timeout(5):
        while relay.totals.active != count:  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.01)


async def served(address: Address) -> bool:
    async with connect(str(address), compression=None) as socket:
        await socket.send(b"are you there")
        return await socket.recv() == b"are you there"


@pytest.mark.parametrize(
    "limits",
    [
        Limits(connections=3),
        Limits(per_peer=3, local_exempt=False),
        Limits(peer_burst=3, peer_rate=0.01, local_exempt=False),
    ],
    ids=["all", "of one peer", "pace"],
)
@pytest.mark.parametrize("said", [b"", BEGUN], ids=["silent", "begun"])
async def test_every_bound_holds_before_the_opening(limits: Limits, said: bytes) -> None:
    async with relaying(limits) as (relay, ws, tcp), peers(20, ws, said) as ends:
        held = await asyncio.gather(*(closed(reader, 0.3) for reader, _ in ends))
        assert held == [False] * 3 + [True] * 17
        assert (relay.totals.active, relay.totals.accepted, relay.totals.refused) == (3, 0, 17)
        async with peers(1, tcp) as ((reader, _),):
            assert await closed(reader), "both doors count together"


async def test_no_opening_is_served_beyond_a_bound() -> None:
    async with relaying(Limits(connections=1)) as (relay, ws, _), peers(1, ws):
        await active(relay, 1)
        with pytest.raises((InvalidHandshake, ConnectionError)):
            await served(ws)
        assert (relay.totals.accepted, relay.totals.refused) == (0, 1)


async def test_an_opening_that_takes_too_long_gives_its_place_back() -> None:
    limits = Limits(connections=2, connect_seconds=0.4)
    async with relaying(limits) as (relay, ws, _), peers(2, ws, BEGUN) as ends:
        await active(relay, 2)
        assert all(await asyncio.gather(*(closed(reader) for reader, _ in ends)))
        await active(relay, 0)
        assert await served(ws)
        await active(relay, 0)


@pytest.mark.parametrize("said", [b"\x01\x00\x00\x01", b"GET / HTTP/1.0\r\n\r\n", bytes(100_000)])
async def test_an_opening_that_fails_gives_its_place_back(said: bytes) -> None:
    async with relaying(Limits(connections=1)) as (relay, ws, _):
        for _ in range(3):
            async with peers(1, ws, said) as ((reader, writer),):
                with contextlib.suppress(OSError):
                    writer.write_eof()
                    await reader.read()
            await active(relay, 0)
        with pytest.raises(InvalidStatus):
            await other_path(ws)
        await active(relay, 0)
        assert await served(ws)


async def other_path(address: Address) -> None:
    async with connect(f"ws://127.0.0.1:{address.port}/elsewhere"):
        pass


async def test_a_peer_that_vanishes_before_its_opening_gives_its_place_back() -> None:
    async with relaying(Limits(connections=4)) as (relay, ws, _):
        async with peers(4, ws, BEGUN):
            await active(relay, 4)
        await active(relay, 0)
        assert await served(ws)


async def test_an_open_connection_gives_one_place_back() -> None:
    async with relaying(Limits(connections=2, per_peer=2, local_exempt=False)) as (relay, ws, _):
        for _ in range(5):
            assert await served(ws)
            await active(relay, 0)
        async with peers(3, ws) as ends:
            assert [await closed(reader, 0.2) for reader, _ in ends] == [False, False, True]


async def test_the_time_to_reach_the_target_begins_with_the_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_address: Address) -> None:
        await asyncio.sleep(3_600)

    monkeypatch.setattr("ephemeralml.host.relay.dial", never)
    async with relaying(Limits(connect_seconds=1.0)) as (relay, ws, _), peers(1, ws) as ((reader, writer),):
        begin = time.monotonic()
        await asyncio.sleep(0.7)
        writer.write(
            BEGUN + b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert (await reader.readline()).split()[1] == b"101"
        with contextlib.suppress(ConnectionError):
            await reader.read()
        assert time.monotonic() - begin < 1.4
        assert relay.totals.unreachable == 1
        await active(relay, 0)


async def test_stopping_does_not_wait_for_openings() -> None:
    async with target() as where:
        relay = Relay([WS], where, Limits(drain_seconds=8))
        (ws,) = await relay.start()
        async with peers(3, ws, BEGUN) as ends:
            await active(relay, 3)
            async with asyncio.timeout(4):
                await relay.stop()
            assert all(await asyncio.gather(*(closed(reader) for reader, _ in ends)))
            assert relay.totals.active == 0


async def test_stopping_lets_open_connections_end() -> None:
    async with target() as where:
        relay = Relay([WS], where, Limits(drain_seconds=8))
        (ws,) = await relay.start()
        async with connect(str(ws), compression=None) as socket:
            await socket.send(b"begun")
            assert await socket.recv() == b"begun"
            stopping = asyncio.create_task(relay.stop())
            await asyncio.sleep(0.1)
            await socket.send(b"ended")
            assert await socket.recv() == b"ended"
            assert not stopping.done()
        async with asyncio.timeout(4):
            await stopping


async def test_a_fast_peer_waits_for_its_turn() -> None:
    async with relaying(Limits(peer_burst=1, peer_rate=2, local_exempt=False)) as (relay, ws, _):
        begin = time.monotonic()
        assert await served(ws)
        assert await served(ws)
        assert time.monotonic() - begin >= 0.45
        assert relay.totals.refused == 0
