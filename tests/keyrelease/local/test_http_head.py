"""Heads that never end, and what stands behind bodies: bounded in time and bytes."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from ephemeralml.keyrelease.local.http_head import MAX_HEAD_BYTES, BoundedHead
from ephemeralml.keyrelease.local.server import serve


class _Hasty(BoundedHead):
    head_seconds = 0.4


async def _application(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]


async def _slow_application(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await _application(scope, receive, send)


@asynccontextmanager
async def _serving(application: Any = _application, keep_alive: int = 5) -> AsyncIterator[int]:
    config = uvicorn.Config(
        application, http=_Hasty, ws="none", lifespan="off", log_config=None, timeout_keep_alive=keep_alive
    )
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


@pytest.mark.parametrize(
    ("head", "stray"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n", b"x"),
    ],
)
async def test_what_belongs_to_no_request_holds_no_connection(head: bytes, stray: bytes) -> None:
    async with _serving(keep_alive=1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(stray)
        assert await _ended(reader)
        writer.close()


async def _body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behind: bytes) -> bytes:
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    await asyncio.sleep(0.1)
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(behind), 65_536):
            writer.write(behind[start : start + 65_536])
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 5)
    return b""


async def test_a_field_behind_the_body_is_not_taken() -> None:
    async with _serving(_slow_application) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _body(reader, writer, b"a: b\r\n\r\n") == b""
        writer.close()


async def test_nor_is_one_that_never_ends() -> None:
    async with _serving(_slow_application) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _body(reader, writer, b"a: " + b"x" * (MAX_HEAD_BYTES + 262_144)) == b""
        writer.close()


async def test_requests_in_a_row_are_not_taken() -> None:
    asked = 0

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        await _slow_application(scope, receive, send)

    async with _serving(counting) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)
        answers = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert answers.startswith(b"HTTP/1.1 400")
    assert answers.count(b"HTTP/1.1") == 1
    assert asked == 1


async def test_a_chunked_body_may_be_larger_than_a_head() -> None:
    async with _serving(_slow_application) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        chunks = b"".join(b"800\r\n%s\r\n" % (b"x" * 2_048) for _ in range(100))
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()
