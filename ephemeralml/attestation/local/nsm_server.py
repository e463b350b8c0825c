"""The software module on a unix socket: each message behind its length as u32be (nitro-platform section 1)."""

import socket
import socketserver
import struct
from pathlib import Path
from threading import BoundedSemaphore, Thread
from types import TracebackType
from typing import Any, Self

from ephemeralml.attestation.local.nsm import MAX_REQUEST_BYTES, SoftwareNsm
from ephemeralml.errors import UnavailableError

MAX_CONNECTIONS = 16
IDLE_SECONDS = 120.0

_LENGTH = struct.Struct(">I")


class NsmServer:
    """Serves one module to a bounded number of connections until closed.

    Args:
        nsm: Answers the requests.
        path: Where to listen; made with mode 0600, and removed by `close`.

    Raises:
        UnavailableError: The socket cannot be made, for instance because it exists.
    """

    def __init__(self, nsm: SoftwareNsm, path: Path) -> None:
        self.path = path
        try:
            self._server = _Server(nsm, path)
            path.chmod(0o600)
        except OSError as error:
            raise UnavailableError(f"cannot listen on {path}: {error.strerror or error}") from error
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving, end the connections and remove the socket."""
        self._server.shutdown()
        self._server.end_connections()
        self._server.server_close()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve(nsm: SoftwareNsm, path: Path) -> NsmServer:
    """Start serving *nsm* on a unix socket at *path*; the caller closes the server."""
    return NsmServer(nsm, path)


def receive_message(connection: socket.socket, limit: int) -> bytes | None:
    """Read one length-prefixed message, or None where the peer ended or sent one over *limit*."""
    head = _exactly(connection, _LENGTH.size)
    if head is None or (size := _LENGTH.unpack(head)[0]) > limit:
        return None
    return _exactly(connection, size)


def send_message(connection: socket.socket, message: bytes) -> None:
    """Write one message behind its length."""
    connection.sendall(_LENGTH.pack(len(message)) + message)


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, nsm: SoftwareNsm, path: Path) -> None:
        self.nsm = nsm
        self._slots = BoundedSemaphore(MAX_CONNECTIONS)
        self._connections: set[socket.socket] = set()
        super().__init__(str(path), _Handler)

    def verify_request(self, *_: object) -> bool:
        """Take a connection only while there is room for it."""
        return self._slots.acquire(blocking=False)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in its thread."""
        self._connections.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self._connections.discard(request)
            self._slots.release()

    def end_connections(self) -> None:
        """Wake up every thread that waits for its peer."""
        for connection in tuple(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # the peer was faster
                continue


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Answer requests in order until the peer ends, idles or breaks the framing."""
        server = self.server
        assert isinstance(server, _Server)
        self.request.settimeout(IDLE_SECONDS)
        try:
            # One byte over the limit still gets the module's own answer, more than that ends the connection.
            while (request := receive_message(self.request, MAX_REQUEST_BYTES + 1)) is not None:
                send_message(self.request, server.nsm.handle(request))
        except OSError:  # the peer is gone or idle; nobody else is concerned
            return
