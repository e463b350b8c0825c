"""The channel below an ordinary httpx client, so that stock SDKs need no change.

What goes wrong on the way is told in httpx's terms, so that its users' handling
of networks keeps working. What was *verified and refused* is not: it leaves as
our own `RejectedError`, `MalformedError` or `IncompleteError`, which SDKs do
not take for a hiccup of the network and so do not retry (docs/client.md).
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import httpx

from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.client.async_session import AsyncSession, AsyncStreamedReply
from ephemeralml.client.call import (
    MAX_RESPONSE_BYTES,
    REPLY_SECONDS,
    SessionEndedError,
    TimedOutError,
    too_large,
)
from ephemeralml.client.link import AsyncLink, ConnectError, Link, Target
from ephemeralml.client.reply import Receipted
from ephemeralml.client.session import CONNECT_SECONDS, OnReceipt, Session, StreamedReply
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError, UnavailableError
from ephemeralml.transport.streams import DeadlineError

RECEIPT_EXTENSION = "ephemeralml"
"""Where a response's `extensions` hold its `Receipted`, or None."""
_HOP_BY_HOP = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers about a connection that is not there, or a compression that the receipt's hash would see."""
_LIVE = "text/event-stream"
_RETRY_HEADER = "x-stainless-retry-count"
_refused: ContextVar[Exception | None] = ContextVar("ephemeralml_refused", default=None)


def httpx_client(
    target: str,
    *,
    policy: Policy,
    roots: TrustRoots | None = None,
    on_receipt: OnReceipt | None = None,
    **options: Any,
) -> httpx.Client:
    """Return an httpx client whose every request goes through the channel to *target*.

    The URL's host is a label; only its path and query travel. Connects on the
    first request, verifies, and connects anew when a session has ended.

    Args:
        target: As for `connect`.
        policy: What is accepted.
        roots: Trust roots instead of the policy's own.
        on_receipt: Called with every verified receipt, before its reply is returned.
        options: For `httpx.Client`: `timeout`, `headers` and the like.
    """
    options.setdefault("base_url", "http://enclave")
    options.setdefault("timeout", REPLY_SECONDS)
    return httpx.Client(transport=ChannelTransport(Target(target, policy, roots, on_receipt)), **options)


def async_httpx_client(
    target: str,
    *,
    policy: Policy,
    roots: TrustRoots | None = None,
    on_receipt: OnReceipt | None = None,
    **options: Any,
) -> httpx.AsyncClient:
    """Return the same for an event loop; see `httpx_client`."""
    options.setdefault("base_url", "http://enclave")
    options.setdefault("timeout", REPLY_SECONDS)
    return httpx.AsyncClient(transport=AsyncChannelTransport(Target(target, policy, roots, on_receipt)), **options)


class ChannelTransport(httpx.BaseTransport):
    """An httpx transport over sessions; safe to use from several threads."""

    def __init__(self, target: Target) -> None:
        self._link = Link(target)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* and return its response.

        A response that is no event stream is returned once it is complete and
        its receipt verified; an event stream at its beginning, and its end
        raises if it was cut or its receipt is refused.

        Raises:
            httpx.TransportError: The network, in httpx's terms.
            EphemeralError: Something was verified and refused.
        """
        with _translated(request):
            body = request.read()
            timeouts = _Timeouts(request)

            def ask(session: Session) -> StreamedReply:
                return session.stream(
                    request.method, _path(request), body, headers=_headers(request), timeout=timeouts.read
                )

            reply = self._link.ask(ask, timeout=timeouts.connect)
            if _is_live(reply.headers):
                return httpx.Response(reply.status, headers=dict(reply.headers), stream=_Stream(reply, request))
            content = reply.read()
        return _complete(reply.status, reply.headers, content, reply.receipted)

    def close(self) -> None:
        """Close the session."""
        self._link.close()


class AsyncChannelTransport(httpx.AsyncBaseTransport):
    """The same for an event loop."""

    def __init__(self, target: Target) -> None:
        self._link = AsyncLink(target)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* and return its response; see `ChannelTransport.handle_request`."""
        with _translated(request):
            body = await request.aread()
            timeouts = _Timeouts(request)

            async def ask(session: AsyncSession) -> AsyncStreamedReply:
                return await session.stream(
                    request.method, _path(request), body, headers=_headers(request), timeout=timeouts.read
                )

            reply = await self._link.ask(ask, timeout=timeouts.connect)
            if _is_live(reply.headers):
                return httpx.Response(reply.status, headers=dict(reply.headers), stream=_AsyncStream(reply, request))
            content = await reply.read()
        return _complete(reply.status, reply.headers, content, reply.receipted)

    async def aclose(self) -> None:
        """Close the session."""
        await self._link.close()


class _Stream(httpx.SyncByteStream):
    """The body of an event stream."""

    def __init__(self, reply: StreamedReply, request: httpx.Request) -> None:
        self._reply, self._request = reply, request

    def __iter__(self) -> Iterator[bytes]:
        held = _EndMarker()
        with _translated(self._request):
            for piece in self._reply:
                if not held.withholds(piece):
                    yield piece
            if held.pieces:
                yield b"".join(held.pieces)

    def close(self) -> None:
        self._reply.close()


class _AsyncStream(httpx.AsyncByteStream):
    """The same for an event loop."""

    def __init__(self, reply: AsyncStreamedReply, request: httpx.Request) -> None:
        self._reply, self._request = reply, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        held = _EndMarker()
        with _translated(self._request):
            async for piece in self._reply:
                if not held.withholds(piece):
                    yield piece
            if held.pieces:
                yield b"".join(held.pieces)

    async def aclose(self) -> None:
        await self._reply.close()


class _EndMarker:
    """Withholds an event stream's end marker until the receipt behind it has been verified.

    SDKs stop reading at the marker, and some let go of the connection there:
    they would take an answer for complete whose receipt nobody had looked at.
    """

    MARK = b"data: [DONE]"

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        """What was withheld: the piece that completes the marker, and all behind it."""
        self._tail = b""
        self._size = 0

    def withholds(self, piece: bytes) -> bool:
        """Return whether *piece* has to wait for the end, and keep it if so."""
        if not self.pieces:
            seen = self._tail + piece
            self._tail = seen[1 - len(self.MARK) :]
            if self.MARK not in seen:
                return False
        self._size += len(piece)
        if self._size > MAX_RESPONSE_BYTES:
            raise too_large()
        self.pieces.append(piece)
        return True


class _Timeouts:
    """What httpx allows: for the connection, and until the answer begins or goes on."""

    def __init__(self, request: httpx.Request) -> None:
        given: Mapping[str, float | None] = request.extensions.get("timeout", {})
        connect, read = given.get("connect"), given.get("read")
        self.connect = CONNECT_SECONDS if connect is None else connect
        self.read = REPLY_SECONDS if read is None else read


def _complete(status: int, headers: Mapping[str, str], content: bytes, receipted: Receipted | None) -> httpx.Response:
    return httpx.Response(status, headers=dict(headers), content=content, extensions={RECEIPT_EXTENSION: receipted})


def _path(request: httpx.Request) -> str:
    return request.url.raw_path.decode("ascii")


def _headers(request: httpx.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.headers.multi_items():
        lower = name.lower()
        if lower not in _HOP_BY_HOP:
            found[lower] = f"{found[lower]}, {value}" if lower in found else value
    return found


def _is_live(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == _LIVE


def _translated(request: httpx.Request) -> AbstractContextManager[None]:
    """Say in httpx's terms what the network did; leave alone what was refused.

    Older SDKs retry after any exception. Their retry of a refused request is
    answered with the same refusal, and its body is not sent again.
    """
    return _translating(request)


@contextmanager
def _translating(request: httpx.Request) -> Iterator[None]:
    earlier = _refused.get()
    if earlier is not None and request.headers.get(_RETRY_HEADER, "0") != "0":
        raise earlier
    _refused.set(None)
    try:
        yield
    except ConnectError as error:
        slow = isinstance(error.__cause__, (TimedOutError, DeadlineError))
        kind = httpx.ConnectTimeout if slow else httpx.ConnectError
        raise kind(error.message, request=request) from error
    except (TimedOutError, DeadlineError) as error:
        raise httpx.ReadTimeout(error.message, request=request) from error
    except SessionEndedError as error:
        raise httpx.ConnectError(error.message, request=request) from error
    except UnavailableError as error:
        raise httpx.RemoteProtocolError(error.message, request=request) from error
    except (RejectedError, MalformedError, IncompleteError) as error:
        _refused.set(error)
        raise
