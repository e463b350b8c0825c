"""A host that lies: HTTP by hand over a unix socket, honest until told otherwise.

A test gives `bend`, which sees each request with the honest answer's parts and
returns the bytes to send, or takes the socket and does what it likes with it.
"""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ephemeralml.host.key_desk import KeyDesk, Releaser

KMS = "/kms/decrypt"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, before it is written."""

    status: str
    fields: dict[str, str]
    body: bytes = b""

    def wire(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status}", *(f"{name}: {value}" for name, value in self.fields.items()), "", ""]
        return "\r\n".join(lines).encode() + self.body

    def having(self, *, body: bytes | None = None, **fields: str) -> "Answer":
        """Return a copy with another body, its length corrected, or other fields (``_`` for ``-``)."""
        length = {} if body is None else {"content-length": str(len(body))}
        given = {name.replace("_", "-"): value for name, value in fields.items()}
        return replace(self, fields={**self.fields, **length, **given}, body=self.body if body is None else body)


@dataclass
class Exchange:
    """One request, and what an honest host would answer."""

    method: str
    path: str
    honest: Answer
    peer: socket.socket
    count: int
    """How many requests came for this path so far, this one included."""
    stop: threading.Event = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def stall(self) -> None:
        """Say nothing until the test is over."""
        self.stop.wait(30)

    def trickle(self, data: bytes, seconds: float) -> None:
        """Send *data* a byte at a time."""
        for byte in data:
            if self.stop.wait(seconds):
                return
            self.peer.sendall(bytes([byte]))


Bend = Callable[[Exchange], Answer | bytes | None]
"""Returns what to send; None after it did that itself, which ends the connection."""


class HostileServices:
    """The server."""

    def __init__(self, path: Path, package: Path, releasers: dict[str, Releaser], bend: Bend) -> None:
        self.package = package
        self.bend = bend
        self.requests: list[tuple[str, str]] = []
        self._desk = KeyDesk(releasers)
        self._stop = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._listener.settimeout(0.05)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._stop.set()
        for thread in list(self._threads):
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                peer, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        peer.settimeout(0.05)
        with peer, contextlib.suppress(OSError):
            buffer = b""
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    data = peer.recv(65_536)
                    if not data:
                        return
                    buffer += data
                while (end := buffer.find(b"\r\n\r\n")) >= 0:
                    head, rest = buffer[:end].decode("latin-1"), buffer[end + 4 :]
                    length = re.search(r"(?i)content-length: (\d+)", head)
                    size = int(length[1]) if length else 0
                    if len(rest) < size:
                        break
                    buffer = rest[size:]
                    if not self._answer(peer, head, rest[:size]):
                        return

    def _answer(self, peer: socket.socket, head: str, body: bytes) -> bool:
        method, path, _ = head.splitlines()[0].split(" ")
        with self._lock:
            self.requests.append((method, path))
            count = self.requests.count((method, path))
        said = self.bend(Exchange(method, path, self._honest(method, path, head, body), peer, count, self._stop))
        if said is None:
            return False
        peer.settimeout(5)
        peer.sendall(said.wire() if isinstance(said, Answer) else said)
        peer.settimeout(0.05)
        return True

    def _honest(self, method: str, path: str, head: str, body: bytes) -> Answer:
        if path == KMS:
            status, said = self._desk.handle(body)
            return Answer(f"{status} X", {"content-length": str(len(said)), "etag": ""}, said)
        file = self.package / path.removeprefix("/package/tiny/")
        if not file.is_file():
            return Answer("404 Not Found", {"content-length": "0", "etag": ""})
        data = file.read_bytes()
        fields = {"etag": f'"{file.name}"', "accept-ranges": "bytes"}
        if method == "HEAD":
            return Answer("200 OK", {**fields, "content-length": str(len(data))})
        wanted = re.search(r"(?i)range: bytes=(\d+)-(\d+)", head)
        assert wanted is not None
        start, end = int(wanted[1]), int(wanted[2]) + 1
        part = data[start:end]
        fields |= {"content-range": f"bytes {start}-{end - 1}/{len(data)}", "content-length": str(len(part))}
        return Answer("206 Partial Content", fields, part)


@contextlib.contextmanager
def hostile(path: Path, package: Path, releasers: dict[str, Releaser], bend: Bend) -> Iterator[HostileServices]:
    """Run a `HostileServices` for the block."""
    server = HostileServices(path, package, releasers, bend)
    try:
        yield server
    finally:
        server.close()
