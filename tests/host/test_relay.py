"""The relay as clients and targets see it (channel.md section 5)."""

import asyncio
import contextlib
import hashlib
import logging
import random
import resource
import socket
import stat
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.host.limits import Limits, allow_open_files
from ephemeralml.host.relay import Relay
from ephemeralml.transport import Address, open_stream
from tests.fakes.target import deaf, echo, target

ANYWHERE = "tcp://127.0.0.1:0"


@asynccontextmanager
async def relaying(
    to: Address, *, listen: Sequence[str] = (ANYWHERE,), limits: Limits | None = None
) -> AsyncIterator[tuple[Relay, Address]]:
    relay = Relay([Address.parse(text) for text in listen], to, limits)
    bound = await relay.start()
    try:
        yield relay, bound[0]
    finally:
        await relay.stop(drain=False)


async def _connect(address: Address) -> socket.socket:
    family = socket.AF_UNIX if address.path else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    where = address.path or (address.host, address.port)
    try:
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _ask(address: Address, question: bytes = b"are you there") -> bytes:
    loop = asyncio.get_running_loop()
    with await _connect(address) as sock:
        await loop.sock_sendall(sock, question)
        sock.shutdown(socket.SHUT_WR)
        answer = bytearray()
        while data := await loop.sock_recv(sock, 65_536):
            answer += data
        return bytes(answer)


async def _eventually(condition: object, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator] # a callable  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(0.01)


async def _is_closed(sock: socket.socket) -> bool:
    """Whether the relay ended the connection without a byte."""
    async with asyncio.timeout(5):
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        except ConnectionResetError:
            return True


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_random_bytes_pass_unchanged() -> None:
    """64 MiB of noise: nothing is parsed, nothing is altered, both directions at once."""
    loop = asyncio.get_running_loop()
    noise = random.Random(5).randbytes(64 << 20)
    async with target() as where, relaying(where) as (relay, address):
        with await _connect(address) as sock:

            async def send() -> None:
                await loop.sock_sendall(sock, noise)
                sock.shutdown(socket.SHUT_WR)

            sending = asyncio.create_task(send())
            digest = hashlib.sha256()
            while data := await loop.sock_recv(sock, 1 << 20):
                digest.update(data)
            await sending
        assert digest.digest() == hashlib.sha256(noise).digest()
        await _eventually(lambda: relay.totals.active == 0)
        assert (relay.totals.bytes_up, relay.totals.bytes_down) == (64 << 20, 64 << 20)


async def test_unix_to_unix(tmp_path: Path) -> None:
    listen = tmp_path / "front.sock"
    async with target(unix=tmp_path / "back.sock") as where, relaying(where, listen=[f"unix://{listen}"]) as (_, at):
        assert stat.S_IMODE(listen.stat().st_mode) == 0o600
        assert await _ask(at) == b"are you there"
    assert not listen.exists()


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with target() as where, relaying(where, listen=[f"unix://{path}"]) as (_, at):
        assert await _ask(at) == b"are you there"
        with pytest.raises(UnavailableError, match="another process answers"):
            async with relaying(where, listen=[f"unix://{path}"]):
                pass
        assert await _ask(at) == b"are you there"


async def test_several_addresses_at_once(tmp_path: Path) -> None:
    listen = [ANYWHERE, f"unix://{tmp_path / 'front.sock'}", "ws://127.0.0.1:0/v1/channel"]
    async with target() as where:
        relay = Relay([Address.parse(text) for text in listen], where)
        bound = await relay.start()
        try:
            assert [address.port > 0 for address in bound] == [True, False, True]
            for address in bound:
                stream = await open_stream(address)
                await stream.send(b"ping")
                assert await stream.receive() == b"ping"
                stream.close()
                await stream.wait_closed()
            assert relay.totals.accepted == 3
        finally:
            await relay.stop(drain=False)


async def test_an_address_that_is_taken_leaves_none_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
        other.close()
        port = taken.getsockname()[1]
        async with target() as where:
            listen = [Address.parse(f"tcp://127.0.0.1:{free}"), Address.parse(f"tcp://127.0.0.1:{port}")]
            with pytest.raises(UnavailableError, match="cannot listen"):
                await Relay(listen, where).start()
            with socket.create_server(("127.0.0.1", free)):
                pass


@pytest.mark.parametrize("text", ["vsock://any:7443", "wss://127.0.0.1:0/v1/channel"])
async def test_kinds_that_a_relay_does_not_listen_on(text: str) -> None:
    with pytest.raises(UnavailableError, match="does not listen"):
        await Relay([Address.parse(text)], Address.parse("tcp://127.0.0.1:9")).start()


async def test_target_down_is_said_and_closes_the_connection(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO, "ephemeralml.host")
    async with relaying(Address.parse(f"unix://{tmp_path / 'nobody.sock'}")) as (relay, address):
        for _ in range(3):
            with await _connect(address) as sock:
                assert await _is_closed(sock)
        assert relay.totals.unreachable == 3
        assert relay.totals.active == 0
    assert [record.getMessage() for record in caplog.records] == [
        "a connection was closed, target unreachable (ENOENT)",
        "2 more connections were closed, target unreachable (ENOENT)",
    ]


async def test_target_that_does_not_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_address: Address) -> socket.socket:
        await asyncio.sleep(3600)
        raise AssertionError

    monkeypatch.setattr("ephemeralml.host.relay.dial", never)
    where = Address.parse("tcp://127.0.0.1:9")
    async with relaying(where, limits=Limits(connect_seconds=0.1)) as (relay, address):
        with await _connect(address) as sock:
            assert await _is_closed(sock)
        assert relay.totals.unreachable == 1


async def test_target_by_name() -> None:
    async with target() as where, relaying(Address.parse(f"tcp://localhost:{where.port}")) as (_, address):
        assert await _ask(address) == b"are you there"


async def test_connection_limit() -> None:
    async with target() as where, relaying(where, limits=Limits(connections=2)) as (relay, address):
        with await _connect(address) as one, await _connect(address) as two:
            await _eventually(lambda: relay.totals.accepted == 2)
            with await _connect(address) as three:
                assert await _is_closed(three)
            del one, two
        await _eventually(lambda: relay.totals.active == 0)
        assert await _ask(address) == b"are you there"
        assert relay.totals.refused == 1


async def test_per_peer_limit_where_local_peers_count() -> None:
    limits = Limits(per_peer=1, local_exempt=False)
    async with target() as where, relaying(where, limits=limits) as (relay, address):
        with await _connect(address):
            await _eventually(lambda: relay.totals.accepted == 1)
            with await _connect(address) as second:
                assert await _is_closed(second)


async def test_an_idle_connection_is_cut_and_a_busy_one_is_not() -> None:
    loop = asyncio.get_running_loop()
    async with target() as where, relaying(where, limits=Limits(idle_seconds=0.4)) as (_, address):
        with await _connect(address) as idle, await _connect(address) as busy:
            for _ in range(8):
                await loop.sock_sendall(busy, b"x")
                assert await loop.sock_recv(busy, 1) == b"x"
                await asyncio.sleep(0.1)
            assert await _is_closed(idle)
            await loop.sock_sendall(busy, b"y")
            assert await loop.sock_recv(busy, 1) == b"y"


async def test_a_target_that_never_reads_bounds_what_is_taken() -> None:
    """However much a client offers, the relay itself holds one chunk, and its memory stays flat."""
    loop = asyncio.get_running_loop()
    limits = Limits(stall_seconds=1.2)
    async with target(deaf) as where, relaying(where, limits=limits) as (relay, address):
        before = _rss()
        with await _connect(address) as sock:
            block = bytes(1 << 20)
            offered = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.8):
                    while True:
                        await loop.sock_sendall(sock, block)
                        offered += len(block)
            held = [joined.waiting for joined in relay._joined]
            assert held == [(held[0][0], 0)]
            assert 0 < held[0][0] <= limits.chunk_bytes <= 1 << 20
            # What was taken lies in the target's and the relay's kernel buffers, not here.
            assert relay.totals.bytes_up <= 48 << 20
            assert _rss() - before < 8 << 20
            assert await _is_closed(sock)
        await _eventually(lambda: relay.totals.active == 0)


async def test_a_client_that_never_reads_does_not_hold_others() -> None:
    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()

    async with target(pour) as where, relaying(where) as (relay, address):
        with await _connect(address):
            await _eventually(lambda: any(joined.waiting[1] for joined in relay._joined))
            with await _connect(address) as other:
                loop = asyncio.get_running_loop()
                got = 0
                while got < 8 << 20:
                    piece = await loop.sock_recv(other, 1 << 20)
                    assert piece, "the connection that reads was ended"
                    got += len(piece)
                assert any(joined.waiting[1] for joined in relay._joined), "the other one still reads nothing"


async def test_drain_lets_a_connection_end_and_refuses_new_ones() -> None:
    loop = asyncio.get_running_loop()
    async with target() as where:
        relay = Relay([Address.parse(ANYWHERE)], where, Limits(drain_seconds=5))
        (address,) = await relay.start()
        with await _connect(address) as sock:
            await loop.sock_sendall(sock, b"begun")
            assert await loop.sock_recv(sock, 10) == b"begun"
            stopping = asyncio.create_task(relay.stop())
            await asyncio.sleep(0.05)
            with pytest.raises(ConnectionRefusedError):
                await _connect(address)
            await loop.sock_sendall(sock, b"ended")
            assert await loop.sock_recv(sock, 10) == b"ended"
            assert not stopping.done()
        async with asyncio.timeout(2):
            await stopping


async def test_drain_has_an_end() -> None:
    async with target() as where:
        relay = Relay([Address.parse(ANYWHERE)], where, Limits(drain_seconds=0.2))
        (address,) = await relay.start()
        with await _connect(address) as sock:
            await _eventually(lambda: len(relay._joined) == 1)
            await relay.stop()
            assert await _is_closed(sock)


async def test_the_log_holds_sizes_and_times_and_no_peer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ephemeralml.host")
    async with target() as where, relaying(where) as (relay, address):
        await _ask(address, b"my secret prompt")
        await _eventually(lambda: relay.totals.active == 0)
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("connection 1 done after 0.")
    assert said.endswith(" s, 16 bytes up, 16 bytes down")
    assert "127.0.0.1" not in said
    assert "prompt" not in said


async def test_no_room_for_more_sockets_pauses_accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with target() as where, relaying(where) as (_, address):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = _open_files()
        first = await _connect(address)
        second = socket.socket()
        second.setblocking(False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, hard))
        try:
            await asyncio.get_running_loop().sock_connect(second, (address.host, address.port))
            await asyncio.sleep(0.4)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await _ask(address) == b"are you there"
        first.close()
        second.close()


def test_open_files_are_allowed_as_far_as_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert allow_open_files(Limits(connections=200))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 656
        assert not allow_open_files(Limits(connections=hard))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _break(sock: socket.socket, rng: random.Random) -> None:
    """End a connection in one of the ways that peers do."""
    with contextlib.suppress(OSError):
        match rng.randrange(4):
            case 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case 1:
                sock.shutdown(socket.SHUT_WR)
            case 2:
                sock.shutdown(socket.SHUT_RD)
            case _:
                pass
    sock.close()


async def _storm(connections: int, address: Address, seed: int) -> None:
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(100)

    async def one(number: int) -> None:
        rng = random.Random(seed * 1_000_003 + number)
        async with gate:
            sock = await _connect(address)
            try:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(2):
                        for _ in range(rng.randrange(4)):
                            await loop.sock_sendall(sock, rng.randbytes(rng.choice([1, 100, 70_000, 400_000])))
                            if rng.random() < 0.5:
                                await loop.sock_recv(sock, rng.choice([1, 1000]))
                        await asyncio.sleep(rng.random() * 0.02)
            finally:
                _break(sock, rng)

    await asyncio.gather(*(one(number) for number in range(connections)))


@pytest.mark.parametrize("connections", [300, pytest.param(2_000, marks=pytest.mark.slow)])
async def test_connections_that_break_anywhere_leave_it_serving(connections: int) -> None:
    async with target(echo) as where, relaying(where) as (relay, address):
        await _storm(connections, address, seed=0)  # buffers and pools reach their size
        await _eventually(lambda: relay.totals.active == 0, 20)
        files, memory = _open_files(), _rss()
        await _storm(connections, address, seed=1)
        await _eventually(lambda: relay.totals.active == 0, 20)
        assert await _ask(address) == b"are you there"
        await _eventually(lambda: relay.totals.active == 0)
        assert _open_files() <= files + 2
        assert _rss() < memory * 1.1 + (4 << 20)
        assert not relay._joined
        assert relay.totals.accepted == 2 * connections + 1
