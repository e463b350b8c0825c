"""Messages: what one record says (channel section 4).

Each is a deterministic CBOR array ``[kind, stream, …]``. Reading checks the
form of the table, whole: kind, arity, types, direction, the oddness of ids and
the encoding. What a message means for its stream is `streams`' business.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Any, TypeVar, assert_never

from ephemeralml.channel.frames import MAX_PLAINTEXT
from ephemeralml.channel.message_shortcuts import (
    encode_end,
    encode_request,
    encoded_headers,
    head,
    read_body,
    read_end,
    read_request,
    read_response,
)
from ephemeralml.channel.message_types import (
    Body,
    Cancel,
    Close,
    CloseReason,
    Direction,
    End,
    Message,
    Outcome,
    Ping,
    Pong,
    Request,
    Response,
    Usage,
)
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError

__all__ = [
    "BODY_OVERHEAD",
    "MAX_CLOSE_TEXT",
    "MAX_ITEMS",
    "Body",
    "Cancel",
    "Close",
    "CloseReason",
    "Direction",
    "End",
    "Message",
    "Outcome",
    "Ping",
    "Pong",
    "Request",
    "Response",
    "Usage",
    "decode",
    "encode",
    "encode_pieces",
    "may_say",
]

BODY_OVERHEAD = 17
"""Most bytes that a body message adds to its data."""
MAX_ITEMS = 1_024
"""Most CBOR items of one message, so that no header map takes long to read."""
MAX_CLOSE_TEXT = 200
"""Most UTF-8 bytes of a close's text that we write."""

_MAX_U64 = (1 << 64) - 1
_E = TypeVar("_E", bound=IntEnum)


_SPEAKERS: Mapping[type, Direction] = {
    Request: Direction.CLIENT_TO_SERVER,
    Response: Direction.SERVER_TO_CLIENT,
    End: Direction.SERVER_TO_CLIENT,
    Cancel: Direction.CLIENT_TO_SERVER,
}


_SHORTCUTS: Mapping[bytes, Callable[[bytes], Request | Body | Response | End | None]] = {
    b"\x87\x00": read_request,
    b"\x84\x01": read_body,
    b"\x84\x02": read_response,
    b"\x85\x03": read_end,
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
            return (b"\x84\x01" + head(0x00, stream) + head(0x40, len(data)), data, b"\xf5" if fin else b"\xf4")
        case Request():
            return (encode_request(message),)
        case Response(stream, status, headers):
            text = encoded_headers(tuple(headers.items()))
            return (b"\x84\x02" + head(0x00, stream) + head(0x00, status) + text,)
        case End():
            return (encode_end(message),)
        case Cancel(stream):
            fields: list[Any] = [4, stream]
        case Ping(value):
            fields = [5, value]
        case Pong(value):
            fields = [6, value]
        case Close(reason, text):
            fields = [7, int(reason), text]
        case _:
            assert_never(message)
    return (cbor.encode(fields),)


def decode(data: bytes, direction: Direction) -> Message:
    """Read the one message of a record's plaintext.

    Raises:
        MalformedError: It breaks a form of the table of channel section 4.
    """
    shortcut = _SHORTCUTS.get(data[:2])
    if shortcut is not None:
        found = shortcut(data)
        if found is not None and may_say(direction, found):
            return found
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
