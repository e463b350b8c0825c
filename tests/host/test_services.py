"""The host's services over their sockets (nitro-platform section 7)."""

import http.client
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.host.enclave_log import LogDesk
from ephemeralml.host.package_source import FolderSource, PackageSource
from ephemeralml.host.services import Offer, ServiceLimits, Services
from ephemeralml.transport.address import Address
from tests.fakes.host_services import BLOB, Client

DATA = bytes(range(256)) * 40
TIMES = ServiceLimits(connections=4, idle_seconds=0.5, request_seconds=0.5, stall_seconds=0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "package"
    (package / "blobs").mkdir(parents=True)
    (package / BLOB).write_bytes(DATA)
    (package / "manifest.json").write_bytes(b"{}")
    (package / "notes.txt").write_bytes(b"none of a package's files")
    return package


@pytest.fixture
def started(tmp_path: Path, folder: Path) -> Iterator[Services]:
    offer = Offer({"": FolderSource(folder), "named": FolderSource(folder)}, {"/log": LogDesk()})
    server = Services(Address.parse(f"unix://{tmp_path}/s"), offer, TIMES)
    server.start()
    yield server
    server.stop()
    assert not (tmp_path / "s").exists()


@pytest.fixture
def client(started: Services, tmp_path: Path) -> Iterator[Client]:
    made = Client(tmp_path / "s")
    yield made
    made.close()


@pytest.mark.parametrize("place", ["/package/", "/package/named/"])
def test_a_package_by_name(client: Client, place: str) -> None:
    status, fields, body = client.ask("GET", place + BLOB)
    assert (status, body, fields["content-length"]) == (200, DATA, str(len(DATA)))
    assert fields["etag"].startswith('"')
    assert fields["etag"].endswith('"')
    sock = client.sock
    status, fields, body = client.ask("GET", place + BLOB, Range="bytes=100-299")
    assert (status, body) == (206, DATA[100:300])
    assert fields["content-range"] == f"bytes 100-299/{len(DATA)}"
    status, fields, body = client.ask("HEAD", place + BLOB)
    assert (status, body, fields["content-length"]) == (200, b"", str(len(DATA)))
    assert client.sock is sock  # kept alive throughout


@pytest.mark.parametrize(
    "target",
    [
        "/package/notes.txt",
        "/package/",
        "/package/blobs",
        "/package/blobs/",
        f"/package/other/{BLOB}",
        f"/package/named/named/{BLOB}",
        f"/package//{BLOB}",
        "/package/../manifest.json",
        "/package/%6danifest.json",
        "/package/named/..%2fmanifest.json",
        "/package/manifest.json?x",
        f"/package/blobs/{'AB' * 32}.eml",
        f"/package/blobs/{'ab' * 32}.txt",
        f"/package/blobs/{'cd' * 32}.eml",
        "/package/keys.json",
        "/kms/decrypt",
        "/",
        "/etc/passwd",
    ],
)
def test_nothing_else_is_there(client: Client, target: str) -> None:
    for method in ("GET", "HEAD"):
        assert client.ask(method, target)[0] == 404


def test_links_lead_nowhere(client: Client, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to(tmp_path / "secret")
    assert client.ask("GET", "/package/manifest.json")[0] == 502
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    assert client.ask("GET", "/package/manifest.json")[0] == 404
    (folder / "blobs").rename(tmp_path / "moved")
    (folder / "blobs").symlink_to(tmp_path / "moved")
    assert client.ask("GET", f"/package/{BLOB}")[0] == 502


def test_an_object_that_changed(client: Client, folder: Path) -> None:
    tag = client.ask("HEAD", f"/package/{BLOB}")[1]["etag"]
    assert client.ask("GET", f"/package/{BLOB}", If_Match=tag)[0] == 200
    assert client.ask("GET", f"/package/{BLOB}", If_Match=f'"x", {tag}')[0] == 200
    (folder / "new").write_bytes(DATA)
    (folder / "new").replace(folder / BLOB)
    assert client.ask("GET", f"/package/{BLOB}", If_Match=tag)[0] == 412
    assert client.ask("GET", f"/package/{BLOB}", If_Match="*")[0] == 200
    status, fields, body = client.ask("GET", f"/package/{BLOB}", Range="bytes=0-1", If_Range=tag)
    assert (status, body) == (200, DATA)
    assert fields["etag"] != tag


def test_ranges_that_cannot_be(client: Client) -> None:
    status, fields, body = client.ask("GET", f"/package/{BLOB}", Range=f"bytes={len(DATA)}-")
    assert (status, fields["content-range"], body) == (416, f"bytes */{len(DATA)}", b"")
    assert client.ask("GET", f"/package/{BLOB}", Range="bytes=0-1,5-6")[2] == DATA


def test_methods(client: Client) -> None:
    for method, target in (("POST", f"/package/{BLOB}"), ("PUT", "/healthz"), ("GET", "/log"), ("DELETE", "/log")):
        assert client.ask(method, target)[0] == 405
    assert client.ask("GET", "/healthz")[::2] == (200, b'{"ok": true}')
    assert client.ask("HEAD", "/healthz")[::2] == (200, b"")


def test_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert client.ask("POST", "/log", b'{"event": "stopped"}')[0] == 200
    assert 'enclave {"event": "stopped"}' in caplog.text


# what no peer can do


def raw(path: Path, data: bytes, *, more: bool = False) -> bytes:
    """Send *data*, and return what comes until the server closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        peer.sendall(data)
        if not more:
            peer.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := peer.recv(65_536):
            answer += piece
        return answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"POST /log HTTP/1.1\r\nhost: x\r\ncontent-length: 65537\r\n\r\n", 413),
        (b"POST /log HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /log HTTP/1.1\r\nhost: x\r\norigin: http://page.example\r\ncontent-length: 2\r\n\r\n{}", 403),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 9_000, 431),
    ],
)
def test_a_bad_request_ends_its_connection(started: Services, tmp_path: Path, data: bytes, status: int) -> None:
    answer = raw(tmp_path / "s", data + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_requests_in_a_row(started: Services, tmp_path: Path) -> None:
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    body = b"POST /log HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n" + b'{"event": "stopped"}'
    assert raw(tmp_path / "s", request * 3 + body + request).count(b"200 OK") == 5


@pytest.mark.parametrize(
    "data", [b"", b"GET /healthz HT", b"POST /log HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n{"]
)
def test_a_silent_peer_is_let_go(started: Services, tmp_path: Path, data: bytes) -> None:
    begun = time.monotonic()
    assert raw(tmp_path / "s", data, more=True) == b""
    assert time.monotonic() - begun < 5


def test_a_peer_that_takes_nothing_is_let_go(started: Services, tmp_path: Path, folder: Path) -> None:
    (folder / BLOB).write_bytes(bytes(8 << 20))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(tmp_path / "s"))
        peer.sendall(f"GET /package/{BLOB} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        time.sleep(1.2)
        peer.settimeout(5)
        received = 0
        while piece := peer.recv(1 << 20):
            received += len(piece)
        assert received < 8 << 20


def test_a_bounded_number_of_connections(started: Services, tmp_path: Path) -> None:
    peers = [Client(tmp_path / "s") for _ in range(6)]
    try:
        for peer in peers[:4]:
            assert peer.ask("GET", "/healthz")[0] == 200
        peers[4].request("GET", "/healthz")
        time.sleep(0.1)
        assert len(started._threads) == 4
        peers[0].close()
        assert peers[4].getresponse().read()
    finally:
        for peer in peers:
            peer.close()


def test_a_fault_ends_one_connection_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def open(self, key: str) -> Any:
            raise ValueError("weights: 0123")

    server = Services(Address.parse(f"unix://{tmp_path}/s"), Offer({"": Broken()}, {}))
    server.start()
    try:
        assert raw(tmp_path / "s", b"GET /package/manifest.json HTTP/1.1\r\nhost: x\r\n\r\n") == b""
        assert raw(tmp_path / "s", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 200")
    finally:
        server.stop()
    assert "ValueError" in caplog.text
    assert "0123" not in caplog.text


def test_stopping_cuts_what_is_open(tmp_path: Path, folder: Path) -> None:
    sources: dict[str, PackageSource] = {"": FolderSource(folder)}
    server = Services(Address.parse(f"unix://{tmp_path}/s"), Offer(sources, {}))
    server.start()
    client = Client(tmp_path / "s")
    assert client.ask("GET", "/healthz")[0] == 200
    begun = time.monotonic()
    server.stop()
    server.stop()
    client.close()
    assert time.monotonic() - begun < 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("services")]


# where it listens


def test_a_loopback_port() -> None:
    server = Services(Address.parse("tcp://127.0.0.1:0"), Offer({}, {}))
    bound = server.start()
    try:
        connection = http.client.HTTPConnection(bound.host, bound.port, timeout=5)
        connection.request("GET", "/healthz")
        assert json.loads(connection.getresponse().read()) == {"ok": True}
        connection.close()
    finally:
        server.stop()


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:0", "tcp://192.0.2.1:8001", "ws://127.0.0.1/v1/channel"])
def test_no_other_machine_is_served(address: str) -> None:
    server = Services(Address.parse(address), Offer({}, {}))
    with pytest.raises(UnavailableError, match="do not listen"):
        server.start()


def test_an_address_in_use(tmp_path: Path, started: Services) -> None:
    other = Services(Address.parse(f"unix://{tmp_path}/s"), Offer({}, {}))
    with pytest.raises(UnavailableError, match="another process"):
        other.start()


class VsockListener:
    """A listening socket whose peers have CIDs; this machine may have no vsock."""

    family = -1

    def __init__(self, cid: int) -> None:
        self.cid = cid
        self.near, far = socket.socketpair()
        self._far = far

    def accept(self) -> tuple[socket.socket, tuple[int, int]]:
        return self._far, (self.cid, 1_024)


@pytest.mark.parametrize(("cid", "served"), [(16, True), (17, False), (3, False)])
def test_the_launched_enclave_alone_is_answered(tmp_path: Path, cid: int, served: bool) -> None:
    server = Services(Address.parse(f"unix://{tmp_path}/s"), Offer({}, {}), cid=16)
    server.start()
    listener = VsockListener(cid)
    try:
        assert server._slots.acquire()
        assert server._admit(listener) is served  # type: ignore[arg-type] # as much of a socket as is used
        with listener.near as near:
            near.settimeout(5)
            near.sendall(b"GET /healthz HTTP/1.0\r\n\r\n") if served else None
            assert near.recv(100).startswith(b"HTTP/1.1 200" if served else b"")
            assert served or near.recv(100) == b""
    finally:
        server.stop()
