"""A real HTTP/1.1 server on its own threads, for fakes of services."""

import contextlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open, and its words to itself."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.post()

    def post(self) -> None:
        raise NotImplementedError

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def answer(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "client"


class _Tcp(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A connection that was cut is meant."""


class _Unix(ThreadingUnixStreamServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A connection that was cut is meant."""


@contextlib.contextmanager
def serving(handler: type[QuietHandler], path: Path | None = None) -> Iterator[str]:
    """Serve on a free port of this machine, or on a unix socket; gives host and port, or the path."""
    made = _Tcp(("127.0.0.1", 0), handler) if path is None else _Unix(str(path), handler)
    with made as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield str(path) if path is not None else f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
