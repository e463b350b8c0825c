"""Overwriting secrets that a library handed over as `bytes`."""

import ctypes
import sys

_SHORTEST = 2
# CPython shares one object for each single byte and for the empty string.


def wipe_bytes(secret: bytes) -> None:
    """Overwrite *secret* where it lies, though Python calls it immutable.

    RSA decryption and JSON decoders have no variant that writes to a buffer of
    the caller's, so the key they return would stay in freed memory until
    something else lands there. The caller made sure that nobody else holds the
    object, and never looks at it again. Elsewhere than on CPython this does
    nothing.
    """
    # A type with another layout must never come here by mistake: this writes to memory.
    if sys.implementation.name == "cpython" and type(secret) is bytes and len(secret) >= _SHORTEST:
        # The octets begin before the terminating zero that the basic size counts.
        ctypes.memset(id(secret) + bytes.__basicsize__ - 1, 0, len(secret))
