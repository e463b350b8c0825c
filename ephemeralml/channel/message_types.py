"""What a message is: the table of channel section 4, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any

_EMPTY: Mapping[Any, Any] = MappingProxyType({})


class Direction(Enum):
    """Who speaks."""

    CLIENT_TO_SERVER = "c2s"
    SERVER_TO_CLIENT = "s2c"


class Outcome(IntEnum):
    """How a stream ended."""

    COMPLETE = 0
    ERROR = 1
    """A response with an error body was delivered."""
    CANCELLED = 2
    ABORTED = 3
    """Given up by the server."""


class CloseReason(IntEnum):
    """Why a side sends nothing more."""

    DONE = 0
    IDLE = 1
    DRAINING = 2
    PROTOCOL = 3
    LIMIT = 4
    SESSION_AGE = 5


@dataclass(frozen=True, slots=True)
class Request:
    """Opens a stream."""

    stream: int
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=lambda: _EMPTY, repr=False)
    nonce: bytes | None = None
    """Becomes the receipt's `eat_nonce`; 8..64 bytes, which `streams` checks."""
    fin: bool = True
    """True: no body messages follow."""


@dataclass(frozen=True, slots=True)
class Body:
    """A piece of a request's or a response's body."""

    stream: int
    data: bytes | bytearray | memoryview = field(repr=False)
    """Bytes when it was received."""
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """Begins the answer of a stream."""

    stream: int
    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: _EMPTY, repr=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """Optional figures in an `End`."""

    execution_ms: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Ends a stream; without it the stream is truncated."""

    stream: int
    outcome: Outcome
    receipt: bytes | None = field(default=None, repr=False)
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Asks the server to end a stream early."""

    stream: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a `Pong` with the same value."""

    value: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a `Ping`."""

    value: int


@dataclass(frozen=True, slots=True)
class Close:
    """The last message of a direction."""

    reason: CloseReason
    text: str = ""


Message = Request | Body | Response | End | Cancel | Ping | Pong | Close
