"""A key service that fails in the ways a test scripts, behind real HTTP and AWS's protocol."""

import base64
import contextlib
import json
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes import http_thread
from tests.fakes.http_thread import QuietHandler

Answer = Callable[[QuietHandler], None]


def blob(data: bytes) -> str:
    return base64.b64encode(data).decode()


def answer(status: int, document: Any, *, content_type: str = "application/x-amz-json-1.1") -> Answer:
    """Send a JSON document."""

    def send(handler: QuietHandler) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        handler.answer(status, body, content_type, x_amzn_RequestId="req-1")

    return send


def error(name: str, status: int = 400, message: str = "a message of the service's") -> Answer:
    """Fail by one of AWS's names."""
    return answer(status, {"__type": name, "message": message})


def reset(handler: QuietHandler) -> None:
    """Cut the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


@dataclass
class FaultyKms:
    """Answers each request with the next of *script*; the last one for ever."""

    script: list[Answer]
    endpoint: str = ""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def next(self) -> Answer:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@contextlib.contextmanager
def serving(*script: Answer) -> Iterator[FaultyKms]:
    service = FaultyKms(list(script))

    class Handler(QuietHandler):
        def post(self) -> None:
            service.requests.append((self.headers["X-Amz-Target"].partition(".")[2], json.loads(self.body())))
            service.next()(self)

    with http_thread.serving(Handler) as place:
        service.endpoint = f"http://{place}"
        yield service
