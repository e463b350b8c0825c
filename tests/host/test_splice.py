"""Two joined sockets: every byte, both ends, and nothing kept."""

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from ephemeralml.host.splice import Outcome, Splice

CHUNK = 65_536


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


@dataclass
class Joined:
    """A client and a target with a splice between them."""

    client: socket.socket
    target: socket.socket
    splice: Splice
    ended: list[Outcome] = field(default_factory=list)

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(5):
            while not self.ended:  # noqa: ASYNC110 - the callback under test sets no event
                await asyncio.sleep(0.005)
        return self.ended[0]


async def _joined(pair: Callable[[], tuple[socket.socket, socket.socket]]) -> AsyncIterator[Joined]:
    client, front = pair()
    back, target = pair()
    for sock in (client, front, back, target):
        sock.setblocking(False)
    ended: list[Outcome] = []
    splice = Splice(front, back, memoryview(bytearray(CHUNK)), lambda _splice, outcome: ended.append(outcome))
    splice.start()
    yield Joined(client, target, splice, ended)
    splice.close(Outcome.DRAINED)
    client.close()
    target.close()


@pytest.fixture(params=["tcp", "unix"])
async def joined(request: pytest.FixtureRequest) -> AsyncIterator[Joined]:
    async for joined in _joined(_tcp_pair if request.param == "tcp" else socket.socketpair):
        yield joined


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def _receive_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while chunk := await loop.sock_recv(sock, 1 << 20):
        data += chunk
    return bytes(data)


async def _hash_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    digest = hashlib.sha256()
    while chunk := await loop.sock_recv(sock, 1 << 20):
        digest.update(chunk)
    return digest.digest()


async def test_bytes_pass_both_ways(joined: Joined) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(joined.client, b"question")
    assert await loop.sock_recv(joined.target, 100) == b"question"
    await loop.sock_sendall(joined.target, b"answer")
    assert await loop.sock_recv(joined.client, 100) == b"answer"
    assert joined.splice.delivered == (8, 6)


@pytest.mark.parametrize("first", ["client", "target"])
async def test_half_close_keeps_the_other_direction(joined: Joined, first: str) -> None:
    loop = asyncio.get_running_loop()
    near, far = (joined.client, joined.target) if first == "client" else (joined.target, joined.client)
    await loop.sock_sendall(near, b"all I have")
    near.shutdown(socket.SHUT_WR)
    assert await _receive_all(far) == b"all I have"
    assert not joined.ended
    answer = os.urandom(3 << 20)
    reading = asyncio.create_task(_receive_all(near))
    await loop.sock_sendall(far, answer)
    far.shutdown(socket.SHUT_WR)
    assert await reading == answer
    assert await joined.outcome() is Outcome.DONE


async def test_end_waits_for_bytes_that_were_not_taken_yet(joined: Joined) -> None:
    loop = asyncio.get_running_loop()
    data = os.urandom(24 << 20)

    async def send() -> None:
        await loop.sock_sendall(joined.client, data)
        joined.client.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.2)  # buffers fill, the splice holds a rest
    assert await _hash_all(joined.target) == hashlib.sha256(data).digest()
    await sending


async def test_sixty_four_mebibytes_at_once_both_ways(joined: Joined) -> None:
    loop = asyncio.get_running_loop()
    up, down = os.urandom(64 << 20), os.urandom(64 << 20)

    async def send(sock: socket.socket, data: bytes) -> None:
        await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    received = await asyncio.gather(
        _hash_all(joined.target), _hash_all(joined.client), send(joined.client, up), send(joined.target, down)
    )
    assert received[0] == hashlib.sha256(up).digest()
    assert received[1] == hashlib.sha256(down).digest()
    assert joined.splice.delivered == (64 << 20, 64 << 20)
    assert await joined.outcome() is Outcome.DONE


async def test_a_target_that_never_reads_costs_one_chunk(joined: Joined) -> None:
    block = bytes(1 << 20)
    offered = 0
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            offered += joined.client.send(block)
        await asyncio.sleep(0.001)
    before = joined.splice.delivered
    assert 0 < joined.splice.waiting[0] <= CHUNK
    assert joined.splice.waiting[1] == 0
    await asyncio.sleep(0.05)
    assert joined.splice.delivered == before
    # The other direction is not held up by it.
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(joined.target, b"alive")
    assert await loop.sock_recv(joined.client, 10) == b"alive"
    assert offered < 64 << 20


@pytest.mark.parametrize("breaker", ["client", "target"])
async def test_a_reset_reaches_the_other_side(joined: Joined, breaker: str) -> None:
    loop = asyncio.get_running_loop()
    near, far = (joined.client, joined.target) if breaker == "client" else (joined.target, joined.client)
    tcp = near.family == socket.AF_INET
    await loop.sock_sendall(near, b"half a mess")
    assert await loop.sock_recv(far, 100) == b"half a mess"
    _reset(near)
    if tcp:
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(far, 100)
        assert await joined.outcome() is Outcome.RESET
    else:
        assert await loop.sock_recv(far, 100) == b""


async def test_bytes_sent_before_the_peer_went_away_are_delivered(joined: Joined) -> None:
    """A target that refuses and closes still gets its last word through."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(joined.target, b"busy")
    joined.target.shutdown(socket.SHUT_WR)
    joined.target.close()
    await asyncio.sleep(0.05)
    with contextlib.suppress(BrokenPipeError):  # a unix socket says at once that nobody listens any more
        await loop.sock_sendall(joined.client, b"more")
    assert await loop.sock_recv(joined.client, 100) == b"busy"


async def test_a_reset_while_nothing_is_read_is_found_by_asking(joined: Joined) -> None:
    if joined.client.family != socket.AF_INET:
        pytest.skip("unix sockets know no reset")
    block = bytes(1 << 20)
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            joined.client.send(block)
        await asyncio.sleep(0.001)
    assert joined.splice.lost() is None
    _reset(joined.client)
    await asyncio.sleep(0.05)
    assert not joined.ended
    assert joined.splice.lost() is Outcome.RESET


async def test_close_happens_once_and_frees_the_sockets(joined: Joined) -> None:
    joined.splice.close(Outcome.IDLE)
    joined.splice.close(Outcome.DONE)
    assert joined.ended == [Outcome.IDLE]
    assert joined.splice.outcome is Outcome.IDLE
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.get_running_loop().sock_recv(joined.client, 10) == b""


@pytest.mark.parametrize("leaver", ["client", "target"])
async def test_a_unix_peer_that_hangs_up_altogether_ends_both_directions(leaver: str) -> None:
    """It takes nothing any more, so the other side need not be kept waiting for it."""
    async for joined in _joined(socket.socketpair):
        near, far = (joined.client, joined.target) if leaver == "client" else (joined.target, joined.client)
        near.send(b"last words")
        near.close()
        assert await _receive_all(far) == b"last words"
        assert await joined.outcome() is Outcome.DONE


@pytest.mark.parametrize("leaver", ["client", "target"])
async def test_a_unix_peer_that_half_closes_first_is_found_by_asking(leaver: str) -> None:
    async for joined in _joined(socket.socketpair):
        near, far = (joined.client, joined.target) if leaver == "client" else (joined.target, joined.client)
        near.shutdown(socket.SHUT_WR)
        assert await _receive_all(far) == b""
        assert joined.splice.lost() is None
        near.close()
        assert not joined.ended
        assert joined.splice.lost() is Outcome.DONE


async def test_unread_bytes_of_a_finished_target_are_not_lost() -> None:
    """Both directions of a socket are shut, and what it still holds must arrive."""
    loop = asyncio.get_running_loop()
    async for joined in _joined(socket.socketpair):
        joined.client.shutdown(socket.SHUT_WR)
        assert await _receive_all(joined.target) == b""
        data = os.urandom(700_000)
        sending = asyncio.create_task(loop.sock_sendall(joined.target, data))
        await asyncio.sleep(0.05)
        assert joined.splice.waiting[1]
        assert joined.splice.lost() is None
        got = bytearray()
        while len(got) < len(data):
            got += await loop.sock_recv(joined.client, 65_536)
            if sending.done() and joined.target.fileno() >= 0:
                joined.target.close()
        assert bytes(got) == data
        assert await loop.sock_recv(joined.client, 1) == b""


@pytest.mark.parametrize("breaker", ["client", "target"])
async def test_a_receiver_that_breaks_while_bytes_wait_for_it(joined: Joined, breaker: str) -> None:
    near, far = (joined.client, joined.target) if breaker == "client" else (joined.target, joined.client)
    block = bytes(1 << 20)
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            far.send(block)
        await asyncio.sleep(0.001)
    assert any(joined.splice.waiting)
    _reset(near)
    assert await joined.outcome() in {Outcome.RESET, Outcome.DONE}
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.get_running_loop().sock_recv(far, 10) == b""


async def test_a_receiver_that_is_gone_when_the_next_bytes_come(joined: Joined) -> None:
    """What it had said before is still read; then both ends are closed."""
    joined.splice.down.stop()  # as if its end had not been noticed yet
    joined.target.close()
    joined.splice.down.finished = False
    for _ in range(3):
        with contextlib.suppress(OSError):
            joined.client.send(b"anyone?")
        await asyncio.sleep(0.02)
    assert joined.splice.up.finished
    joined.splice.down.start()
    assert await joined.outcome() in {Outcome.RESET, Outcome.DONE}
