"""The header of a GGUF file, read strictly before anything else looks at it.

Layout (little-endian): magic, version u32, tensor count u64, pair count u64;
pairs of key and typed value; tensor infos; padding; data. Every count and
length is held against the bytes that are left before anything is built from it
(model-package.md sections 3 and 6).
"""

import struct
from dataclasses import dataclass

from ephemeralml.errors import MalformedError
from ephemeralml.model.formats.gguf_types import BLOCKS, SCALAR_BYTES, ValueType
from ephemeralml.model.formats.source import ByteSource

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 1 << 16
MAX_PAIRS = 1 << 16
MAX_DIMENSIONS = 4
MAX_ARRAY_NESTING = 4
MAX_NAME_BYTES = 65_535
MAX_HEADER_BYTES = 256 << 20
"""Pairs and tensor infos together; large vocabularies need some tens of MiB."""
MAX_ARRAY_PARTS = 1 << 21
"""Texts and inner arrays within all arrays: each costs a step. Vocabulary and merges need under a million."""
DEFAULT_ALIGNMENT = 32

_WINDOW = 1 << 20

Value = int | float | bool | str | None
"""A scalar or a text; arrays are skipped and read as None."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a GGUF file."""

    name: str
    type: str
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte in the file."""
    end: int
    """Offset behind the last byte in the file."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A header that was checked against the length of its file."""

    version: int
    metadata: dict[str, Value]
    """Keys in the file's order; an array's value is None."""
    tensors: tuple[GgufTensor, ...]
    """In the order of their infos."""
    alignment: int


class _Reader:
    """Reads forward through a source, a window at a time."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._window = b""
        self._start = 0
        self.position = 0
        self.array_parts = 0

    @property
    def left(self) -> int:
        return min(self._source.size, MAX_HEADER_BYTES) - self.position

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise MalformedError(f"a GGUF header that needs {count} bytes where {self.left} are left")
        offset = self.position - self._start
        if offset + count > len(self._window):
            self._start, offset = self.position, 0
            length = min(max(count, _WINDOW), self._source.size - self.position)
            self._window = self._source.read(self.position, length)
        self.position += count
        return self._window[offset : offset + count]

    def skip(self, count: int) -> None:
        if count > self.left:
            raise MalformedError(f"a GGUF header that needs {count} bytes where {self.left} are left")
        self.position += count
        if self.position - self._start > len(self._window):
            self._start, self._window = self.position, b""

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self, what: str) -> str:
        raw = self.take(self.u64())
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"{what} of a GGUF file is not UTF-8") from error

    def name(self, what: str) -> str:
        text = self.text(what)
        if not 0 < len(text.encode()) <= MAX_NAME_BYTES:
            raise MalformedError(f"{what} of a GGUF file is empty or longer than {MAX_NAME_BYTES} bytes")
        return text


def parse(source: ByteSource) -> GgufHeader:
    """Read and check the header of *source*.

    Raises:
        MalformedError: Not GGUF, a version other than 2 and 3, a length that
            reaches beyond the file, an unknown type, a repeated name, or
            tensors that are misaligned, overlap or lie outside the file.
    """
    reader = _Reader(source)
    if source.size < 24 or reader.take(4) != MAGIC:
        raise MalformedError("not a GGUF file: it does not begin with GGUF")
    version = reader.u32()
    if version not in VERSIONS:
        raise MalformedError(f"GGUF version {version}, versions 2 and 3 little-endian are known")
    tensor_count, pair_count = reader.u64(), reader.u64()
    if tensor_count > MAX_TENSORS or pair_count > MAX_PAIRS:
        raise MalformedError(
            f"{tensor_count} tensors and {pair_count} pairs, at most {MAX_TENSORS} of each are allowed"
        )
    metadata: dict[str, Value] = {}
    for _ in range(pair_count):
        key = reader.name("a key")
        if key in metadata:
            raise MalformedError(f"the GGUF key {key[:64]!a} is repeated")
        metadata[key] = _value(reader, _value_type(reader.u32()), 0)
    alignment = _alignment(metadata)
    infos = [_info(reader) for _ in range(tensor_count)]
    base = -(-reader.position // alignment) * alignment
    tensors = tuple(_place(info, base, alignment, source.size) for info in infos)
    _check_disjoint(tensors)
    return GgufHeader(version, metadata, tensors, alignment)


def _value_type(number: int) -> ValueType:
    try:
        return ValueType(number)
    except ValueError as error:
        raise MalformedError(f"unknown GGUF value type {number}") from error


def _value(reader: _Reader, kind: ValueType, nesting: int) -> Value:
    if kind is ValueType.STRING:
        return reader.text("a value")
    if kind is ValueType.ARRAY:
        _skip_array(reader, nesting + 1)
        return None
    layout, size = SCALAR_BYTES[kind]
    raw = reader.take(size)
    if kind is ValueType.BOOL and raw not in (b"\x00", b"\x01"):
        raise MalformedError("a GGUF boolean that is neither 0 nor 1")
    value: int | float | bool = struct.unpack(layout, raw)[0]
    return value


def _skip_array(reader: _Reader, nesting: int) -> None:
    if nesting > MAX_ARRAY_NESTING:
        raise MalformedError(f"GGUF arrays nested deeper than {MAX_ARRAY_NESTING}")
    kind = _value_type(reader.u32())
    count = reader.u64()
    # A text or an inner array takes at least its own length, so a count is bounded before it is looped over.
    smallest = {ValueType.STRING: 8, ValueType.ARRAY: 12}.get(kind) or SCALAR_BYTES[kind][1]
    if count > reader.left // smallest:
        raise MalformedError(f"a GGUF array of {count} elements is longer than the file")
    if kind in (ValueType.STRING, ValueType.ARRAY):
        reader.array_parts += count
        if reader.array_parts > MAX_ARRAY_PARTS:
            raise MalformedError(f"GGUF arrays of more than {MAX_ARRAY_PARTS} texts and arrays")
    if kind is ValueType.STRING:
        for _ in range(count):
            reader.skip(reader.u64())
    elif kind is ValueType.ARRAY:
        for _ in range(count):
            _skip_array(reader, nesting + 1)
    else:
        reader.skip(count * smallest)


def _alignment(metadata: dict[str, Value]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment % 8:
        raise MalformedError("general.alignment is no multiple of 8 up to 1 MiB")
    return alignment


@dataclass(frozen=True, slots=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def _info(reader: _Reader) -> _Info:
    name = reader.name("a tensor name")
    dimensions = reader.u32()
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise MalformedError(
            f"GGUF tensor {name[:64]!a} has {dimensions} dimensions, 1 to {MAX_DIMENSIONS} are allowed"
        )
    shape = tuple(reader.u64() for _ in range(dimensions))
    return _Info(name, shape, reader.u32(), reader.u64())


def _place(info: _Info, base: int, alignment: int, size: int) -> GgufTensor:
    """Return where *info*'s data lies; refuses it outside of the file's *size* bytes."""
    shown = f"GGUF tensor {info.name[:64]!a}"
    if info.type not in BLOCKS:
        raise MalformedError(f"{shown} has unknown type {info.type}")
    type_name, block_elements, block_bytes = BLOCKS[info.type]
    if info.offset % alignment:
        raise MalformedError(f"{shown} is not aligned to {alignment} bytes")
    elements = 1
    for length in info.shape:
        elements *= length
        if not 0 < elements <= size * block_elements:
            raise MalformedError(f"{shown} has a shape that does not fit the file")
    if info.shape[0] % block_elements:
        raise MalformedError(f"{shown} has rows that are no whole blocks of {type_name}")
    start = base + info.offset
    end = start + elements // block_elements * block_bytes
    if end > size:
        raise MalformedError(f"{shown} reaches beyond the file")
    return GgufTensor(info.name, type_name, info.shape, start, end)


def _check_disjoint(tensors: tuple[GgufTensor, ...]) -> None:
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise MalformedError("two GGUF tensors have the same name")
    position = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        if tensor.start < position:
            raise MalformedError(f"GGUF tensor {tensor.name[:64]!a} overlaps another one")
        position = tensor.end
