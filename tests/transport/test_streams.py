"""Every kind of stream moves bytes both ways, ends, and breaks in the same way."""

import asyncio
import os
import socket
import struct
import threading
from pathlib import Path

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.transport import Address, DeadlineError, Listener, Stream, connect, listen, open_stream

KINDS = ("tcp", "unix", "ws")
HALF_CLOSING = ("tcp", "unix")


def where(kind: str, folder: Path) -> Address:
    return Address.parse(
        {
            "tcp": "tcp://127.0.0.1:0",
            "unix": f"unix://{folder}/s.sock",
            "ws": "ws://127.0.0.1:0/v1/channel",
        }[kind]
    )


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def stop(listener: Listener) -> None:
    listener.close()
    async with asyncio.timeout(5):
        await listener.wait_closed()


async def read_exactly(stream: Stream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await stream.receive()
        assert piece, "the stream ended early"
        data += piece
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_both_ways(kind: str, tmp_path: Path) -> None:
    listener = await listen(where(kind, tmp_path), echo)
    stream = await open_stream(listener.address)
    sent = os.urandom(3_000_000)

    async def send() -> None:
        for start in range(0, len(sent), 300_007):
            await stream.send(sent[start : start + 300_007])

    task = asyncio.create_task(send())
    assert await read_exactly(stream, len(sent)) == sent
    await task
    stream.close()
    await stream.wait_closed()
    await stop(listener)


@pytest.mark.parametrize("kind", KINDS)
async def test_small_reads_take_what_they_asked_for(kind: str, tmp_path: Path) -> None:
    listener = await listen(where(kind, tmp_path), echo)
    stream = await open_stream(listener.address)
    await stream.send(b"abcdef")
    assert await stream.receive(1) == b"a"
    assert await stream.receive(2) == b"bc"
    assert await read_exactly(stream, 3) == b"def"
    stream.close()
    await stream.wait_closed()
    await stop(listener)


@pytest.mark.parametrize("kind", HALF_CLOSING)
async def test_half_close_leaves_the_other_direction_open(kind: str, tmp_path: Path) -> None:
    async def answer_after_the_end(stream: Stream) -> None:
        data = b""
        while piece := await stream.receive():
            data += piece
        await stream.send(b"all of " + data)

    listener = await listen(where(kind, tmp_path), answer_after_the_end)
    stream = await open_stream(listener.address)
    await stream.send(b"it")
    await stream.send_eof()
    assert await read_exactly(stream, 9) == b"all of it"
    assert await stream.receive() == b""
    stream.close()
    await stream.wait_closed()
    await stop(listener)


@pytest.mark.parametrize("kind", KINDS)
def test_threads(kind: str, tmp_path: Path) -> None:
    ready = threading.Event()
    found: list[Address] = []

    async def serve() -> None:
        listener = await listen(where(kind, tmp_path), echo)
        found.append(listener.address)
        ready.set()
        await asyncio.to_thread(done.wait)
        await stop(listener)

    done = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(5)
    stream = connect(found[0], timeout=5)
    try:
        with pytest.raises(DeadlineError):
            stream.receive(timeout=0.05)
        sent = os.urandom(2_000_000)
        sender = threading.Thread(target=stream.send, args=(sent,))
        sender.start()
        data = bytearray()
        while len(data) < len(sent):
            data += stream.receive(timeout=5)
        sender.join()
        assert data == sent
        waiter = threading.Thread(target=lambda: woken.append(_end(stream)))
        woken: list[str] = []
        waiter.start()
        stream.close()
        waiter.join(5)
        assert woken in (["end"], ["closed"])
        stream.close()
    finally:
        done.set()
        thread.join(5)


def _end(stream: object) -> str:
    try:
        assert stream.receive() == b""  # type: ignore[attr-defined]
    except UnavailableError:
        return "closed"
    return "end"


async def test_the_end_of_our_direction_behind_a_reset_is_our_error() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server:
        stream = await open_stream(Address.parse(f"tcp://127.0.0.1:{server.getsockname()[1]}"))
        peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        # Nothing has awaited since, so the event loop does not know of the reset yet.
        with pytest.raises(UnavailableError, match="the connection broke"):
            await stream.send_eof()
        stream.abort()
        await stream.wait_closed()
