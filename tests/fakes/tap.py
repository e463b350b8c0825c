"""A wire that copies bytes between two places and keeps every one of them."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from ephemeralml.transport.address import Address, Scheme

_READ_BYTES = 1 << 18


@dataclass
class Tap:
    """What went over one wire, both directions."""

    address: str
    """Where the wire begins."""
    heard: bytearray = field(default_factory=bytearray)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, data: bytes) -> None:
        with self._lock:
            self.heard += data


@contextlib.contextmanager
def tapped(target: str, *, listen: str | None = None) -> Iterator[Tap]:
    """Listen where *listen* says (a unix path's address), or on a loopback port, and forward to *target*."""
    if listen is None:
        server = socket.create_server(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(Address.parse(listen).path)
        server.listen()
        address = listen
    tap = Tap(address)
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        threads.append(thread)
        thread.start()

    def copy(source: socket.socket, destination: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_READ_BYTES):
                tap.keep(data)
                destination.sendall(data)
            destination.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                far = _dial(target)
                open_sockets.extend((near, far))
                start(copy, near, far)
                start(copy, far, near)

    start(accept)
    try:
        yield tap
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        for one in open_sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
        for one in open_sockets:
            one.close()


def _dial(target: str) -> socket.socket:
    address = Address.parse(target)
    if address.scheme is Scheme.UNIX:
        made = socket.socket(socket.AF_UNIX)
        made.connect(address.path)
        return made
    return socket.create_connection((address.host, address.port))
