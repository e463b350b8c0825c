"""One TLS connection, one thread that reads and another that writes (OpenSSL takes one call at a time)."""

import contextlib
import hashlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeralml.transport import Address, connect, listen
from ephemeralml.transport.shared_tls import SharedTls, _TlsSocket
from tests.transport.test_websocket import certificate, echo, stop


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[_TlsSocket, ssl.SSLSocket]]:
    """Ours, and a peer's that blocks; the handshake is over."""
    server, client = certificate(tmp_path)
    near, far = socket.socketpair()
    accepted: list[ssl.SSLSocket] = []
    accepting = threading.Thread(target=lambda: accepted.append(server.wrap_socket(far, server_side=True)))
    accepting.start()
    ours = SharedTls(client).wrap_socket(near, server_hostname="localhost")
    accepting.join(10)
    yield ours, accepted[0]
    ours.close()
    accepted[0].close()


def _echo(peer: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        while data := peer.recv(65_536):
            peer.sendall(data)


def test_what_is_written_comes_back_while_more_is_written(ends: tuple[_TlsSocket, ssl.SSLSocket]) -> None:
    ours, peer = ends
    threading.Thread(target=_echo, args=(peer,), daemon=True).start()
    total, back, read = 16 << 20, hashlib.sha256(), 0
    sent = hashlib.sha256()

    def write() -> None:
        rng = random.Random(1)
        left = total
        while left:
            piece = rng.randbytes(min(left, rng.choice([1, 100, 20_000, 70_000])))
            sent.update(piece)
            ours.sendall(piece)
            left -= len(piece)

    writing = threading.Thread(target=write)
    writing.start()
    while read < total:
        piece = ours.recv(65_536)
        assert piece
        back.update(piece)
        read += len(piece)
    writing.join(10)
    assert back.digest() == sent.digest()


def test_a_reader_that_waits_holds_nobody_up_and_is_ended_by_close(ends: tuple[_TlsSocket, ssl.SSLSocket]) -> None:
    ours, peer = ends
    got: list[bytes] = []
    reading = threading.Thread(target=lambda: got.append(ours.recv(10)))
    reading.start()
    time.sleep(0.05)
    ours.sendall(b"x")
    assert peer.recv(1) == b"x"
    ours.close()
    reading.join(5)
    assert (reading.is_alive(), got) == (False, [b""])
    with pytest.raises(OSError, match="closed"):
        ours.sendall(b"x")


def test_a_peer_that_takes_nothing_meets_the_deadline(ends: tuple[_TlsSocket, ssl.SSLSocket]) -> None:
    ours, _ = ends
    ours.settimeout(0.2)
    with pytest.raises(TimeoutError):
        ours.sendall(bytes(32 << 20))


async def test_openings_of_a_blocking_client_are_never_lost(tmp_path: Path) -> None:
    import asyncio

    server, client = certificate(tmp_path)
    listener = await listen(Address.parse("wss://localhost:0/v1/channel"), echo, tls=server)

    def visit() -> None:
        stream = connect(listener.address, tls=client, timeout=5)
        stream.send(b"y")
        assert stream.receive() == b"y"
        stream.close()

    for _ in range(60):
        await asyncio.to_thread(visit)
    await stop(listener)


def test_a_server_without_the_right_certificate_is_refused(tmp_path: Path) -> None:
    server, _ = certificate(tmp_path)
    near, far = socket.socketpair()

    def accept() -> None:
        with contextlib.suppress(OSError), server.wrap_socket(far, server_side=True):
            pass

    accepting = threading.Thread(target=accept)
    accepting.start()
    with near, far, pytest.raises(ssl.SSLCertVerificationError):
        SharedTls(ssl.create_default_context()).wrap_socket(near, server_hostname="localhost")
    accepting.join(5)
