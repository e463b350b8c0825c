"""Reading by range from an HTTP server, a hostile one too (nitro-platform.md section 7)."""

import contextlib
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import example, given
from hypothesis import strategies as st

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.storage.http import HttpStorage
from ephemeralml.storage.open import open_storage
from ephemeralml.storage.retry import Deadline, Retries, RetryPolicy
from ephemeralml.storage.sources import BytesSource
from tests.fakes import pki
from tests.fakes.faulty_proxy import Act, Proxy, faulty_proxy
from tests.fakes.s3_server import BUCKET, S3Server
from tests.storage.conftest import quick, sha256

DATA = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def folder(moto: S3Server) -> Iterator[str]:
    """A path on the server below which there are objects; S3 is an HTTP server with ranges and ETags."""
    client = moto.client()
    client.put_object(Bucket=BUCKET, Key="http/blobs/a.eml", Body=DATA, ACL="public-read")
    client.put_object(Bucket=BUCKET, Key="http/odd name+%41&?ü", Body=b"odd", ACL="public-read")
    client.put_object(Bucket=BUCKET, Key="http/empty", Body=b"", ACL="public-read")
    yield f"{BUCKET}/http"
    client.close()


@pytest.fixture
def proxy(moto: S3Server) -> Iterator[Proxy]:
    with faulty_proxy(moto.port) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy, folder: str) -> Iterator[HttpStorage]:
    with open_storage(f"{proxy.endpoint}/{folder}/", retries=quick()) as opened:
        assert isinstance(opened, HttpStorage)
        yield opened


def read_all(store: HttpStorage) -> bytes:
    buffer = bytearray(len(DATA))
    store.read_into("blobs/a.eml", 0, memoryview(buffer))
    return bytes(buffer)


def test_objects_are_read_in_ranges(store: HttpStorage) -> None:
    assert store.size("blobs/a.eml") == len(DATA)
    assert store.exists("blobs/a.eml")
    assert not store.exists("blobs/a.em")
    assert store.digest("blobs/a.eml") is None
    assert store.read("blobs/a.eml", 5, 105) == DATA[5:105]
    assert store.read("odd name+%41&?ü", 0, 3) == b"odd"
    assert store.read("empty", 0, 0) == b""
    assert read_all(store) == DATA


def test_connections_are_kept(store: HttpStorage, proxy: Proxy) -> None:
    for start in range(20):
        assert store.read("blobs/a.eml", start, start + 10) == DATA[start : start + 10]
    assert proxy.connections == 1
    with ThreadPoolExecutor(8) as pool:
        pieces = list(pool.map(lambda at: store.read("blobs/a.eml", at, at + 65536), range(0, len(DATA), 65536)))
    assert b"".join(pieces) == DATA
    assert proxy.connections <= 8


def test_a_kept_connection_that_the_server_closed_is_no_fault(store: HttpStorage, proxy: Proxy) -> None:
    for _ in range(6):
        proxy.break_(Act.CLOSE)
        assert store.read("blobs/a.eml", 0, 10) == DATA[:10]
        time.sleep(0.02)
    proxy.break_(Act.RESET, skip=0)
    assert store.read("blobs/a.eml", 0, 10) == DATA[:10]


def test_a_unix_socket_serves_as_well(moto: S3Server, folder: str, tmp_path: Path) -> None:
    path = str(tmp_path / "services")

    class Dialled(HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(path)

    with faulty_proxy(moto.port, unix=path) as proxy:
        proxy.break_(Act.STATUS, method="GET", count=503)
        proxy.break_(Act.TRUNCATE, method="GET", count=1 << 20)
        with HttpStorage(lambda: Dialled("services"), folder, retries=quick()) as store:
            assert read_all(store) == DATA
    with (
        HttpStorage(lambda: Dialled("services"), folder, retries=quick()) as store,
        pytest.raises(UnavailableError, match=r"cannot read /models/http/blobs/a\.eml: connection refused, 4 times"),
    ):
        store.size("blobs/a.eml")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(store: HttpStorage, proxy: Proxy, status: int) -> None:
    proxy.break_(Act.STATUS, count=status, times=3, headers={"Retry-After": "0"})
    assert read_all(store) == DATA


@pytest.mark.parametrize("act", [Act.RESET, Act.STALL])
def test_a_connection_that_fails_is_made_anew(store: HttpStorage, proxy: Proxy, act: Act) -> None:
    proxy.break_(act)
    assert read_all(store) == DATA


def test_an_interrupted_download_goes_on_where_it_broke(store: HttpStorage, proxy: Proxy) -> None:
    for _ in range(5):
        proxy.break_(Act.TRUNCATE, method="GET", count=500_000)
    assert read_all(store) == DATA
    assert proxy.downloaded == len(DATA)


@pytest.mark.parametrize("act", [Act.STALL, Act.TRICKLE, Act.TRICKLE_HEAD])
def test_the_deadline_holds_whatever_the_server_does(proxy: Proxy, folder: str, act: Act) -> None:
    proxy.break_(act, method="GET", times=99)
    began = time.monotonic()
    with (
        open_storage(f"{proxy.endpoint}/{folder}", retries=quick(0.7)) as store,
        pytest.raises(UnavailableError, match="in time: the server is silent"),
    ):
        store.read_into("blobs/a.eml", 0, memoryview(bytearray(len(DATA))))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Range": "bytes 0-9/3145728"}, "RANGE_MISMATCH"),
        ({"Content-Range": "bytes 10-18/3145728"}, "RANGE_MISMATCH"),
        ({"Content-Range": "bytes 10-20/3145728"}, "RANGE_MISMATCH"),
        ({"Content-Range": "bytes 10-19/*"}, "RANGE_MISMATCH"),
        ({"Content-Range": "bytes 10-19/15"}, "RANGE_MISMATCH"),
        ({"Content-Range": "items 10-19/3145728"}, "RANGE_MISMATCH"),
        ({"Content-Range": None}, "RANGE_MISMATCH"),
        ({"Content-Range": "bytes 10-19/3145729"}, "OBJECT_CHANGED"),
        ({"Content-Range": "bytes 10-14/15"}, "BLOB_TRUNCATED"),
        ({"ETag": '"another"'}, "OBJECT_CHANGED"),
        ({"ETag": None}, "OBJECT_CHANGED"),
        ({"ETag": 'W/"weak"'}, "OBJECT_CHANGED"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_is_rejected(
    store: HttpStorage, proxy: Proxy, headers: dict[str, str | None], code: str
) -> None:
    store.size("blobs/a.eml")
    proxy.break_(Act.EDIT, method="GET", headers=headers)
    proxy.forget()
    with pytest.raises(RejectedError) as caught:
        store.read_into("blobs/a.eml", 10, memoryview(bytearray(10)))
    assert caught.value.code == code
    assert proxy.methods() == ["GET"], "it is not asked again"


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (200, UnavailableError, "knows no ranges"),
        (204, UnavailableError, "answers 204"),
        (302, UnavailableError, "answers 302"),
        (400, UnavailableError, "answers 400"),
        (401, UnavailableError, "not allowed to read"),
        (403, UnavailableError, "not allowed to read"),
        (404, UnavailableError, "there is no object"),
        (410, UnavailableError, "there is no object"),
        (412, RejectedError, "changed while it was being read"),
        (416, RejectedError, "ends before byte 20"),
        (501, UnavailableError, "answers 501"),
    ],
)
def test_a_refusal_is_final_and_named(
    store: HttpStorage, proxy: Proxy, status: int, error: type[EphemeralError], message: str
) -> None:
    store.size("blobs/a.eml")
    proxy.break_(Act.STATUS, method="GET", count=status)
    proxy.forget()
    with pytest.raises(error, match=message):
        store.read_into("blobs/a.eml", 10, memoryview(bytearray(10)))
    assert len(proxy.seen) == 1


def test_the_first_look_pins_the_version(store: HttpStorage, proxy: Proxy) -> None:
    store.read_into("blobs/a.eml", 0, memoryview(bytearray(10)))
    store.read_into("blobs/a.eml", 10, memoryview(bytearray(10)))
    first, second = proxy.seen
    assert first.headers["If-Match"] is None
    assert second.headers["If-Match"] == f'"{hashlib.md5(DATA).hexdigest()}"'


def test_an_encoded_answer_is_refused(store: HttpStorage, proxy: Proxy) -> None:
    proxy.break_(Act.EDIT, method="GET", headers={"Content-Encoding": "gzip"})
    with pytest.raises(MalformedError, match="encoded"):
        store.read_into("blobs/a.eml", 0, memoryview(bytearray(10)))


@pytest.mark.parametrize("length", [None, "-1", "1e3", "9" * 30, "\u0663"])
def test_a_length_that_is_none_is_refused(store: HttpStorage, proxy: Proxy, length: str | None) -> None:
    proxy.break_(Act.EDIT, method="HEAD", headers={"Content-Length": length and length.encode().decode("latin-1")})
    with pytest.raises(MalformedError, match="length"):
        store.size("blobs/a.eml")


def test_nothing_is_written_and_nothing_listed(store: HttpStorage) -> None:
    with pytest.raises(UnavailableError, match="only reading"):
        store.write("a", [b"x"])
    with pytest.raises(UnavailableError, match="only reading"):
        store.put("a", BytesSource(b"x"), sha256=sha256(b"x"))
    with pytest.raises(UnavailableError, match="lists nothing"):
        store.list("")


@pytest.mark.parametrize("key", ["", "/a", "../a", "a//b", "a\r\nX: y", "a\0"])
def test_a_key_stays_below_the_prefix(store: HttpStorage, proxy: Proxy, key: str) -> None:
    for ask in (lambda: store.size(key), lambda: store.read_into(key, 0, memoryview(bytearray(1)))):
        with pytest.raises(MalformedError, match="key"):
            ask()
    assert proxy.seen == []


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    root, leaf = pki.ca("root"), pki.leaf("leaf")
    (tmp_path / "leaf.pem").write_bytes(
        pki.issue(leaf, root).public_bytes(Encoding.PEM)
        + pki.key("leaf", leaf.kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "leaf.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, pytest.raises(ssl.SSLError), context.wrap_socket(connection, server_side=True):
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        with (
            HttpStorage(lambda: HTTPSConnection("127.0.0.1", port), retries=quick()) as store,
            pytest.raises(UnavailableError, match="certificate is not trusted"),
        ):
            store.size("a")
        thread.join()


class Canned(HTTPConnection):
    """A connection on which *answer* lies ready, and nothing comes after it."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("canned")
        self._answer = answer

    def connect(self) -> None:
        self.sock, peer = socket.socketpair()
        with peer:
            peer.sendall(self._answer)


PROMISE = b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/20\r\nContent-Length: 10\r\n"


@pytest.mark.fuzz
@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: PROMISE + tail))
@example(PROMISE + b"\r\n0123456789")
@example(PROMISE + b'ETag: "a"\r\n\r\n01234567890123')
@example(PROMISE + b"Transfer-Encoding: chunked\r\n\r\nffffffffffff\r\n")
@example(PROMISE + b"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n")
@example(b"HTTP/1.1 206 OK\r\n" + b"A: b\r\n" * 101)
@example(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)
@example(b"HTTP/1.1 99999999999999999999 OK\r\n\r\n")
def test_whatever_a_server_says_only_our_errors_come(answer: bytes) -> None:
    retries = Retries(RetryPolicy(tries=2, first_wait=0, longest_wait=0, stall=1), Deadline(5))
    for ask in (
        lambda store: store.read_into("a", 0, memoryview(bytearray(10))),
        lambda store: store.size("a"),
        lambda store: store.exists("a"),
    ):
        with HttpStorage(lambda: Canned(answer), retries=retries) as store, contextlib.suppress(EphemeralError):
            ask(store)


def test_other_bytes_on_a_second_try_are_noticed(store: HttpStorage, proxy: Proxy) -> None:
    proxy.break_(Act.TRUNCATE, method="GET", count=500_000)
    proxy.break_(Act.EDIT, method="GET", headers={"ETag": '"another"'})
    with pytest.raises(RejectedError) as caught:
        read_all(store)
    assert caught.value.code == "OBJECT_CHANGED"


def test_a_server_that_falls_silent_is_asked_no_more_often_for_its_kept_connections(proxy: Proxy, folder: str) -> None:
    retries = Retries(RetryPolicy(tries=2, first_wait=0, longest_wait=0, stall=0.3))
    with open_storage(f"{proxy.endpoint}/{folder}", retries=retries) as store:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda at: store.read("blobs/a.eml", at, at + 300_000), range(6)))
        proxy.forget()
        proxy.break_(Act.STALL, times=99)
        with pytest.raises(UnavailableError, match="the server is silent, 2 times"):
            store.read_into("blobs/a.eml", 0, memoryview(bytearray(10)))
        assert len(proxy.seen) == 2
