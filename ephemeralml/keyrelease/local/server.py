"""The key server's HTTP side: a raw ASGI application under uvicorn, one process, one thread."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from ipaddress import ip_address
from pathlib import Path
from socket import socket
from typing import Any

import uvicorn

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.local.http_head import BoundedHead
from ephemeralml.keyrelease.local.service import CONTENT_TYPE, Answer, Received, Service, refusal
from ephemeralml.keyrelease.local.shapes import MAX_BODY_BYTES
from ephemeralml.keyrelease.local.sigv4 import SignedRequest

MAX_CONNECTIONS = 512
"""At once; more get 503. Well below the open files that a process usually may have."""
KEEP_ALIVE_SECONDS = 75
BODY_SECONDS = 30.0
"""How long a request's body may take."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_OK = b'{"status":"ok"}'


class Application:
    """ASGI for one `Service`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        if scope["path"] == "/healthz" and scope["method"] in ("GET", "HEAD"):
            await _respond(send, 200, b"application/json", _OK if scope["method"] == "GET" else b"")
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive)
        except TimeoutError:
            await _reply(send, refusal("RequestTimeoutException", "the body took too long", 408))
            return
        if body is None:
            await _reply(send, refusal("RequestEntityTooLargeException", f"more than {MAX_BODY_BYTES} bytes", 413))
            return
        await _reply(send, self._service.answer(_received(scope, body)))


async def _body(receive: Receive) -> bytes | None:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _received(scope: MutableMapping[str, Any], body: bytes) -> Received:
    path = scope.get("raw_path") or scope["path"].encode()
    request = SignedRequest(
        scope["method"], path.partition(b"?")[0], scope["query_string"], tuple(scope["headers"]), body
    )
    return Received(request, _address(scope.get("client")), scope.get("scheme") == "https")


def _address(client: Any) -> str | None:
    try:
        return str(ip_address(client[0])) if client else None
    except ValueError:
        return None


async def _reply(send: Send, answer: Answer) -> None:
    await _respond(send, answer.status, CONTENT_TYPE.encode(), answer.body, answer.request_id.encode())


async def _respond(send: Send, status: int, kind: bytes, body: bytes, request_id: bytes | None = None) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if request_id is not None:
        headers.append((b"x-amzn-requestid", request_id))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    """uvicorn's server, with signals left to whoever runs it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def configuration(service: Service, *, tls: tuple[Path, Path] | None = None, drain: float = 10.0) -> uvicorn.Config:
    """Return how uvicorn is to serve.

    Raises:
        MalformedError: Certificate and key are none, or no pair.
    """
    config = uvicorn.Config(
        Application(service),
        http=BoundedHead,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(drain)),
        ssl_certfile=str(tls[0]) if tls is not None else None,
        ssl_keyfile=str(tls[1]) if tls is not None else None,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise MalformedError("the TLS certificate and key are no pair of PEM files") from error
    return config


async def serve(
    config: uvicorn.Config,
    sockets: list[socket],
    *,
    ready: Callable[[], None],
    stopping: asyncio.Event,
    hurrying: asyncio.Event | None = None,
) -> None:
    """Serve until *stopping* is set, then end what is under way and return.

    Args:
        config: From `configuration`.
        sockets: Bound ones.
        ready: Called once requests are taken.
        stopping: Ends it.
        hurrying: Ends it without waiting for what is under way.
    """
    server = _Server(config, ready)
    running = asyncio.create_task(server.serve(sockets=sockets))
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    waiting.cancel()
    hurry = asyncio.create_task((hurrying or asyncio.Event()).wait())
    await asyncio.wait({running, hurry}, return_when=asyncio.FIRST_COMPLETED)
    server.force_exit = True
    hurry.cancel()
    await running
