"""One request and what has come back for it so far."""

import json as json_format
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ephemeralml.channel.hello import Limits, ModelEntry
from ephemeralml.channel.messages import Usage
from ephemeralml.client.reply import Receipted, Reply
from ephemeralml.errors import EphemeralError, MalformedError, UnavailableError

REPLY_SECONDS = 600.0
"""Default time for a whole reply, or between two pieces of a streamed one."""
STREAM_BUFFER_BYTES = 1 << 20
"""What a stream's consumer may leave unread (channel section 4)."""
OVERRUN_SECONDS = 30.0
"""How long it may leave more than that, before its stream is cancelled."""
MAX_RESPONSE_BYTES = 64 << 20
"""Most bytes held for one reply, buffered or unread."""


class SessionEndedError(UnavailableError):
    """The session is over, and nothing of this request has been sent: it may go to another."""


class TruncatedError(UnavailableError):
    """The request was sent and has no complete reply; whether it was worked on is unknown."""


class TimedOutError(UnavailableError):
    """No complete reply within the time that the caller gave."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the caller means it."""

    method: str
    path: str
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    nonce: bytes | None = None
    """The receipt's `eat_nonce`; drawn at random where None and a receipt is due."""


class Call:
    """A stream in flight; only `Exchange` writes to it.

    A call is over once `done`; then either `error` is set or the reply is
    complete and its receipt verified.
    """

    __slots__ = (
        "_body",
        "done",
        "entry",
        "error",
        "headers",
        "live",
        "nonce",
        "overrun_since",
        "receipt_required",
        "receipted",
        "size",
        "status",
        "stream",
        "usage",
    )

    def __init__(
        self, stream: int, entry: ModelEntry | None, nonce: bytes | None, *, receipt_required: bool, live: bool
    ) -> None:
        self.stream = stream
        self.entry = entry
        """The identity entry that the request named."""
        self.nonce = nonce
        self.receipt_required = receipt_required
        self.live = live
        """Whether the caller takes the body as it comes, before its receipt."""
        self.status: int | None = None
        self.headers: Mapping[str, str] = MappingProxyType({})
        self.size = 0
        """Body bytes received so far."""
        self.overrun_since: float | None = None
        self.usage = Usage()
        self.receipted: Receipted | None = None
        self.error: EphemeralError | None = None
        self.done = False
        self._body: bytes | bytearray = b""

    @property
    def unread(self) -> int:
        """Body bytes held."""
        return len(self._body)

    def add(self, data: bytes) -> None:
        """Hold a piece of the body; tiny pieces cost no more memory than large ones."""
        self.size += len(data)
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            self._body = bytearray(self._body) + data

    def take(self) -> bytes:
        """Return the body bytes held, and forget them."""
        data, self._body = bytes(self._body), b""
        self.overrun_since = None
        return data

    def fail(self, error: EphemeralError) -> None:
        """End without a reply; what was received is dropped."""
        if not self.done:
            self.error, self.done, self._body = error, True, b""

    def require(self) -> None:
        """Return if no error has ended the call.

        Raises:
            EphemeralError: What did.
        """
        if self.error is not None:
            raise self.error.with_traceback(None)

    def reply(self) -> Reply:
        """Return the complete reply.

        Raises:
            EphemeralError: There is none, and why.
        """
        self.require()
        assert self.done
        assert self.status is not None
        return Reply(self.status, self.headers, self.take(), self.receipted, usage_figures(self.usage))


def check_sizes(ask: Ask, limits: Limits) -> None:
    """Refuse what would not fit, before a stream is opened for it.

    The head's bound is generous: four bytes a character, sixteen a header. So
    the request message fits one record, and sending it cannot fail half-way.

    Raises:
        MalformedError: Path and headers exceed a record, or the body max_body.
    """
    body = len(ask.body or b"")
    if body > limits.max_body:
        raise MalformedError(f"the request's body has {body} bytes, the runtime takes at most {limits.max_body}")
    characters = len(ask.path) + sum(len(name) + len(value) for name, value in ask.headers.items())
    if 4 * characters + 16 * len(ask.headers) + 256 > limits.max_record:
        raise MalformedError(f"the request's path and headers do not fit a record of {limits.max_record} bytes")


class Pieces:
    """A body that is put together from its pieces, up to what is held for one reply."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Add the next piece.

        Raises:
            UnavailableError: There is too much of it.
        """
        self._size += len(piece)
        if self._size > MAX_RESPONSE_BYTES:
            raise too_large()
        self._pieces.append(piece)

    def join(self) -> bytes:
        """Return the body."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


def too_large() -> UnavailableError:
    """Return the error for a reply that is more than can be held."""
    return UnavailableError(f"the reply exceeds {MAX_RESPONSE_BYTES} bytes, more than is held here")


def usage_figures(usage: Usage) -> Mapping[str, int]:
    """Return the figures that the runtime gave, by name."""
    figures = {
        "execution_ms": usage.execution_ms,
        "prompt_tokens": usage.prompt_tokens,
        "output_tokens": usage.output_tokens,
    }
    return MappingProxyType({name: value for name, value in figures.items() if value is not None})


def encode_body(
    json: Any, content: bytes | None, headers: Mapping[str, str] | None
) -> tuple[bytes | None, Mapping[str, str]]:
    """Return the body's bytes and the headers that go with them."""
    if json is not None and content is not None:
        raise TypeError("give json or content, not both")
    given = dict(headers or {})
    if json is not None:
        content = json_format.dumps(json, ensure_ascii=False, separators=(",", ":")).encode()
        given.setdefault("content-type", "application/json")
    return content, given
