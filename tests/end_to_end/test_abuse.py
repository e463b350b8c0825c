"""Peers that misbehave: the runtime, as its own process, keeps serving and its memory comes back.

Channel section 6, last sentence: connections that reset at every point leave
the server serving and its memory flat.
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ephemeralml.channel.frames import FrameType, header
from ephemeralml.channel.messages import Body, Ping, Request
from ephemeralml.channel.suites import PREFERRED
from tests.fakes.raw_client import AlertError, EndedError, RawClient, connected, streams
from tests.fakes.runtime_process import RuntimeProcess, running

BODY = json.dumps({"model": "tiny-bert", "input": "the cat sat on the mat"}).encode()
MANY = json.dumps({"model": "tiny-bert", "input": ["the cat sat"] * 200}).encode()
HELD_SECONDS = 0.6
LIMITS = {
    "handshake_seconds": HELD_SECONDS,
    "evidence_per_second": 10_000,
    "max_connections": 256,
    "stall_seconds": 2,
    "max_body_bytes": 1 << 20,
}
AT_ONCE = 40

Peer = Callable[[str, random.Random], Awaitable[None]]


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def raw(address: str):
    reader, writer = await streams(address)
    try:
        yield reader, writer
    finally:
        reset(writer)
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def connects_and_resets(address: str, chance: random.Random) -> None:
    async with raw(address):
        await asyncio.sleep(chance.random() * 0.02)


async def sends_garbage(address: str, chance: random.Random) -> None:
    async with raw(address) as (reader, writer):
        writer.write(chance.randbytes(chance.randrange(1, 4_000)))
        await reader.read()


async def declares_too_much(address: str, chance: random.Random) -> None:
    async with raw(address) as (reader, writer):
        kind = chance.choice([1, 3, 5, 6, 200])
        writer.write(struct.pack(">BBHI", kind, 0, 1, chance.choice([16_385, 1 << 24, (1 << 32) - 1])))
        with contextlib.suppress(OSError):
            for _ in range(20):
                writer.write(b"\x00" * 65_536)
                await writer.drain()
        await reader.read()


async def says_hello_slowly(address: str, chance: random.Random) -> None:
    """Slow-loris: a byte now and then, never a whole hello."""
    async with raw(address) as (reader, writer):
        client = RawClient(reader, writer, PREFERRED)
        hello = client.channel.data_to_send()
        with contextlib.suppress(OSError):
            for byte in hello[: chance.randrange(1, len(hello))]:
                writer.write(bytes([byte]))
                await asyncio.sleep(HELD_SECONDS / 20)
                if reader.at_eof():
                    return


async def resets_within_the_handshake(address: str, chance: random.Random) -> None:
    async with raw(address) as (reader, writer):
        client = RawClient(reader, writer, PREFERRED)
        hello = client.channel.data_to_send()
        writer.write(hello[: chance.randrange(1, len(hello) + 1)])
        await reader.read(chance.randrange(1, 6_000))


async def resets_after_client_finish(address: str, chance: random.Random) -> None:
    async with raw(address) as (reader, writer):
        client = RawClient(reader, writer, PREFERRED)
        await client.flush()
        while client.channel.state.value != "finishing":
            await client.step()


async def resets_within_a_request(address: str, chance: random.Random) -> None:
    async with connected(address) as client:
        for _ in range(chance.randrange(1, 5)):
            client.open("POST", "/v1/embeddings", chance.choice([BODY, MANY]))
        data = client.channel.data_to_send()
        client.writer.write(data[: chance.randrange(1, len(data) + 1)])
        await asyncio.sleep(chance.random() * 0.02)
        reset(client.writer)


async def holds_bodies_open(address: str, chance: random.Random) -> None:
    async with connected(address) as client:
        for _ in range(8):
            client.open("POST", "/v1/embeddings", b" " * 100_000, fin=False)
        await client.flush()
        await client.until(chance.random() * 0.1)
        reset(client.writer)


async def breaks_a_record(address: str, chance: random.Random) -> None:
    async with connected(address) as client:
        client.open("POST", "/v1/embeddings", BODY)
        data = bytearray(client.channel.data_to_send())
        data[chance.randrange(8, len(data))] ^= 1 << chance.randrange(8)
        client.writer.write(data)
        await client.until_closed()


async def sends_garbage_records(address: str, chance: random.Random) -> None:
    async with connected(address) as client:
        client.writer.write(header(FrameType.RECORD, 1_000) + chance.randbytes(1_000))
        await client.until_closed()


async def never_reads(address: str, chance: random.Random) -> None:
    async with connected(address) as client:
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(8):
            client.open("POST", "/v1/embeddings", MANY)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(0.3):
                await client.flush()
                await asyncio.sleep(1)
        reset(client.writer)


async def floods_with_tiny_messages(address: str, chance: random.Random) -> None:
    async with connected(address) as client:
        client.open("POST", "/v1/embeddings", b"{", fin=False)
        for number in range(4_000):
            client.channel.send(Body(1, b" ") if number % 2 else Ping(number))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await client.flush()
                await client.until(0.1)
        reset(client.writer)


async def is_honest(address: str, chance: random.Random) -> None:
    async with connected(address) as client:
        assert (await client.request("POST", "/v1/embeddings", BODY)).status == 200


PEERS: tuple[Peer, ...] = (
    connects_and_resets,
    sends_garbage,
    declares_too_much,
    says_hello_slowly,
    resets_within_the_handshake,
    resets_within_the_handshake,
    resets_after_client_finish,
    resets_within_a_request,
    resets_within_a_request,
    holds_bodies_open,
    breaks_a_record,
    sends_garbage_records,
    never_reads,
    floods_with_tiny_messages,
    is_honest,
)


async def storm(address: str, count: int, seed: int) -> None:
    """Let *count* peers come, so many at once; what happens to them is their own fault."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        chance = random.Random(seed * 1_000_003 + number)
        async with gate:
            with contextlib.suppress(OSError, EndedError, AlertError, TimeoutError):
                await chance.choice(PEERS)(address, chance)

    await asyncio.gather(*[one(number) for number in range(count)])


async def honest_answers(address: str, stop: asyncio.Event) -> int:
    """Ask on one session for as long as the storm lasts; every receipt is verified."""
    served = 0
    async with connected(address) as client:
        while not stop.is_set():
            answer = await client.request("POST", "/v1/embeddings", BODY)
            assert answer.status == 200
            assert answer.receipt is not None
            served += 1
            await asyncio.sleep(0.02)
    return served


async def settled(runtime: RuntimeProcess, before: int) -> None:
    """Wait until every connection is gone."""
    async with asyncio.timeout(30):
        while runtime.descriptors > before:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.1)


async def weather(runtime: RuntimeProcess, count: int, seed: int) -> None:
    """One storm, with an honest session through the middle of it."""
    stop = asyncio.Event()
    honest = asyncio.create_task(honest_answers(runtime.address, stop))
    try:
        await storm(runtime.address, count, seed)
    finally:
        stop.set()
    assert await honest > 3


async def abuse(folder: Path, count: int) -> None:
    from tests.fakes import raw_client

    with running(folder, limits=LIMITS) as runtime:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(raw_client, "AUTHORITY", runtime.authority)
            await is_honest(runtime.address, random.Random(0))
            idle = runtime.descriptors
            # The first storms fill allocators, caches and thread stacks; from there on it must be flat.
            for seed in range(2):
                await weather(runtime, min(count, 150), seed)
            await settled(runtime, idle + 1)
            before = runtime.resident_kib
            await weather(runtime, count, 7)
            await settled(runtime, idle + 1)
            after = runtime.resident_kib
            print(f"RSS {before} KiB before, {after} KiB after {count}")
            assert after <= before * 1.1, f"{before} KiB before, {after} KiB after {count} connections"
            await is_honest(runtime.address, random.Random(0))
        assert runtime.process.poll() is None
        assert runtime.stop() == 0
        log = runtime.log.read_text()
        assert "Traceback" not in log
        assert "task_failed" not in log
        assert "a connection's handler failed" not in log
        assert "cat sat" not in log


async def asks_and_never_reads(address: str, done: asyncio.Event) -> int:
    """Ask for as many small refusals as the server reads; return how many were asked."""
    client = RawClient(*await streams(address), PREFERRED)
    try:
        await client.handshake()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        asked = 0
        with contextlib.suppress(TimeoutError):
            while True:
                for _ in range(500):
                    client.channel.send(Request(2 * asked + 1, "POST", "/v1/embeddings", {}, b"x", True))
                    asked += 1
                client.writer.write(client.channel.data_to_send())
                await asyncio.wait_for(client.writer.drain(), 2)
        await done.wait()
        return asked
    finally:
        reset(client.writer)


@pytest.mark.timeout(120)
async def test_what_peers_that_never_read_cost(tmp_path: Path) -> None:
    """Small answers pile up for peers that take none: bounded per connection, and nobody else's trouble."""
    from tests.fakes import raw_client

    peers, kib_each = 5, 12 << 10
    with running(tmp_path) as runtime, pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_client, "AUTHORITY", runtime.authority)
        for _ in range(20):
            await is_honest(runtime.address, random.Random(0))
        before = runtime.resident_kib
        done = asyncio.Event()
        honest = asyncio.create_task(honest_answers(runtime.address, done))
        deaf = [asyncio.create_task(asks_and_never_reads(runtime.address, done)) for _ in range(peers)]
        most, seen = before, asyncio.get_running_loop().time()
        # Until nothing has grown for longer than a peer waits.
        while asyncio.get_running_loop().time() < seen + 4:
            await asyncio.sleep(0.1)
            if runtime.resident_kib > most:
                most, seen = runtime.resident_kib, asyncio.get_running_loop().time()
        done.set()
        assert min(await asyncio.gather(*deaf)) > 10_000
        assert await honest > 20
        assert most - before <= peers * kib_each, f"{(most - before) / peers:.0f} KiB for each peer that does not read"
        await is_honest(runtime.address, random.Random(0))


@pytest.mark.timeout(120)
async def test_300_bad_peers(tmp_path: Path) -> None:
    await abuse(tmp_path, 300)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_2000_bad_peers(tmp_path: Path) -> None:
    await abuse(tmp_path, 2_000)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
async def test_10000_bad_peers(tmp_path: Path) -> None:
    await abuse(tmp_path, 10_000)
