"""Length-prefixed transcripts: what is hashed or bound has one reading only.

Concatenation without lengths lets two different lists of parts give the same
bytes; here each part says how long it is.
"""

import struct

MAX_PART_BYTES = (1 << 32) - 1


def lp(*parts: bytes) -> bytes:
    """Return each of *parts* behind its length as u32be, concatenated.

    Raises:
        ValueError: A part is longer than 32 bits can say.
    """
    pieces = []
    for part in parts:
        if len(part) > MAX_PART_BYTES:
            raise ValueError(f"a transcript part of {len(part)} bytes")
        pieces.append(struct.pack(">I", len(part)))
        pieces.append(part)
    return b"".join(pieces)
