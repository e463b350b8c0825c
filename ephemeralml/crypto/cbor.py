"""Deterministic CBOR: RFC 8949, section 4.2.1.

cbor2 writes; reading is done here, because what a signature covers must have
one reading only. cbor2 ignores trailing bytes, merges duplicate keys and
resolves tags, none of which a verifier may do.

Two readings are offered. `decode` is strict: shortest heads, definite lengths,
sorted unique keys, no floats, nothing after the item. `decode_wellformed`
takes anything RFC 8949 calls well-formed, keeps maps as pairs, and leaves it
to the caller to say which rule was broken. Neither allocates more than its
input could fill, and both stop at a depth and an item count.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any

import cbor2

from ephemeralml.errors import MalformedError

MAX_DEPTH = 16
"""Default bound on nesting; arrays, maps and tags each count one."""

MAX_ITEMS = 1 << 16
"""Default bound on the number of data items."""

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_BREAK = object()
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}
_MAX_UINT = (1 << 64) - 1
_PLAIN_TYPES = frozenset({bytes, str, bool, type(None)})
_KEY_TYPES = frozenset({int, str, bytes})
_KEY_MESSAGE = "a map key is neither an integer, a text nor a byte string"


class CborError(MalformedError):
    """The bytes are not the CBOR they should be."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged item, tag number and content; never equal to an array."""

    number: int
    value: Any


@dataclass(frozen=True, slots=True)
class Simple:
    """A simple value other than false, true and null (RFC 8949, section 3.3)."""

    value: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """A map as it was written: every pair, in order, duplicates included."""

    items: tuple[tuple[Any, Any], ...]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def duplicate(self) -> tuple[Any] | None:
        """Return the first key that occurs a second time, as a one-tuple, or None."""
        seen: set[tuple[type, Any]] = set()
        for key, _ in self.items:
            identity = key_identity(key)
            if identity in seen:
                return (key,)
            seen.add(identity)
        return None

    def unique(self) -> dict[Any, Any]:
        """Return the map as a dict.

        Raises:
            CborError: A key occurs twice, or is neither integer, text nor byte string.
        """
        if any(type(key) not in _KEY_TYPES for key, _ in self.items):
            raise CborError(_KEY_MESSAGE)
        result = dict(self.items)
        if len(result) != len(self.items):
            raise CborError("duplicate key in a map")
        return result


def key_identity(key: Any) -> tuple[type, Any]:
    """Return what two keys of a map have in common exactly if they are the same key.

    Keys that are no integer, text or bytes are told apart by their repr, in
    which 1, 1.0 and true differ at any depth; hashes of arrays of integers,
    unlike those of text, could be made to collide on purpose.
    """
    return type(key), key if type(key) in _KEY_TYPES else repr(key)


class _Reader:
    """One pass over the bytes; `canonical` selects the strict reading."""

    __slots__ = ("canonical", "data", "items_left", "max_depth", "offset")

    def __init__(self, data: bytes, *, canonical: bool, max_depth: int, max_items: int) -> None:
        self.data = data
        self.offset = 0
        self.canonical = canonical
        self.max_depth = max_depth
        self.items_left = max_items

    def take(self, count: int) -> bytes:
        end = self.offset + count
        piece = self.data[self.offset : end]
        if len(piece) != count:
            raise CborError(f"{count} bytes declared at offset {self.offset}, {len(piece)} left")
        self.offset = end
        return piece

    def head(self) -> tuple[int, int, int | None]:
        """Read an initial byte and its argument; an indefinite length has argument None."""
        try:
            first = self.data[self.offset]
        except IndexError:
            raise CborError("unexpected end of input") from None
        self.offset += 1
        info = first & 0x1F
        return first >> 5, info, info if info < 24 else self.long_argument(first)

    def long_argument(self, first: int) -> int | None:
        """Read the argument that follows the initial byte *first*."""
        major, info = first >> 5, first & 0x1F
        if info < 28:
            argument = int.from_bytes(self.take(1 << (info - 24)), "big")
            shortest = 24 if info == 24 else 1 << (4 << (info - 24))
            if self.canonical and major != _SIMPLE and argument < shortest:
                raise CborError(f"head at offset {self.offset} is not the shortest")
            return argument
        if info == 31 and major in (_BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE):
            if self.canonical:
                raise CborError("indefinite length")
            return None
        raise CborError(f"reserved initial byte 0x{first:02x}")

    def item(self, depth: int) -> Any:
        """Read one item; *depth* counts the containers around it."""
        self.items_left -= 1
        if self.items_left < 0 or depth > self.max_depth:
            raise CborError("too many items" if self.items_left < 0 else f"nested deeper than {self.max_depth}")
        major, info, argument = self.head()
        if major < _BYTES:
            return -1 - argument if major else argument  # type: ignore[operator]  # these have no indefinite form
        if major < _ARRAY:
            return self.string(major, argument)
        if major == _MAP:
            return self.map(argument, depth)
        if major == _ARRAY:
            return self.array(argument, depth)
        return self.simple(info, argument) if major == _SIMPLE else self.tag(argument, depth)

    def tag(self, number: int | None, depth: int) -> Tag:
        assert number is not None
        return Tag(number, self.value(depth + 1))

    def value(self, depth: int) -> Any:
        item = self.item(depth)
        if item is _BREAK:
            raise CborError("break outside an indefinite-length item")
        return item

    def string(self, major: int, length: int | None) -> bytes | str:
        if length is not None:
            raw = self.take(length)
            return raw if major == _BYTES else _text(raw)
        parts: list[Any] = []
        while True:
            self.items_left -= 1
            if self.items_left < 0:
                raise CborError("too many items")
            chunk_major, info, size = self.head()
            if chunk_major == _SIMPLE and info == 31:
                break
            if chunk_major != major or size is None:
                raise CborError("wrong chunk in an indefinite-length string")
            raw = self.take(size)
            parts.append(raw if major == _BYTES else _text(raw))
        return b"".join(parts) if major == _BYTES else "".join(parts)

    def array(self, count: int | None, depth: int) -> tuple[Any, ...]:
        if count is None:
            items = []
            while (item := self.item(depth + 1)) is not _BREAK:
                items.append(item)
            return tuple(items)
        self.plausible(count)
        return tuple([self.value(depth + 1) for _ in range(count)])

    def map(self, count: int | None, depth: int) -> Any:
        if self.canonical:
            assert count is not None
            return self.sorted_map(count, depth)
        pairs: list[tuple[Any, Any]] = []
        if count is None:
            while (key := self.item(depth + 1)) is not _BREAK:
                pairs.append((key, self.value(depth + 1)))
        else:
            self.plausible(2 * count)
            pairs = [(self.value(depth + 1), self.value(depth + 1)) for _ in range(count)]
        return Pairs(tuple(pairs))

    def sorted_map(self, count: int, depth: int) -> dict[Any, Any]:
        self.plausible(2 * count)
        result: dict[Any, Any] = {}
        previous = b""
        for _ in range(count):
            start = self.offset
            key = self.item(depth + 1)
            if type(key) not in _KEY_TYPES:
                raise CborError(_KEY_MESSAGE)
            encoded = self.data[start : self.offset]
            if encoded <= previous:
                raise CborError("duplicate key" if encoded == previous else "map keys are not sorted")
            previous = encoded
            result[key] = self.item(depth + 1)
        return result

    def simple(self, info: int, argument: int | None) -> Any:
        if argument is None:
            return _BREAK
        if info in _FLOATS:
            if self.canonical:
                raise CborError("floating-point number")
            return struct.unpack(_FLOATS[info], argument.to_bytes(1 << (info - 24), "big"))[0]
        if info == 24 and argument < 32:
            raise CborError("simple value below 32 in two bytes")
        if argument in (20, 21, 22):
            return {20: False, 21: True, 22: None}[argument]
        if self.canonical:
            raise CborError(f"simple value {argument}")
        return Simple(argument)

    def plausible(self, count: int) -> None:
        """Refuse a count that the remaining bytes could not hold, before anything is built."""
        if count > len(self.data) - self.offset or count > self.items_left:
            raise CborError(f"{count} items declared, {len(self.data) - self.offset} bytes left")


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise CborError("text string is not UTF-8") from error


def _decode(data: bytes, *, canonical: bool, max_bytes: int, max_depth: int, max_items: int) -> Any:
    if len(data) > max_bytes:
        raise CborError(f"{len(data)} bytes, at most {max_bytes} are allowed")
    reader = _Reader(bytes(data), canonical=canonical, max_depth=max_depth, max_items=max_items)
    item = reader.value(0)
    if reader.offset != len(data):
        raise CborError(f"{len(data) - reader.offset} bytes after the item")
    return item


def decode(data: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH, max_items: int = MAX_ITEMS) -> Any:
    """Read one deterministically encoded item (RFC 8949, section 4.2.1).

    Maps become dicts, arrays tuples, tags `Tag`.

    Raises:
        CborError: Not well-formed, not deterministic, a float, a key that is
            neither integer, text nor bytes, trailing bytes, or over a limit.
    """
    return _decode(data, canonical=True, max_bytes=max_bytes, max_depth=max_depth, max_items=max_items)


def decode_wellformed(data: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH, max_items: int = MAX_ITEMS) -> Any:
    """Read one well-formed item (RFC 8949, section 1.2), however it is encoded.

    Maps become `Pairs`, arrays tuples, tags `Tag`; whether keys are unique and
    the encoding deterministic is the caller's to check.

    Raises:
        CborError: Not well-formed, trailing bytes, or over a limit.
    """
    return _decode(data, canonical=False, max_bytes=max_bytes, max_depth=max_depth, max_items=max_items)


def encode(value: Any) -> bytes:
    """Write *value* deterministically (RFC 8949, section 4.2.1).

    Takes None, booleans, integers of 64 bits, bytes, text, lists and tuples,
    mappings, `Pairs` (sorted, like any map) and `Tag`.

    Raises:
        TypeError: Another type, among them float.
        ValueError: An integer beyond 64 bits, or a duplicate key.
    """
    return cbor2.dumps(_prepare(value))


def _prepare(value: Any) -> Any:  # noqa: PLR0911 - one return per type
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return value
    if kind is int:
        if not -_MAX_UINT - 1 <= value <= _MAX_UINT:
            raise ValueError("integer beyond 64 bits")
        return value
    if kind is list or kind is tuple:
        return [_prepare(item) for item in value]
    if kind is dict or isinstance(value, Mapping):
        return _prepare_map(value.items())
    if kind is Pairs:
        return _prepare_map(value.items)
    if kind is Tag:
        return cbor2.CBORTag(value.number, _prepare(value.value))
    if kind is bytearray or kind is memoryview:
        return bytes(value)
    raise TypeError(f"no deterministic encoding for {kind.__name__}")


def _prepare_map(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    entries = sorted([(cbor2.dumps(_prepare(key)), key, value) for key, value in pairs], key=itemgetter(0))
    for before, after in pairwise(entries):
        if before[0] == after[0]:
            raise ValueError("duplicate key in a map")
    result = {key: _prepare(value) for _, key, value in entries}
    if len(result) != len(entries):
        raise ValueError("two keys of a map are equal in Python and differ in CBOR")
    return result
