"""Targets behind a relay: an echo that half-closes right, and one that takes nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ephemeralml.transport import Address

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back, and end when the client has ended."""
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read nothing, ever."""
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(3600)


@asynccontextmanager
async def target(handler: Handler = echo, *, unix: Path | None = None, limit: int = 1 << 16) -> AsyncIterator[Address]:
    """Serve *handler* and give its address."""
    tasks: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.add(writer)
        try:
            await handler(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            writers.discard(writer)

    if unix is not None:
        server: asyncio.Server = await asyncio.start_unix_server(serve, unix, limit=limit, backlog=1024)
        address = Address.parse(f"unix://{unix}")
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=limit, backlog=1024)
        address = Address.parse(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield address
    finally:
        server.close()
        for writer in tuple(writers):
            writer.transport.abort()
        for task in tuple(tasks):
            task.cancel()
        async with asyncio.timeout(10):
            while writers:  # noqa: ASYNC110 - what is waited for are the transports' own ends
                await asyncio.sleep(0.01)
