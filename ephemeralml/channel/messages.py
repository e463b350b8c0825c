"""Messages: what one record says (channel section 4).

Each is a deterministic CBOR array ``[kind, stream, …]``. Reading checks the
form of the table, whole: kind, arity, types, direction, the oddness of ids and
the encoding. What a message means for its stream is `streams`' business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar, assert_never

from ephemeralml.channel.frames import MAX_PLAINTEXT
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError

BODY_OVERHEAD = 17
"""Most bytes that a body message adds to its data."""
MAX_ITEMS = 1_024
"""Most CBOR items of one message, so that no header map takes long to read."""
MAX_CLOSE_TEXT = 200
"""Most UTF-8 bytes of a close's text that we write."""

_EMPTY: Mapping[Any, Any] = MappingProxyType({})
_MAX_U64 = (1 << 64) - 1
_E = TypeVar("_E", bound=IntEnum)


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


_SPEAKERS: Mapping[type, Direction] = {
    Request: Direction.CLIENT_TO_SERVER,
    Response: Direction.SERVER_TO_CLIENT,
    End: Direction.SERVER_TO_CLIENT,
    Cancel: Direction.CLIENT_TO_SERVER,
}


def may_say(direction: Direction, message: Message) -> bool:
    """Return whether *message* is one that travels in *direction*."""
    return _SPEAKERS.get(type(message), direction) is direction


def encode(message: Message) -> bytes:
    """Return the plaintext of the record that carries *message*."""
    return b"".join(encode_pieces(message))


def encode_pieces(message: Message) -> Sequence[bytes | bytearray | memoryview]:
    """Return the plaintext in pieces, so that a body's data is not copied.

    Raises:
        ValueError: An id or a number is beyond 64 bits.
    """
    match message:
        case Body(stream, data, fin):
            return (b"\x84\x01" + _head(0x00, stream) + _head(0x40, len(data)), data, b"\xf5" if fin else b"\xf4")
        case Request(stream, method, path, headers, nonce, fin):
            fields: list[Any] = [0, stream, method, path, headers, nonce, fin]
        case Response(stream, status, headers):
            text = _encoded_headers(tuple(headers.items()))
            return (b"\x84\x02" + _head(0x00, stream) + _head(0x00, status) + text,)
        case End():
            return (_encoded_end(message),)
        case Cancel(stream):
            fields = [4, stream]
        case Ping(value):
            fields = [5, value]
        case Pong(value):
            fields = [6, value]
        case Close(reason, text):
            fields = [7, int(reason), text]
        case _:
            assert_never(message)
    return (cbor.encode(fields),)


@lru_cache(maxsize=64)
def _encoded_headers(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Return a response's headers encoded; a runtime has few different ones."""
    return cbor.encode(dict(headers))


def _encoded_end(end: End) -> bytes:
    """Return an end's plaintext, written out because every answer waits for it."""
    receipt = b"\xf6" if end.receipt is None else _head(0x40, len(end.receipt)) + end.receipt
    usage = end.usage
    figures = [
        bytes((number,)) + _head(0x00, figure)
        for number, figure in enumerate((usage.execution_ms, usage.prompt_tokens, usage.output_tokens), 1)
        if figure is not None
    ]
    head = b"\x85\x03" + _head(0x00, end.stream) + _head(0x00, end.outcome)
    return b"".join((head, receipt, bytes((0xA0 | len(figures),)), *figures))


def decode(data: bytes, direction: Direction) -> Message:
    """Read the one message of a record's plaintext.

    Raises:
        MalformedError: It breaks a form of the table of channel section 4.
    """
    if data[:2] == b"\x84\x01":
        body = _fast_body(data)
        if body is not None:
            return body
    fields = cbor.decode(data, max_bytes=MAX_PLAINTEXT, max_depth=4, max_items=MAX_ITEMS)
    if type(fields) is not tuple or not fields or type(fields[0]) is not int or not 0 <= fields[0] < len(_FORMS):
        raise MalformedError("a record holds no message of a known kind")
    arity, read = _FORMS[fields[0]]
    if len(fields) != arity:
        raise MalformedError(f"message kind {fields[0]} has {arity} fields, not {len(fields)}")
    message = read(fields)
    if not may_say(direction, message):
        raise MalformedError(f"message kind {fields[0]} in the wrong direction")
    return message


def _head(major: int, argument: int) -> bytes:
    """Return the shortest CBOR head; *major* is already in its three bits."""
    if argument < 24:
        return bytes((major | argument,))
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * size):
            return bytes((major | info,)) + argument.to_bytes(size, "big")
    raise ValueError("integer beyond 64 bits")


def _read_head(data: bytes, offset: int, major: int) -> tuple[int, int] | None:
    """Return argument and next offset of a shortest head, or None if it is anything else."""
    if offset >= len(data):
        return None
    info = data[offset] - major
    if 0 <= info < 24:
        return info, offset + 1
    if not 24 <= info <= 27:
        return None
    end = offset + 1 + (1 << (info - 24))
    argument = int.from_bytes(data[offset + 1 : end], "big")
    if end > len(data) or argument < (24 if info == 24 else 1 << (4 << (info - 24))):
        return None
    return argument, end


def _fast_body(data: bytes) -> Body | None:
    """Read a well-formed body message, or return None and let the strict reader say what is wrong.

    The same answers as the long way, which a test compares; it exists because
    a body may be a mebibyte, and the general reader copies it twice.
    """
    stream = _read_head(data, 2, 0x00)
    if stream is None:
        return None
    length = _read_head(data, stream[1], 0x40)
    if length is None:
        return None
    start = length[1]
    end = start + length[0]
    if end + 1 != len(data) or data[end] not in (0xF4, 0xF5) or not stream[0] & 1:
        return None
    return Body(stream[0], data[start:end], data[end] == 0xF5)


def _uint(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_U64:
        raise MalformedError(f"{what} is not an unsigned integer")
    return value


def _stream(value: Any) -> int:
    stream = _uint(value, "a stream id")
    if not stream & 1:
        raise MalformedError(f"stream id {stream} is even")
    return stream


def _text(value: Any, what: str) -> str:
    if type(value) is not str:
        raise MalformedError(f"{what} is not text")
    return value


def _fin(value: Any) -> bool:
    if type(value) is not bool:
        raise MalformedError("fin is not a boolean")
    return value


def _bytes_or_null(value: Any, what: str) -> bytes | None:
    if value is not None and type(value) is not bytes:
        raise MalformedError(f"{what} is neither bytes nor null")
    return value


def _headers(value: Any) -> Mapping[str, str]:
    if type(value) is not dict:
        raise MalformedError("headers are not a map")
    for name, content in value.items():
        _text(name, "a header's name")
        _text(content, "a header's value")
    return MappingProxyType(value)


def _read_request(fields: Sequence[Any]) -> Request:
    _, stream, method, path, headers, nonce, fin = fields
    return Request(
        _stream(stream),
        _text(method, "a method"),
        _text(path, "a path"),
        _headers(headers),
        _bytes_or_null(nonce, "a nonce"),
        _fin(fin),
    )


def _read_body(fields: Sequence[Any]) -> Body:
    _, stream, data, fin = fields
    if type(data) is not bytes:
        raise MalformedError("a body's data is not bytes")
    return Body(_stream(stream), data, _fin(fin))


def _read_response(fields: Sequence[Any]) -> Response:
    _, stream, status, headers = fields
    return Response(_stream(stream), _uint(status, "a status"), _headers(headers))


def _read_end(fields: Sequence[Any]) -> End:
    _, stream, outcome, receipt, figures = fields
    if type(figures) is not dict or not figures.keys() <= {1, 2, 3}:
        raise MalformedError("an end's figures are not a map of 1, 2 and 3")
    numbers = [_uint(figures[key], f"an end's figure {key}") if key in figures else None for key in (1, 2, 3)]
    return End(
        _stream(stream),
        _member(Outcome, outcome, "outcome"),
        _bytes_or_null(receipt, "a receipt"),
        Usage(*numbers),
    )


def _read_close(fields: Sequence[Any]) -> Close:
    _, reason, text = fields
    return Close(_member(CloseReason, reason, "close reason"), _text(text, "a close's text"))


def _member(kind: type[_E], value: Any, what: str) -> _E:
    try:
        return kind(_uint(value, what))
    except ValueError as error:
        raise MalformedError(f"unknown {what} {value}") from error


_FORMS: tuple[tuple[int, Callable[[Sequence[Any]], Message]], ...] = (
    (7, _read_request),
    (4, _read_body),
    (4, _read_response),
    (5, _read_end),
    (2, lambda fields: Cancel(_stream(fields[1]))),
    (2, lambda fields: Ping(_uint(fields[1], "a ping's value"))),
    (2, lambda fields: Pong(_uint(fields[1], "a pong's value"))),
    (3, _read_close),
)
"""By kind: how many fields it has, and who reads them."""
