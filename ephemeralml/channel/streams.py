"""Rules over messages: streams, ids, limits, completeness (channel sections 4 and 7).

`ServerStreams` and `ClientStreams` see every message of an established channel,
received and sent, and hold what both sides must agree on. A message that breaks
the rules raises `MalformedError`: close the channel with reason PROTOCOL. Both
hash bodies as they pass, so that receipts and their checks speak of one thing.

No clock: instants are seconds of any steady clock, handed in by the owner.
"""

import hashlib
from typing import Any, Protocol, assert_never

from ephemeralml.channel.hello import Limits
from ephemeralml.channel.messages import (
    Body,
    Cancel,
    Close,
    End,
    Message,
    Outcome,
    Ping,
    Pong,
    Request,
    Response,
)
from ephemeralml.channel.request_rules import request_fault
from ephemeralml.channel.stream_events import (
    Aborted,
    Cancelled,
    PeerClosed,
    Rejected,
    RequestComplete,
    RequestStarted,
    ServerEvent,
)
from ephemeralml.errors import MalformedError

BODY_SECONDS = 60.0
"""A request's body ends within this time of its request."""


class Budget(Protocol):
    """Memory that several connections share."""

    def take(self, size: int, /) -> bool:
        """Claim *size* bytes; False if there is no room, and then nothing is claimed."""

    def give(self, size: int, /) -> None:
        """Give back *size* bytes."""


class ResponseForm:
    """Checks that an answer is one response, then bodies, the last with fin, or none, then end."""

    __slots__ = ("_ended", "_hash", "_started", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self._started = False
        self._ended = False
        self._hash: Any = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        """SHA-256 of the body so far."""
        digest: bytes = self._hash.digest()
        return digest

    def fault(self, message: Response | Body | End) -> str | None:
        """Return why *message* may not come now, or None after noting that it came."""
        match message:
            case Response():
                if self.status is not None:
                    return "a second response"
                if not 200 <= message.status <= 599:
                    return f"status {message.status}"
                self.status = message.status
            case Body():
                if self.status is None:
                    return "a body before its response"
                if self._ended:
                    return "a body behind fin"
                self._started, self._ended = True, message.fin
                self._hash.update(message.data)
            case End():
                complete = self.status is not None and self._started == self._ended
                if message.outcome in (Outcome.COMPLETE, Outcome.ERROR) and not complete:
                    return f"outcome {message.outcome.name.lower()} of an unfinished response"
            case _:
                assert_never(message)
        return None


class _Inbound:
    """A stream as the server sees it, from its request to its end."""

    __slots__ = ("answer", "body", "complete", "deadline", "dropping", "hash", "request", "size")

    def __init__(self, request: Request, deadline: float) -> None:
        self.request = request
        self.deadline = deadline
        self.body: bytes | bytearray = b""
        self.size = 0
        self.hash: Any = hashlib.sha256()
        self.complete = False
        """The client's fin has come."""
        self.dropping = False
        """Rejected, cancelled or aborted: the rest of the request is of no interest."""
        self.answer = ResponseForm()

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Append a piece of the body: one growing buffer, so that tiny pieces cost no more than large ones."""
        self.size += len(data)
        self.hash.update(data)
        if not self.body:
            self.body = bytes(data)
        elif isinstance(self.body, bytearray):
            self.body += data
        else:
            self.body = bytearray(self.body)
            self.body += data


class ServerStreams:
    """The server's side of all streams of one connection.

    Pass every received message to `receive`, every message about to be sent to
    `sending`, and call `expire` at `next_deadline`.

    Args:
        limits: The limits of this session's server_hello.
        now: Seconds of a steady clock.
        budget: Bounds the request bodies of all connections together.
    """

    def __init__(self, limits: Limits, *, now: float, budget: Budget | None = None) -> None:
        self._limits = limits
        self._budget = budget
        self._streams: dict[int, _Inbound] = {}
        self._highest = 0
        self._idle_since = now
        self._closed = False
        self.draining = False
        """Set it to have new requests rejected with 503."""

    @property
    def inflight(self) -> int:
        """Streams between their request and their end."""
        return len(self._streams)

    @property
    def idle(self) -> bool:
        """Whether no stream is in flight."""
        return not self._streams

    @property
    def idle_deadline(self) -> float | None:
        """When the session has been idle for too long, or None while a stream is in flight."""
        return None if self._streams else self._idle_since + self._limits.idle_seconds

    @property
    def next_deadline(self) -> float | None:
        """When a request's body will be overdue, or None."""
        return min((s.deadline for s in self._streams.values() if not s.complete and not s.dropping), default=None)

    def is_open(self, stream: int) -> bool:
        """Whether *stream* still waits for its end."""
        return stream in self._streams

    def hashes(self, stream: int) -> tuple[bytes, bytes]:
        """Return SHA-256 of the request body received and of the response body sent, so far.

        Raises:
            KeyError: The stream has ended or never began.
        """
        entry = self._streams[stream]
        return entry.hash.digest(), entry.answer.digest

    def receive(self, message: Message, now: float) -> list[ServerEvent]:
        """Take a message of the client's.

        Raises:
            MalformedError: It breaks the rules; close the channel with reason PROTOCOL.
        """
        if self._closed and not isinstance(message, Close):
            return []
        match message:
            case Request():
                return self._request(message, now)
            case Body():
                return self._body(message)
            case Cancel():
                return self._cancel(message.stream)
            case Close():
                return self._peer_closed(message)
            case Ping() | Pong():
                return []
            case Response() | End():
                raise MalformedError("a message in the wrong direction")
            case _:
                assert_never(message)

    def expire(self, now: float) -> list[ServerEvent]:
        """Reject, with 408, every request whose body is overdue."""
        overdue = [
            number for number, s in self._streams.items() if not s.complete and not s.dropping and s.deadline <= now
        ]
        return [self._reject(number, 408, "the request's body did not end in time") for number in overdue]

    def sending(self, message: Message, now: float) -> None:
        """Check and note a message that the owner is about to send.

        Raises:
            RuntimeError: It is not this side's to say, or not now.
        """
        match message:
            case Response() | Body() | End():
                entry = self._streams.get(message.stream)
                fault = "no such stream in flight" if entry is None else entry.answer.fault(message)
                if entry is None or fault is not None:
                    raise RuntimeError(f"stream {message.stream}: {fault}")
                if isinstance(message, End):
                    self._forget(message.stream, entry, now)
            case Request() | Cancel():
                raise RuntimeError("a message in the wrong direction")
            case Close():
                # Nothing more can be answered: what is in flight is truncated, what comes is dropped.
                self._closed = True
                self.release()
            case Ping() | Pong():
                pass
            case _:
                assert_never(message)

    def release(self) -> None:
        """Forget every stream, because the connection is gone; gives back what they held of the budget."""
        for entry in self._streams.values():
            self._refund(entry)
        self._streams.clear()

    def _request(self, request: Request, now: float) -> list[ServerEvent]:
        if request.stream <= self._highest:
            raise MalformedError(f"stream id {request.stream} after {self._highest}")
        self._highest = request.stream
        full = len(self._streams) >= self._limits.max_inflight
        entry = self._streams[request.stream] = _Inbound(request, now + BODY_SECONDS)
        entry.complete = request.fin
        if full:
            return [self._reject(request.stream, 503, f"more than {self._limits.max_inflight} requests in flight")]
        if self.draining:
            return [self._reject(request.stream, 503, "the runtime is draining")]
        if (fault := request_fault(request)) is not None:
            return [self._reject(request.stream, 400, fault)]
        events: list[ServerEvent] = [RequestStarted(request)]
        if request.fin:
            events.append(RequestComplete(request, b"", entry.hash.digest()))
        return events

    def _body(self, body: Body) -> list[ServerEvent]:
        entry = self._known(body.stream)
        if entry is None:
            return []
        if entry.complete:
            raise MalformedError(f"stream {body.stream}: a body behind fin")
        if entry.dropping:
            entry.complete = body.fin
            return []
        size = len(body.data)
        if entry.size + size > self._limits.max_body:
            return [self._reject(body.stream, 413, f"the request's body exceeds {self._limits.max_body} bytes")]
        if self._budget is not None and not self._budget.take(size):
            return [self._reject(body.stream, 503, "no memory for another request's body")]
        entry.add(body.data)
        entry.complete = body.fin
        if not body.fin:
            return []
        whole, entry.body = bytes(entry.body), b""
        return [RequestComplete(entry.request, whole, entry.hash.digest())]

    def _cancel(self, stream: int) -> list[ServerEvent]:
        entry = self._known(stream)
        if entry is None or entry.dropping:
            return []
        self._drop(entry)
        return [Cancelled(stream)]

    def _peer_closed(self, close: Close) -> list[ServerEvent]:
        events: list[ServerEvent] = []
        for number, entry in self._streams.items():
            if not entry.complete and not entry.dropping:
                self._drop(entry)
                events.append(Aborted(number))
        return [*events, PeerClosed(close)]

    def _known(self, stream: int) -> _Inbound | None:
        """Return a stream in flight, or None if it ended; ids skipped by the client count as ended."""
        if stream > self._highest:
            raise MalformedError(f"stream {stream} was never opened")
        return self._streams.get(stream)

    def _reject(self, stream: int, status: int, reason: str) -> Rejected:
        entry = self._streams[stream]
        self._drop(entry)
        # It may be large, and waits here until the answer has been sent.
        entry.request = Request(stream, "", "")
        return Rejected(stream, status, reason)

    def _drop(self, entry: _Inbound) -> None:
        entry.dropping = True
        if not entry.complete:
            # The owner still works on a complete one: its share is given back at its end.
            entry.body = b""
            self._refund(entry)

    def _refund(self, entry: _Inbound) -> None:
        if self._budget is not None and entry.size:
            self._budget.give(entry.size)
        entry.size = 0

    def _forget(self, stream: int, entry: _Inbound, now: float) -> None:
        self._refund(entry)
        del self._streams[stream]
        if not self._streams:
            self._idle_since = now
