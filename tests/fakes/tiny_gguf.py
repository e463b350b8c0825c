"""GGUF files byte by byte, so that each fault can be made alone."""

import struct
from dataclasses import dataclass

U32, STRING, ARRAY = 4, 8, 9


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + items


ARCHITECTURE = pair("general.architecture", STRING, text("llama"))


@dataclass
class Info:
    """A tensor info; offsets count from the aligned end of the header."""

    name: str | bytes
    shape: tuple[int, ...] = (32,)
    type: int = 0
    offset: int = 0

    def encode(self) -> bytes:
        head = text(self.name) + struct.pack("<I", len(self.shape))
        return (
            head + b"".join(struct.pack("<Q", size) for size in self.shape) + struct.pack("<IQ", self.type, self.offset)
        )


def gguf(
    *,
    pairs: tuple[bytes, ...] = (ARCHITECTURE,),
    infos: tuple[Info, ...] = (Info("a"), Info("b", offset=128)),
    data: int = 256,
    magic: bytes = b"GGUF",
    version: int = 3,
    alignment: int = 32,
    tensor_count: int | None = None,
    pair_count: int | None = None,
) -> bytes:
    counts = (len(infos) if tensor_count is None else tensor_count, len(pairs) if pair_count is None else pair_count)
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs)
    header += b"".join(info.encode() for info in infos)
    return header + bytes(-len(header) % alignment) + bytes(data)
