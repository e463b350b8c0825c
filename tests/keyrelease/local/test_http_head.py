"""Heads that never end: bounded in time and bytes."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from ephemeralml.keyrelease.local.http_head import MAX_HEAD_BYTES, BoundedHead
from ephemeralml.keyrelease.local.server import serve


class _Hasty(BoundedHead):
    head_seconds = 0.4


async def _application(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]


@asynccontextmanager
async def _serving() -> AsyncIterator[int]:
    config = uvicorn.Config(_application, http=_Hasty, ws="none", lifespan="off", log_config=None, timeout_keep_alive=5)  # type: ignore[arg-type]
    config.load()
    sock = socket.create_server(("127.0.0.1", 0))
    ready, stopping = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serve(config, [sock], ready=ready.set, stopping=stopping))
    await ready.wait()
    yield sock.getsockname()[1]
    stopping.set()
    await task


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), 5) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"P", b"POST / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_has_so_much_time(sent: bytes) -> None:
    async with _serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        start = time.monotonic()
        writer.write(sent)
        assert await _ended(reader)
        assert time.monotonic() - start < 3
        writer.close()


async def test_and_so_many_bytes() -> None:
    async with _serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        start = time.monotonic()
        writer.write(b"GET / HTTP/1.1\r\n")
        for index in range(MAX_HEAD_BYTES // 100 + 1):
            writer.write(b"h%d: " % index + b"x" * 100 + b"\r\n")
        assert await _ended(reader)
        assert time.monotonic() - start < 0.4
        writer.close()


async def test_a_second_request_waits_as_long_as_it_likes_and_then_hurries() -> None:
    async with _serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.6)
        writer.write(b"GET / ")
        assert await _ended(reader)
        writer.close()
