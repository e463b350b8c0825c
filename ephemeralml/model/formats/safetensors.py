"""The header of a safetensors file, read strictly before anything else looks at it.

A file is a u64le length, that many bytes of JSON, then tensor data. The JSON
must be small, name no tensor twice, and its tensors must tile the data exactly:
no overlap, no hole, nothing behind the last (model-package.md section 3).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError
from ephemeralml.model.formats.source import ByteSource

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 16
MAX_NAME_CHARACTERS = 1_024
MAX_JSON_ITEMS = 1 << 21
"""Brackets, colons and commas of a header: 65,536 tensors of 16 dimensions need fewer. Bounds the parser's memory."""

DEFAULT_DTYPES = frozenset({"F32", "F16", "BF16", "I64"})
"""Allowed unless the caller allows more; I64 because buffers of positions have it."""

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Every dtype the format knows whose elements are whole bytes."""

_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte in the file."""
    end: int
    """Offset behind the last byte in the file."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return (self.end - self.start) * 8 // DTYPE_BITS[self.dtype]


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """A header that was checked against the length of its file."""

    tensors: tuple[TensorEntry, ...]
    """In the order of their data."""
    metadata: dict[str, str]
    header_bytes: int


def parse(source: ByteSource, *, dtypes: Collection[str] = DEFAULT_DTYPES) -> SafetensorsHeader:
    """Read and check the header of *source*.

    Raises:
        MalformedError: Not safetensors, its header lies about the data, or a
            dtype is outside *dtypes* (code DTYPE_NOT_ALLOWED).
    """
    if source.size < 8:
        raise MalformedError("a safetensors file of less than 8 bytes")
    length = int.from_bytes(source.read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise MalformedError(f"a safetensors header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed")
    if length > source.size - 8:
        raise MalformedError(f"a safetensors header of {length} bytes in a file of {source.size}")
    header = source.read(8, length)
    if sum(map(header.count, (b"{", b"[", b":", b","))) > MAX_JSON_ITEMS:
        raise MalformedError(f"a safetensors header of more than {MAX_JSON_ITEMS} items")
    document = strict_json.parse_object(header, max_bytes=MAX_HEADER_BYTES)
    metadata = _metadata(document.pop(_METADATA, {}))
    if len(document) > MAX_TENSORS:
        raise MalformedError(f"{len(document)} tensors, at most {MAX_TENSORS} are allowed")
    base = 8 + length
    entries = [_entry(name, value, base, source.size) for name, value in document.items()]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_tiling(entries, base, source.size)
    for entry in entries:
        if entry.dtype not in dtypes:
            raise MalformedError(
                f"tensor {entry.name!a} has dtype {entry.dtype}, allowed are {', '.join(sorted(dtypes))}",
                code="DTYPE_NOT_ALLOWED",
                hint=f"allow it with --allow-dtype {entry.dtype} if the engine needs it",
            )
    return SafetensorsHeader(tuple(entries), metadata, length)


def _metadata(value: Any) -> dict[str, str]:
    if type(value) is not dict or not all(type(item) is str for item in value.values()):
        raise MalformedError("safetensors metadata that does not map names to texts")
    return value


def _entry(name: str, value: Any, base: int, size: int) -> TensorEntry:
    if not name or len(name) > MAX_NAME_CHARACTERS:
        raise MalformedError(f"a tensor name of {len(name)} characters, 1 to {MAX_NAME_CHARACTERS} are allowed")
    if type(value) is not dict or set(value) != {"dtype", "shape", "data_offsets"}:
        raise MalformedError(f"tensor {name!a} has other fields than dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is not str or dtype not in DTYPE_BITS:
        raise MalformedError(f"tensor {name!a} has an unknown dtype")
    if not _is_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise MalformedError(f"tensor {name!a} has no shape of at most {MAX_DIMENSIONS} sizes")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise MalformedError(f"tensor {name!a} has no pair of data_offsets")
    start, end = base + offsets[0], base + offsets[1]
    if not base <= start <= end <= size:
        raise MalformedError(f"tensor {name!a} reaches beyond the file")
    if _bytes_of(shape, DTYPE_BITS[dtype], size) != end - start:
        raise MalformedError(f"tensor {name!a} has a shape that does not fit its {end - start} bytes")
    return TensorEntry(name, dtype, tuple(shape), start, end)


def _is_sizes(value: Any) -> bool:
    return type(value) is list and all(type(item) is int and item >= 0 for item in value)


def _bytes_of(shape: list[int], bits: int, limit: int) -> int | None:
    """Return the bytes of a tensor; None once they pass *limit*, so that hostile sizes multiply no further."""
    if 0 in shape:
        return 0
    total = bits // 8
    for item in shape:
        total *= item
        if total > limit:
            return None
    return total


def _check_tiling(entries: list[TensorEntry], base: int, size: int) -> None:
    position = base
    for entry in entries:
        if entry.start < position:
            raise MalformedError(f"tensor {entry.name!a} overlaps another one")
        if entry.start > position:
            raise MalformedError(f"{entry.start - position} bytes before tensor {entry.name!a} belong to no tensor")
        position = entry.end
    if position != size:
        raise MalformedError(f"{size - position} bytes behind the last tensor belong to no tensor")
