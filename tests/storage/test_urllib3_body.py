"""Bodies read beneath urllib3: lengths, ends, and what a server sends too much."""

import gzip
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import urllib3

from ephemeralml.storage.retry import Deadline, TransientFault
from ephemeralml.storage.urllib3_body import read_body

DATA = os.urandom(3 << 20)


@contextmanager
def answering(*answers: bytes, hold: float = 0) -> Iterator[tuple[urllib3.HTTPConnectionPool, list[int]]]:
    """A server that gives *answers* on one connection after the other request, and counts connections."""
    accepted: list[int] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        left = list(answers)
        while left:
            connection, _ = server.accept()
            accepted.append(1)
            with connection, suppress(OSError):  # a client that has enough hangs up
                while left and connection.recv(65536):
                    connection.sendall(left.pop(0))
                time.sleep(hold)

    thread = threading.Thread(target=serve)
    thread.start()
    pool = urllib3.HTTPConnectionPool("127.0.0.1", server.getsockname()[1], maxsize=1)
    try:
        yield pool, accepted
    finally:
        pool.close()
        thread.join(10)
        server.close()


def head(length: int, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


def ask(pool: urllib3.HTTPConnectionPool) -> urllib3.BaseHTTPResponse:
    return pool.urlopen("GET", "/", preload_content=False, decode_content=False, retries=False, timeout=5)


def test_a_body_is_read_and_its_connection_kept() -> None:
    with answering(head(len(DATA)) + DATA, head(3) + b"abc") as (pool, accepted):
        buffer = bytearray(len(DATA))
        read_body(ask(pool), memoryview(buffer), Deadline(5))
        assert buffer == DATA
        small = bytearray(3)
        read_body(ask(pool), memoryview(small), Deadline(5))
        assert small == b"abc"
        assert len(accepted) == 1


def test_a_body_in_chunks_is_read() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n3\r\nfgh\r\n0\r\n\r\n"
    with answering(answer) as (pool, _):
        buffer = bytearray(8)
        read_body(ask(pool), memoryview(buffer), Deadline(5))
        assert buffer == b"abcdefgh"


def test_an_encoded_body_is_given_as_it_came() -> None:
    packed = gzip.compress(b"text")
    with answering(head(len(packed), "Content-Encoding: gzip") + packed) as (pool, _):
        buffer = bytearray(len(packed))
        read_body(ask(pool), memoryview(buffer), Deadline(5))
        assert buffer == packed


@pytest.mark.parametrize("came", [0, 10, (1 << 20) + 7])
def test_a_body_that_ends_early_tells_how_much_came(came: int) -> None:
    with answering(head(len(DATA)) + DATA[:came]) as (pool, _):
        buffer = bytearray(len(DATA))
        with pytest.raises(TransientFault) as caught:
            read_body(ask(pool), memoryview(buffer), Deadline(5))
        assert caught.value.done <= came
        assert buffer[: caught.value.done] == DATA[: caught.value.done]


def test_what_comes_beyond_the_buffer_is_not_read() -> None:
    """A server that announces more than was asked for cannot fill our memory with it."""
    with answering(head(1 << 40) + DATA, head(3) + b"abc") as (pool, accepted):
        buffer = bytearray(10)
        read_body(ask(pool), memoryview(buffer), Deadline(5))
        assert buffer == DATA[:10]
        read_body(ask(pool), memoryview(bytearray(3)), Deadline(5))
        assert len(accepted) == 2, "the connection is not used again"


def test_the_deadline_cuts_a_silent_body() -> None:
    with answering(head(100) + b"x", hold=4) as (pool, _):
        began = time.monotonic()
        with pytest.raises(TransientFault, match="silent"):
            read_body(ask(pool), memoryview(bytearray(100)), Deadline(0.3))
        assert time.monotonic() - began < 3
