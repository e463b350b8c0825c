"""What a key may look like, wherever it leads."""

import unicodedata

from ephemeralml.errors import MalformedError

KEY_BYTES = 1024
"""Longest key, in UTF-8: the limit of S3 and GCS, and of a package's paths."""


def check_key(key: str) -> str:
    """Return *key* if it is a relative path that no server can read as another.

    Raises:
        MalformedError: It is not.
    """
    segments = key.split("/")
    if any(segment in ("", ".", "..") for segment in segments) or "\\" in key:
        raise MalformedError(f"{ascii(key)[:96]} is no key")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in key):
        raise MalformedError(f"{ascii(key)[:96]} is no key")
    if len(key.encode()) > KEY_BYTES:
        raise MalformedError(f"a key has {len(key.encode())} bytes, at most {KEY_BYTES} are allowed")
    return key
