"""The client's rules over messages; see `streams` for the server's."""

import hashlib
from collections.abc import Mapping
from typing import Any, assert_never

from ephemeralml.channel.hello import Limits
from ephemeralml.channel.messages import (
    BODY_OVERHEAD,
    Body,
    Cancel,
    Close,
    End,
    Message,
    Ping,
    Pong,
    Request,
    Response,
)
from ephemeralml.channel.request_rules import headers_fault, request_fault
from ephemeralml.channel.stream_events import (
    ClientEvent,
    PeerClosed,
    ResponseData,
    ResponseEnded,
    ResponseStarted,
)
from ephemeralml.channel.streams import ResponseForm
from ephemeralml.errors import MalformedError

_LAST_STREAM = (1 << 64) - 1


class _Outbound:
    """A stream as the client sees it."""

    __slots__ = ("answer", "cancelled", "fin", "hash", "size")

    def __init__(self) -> None:
        self.fin = False
        self.cancelled = False
        self.size = 0
        self.hash: Any = hashlib.sha256()
        self.answer = ResponseForm()


class ClientStreams:
    """The client's side of all streams of one connection.

    `open`, `body` and `cancel` return the messages to send; pass every
    received message to `receive`.

    Args:
        limits: The limits of this session's server_hello.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._streams: dict[int, _Outbound] = {}
        self._next = 1

    @property
    def inflight(self) -> int:
        """Streams between their request and their end."""
        return len(self._streams)

    @property
    def free(self) -> int:
        """How many more streams the server takes now."""
        return max(0, self._limits.max_inflight - len(self._streams))

    @property
    def chunk_bytes(self) -> int:
        """Most data bytes of one body message."""
        return self._limits.max_record - BODY_OVERHEAD

    def is_open(self, stream: int) -> bool:
        """Whether *stream* still waits for its end."""
        return stream in self._streams

    def open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        nonce: bytes | None = None,
        fin: bool = True,
    ) -> Request:
        """Open a stream and return its request.

        Raises:
            MalformedError: A method, path, header or nonce that the server would refuse.
            RuntimeError: `free` is 0.
        """
        if not self.free:
            raise RuntimeError(f"{self.inflight} streams in flight, the server takes no more")
        if self._next > _LAST_STREAM:
            raise RuntimeError("no stream id is left")
        request = Request(self._next, method, path, dict(headers), nonce, fin)
        if (fault := request_fault(request)) is not None:
            raise MalformedError(fault)
        self._next += 2
        entry = self._streams[request.stream] = _Outbound()
        entry.fin = fin
        return request

    def body(self, stream: int, data: bytes | memoryview, *, fin: bool) -> Body | None:
        """Return the next piece of a request's body, or None if the server has ended the stream already.

        Raises:
            MalformedError: The body exceeds the session's max_body.
            RuntimeError: The body was finished, or the stream cancelled.
        """
        entry = self._streams.get(stream)
        if entry is None:
            if stream >= self._next or not stream & 1:
                raise RuntimeError(f"stream {stream} was never opened")
            return None
        if entry.fin or entry.cancelled:
            raise RuntimeError(f"stream {stream}: a body behind {'fin' if entry.fin else 'cancel'}")
        if entry.size + len(data) > self._limits.max_body:
            raise MalformedError(
                f"the request's body exceeds {self._limits.max_body} bytes, the most that this runtime takes"
            )
        entry.size += len(data)
        entry.fin = fin
        entry.hash.update(data)
        return Body(stream, data, fin)

    def cancel(self, stream: int) -> Cancel | None:
        """Return the message that asks the server to end *stream*, or None if there is nothing to ask."""
        entry = self._streams.get(stream)
        if entry is None or entry.cancelled:
            return None
        entry.cancelled = True
        return Cancel(stream)

    def receive(self, message: Message) -> list[ClientEvent]:
        """Take a message of the server's.

        Raises:
            MalformedError: It breaks the rules; close the channel with reason PROTOCOL.
        """
        match message:
            case Response() | Body() | End():
                return [self._answer(message)] if not isinstance(message, Body) else self._data(message)
            case Close():
                return [PeerClosed(message, self.truncated())]
            case Ping() | Pong():
                return []
            case Request() | Cancel():
                raise MalformedError("a message in the wrong direction")
            case _:
                assert_never(message)

    def truncated(self) -> tuple[int, ...]:
        """Return, once nothing more can come, the streams that have no complete result."""
        return tuple(self._streams)

    def _entry(self, message: Response | Body | End) -> _Outbound:
        entry = self._streams.get(message.stream)
        if entry is None:
            raise MalformedError(f"stream {message.stream} is not in flight")
        if (fault := entry.answer.fault(message)) is not None:
            raise MalformedError(f"stream {message.stream}: {fault}")
        return entry

    def _data(self, body: Body) -> list[ClientEvent]:
        self._entry(body)
        return [ResponseData(body.stream, bytes(body.data))]

    def _answer(self, message: Response | End) -> ClientEvent:
        entry = self._entry(message)
        if isinstance(message, Response):
            if (fault := headers_fault(message.headers)) is not None:
                raise MalformedError(f"stream {message.stream}: {fault}")
            return ResponseStarted(message)
        del self._streams[message.stream]
        return ResponseEnded(message, entry.answer.status, entry.hash.digest(), entry.answer.digest)
