"""BER as CMS messages come in it (ITU-T X.690, section 8), read with bounds.

`cryptography` reads DER alone, and a KMS answers with indefinite lengths
(key-release.md section 2). This reader takes both forms and knows no types:
what an element means is for whoever walks the tree.
"""

from dataclasses import dataclass
from typing import NoReturn

from ephemeralml.errors import MalformedError

MAX_BYTES = 16_384
"""Default bound on a whole message."""
MAX_DEPTH = 12
"""Default bound on nesting; the outermost element counts as one."""

INTEGER = 0x02
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30
SET = 0x31

CONTEXT = 0x80
"""Class bits of a context-specific tag."""
CONSTRUCTED = 0x20
"""Set in the identifier of an element that is made of elements."""

_NUMBER_BITS = 0x1F
_INDEFINITE = 0x80
_MAX_LENGTH_OCTETS = 4


@dataclass(frozen=True, slots=True)
class Element:
    """One value: either octets or other elements.

    How its length was written is not kept, so two encodings of one value are equal.
    """

    tag: int
    """The identifier octet: class, constructed bit and number."""
    content: bytes = b""
    """Octets of a primitive element."""
    children: tuple["Element", ...] = ()
    """Parts of a constructed element."""

    @property
    def constructed(self) -> bool:
        """Whether the element is made of elements."""
        return bool(self.tag & CONSTRUCTED)


def read(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Element:
    """Read the one element that *data* is.

    Raises:
        MalformedError: Over *max_bytes*, nested deeper than *max_depth*, cut
            short, trailing bytes, a tag number above 30, a length in more than
            four octets, an indefinite length on a primitive element, or
            end-of-contents where none can be or missing where one must.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"BER of {len(data)} bytes, at most {max_bytes} are allowed")
    reader = _Reader(data, max_depth)
    element = reader.element(len(data), 1)
    if reader.position != len(data):
        raise MalformedError(f"{len(data) - reader.position} bytes after the end of the BER")
    return element


def encode(tag: int, *parts: bytes) -> bytes:
    """Return an element of definite length, as DER writes it."""
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    octets = (len(body).bit_length() + 7) // 8
    return bytes([tag, 0x80 | octets]) + len(body).to_bytes(octets, "big") + body


def encode_indefinite(tag: int, *parts: bytes) -> bytes:
    """Return a constructed element of indefinite length: its parts, then end-of-contents."""
    return b"".join((bytes([tag, _INDEFINITE]), *parts, b"\0\0"))


class _Reader:
    def __init__(self, data: bytes, max_depth: int) -> None:
        self._data = data
        self._max_depth = max_depth
        self.position = 0

    def element(self, end: int, depth: int) -> Element:
        if depth > self._max_depth:
            self._refuse(f"BER nested deeper than {self._max_depth}")
        tag = self._octet(end)
        if tag & _NUMBER_BITS == _NUMBER_BITS:
            self._refuse("a BER tag number above 30")
        if tag == 0:
            self._refuse("BER end-of-contents where an element must be")
        length = self._length(end)
        if length is None:
            if not tag & CONSTRUCTED:
                self._refuse("an indefinite length on a primitive BER element")
            return Element(tag, children=self._until_end_of_contents(end, depth + 1))
        if length > end - self.position:
            self._refuse("a BER element longer than what is left")
        stop = self.position + length
        if not tag & CONSTRUCTED:
            content = self._data[self.position : stop]
            self.position = stop
            return Element(tag, content)
        children = []
        while self.position < stop:
            children.append(self.element(stop, depth + 1))
        return Element(tag, children=tuple(children))

    def _until_end_of_contents(self, end: int, depth: int) -> tuple[Element, ...]:
        children = []
        while self._data[self.position : min(self.position + 2, end)] != b"\0\0":
            children.append(self.element(end, depth))
        self.position += 2
        return tuple(children)

    def _length(self, end: int) -> int | None:
        first = self._octet(end)
        if first < 0x80:
            return first
        if first == _INDEFINITE:
            return None
        count = first & 0x7F
        if count > _MAX_LENGTH_OCTETS:
            self._refuse(f"a BER length in {count} octets")
        value = 0
        for _ in range(count):
            value = value << 8 | self._octet(end)
        return value

    def _octet(self, end: int) -> int:
        if self.position >= end:
            self._refuse("BER that ends too early")
        octet = self._data[self.position]
        self.position += 1
        return octet

    def _refuse(self, why: str) -> NoReturn:
        raise MalformedError(f"{why}, at byte {self.position}")
