"""What the rules over streams tell their owner."""

from dataclasses import dataclass, field

from ephemeralml.channel.messages import Close, End, Request, Response


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """To the server: a stream is open. `RequestComplete` follows, or one of the ways it can go wrong."""

    request: Request


@dataclass(frozen=True, slots=True)
class RequestComplete:
    """To the server: a request and its whole body are here."""

    request: Request
    body: bytes = field(repr=False)
    request_hash: bytes
    """SHA-256 of the body."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """To the server: answer this stream with *status*, then `End` with outcome ERROR and no receipt, at once.

    What else comes for the stream is dropped; the channel goes on.
    """

    stream: int
    status: int
    """400, 408, 413 or 503."""
    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """To the server: the client wants this stream ended.

    Answer with one `End`, outcome CANCELLED, unless the stream's own end comes first.
    """

    stream: int


@dataclass(frozen=True, slots=True)
class Aborted:
    """To the server: the client closed before this request was complete; end it with outcome ABORTED."""

    stream: int


@dataclass(frozen=True, slots=True)
class ResponseStarted:
    """To the client: the answer begins."""

    response: Response


@dataclass(frozen=True, slots=True)
class ResponseData:
    """To the client: a piece of the answer's body."""

    stream: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ResponseEnded:
    """To the client: the stream ended as *end* says, in the form that its outcome asks for.

    Its receipt is not verified yet; both hashes are ours, over what was sent and received.
    """

    end: End
    status: int | None
    """The response's status, None where none came."""
    request_hash: bytes
    response_hash: bytes


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The peer sends nothing more on any stream.

    To the server: once `ServerStreams.idle`, close with reason DONE. To the
    client: *truncated* streams have no complete result and will not get one.
    """

    close: Close
    truncated: tuple[int, ...] = ()


ServerEvent = RequestStarted | RequestComplete | Rejected | Cancelled | Aborted | PeerClosed
ClientEvent = ResponseStarted | ResponseData | ResponseEnded | PeerClosed
