"""The messages that every answer waits for, written and read by hand.

After an inference the processor's caches hold weights, and every line of code
costs; a body may besides be a mebibyte, which the general reader would copy
twice. What is written has the bytes of `crypto.cbor`. What is read is what the
strict reader reads, or None, and then that reader says what is wrong; tests
compare both ways.
"""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from ephemeralml.channel.message_types import Body, End, Outcome, Request, Response, Usage
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError

_REMEMBERED_HEADER_BYTES = 512
_NONCE_HEAD = b"\x58\x20"
_NONCE_BYTES = 32
_CREDENTIAL = "authorization"
_OUTCOMES = tuple(Outcome)


@lru_cache(maxsize=64)
def encoded_headers(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Return a response's headers encoded; a runtime has few different ones."""
    return cbor.encode(dict(headers))


def encode_end(end: End) -> bytes:
    """Return an end's plaintext, written out because every answer waits for it."""
    receipt = b"\xf6" if end.receipt is None else head(0x40, len(end.receipt)) + end.receipt
    usage = end.usage
    figures = [
        bytes((number,)) + head(0x00, figure)
        for number, figure in enumerate((usage.execution_ms, usage.prompt_tokens, usage.output_tokens), 1)
        if figure is not None
    ]
    begin = b"\x85\x03" + head(0x00, end.stream) + head(0x00, end.outcome)
    return b"".join((begin, receipt, bytes((0xA0 | len(figures),)), *figures))


def head(major: int, argument: int) -> bytes:
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


def encode_request(request: Request) -> bytes:
    """Return a request's plaintext; a client asks the same thing again and again."""
    nonce = b"\xf6" if request.nonce is None else head(0x40, len(request.nonce)) + request.nonce
    # A bearer token is nothing to remember, here or below.
    encoder = _encoded_question.__wrapped__ if _CREDENTIAL in request.headers else _encoded_question
    asked = encoder(request.method, request.path, tuple(request.headers.items()))
    return b"".join((b"\x87\x00", head(0x00, request.stream), asked, nonce, b"\xf5" if request.fin else b"\xf4"))


@lru_cache(maxsize=64)
def _encoded_question(method: str, path: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    return cbor.encode(method) + cbor.encode(path) + cbor.encode(dict(headers))


def read_request(data: bytes) -> Request | None:
    """Read a request with a nonce of 32 bytes or none, whose question has been read before or is short.

    CBOR items are prefix-free: where what stands before the nonce is exactly
    three items, no other reading of the whole exists.
    """
    stream = _read_head(data, 2, 0x00)
    if stream is None or not stream[0] & 1 or data[-1] not in (0xF4, 0xF5):
        return None
    end, nonce = len(data) - 2, None
    if data[end:-1] != b"\xf6":
        end = len(data) - 1 - _NONCE_BYTES - len(_NONCE_HEAD)
        if end < stream[1] or data[end : end + 2] != _NONCE_HEAD:
            return None
        nonce = data[end + 2 : -1]
    if not 0 < end - stream[1] <= _REMEMBERED_HEADER_BYTES:
        return None
    question = data[stream[1] : end]
    asked = None if _CREDENTIAL.encode() in question else _decoded_question(question)
    return None if asked is None else Request(stream[0], *asked, nonce, data[-1] == 0xF5)


@lru_cache(maxsize=64)
def _decoded_question(encoded: bytes) -> tuple[str, str, Mapping[str, str]] | None:
    """Return method, path and headers if *encoded* is exactly those, strictly encoded, or None."""
    try:
        items = cbor.decode(b"\x83" + encoded, max_bytes=_REMEMBERED_HEADER_BYTES + 1, max_depth=2)
    except MalformedError:
        return None
    method, path, headers = items
    if type(method) is not str or type(path) is not str or not _texts(headers):
        return None
    return method, path, MappingProxyType(headers)


def _texts(headers: object) -> bool:
    return type(headers) is dict and all(type(part) is str for pair in headers.items() for part in pair)


def read_body(data: bytes) -> Body | None:
    """Read a body message."""
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


def read_response(data: bytes) -> Response | None:
    """Read a response whose headers have been read before, or are few."""
    stream = _read_head(data, 2, 0x00)
    status = _read_head(data, stream[1], 0x00) if stream is not None else None
    if stream is None or status is None or not stream[0] & 1 or len(data) - status[1] > _REMEMBERED_HEADER_BYTES:
        return None
    headers = _decoded_headers(data[status[1] :])
    return None if headers is None else Response(stream[0], status[0], headers)


@lru_cache(maxsize=64)
def _decoded_headers(encoded: bytes) -> Mapping[str, str] | None:
    """Return a map of texts, whole and strictly encoded, or None; nothing that may be read differently later."""
    try:
        headers = cbor.decode(encoded, max_bytes=_REMEMBERED_HEADER_BYTES, max_depth=1)
    except MalformedError:
        return None
    return MappingProxyType(headers) if _texts(headers) else None


def read_end(data: bytes) -> End | None:
    """Read an end whose figures come in their order, as they must."""
    stream = _read_head(data, 2, 0x00)
    outcome = _read_head(data, stream[1], 0x00) if stream is not None else None
    if stream is None or outcome is None or not stream[0] & 1 or outcome[0] >= len(_OUTCOMES):
        return None
    receipt, offset = None, outcome[1] + 1
    if data[outcome[1] : offset] != b"\xf6":
        length = _read_head(data, outcome[1], 0x40)
        if length is None:
            return None
        offset = length[1] + length[0]
        receipt = data[length[1] : offset]
    count = _read_head(data, offset, 0xA0)
    if count is None:
        return None
    figures: list[int | None] = [None, None, None]
    offset, last = count[1], 0
    for _ in range(min(count[0], 4)):
        number = _read_head(data, offset, 0x00)
        figure = _read_head(data, number[1], 0x00) if number is not None else None
        if number is None or figure is None or not last < number[0] <= len(figures):
            return None
        last, offset = number[0], figure[1]
        figures[last - 1] = figure[0]
    return End(stream[0], _OUTCOMES[outcome[0]], receipt, Usage(*figures)) if offset == len(data) else None
