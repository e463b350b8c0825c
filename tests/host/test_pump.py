"""The relay's WebSocket side: any split of bytes, binary only, bounded, ended right."""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import USER_AGENT

from ephemeralml.host.limits import Limits
from ephemeralml.host.relay import Relay
from ephemeralml.transport import Address
from tests.fakes.target import Handler, deaf, echo, target

LISTEN = Address.parse("ws://127.0.0.1:0/v1/channel")


@asynccontextmanager
async def relaying(handler: Handler = echo, limits: Limits | None = None) -> AsyncIterator[tuple[Relay, Address]]:
    async with target(handler) as where:
        relay = Relay([LISTEN], where, limits)
        (bound,) = await relay.start()
        try:
            yield relay, bound
        finally:
            await relay.stop(drain=False)


def _connect(address: Address) -> connect:
    return connect(str(address), compression=None, max_size=None, user_agent_header=USER_AGENT)


async def _receive(socket: ClientConnection, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        message = await socket.recv()
        assert isinstance(message, bytes)
        data += message
    return bytes(data)


async def _settled(relay: Relay) -> None:
    async with asyncio.timeout(5):
        while relay.totals.active:  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.01)


async def test_any_split_into_messages_is_the_same_bytes() -> None:
    rng = random.Random(3)
    noise = rng.randbytes(6 << 20)
    async with relaying() as (relay, address), _connect(address) as socket:

        async def send() -> None:
            at = 0
            while at < len(noise):
                size = rng.choice([1, 7, 100, 65_536, 1 << 20])
                await socket.send(noise[at : at + size])
                at += size

        sending = asyncio.create_task(send())
        got = await _receive(socket, len(noise))
        await sending
        assert hashlib.sha256(got).digest() == hashlib.sha256(noise).digest()
        assert relay.totals.bytes_up == relay.totals.bytes_down == len(noise)


async def test_empty_messages_are_no_end() -> None:
    async with relaying() as (_, address), _connect(address) as socket:
        await socket.send(b"")
        await socket.send(b"still here")
        assert await _receive(socket, 10) == b"still here"


async def test_text_is_refused() -> None:
    async with relaying() as (relay, address):
        async with _connect(address) as socket:
            await socket.send("text")
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        await _settled(relay)
        async with _connect(address) as socket:
            await socket.send(b"binary")
            assert await _receive(socket, 6) == b"binary"


async def test_a_message_beyond_the_largest_frame_is_refused() -> None:
    async with relaying() as (relay, address):
        async with _connect(address) as socket:
            with contextlib.suppress(ConnectionClosed):
                await socket.send(bytes((1 << 20) + 4096))
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        await _settled(relay)
        assert relay.totals.bytes_up == 0


async def test_another_path_is_not_served() -> None:
    async with relaying() as (relay, address):
        with pytest.raises(InvalidStatus) as caught:
            async with connect(f"ws://127.0.0.1:{address.port}/"):
                pass
        assert caught.value.response.status_code == 404
        assert relay.totals.accepted == 0


@pytest.mark.parametrize("garbage", [b"\x01\x00\x00\x01\x00\x00\x00\x01x", b"GET / HTTP/1.0\r\n\r\n", bytes(100_000)])
async def test_garbage_instead_of_a_handshake(garbage: bytes) -> None:
    async with relaying() as (relay, address):
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        writer.write(garbage)
        with contextlib.suppress(ConnectionError):
            writer.write_eof()
            async with asyncio.timeout(5):
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert relay.totals.accepted == 0


async def test_the_clients_close_reaches_the_target() -> None:
    ended = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()

    async with relaying(watch) as (relay, address):
        async with _connect(address) as socket:
            await socket.send(b"all")
        async with asyncio.timeout(5):
            await ended.wait()
        await _settled(relay)
        assert relay.totals.bytes_up == 3


async def test_the_targets_end_closes_the_websocket_behind_its_bytes() -> None:
    async def say(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(300_000))
        writer.write_eof()

    async with relaying(say) as (relay, address):
        async with _connect(address) as socket:
            assert await _receive(socket, 300_000) == bytes(300_000)
            with pytest.raises(ConnectionClosed) as caught:
                await socket.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1000
        await _settled(relay)


async def test_a_client_that_vanishes_reaches_the_target() -> None:
    ended = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set()

    async with relaying(watch) as (relay, address):
        async with _connect(address) as socket:
            await socket.send(b"half")
            socket.transport.abort()
            async with asyncio.timeout(5):
                await ended.wait()
        await _settled(relay)


async def test_a_target_that_resets_breaks_the_websocket() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with relaying(refuse) as (relay, address):
        async with _connect(address) as socket:
            await socket.send(b"question")
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        await _settled(relay)


async def test_limits_and_idleness_hold_here_too() -> None:
    async with relaying(limits=Limits(connections=1, idle_seconds=0.4)) as (relay, address):
        async with _connect(address) as first:
            with pytest.raises((InvalidHandshake, ConnectionError)):
                async with _connect(address):
                    pass
            with pytest.raises(ConnectionClosed):
                async with asyncio.timeout(5):
                    await first.recv()
        assert relay.totals.refused == 1
        await _settled(relay)


async def test_a_target_that_is_down_closes_the_websocket() -> None:
    relay = Relay([LISTEN], Address.parse("unix:///nonexistent/runtime.sock"))
    (address,) = await relay.start()
    try:
        async with _connect(address) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        assert relay.totals.unreachable == 1
    finally:
        await relay.stop(drain=False)


async def test_stop_cuts_open_websockets_and_returns() -> None:
    async with relaying() as (relay, address), _connect(address) as socket:
        await socket.send(b"x")
        assert await _receive(socket, 1) == b"x"
        async with asyncio.timeout(5):
            await relay.stop(drain=False)
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_a_target_that_never_reads_bounds_what_is_held() -> None:
    """A message in hand and one behind it, whatever the client offers."""
    async with relaying(deaf) as (relay, address), _connect(address) as socket:
        offered = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    await socket.send(bytes(1 << 20))
                    offered += 1
        (pump,) = relay._joined
        assert 0 < pump.waiting[0] <= relay.limits.chunk_bytes
        held = pump._front._connection.recv_messages.frames  # type: ignore[attr-defined] # a Pump over a websocket
        assert len(held) <= 1
        assert offered < 64
        socket.transport.abort()
