"""A TCP line of a given rate between a client and a real server, for what takes longer than a moment."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_BLOCK = 32 << 10


class SlowLine:
    """The line: all connections share *rate* bytes a second, each way; `down` and `up` count what passed."""

    def __init__(self, port: int, rate: float) -> None:
        self.rate = rate
        self.down = self.up = 0
        self._port = port
        self._lock = threading.Lock()
        self._free = {"up": 0.0, "down": 0.0}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                with self._lock:
                    self._open += [client, server]
                for source, target, way in ((client, server, "up"), (server, client, "down")):
                    source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BLOCK)
                    threading.Thread(target=self._carry, args=(source, target, way), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                with self._lock:
                    setattr(self, way, getattr(self, way) + len(block))
                    self._free[way] = max(self._free[way], time.monotonic()) + len(block) / self.rate
                    wait = self._free[way] - time.monotonic()
                time.sleep(max(0.0, wait))
                target.sendall(block)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def slow_line(port: int, rate: float) -> Iterator[SlowLine]:
    """Carry connections to *port* of this machine at *rate* bytes a second."""
    line = SlowLine(port, rate)
    try:
        yield line
    finally:
        line.close()
