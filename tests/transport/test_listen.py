"""Listeners: each connection is on its own; nothing a peer does reaches the others."""

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.transport import Address, DeadlineError, Listener, Stream, connect, listen, open_stream

LOCAL = Address.parse("tcp://127.0.0.1:0")


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def stop(listener: Listener) -> None:
    listener.close()
    async with asyncio.timeout(5):
        await listener.wait_closed()


async def bye(*streams: Stream) -> None:
    for stream in streams:
        stream.close()
        await stream.wait_closed()


async def ended(stream: Stream) -> None:
    """Read until the stream ends, whichever way it does."""
    with contextlib.suppress(UnavailableError):
        while await stream.receive():
            pass


async def pour(stream: Stream, pieces: list[int]) -> None:
    """Send without end, noting how much."""
    while True:
        pieces.append(32 << 10)
        await stream.send(bytes(32 << 10))


async def settle(listener: Listener, connections: int) -> None:
    async with asyncio.timeout(5):
        while listener.connections != connections:  # noqa: ASYNC110 - a listener announces nothing
            await asyncio.sleep(0.005)


async def test_the_port_that_was_chosen() -> None:
    listener = await listen(LOCAL, echo)
    assert listener.address.port
    stream = await open_stream(listener.address)
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    assert stream.peer == "127.0.0.1"
    await bye(stream)
    await stop(listener)


async def test_a_port_that_is_taken() -> None:
    listener = await listen(LOCAL, echo)
    with pytest.raises(UnavailableError, match="cannot listen on tcp://") as raised:
        await listen(listener.address, echo)
    assert raised.value.hint
    await stop(listener)


async def test_a_host_that_is_not_ours_or_not_known() -> None:
    with pytest.raises(UnavailableError, match="cannot listen"):
        await listen(Address.parse("tcp://192.0.2.1:0"), echo)


async def test_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = Address.parse(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UnavailableError, match="no connection to tcp://"):
            await open_stream(address)
        with pytest.raises(UnavailableError, match="no connection to tcp://"):
            connect(address)


async def test_a_connection_that_takes_too_long() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = Address.parse(f"tcp://127.0.0.1:{full.getsockname()[1]}")
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        try:
            with pytest.raises(DeadlineError):
                await open_stream(address, timeout=0.2)
            with pytest.raises(DeadlineError):
                connect(address, timeout=0.2)
        finally:
            for filler in fillers:
                filler.close()


async def test_nodelay_both_ways() -> None:
    seen: list[int] = []

    async def look(stream: Stream) -> None:
        seen.append(_nodelay(stream))
        await stream.receive()

    listener = await listen(LOCAL, look)
    stream = await open_stream(listener.address)
    await bye(stream)
    await settle(listener, 0)
    assert seen == [1]
    plain = connect(listener.address)
    assert plain._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1  # type: ignore[attr-defined]
    plain.close()
    await stop(listener)


def _nodelay(stream: Stream) -> int:
    sock = stream._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    return int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


async def test_a_handler_that_fails_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_on_request(stream: Stream) -> None:
        while data := await stream.receive():
            if data == b"fail":
                raise ValueError("the prompt is " + data.decode())
            await stream.send(data)

    listener = await listen(LOCAL, fail_on_request)
    good, bad = await open_stream(listener.address), await open_stream(listener.address)
    with caplog.at_level(logging.DEBUG):
        await bad.send(b"fail")
        await ended(bad)
    await good.send(b"still here")
    assert await good.receive() == b"still here"
    assert "ValueError" in caplog.text
    assert "prompt" not in caplog.text
    await bye(good, bad)
    await stop(listener)


async def test_connections_that_reset_at_random_points() -> None:
    listener = await listen(LOCAL, echo)
    for number in range(300):
        with socket.socket() as peer:
            peer.setblocking(False)
            peer.connect_ex(("127.0.0.1", listener.address.port))
            if number % 3:
                await asyncio.sleep(0)
            if number % 3 == 2:
                with contextlib.suppress(OSError):
                    peer.send(os.urandom(number))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    await settle(listener, 0)
    stream = await open_stream(listener.address)
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    await bye(stream)
    await stop(listener)


async def test_close_lets_connections_finish() -> None:
    listener = await listen(LOCAL, echo)
    stream = await open_stream(listener.address)
    await stream.send(b"a")
    assert await stream.receive() == b"a"
    listener.close()
    with pytest.raises(UnavailableError):
        await open_stream(listener.address)
    assert listener.connections == 1
    await stream.send(b"b")
    assert await stream.receive() == b"b"
    await bye(stream)
    await stop(listener)


async def test_abort_ends_them() -> None:
    listener = await listen(LOCAL, echo)
    stream = await open_stream(listener.address)
    await settle(listener, 1)
    listener.abort()
    await stop(listener)
    await ended(stream)
    await bye(stream)


async def test_a_reset_is_an_error_of_ours() -> None:
    async def reset(stream: Stream) -> None:
        await stream.receive()
        sock = stream._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        stream.abort()

    listener = await listen(LOCAL, reset)
    stream = await open_stream(listener.address)
    await stream.send(b"x")
    with pytest.raises(UnavailableError, match="the connection broke"):
        await stream.receive()
    with pytest.raises(UnavailableError):
        await stream.send(b"y")
    await stream.send_eof()
    await bye(stream)
    plain = connect(listener.address)
    plain.send(b"x")
    with pytest.raises(UnavailableError, match="the connection broke"):
        await asyncio.to_thread(plain.receive)
    plain.close()
    with pytest.raises(UnavailableError):
        plain.send(b"y")
    await stop(listener)


async def test_sending_waits_for_a_slow_reader(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(stream: Stream) -> None:
        await gate.wait()
        total = 0
        while data := await stream.receive():
            total += len(data)
        totals.append(total)

    totals: list[int] = []
    listener = await listen(Address.parse(f"unix://{tmp_path}/s"), slow, read_limit=64 << 10)
    stream = await open_stream(listener.address, write_limit=64 << 10)
    pieces: list[int] = []
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pour(stream, pieces), 0.3)
    sent = sum(pieces)
    # What waits is bounded by both limits and the kernel's own buffers.
    assert sent < 2 << 20
    assert stream._transport.get_write_buffer_size() <= 96 << 10  # type: ignore[attr-defined]
    gate.set()
    await stream.send_eof()
    assert await stream.receive() == b""
    await bye(stream)
    await stop(listener)
    assert totals == [sent]


async def test_sending_to_a_reader_that_goes_away(tmp_path: Path) -> None:
    async def leave(stream: Stream) -> None:
        await asyncio.sleep(0.05)

    listener = await listen(Address.parse(f"unix://{tmp_path}/s"), leave)
    stream = await open_stream(listener.address, write_limit=64 << 10)
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(pour(stream, []), 5)
    await bye(stream)
    await stop(listener)


async def test_unread_bytes_are_bounded_and_delivered(tmp_path: Path) -> None:
    async def much(stream: Stream) -> None:
        for _ in range(64):
            await stream.send(bytes(64 << 10))

    listener = await listen(Address.parse(f"unix://{tmp_path}/s"), much)
    stream = await open_stream(listener.address, read_limit=128 << 10)
    await asyncio.sleep(0.1)
    assert stream._held <= (128 << 10) + (256 << 10)  # type: ignore[attr-defined]
    total = 0
    while data := await stream.receive():
        total += len(data)
    assert total == 64 * (64 << 10)
    await bye(stream)
    await stop(listener)


async def test_two_receivers_are_a_bug() -> None:
    listener = await listen(LOCAL, echo)
    stream = await open_stream(listener.address)
    first = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await stream.receive()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    await bye(stream)
    await stop(listener)


async def test_localhost_by_every_address_it_has() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listener = await listen(Address.parse(f"tcp://localhost:{port}"), echo)
    addresses = {entry[4][0] for entry in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    assert "127.0.0.1" in addresses
    for host in addresses:
        shown = f"[{host}]" if ":" in host else host
        stream = await open_stream(Address.parse(f"tcp://{shown}:{port}"))
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await bye(stream)
    await stop(listener)


def test_a_sender_with_a_deadline() -> None:
    here, there = socket.socketpair()
    from ephemeralml.transport.sync_socket import SocketSyncStream

    stream = SocketSyncStream(here)
    with pytest.raises(DeadlineError, match="nothing could be sent"):
        stream.send(bytes(16 << 20), timeout=0.05)
    there.close()
    stream.close()
