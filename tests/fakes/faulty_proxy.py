"""A proxy between a client and a real server that breaks what it is told to, and counts."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Act(Enum):
    """What may happen to a request."""

    RESET = auto()
    """The connection is reset before anything is forwarded."""
    RESET_UPLOAD = auto()
    """The connection is reset after `count` bytes of the request's body."""
    SLOW_UPLOAD = auto()
    """The request's body is taken slowly, `count` bytes in a fifth of a second."""
    STATUS = auto()
    """The proxy answers `count` itself."""
    STALL = auto()
    """Nothing comes for a long time."""
    TRUNCATE = auto()
    """The answer's body ends after `count` bytes."""
    TRICKLE = auto()
    """The answer's body comes byte by byte, without end in sight."""
    TRICKLE_HEAD = auto()
    """The answer's head comes byte by byte, without end in sight."""
    LOSE_ANSWER = auto()
    """The request is forwarded, and the connection reset instead of an answer."""
    EDIT = auto()
    """The answer's headers are replaced by `headers` (None removes one)."""
    CLOSE = auto()
    """The answer is right, and the kept connection is then closed without notice."""


@dataclass
class Fault:
    """One thing to break: the first `times` requests, after `skip`, that match."""

    act: Act
    method: str = ""
    part: str = ""
    times: int = 1
    skip: int = 0
    count: int = 0
    headers: Mapping[str, str | None] = field(default_factory=dict)

    def takes(self, method: str, target: str) -> bool:
        if (self.method and method != self.method) or self.part not in target or self.times <= 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came."""

    method: str
    target: str
    headers: HTTPMessage
    body: int


class Proxy:
    """The proxy's switches and counters; a fault is added with `break_`."""

    def __init__(self, upstream: Callable[[], HTTPConnection]) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.uploaded = 0
        """Bytes of requests' bodies that came."""
        self.downloaded = 0
        """Bytes of answers' bodies that left."""
        self.connections = 0
        self.stopping = threading.Event()
        self.endpoint = ""
        self.lock = threading.Lock()

    def break_(self, act: Act, **more: object) -> Fault:
        fault = Fault(act, **more)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def forget(self) -> None:
        """Start counting anew."""
        with self.lock:
            self.seen.clear()
            self.uploaded = self.downloaded = 0

    def take(self, method: str, target: str) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.takes(method, target)), None)

    def methods(self) -> list[str]:
        return [seen.method for seen in self.seen]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_any(self) -> None:
        proxy = self.server.proxy
        fault = proxy.take(self.command, self.path)
        act = fault.act if fault else None
        length = int(self.headers.get("Content-Length", 0))
        if fault and act is Act.RESET_UPLOAD:
            self.count_upload(len(self.rfile.read(min(length, fault.count))))
            return self.reset()
        body = self.slowly(length, fault.count) if fault and act is Act.SLOW_UPLOAD else self.rfile.read(length)
        with proxy.lock:
            proxy.seen.append(Seen(self.command, self.path, self.headers, len(body)))
        self.count_upload(len(body))
        if act is Act.RESET:
            return self.reset()
        if act is Act.STALL:
            proxy.stopping.wait(30)
            return self.reset()
        if fault and act is Act.STATUS:
            self.send_response(fault.count)
            self.answer_headers({"Content-Length": "0", **fault.headers})
            return None
        self.forward(body, fault)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815 - the names http.server looks for

    def forward(self, body: bytes, fault: Fault | None) -> None:
        with contextlib.closing(self.server.proxy.upstream()) as upstream:
            kept = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in kept.items():
                upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            data = answer.read()
            headers: dict[str, str | None] = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server")
            }
            headers["Content-Length"] = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        act = fault.act if fault else None
        if act is Act.LOSE_ANSWER:
            return self.reset()
        if act is Act.TRICKLE_HEAD:
            return self.trickle(b"HTTP/1.1 200 OK\r\nX-Filler: ")
        if fault and act is Act.EDIT:
            names = {name.lower() for name in fault.headers}
            headers = {name: value for name, value in headers.items() if name.lower() not in names} | dict(
                fault.headers
            )
        self.send_response(answer.status)
        self.answer_headers(headers)
        if self.command == "HEAD":
            return None
        if act is Act.TRICKLE:
            return self.trickle(data)
        if fault and act is Act.TRUNCATE:
            data = data[: fault.count]
            self.close_connection = True
        with self.server.proxy.lock:  # before they leave: who gets the last byte may look at once
            self.server.proxy.downloaded += len(data)
        self.wfile.write(data)
        if act is Act.CLOSE:
            self.close_connection = True
        return None

    def answer_headers(self, headers: Mapping[str, str | None]) -> None:
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def trickle(self, data: bytes) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            while not self.server.proxy.stopping.is_set():
                for byte in data:
                    self.connection.send(bytes([byte]))
                    time.sleep(0.05)

    def slowly(self, length: int, step: int) -> bytes:
        body = bytearray()
        while len(body) < length:
            time.sleep(0.2)
            body += self.rfile.read(min(step, length - len(body)))
        return bytes(body)

    def count_upload(self, count: int) -> None:
        with self.server.proxy.lock:
            self.server.proxy.uploaded += count

    def reset(self) -> None:
        self.close_connection = True
        if self.connection.family != socket.AF_UNIX:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy

    def process_request(self, request: object, client_address: object) -> None:
        self.proxy.connections += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        """Be silent: clients that hang up are what the tests are about."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        socket.socket.bind(self.socket, self.server_address)
        self.server_name, self.server_port = "unix", 0

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = self.socket.accept()
        return connection, ("unix", 0)


@contextlib.contextmanager
def faulty_proxy(port: int, *, unix: str | None = None) -> Iterator[Proxy]:
    """A proxy before the server on *port*, on a port of its own or the socket *unix*."""
    proxy = Proxy(lambda: HTTPConnection("127.0.0.1", port, timeout=30))
    server = _UnixServer(unix, _Handler) if unix else _Server(("127.0.0.1", 0), _Handler)  # type: ignore[arg-type]
    server.proxy = proxy
    proxy.endpoint = unix or f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
