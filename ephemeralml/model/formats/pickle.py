"""Recognises pickles, whatever a file is called (model-package.md sections 3 and 6).

Loading a pickle runs code. This looks at bytes only and never loads one.
"""

import pickletools

from ephemeralml.errors import MalformedError
from ephemeralml.model.formats.source import ByteSource

SUSPECT_SUFFIXES = (".bin", ".pt", ".pkl", ".ckpt")
"""Refused by name even where the bytes are no pickle: nobody can say what they are."""

_PROTO = 0x80
_ZIP_LOCAL, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
_ZIP_END_SPAN = 65_557
"""The end record of a zip archive starts at most so far from the file's end."""
_SCAN_BYTES = 1 << 20
_TAKES_ARGUMENT = frozenset(ord(opcode.code) for opcode in pickletools.opcodes if opcode.arg is not None)


def refuse(path: str, source: ByteSource, *, safetensors: bool) -> None:
    """Refuse *source* if it is a pickle, holds one, or is called like one.

    Args:
        path: Its name, for the message and the suffix.
        source: Its bytes.
        safetensors: Whether it was parsed as a safetensors file. The length
            such a file begins with can look like a pickle's first two bytes
            (0x80 0x02 is 640); see `_cannot_be_pickle`.

    Raises:
        MalformedError: With code PICKLE, or FORMAT_UNKNOWN for a suspect name.
    """
    head = source.read(0, min(8, source.size))
    if len(head) >= 2 and head[0] == _PROTO and 1 <= head[1] <= 5 and not (safetensors and _cannot_be_pickle(head)):
        raise _refused(path, "is a pickle, and loading one runs code")
    if _is_zip(source, head) and _mentions_pickle(source):
        raise _refused(path, "is an archive with a pickle in it, and loading one runs code")
    if path.lower().endswith(SUSPECT_SUFFIXES):
        raise MalformedError(
            f"{path} has a suffix that pickles use, and is none",
            code="FORMAT_UNKNOWN",
            hint="convert the weights to safetensors or GGUF, or remove the file",
        )


def _cannot_be_pickle(head: bytes) -> bool:
    """Return whether the length of a safetensors header rules out a pickle.

    Bytes 4 to 7 of it are zero, and zero is no opcode of pickle. So an unpickler
    stops there, unless the opcode in byte 2 swallows them as its argument.
    """
    return head[2] not in _TAKES_ARGUMENT


def _is_zip(source: ByteSource, head: bytes) -> bool:
    tail = min(source.size, _ZIP_END_SPAN)
    return head.startswith(_ZIP_LOCAL) or _ZIP_END in source.read(source.size - tail, tail)


def _mentions_pickle(source: ByteSource) -> bool:
    """Search the whole archive, whose names are never compressed; its directory could lie about them."""
    needle = b".pkl"
    start = 0
    while start < source.size:
        block = source.read(start, min(_SCAN_BYTES + len(needle), source.size - start))
        if needle in block.lower():
            return True
        start += _SCAN_BYTES
    return False


def _refused(path: str, why: str) -> MalformedError:
    return MalformedError(
        f"{path} {why}", code="PICKLE", hint="convert the weights to safetensors or GGUF and remove the file"
    )
