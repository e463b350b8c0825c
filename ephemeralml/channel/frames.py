"""Frames: the outermost layer of the channel (channel section 1).

A frame that may not come now, or is longer than its type allows, is refused by
its header alone: nothing of its payload is kept, and a declared length
allocates nothing.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from ephemeralml.errors import MalformedError

VERSION = 1
HEADER_BYTES = 8
MAX_PLAINTEXT = 1 << 20
"""Most plaintext bytes of one record, whatever the limits say."""
TAG_BYTES = 16
"""Size of an AEAD tag, the same for every suite."""

_HEADER = struct.Struct(">BBHI")


class FrameType(IntEnum):
    """The first byte of a frame."""

    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    CLIENT_FINISH = 3
    SERVER_FINISH = 4
    RECORD = 5
    ALERT = 6


LIMITS: Mapping[FrameType, int] = MappingProxyType(
    {
        FrameType.CLIENT_HELLO: 16 << 10,
        FrameType.SERVER_HELLO: 3 << 20,
        FrameType.CLIENT_FINISH: 16 << 10,
        FrameType.SERVER_FINISH: 16 << 10,
        FrameType.RECORD: MAX_PLAINTEXT + TAG_BYTES,
        FrameType.ALERT: 256,
    }
)
"""Most payload bytes of each type."""


class VersionMismatchError(MalformedError):
    """The peer speaks another version of the channel."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, its header checked and its payload not yet."""

    type: FrameType
    payload: bytes | memoryview = field(repr=False)


def header(kind: FrameType, length: int) -> bytes:
    """Return the eight bytes before a payload of *length* bytes.

    Raises:
        MalformedError: The type allows no such payload.
    """
    if length > LIMITS[kind]:
        raise MalformedError(f"{kind.name.lower()} of {length} bytes, at most {LIMITS[kind]} are allowed")
    return _HEADER.pack(kind, 0, VERSION, length)


def encode_frame(kind: FrameType, payload: bytes) -> bytes:
    """Return header and payload of one frame.

    Raises:
        MalformedError: The payload is longer than the type allows.
    """
    return header(kind, len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into frames.

    `expect` says which types may come next; the owner narrows it as its state
    moves, and the next header is judged by it. After an error the reader is of
    no more use.

    Args:
        limits: Most payload bytes by type.
        expected: The types that may come first.
    """

    __slots__ = ("_data", "_expected", "_limits", "_offset")

    def __init__(
        self, limits: Mapping[FrameType, int] = LIMITS, *, expected: Iterable[FrameType] = tuple(FrameType)
    ) -> None:
        self._limits = dict(limits)
        self._expected = frozenset(expected)
        self._data: bytes | bytearray = b""
        self._offset = 0

    @property
    def buffered(self) -> int:
        """Bytes held that no returned frame covers."""
        return len(self._data) - self._offset

    def expect(self, *types: FrameType) -> None:
        """Let only *types* come from here on."""
        self._expected = frozenset(types)

    def limit(self, kind: FrameType, length: int) -> None:
        """Let frames of *kind* carry at most *length* bytes from here on."""
        self._limits[kind] = length

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes; `next_frame` judges them.

        Feed what one read of a stream gave: a header is judged once this call
        has returned, so what is kept beyond a refused header is one read.
        """
        held = self.buffered
        if not held:
            self._data, self._offset = bytes(data), 0
        elif self._offset or not isinstance(self._data, bytearray):
            # A new buffer rather than a shorter old one: payloads handed out keep the old one alive.
            rest = bytearray(memoryview(self._data)[self._offset :])
            rest += data
            self._data, self._offset = rest, 0
        else:
            self._data += data

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None until more bytes have come.

        The payload is a view of the buffer, which stays valid and unchanged.

        Raises:
            VersionMismatchError: Another version.
            MalformedError: Unknown type, reserved byte set, out of order, or too long.
        """
        if self.buffered < HEADER_BYTES:
            if self.buffered:
                self._check_first(self._data[self._offset])
            return None
        number, reserved, version, length = _HEADER.unpack_from(self._data, self._offset)
        if reserved:
            raise MalformedError(f"reserved byte of a frame is {reserved}, not 0")
        if version != VERSION:
            raise VersionMismatchError(f"channel version {version}, this is version {VERSION}")
        kind = self._check_first(number)
        if length > self._limits[kind]:
            raise MalformedError(f"{kind.name.lower()} of {length} bytes, at most {self._limits[kind]} are allowed")
        start = self._offset + HEADER_BYTES
        end = start + length
        if end > len(self._data):
            return None
        self._offset = end
        return Frame(kind, memoryview(self._data)[start:end])

    def _check_first(self, number: int) -> FrameType:
        try:
            kind = FrameType(number)
        except ValueError as error:
            raise MalformedError(f"unknown frame type {number}") from error
        if kind not in self._expected:
            raise MalformedError(f"{kind.name.lower()} frame out of order")
        return kind

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Add bytes and return every frame they complete.

        For owners whose expectation does not change within *data*.

        Raises:
            MalformedError: As `next_frame`; frames before the bad one are lost.
        """
        self.receive(data)
        return list(self)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.next_frame()) is not None:
            yield frame
