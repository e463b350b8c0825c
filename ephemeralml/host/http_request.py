"""The head of an HTTP/1.1 request, read strictly: bytes in, values out.

The services know four routes and one kind of client, so this is the part of
RFC 9112 that those need, and everything else is refused by its status.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ephemeralml.errors import MalformedError

MAX_HEAD_BYTES = 8_192
MAX_FIELDS = 64
MAX_LENGTH = 1 << 63

_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,1023}) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):([\t -~]{0,4096})")
_DIGITS = re.compile(r"0|[1-9][0-9]{0,18}")
_RANGE = re.compile(r"bytes=(0|[1-9][0-9]{0,18})?-(0|[1-9][0-9]{0,18})?")


class RequestError(MalformedError):
    """A request that is answered with *status* and ends its connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        """The status of the answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head."""

    method: str
    target: str
    """The path as sent; no query, nothing decoded."""
    fields: Mapping[str, str]
    """Header fields under lower-case names, each once."""
    keep_alive: bool
    length: int
    """Bytes of the body that follows."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes that a range asks for, within an object."""

    start: int
    end: int
    """One past the last."""


def parse_head(head: bytes) -> Request:
    """Read everything before the body, the empty line excluded.

    Raises:
        RequestError: It is not a request of the kind served here.
    """
    if len(head) > MAX_HEAD_BYTES:
        raise RequestError(431, f"a request head of {len(head)} bytes")
    line, *rest = head.split(b"\r\n")
    match = _LINE.fullmatch(line)
    if match is None:
        raise RequestError(400, "no request line")
    method, target, minor = match[1].decode(), match[2].decode(), int(match[3])
    fields = _fields(rest)
    if minor == 1 and "host" not in fields:
        raise RequestError(400, "a request without a host field")
    if "origin" in fields:
        # On a loopback port a browser on this machine could be made to ask; no enclave sends this field.
        raise RequestError(403, "a request from a web page")
    if "transfer-encoding" in fields:
        raise RequestError(501, "a transfer encoding")
    if "expect" in fields:
        raise RequestError(417, "an expectation")
    options = {option.strip().lower() for option in fields.get("connection", "").split(",")}
    return Request(
        method=method,
        target=target,
        fields=MappingProxyType(fields),
        keep_alive=minor == 1 and "close" not in options,
        length=_length(fields.get("content-length", "0")),
    )


def _fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > MAX_FIELDS:
        raise RequestError(431, f"{len(lines)} header fields")
    found: dict[str, str] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise RequestError(400, "a malformed header field")
        name = match[1].decode().lower()
        if name in found:
            raise RequestError(400, "a header field that is there twice")
        # Stripped here: a pattern that also strips tries every way to share the spaces out.
        found[name] = match[2].strip(b" \t").decode()
    return found


def _length(text: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) >= MAX_LENGTH:
        raise RequestError(400, "no proper content length")
    return int(text)


def parse_range(text: str, size: int) -> ByteRange | None:
    """Read a ``Range`` field for an object of *size* bytes; None where it is to be ignored.

    Only single ranges of bytes are understood (RFC 9110 section 14.2 allows to ignore others).

    Raises:
        RequestError: With status 416, it lies outside of the object.
    """
    match = _RANGE.fullmatch(text)
    if match is None or (match[1] is None and match[2] is None):
        return None
    if match[1] is None:
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), size
        if match[2] is not None:
            if int(match[2]) < start:
                return None
            end = min(size, int(match[2]) + 1)
    if start >= end:
        raise RequestError(416, "a range outside of the object")
    return ByteRange(start, end)
