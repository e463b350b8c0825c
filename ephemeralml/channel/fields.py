"""Checks of single decoded CBOR values, for the payloads of `hello`."""

from collections.abc import Set as AbstractSet
from typing import Any

from ephemeralml.errors import MalformedError


def closed_map(value: Any, required: AbstractSet[int], optional: AbstractSet[int], what: str) -> dict[int, Any]:
    """Return *value* if it is a map of all *required* and perhaps *optional* keys, and no others.

    Raises:
        MalformedError: It is not.
    """
    if type(value) is not dict:
        raise MalformedError(f"{what} is not a map")
    if missing := required - value.keys():
        raise MalformedError(f"{what} lacks key {min(missing)}")
    if unknown := value.keys() - required - optional:
        raise MalformedError(f"{what} has an unknown key {str(next(iter(unknown)))[:40]!r}")
    return value


def open_map(value: Any, what: str) -> dict[int, Any]:
    """Return *value* if it is a map whose keys are unsigned integers.

    Raises:
        MalformedError: It is not.
    """
    if type(value) is not dict or not all(type(key) is int and key >= 0 for key in value):
        raise MalformedError(f"{what} are not a map with unsigned integer keys")
    return value


def exact_bytes(value: Any, length: int, what: str) -> bytes:
    """Return *value* if it is *length* bytes.

    Raises:
        MalformedError: It is not.
    """
    if type(value) is not bytes:
        raise MalformedError(f"{what} is not bytes")
    if len(value) != length:
        raise MalformedError(f"{what} has {len(value)} bytes, not {length}")
    return value


def integer(value: Any, what: str) -> int:
    """Return *value* if it is an unsigned integer.

    Raises:
        MalformedError: It is not.
    """
    if type(value) is not int or value < 0:
        raise MalformedError(f"{what} is not an unsigned integer")
    return value


def text(value: Any, what: str) -> str:
    """Return *value* if it is text.

    Raises:
        MalformedError: It is not.
    """
    if type(value) is not str:
        raise MalformedError(f"{what} is not text")
    return value
