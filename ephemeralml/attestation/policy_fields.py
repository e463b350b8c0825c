"""Strict reading of a policy file's objects: every field typed, bounded, and known."""

from datetime import datetime
from typing import Any

from ephemeralml import clock
from ephemeralml.errors import MalformedError

MAX_LIST = 1_024
MAX_TEXT_CHARACTERS = 256
POLICY_EMPTY = "POLICY_EMPTY"
POLICY_CONTRADICTION = "POLICY_CONTRADICTION"

_HINTS = {
    POLICY_EMPTY: "name what you accept; `ephemeralml policy init` writes a policy that works, to start from",
    POLICY_CONTRADICTION: "change one of the two; `ephemeralml policy init` writes a policy that works, to start from",
}

_MISSING: Any = object()


def invalid(message: str, *, code: str | None = None, hint: str | None = None) -> MalformedError:
    """Return the error for a policy file that cannot be taken; its code is in the message too."""
    name = f" ({code})" if code is not None else ""
    return MalformedError(f"policy: {message}{name}", code=code, hint=hint or _HINTS.get(code or ""))


class Fields:
    """One JSON object, taken apart field by field; `done` refuses what nobody took."""

    def __init__(self, value: Any, path: str) -> None:
        if type(value) is not dict:
            raise invalid(f"{path or 'the document'} is not an object")
        self._values: dict[str, Any] = dict(value)
        self.path = path

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def at(self, name: str) -> str:
        """Return the place of a field, for messages."""
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """Return a field's value as parsed, or *default*."""
        if name in self._values:
            return self._values.pop(name)
        if default is _MISSING:
            raise invalid(f"{self.at(name)} is missing")
        return default

    def text(self, name: str, default: str = _MISSING) -> str:
        """Return a text of 1 to 256 characters."""
        value = self.take(name, default)
        if type(value) is not str or not 1 <= len(value) <= MAX_TEXT_CHARACTERS:
            raise invalid(f"{self.at(name)} is not a text of 1 to {MAX_TEXT_CHARACTERS} characters")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str = _MISSING) -> str:
        """Return a text that is one of *allowed*."""
        value = self.text(name, default)
        if value not in allowed:
            raise invalid(f"{self.at(name)} is {value[:64]!a}, not one of {', '.join(allowed)}")
        return value

    def integer(self, name: str, least: int, most: int, default: int = _MISSING) -> int:
        """Return an integer within bounds, both included."""
        value = self.take(name, default)
        if type(value) is not int or not least <= value <= most:
            raise invalid(f"{self.at(name)} is not an integer of {least} to {most}")
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self.take(name, default)
        if type(value) is not bool:
            raise invalid(f"{self.at(name)} is neither true nor false")
        return value

    def items(self, name: str, default: list[Any] = _MISSING) -> list[Any]:
        """Return a list of at most 1,024 items."""
        value = self.take(name, default)
        if type(value) is not list or len(value) > MAX_LIST:
            raise invalid(f"{self.at(name)} is not a list of at most {MAX_LIST} items")
        return value

    def texts(self, name: str, default: list[str] = _MISSING) -> tuple[str, ...]:
        """Return a list of distinct short texts."""
        value = self.items(name, default)
        if any(type(item) is not str or not 1 <= len(item) <= MAX_TEXT_CHARACTERS for item in value):
            raise invalid(f"{self.at(name)} is not a list of short texts")
        if len(set(value)) != len(value):
            raise invalid(f"{self.at(name)} names something twice")
        return tuple(value)

    def instant(self, name: str, default: datetime | None = _MISSING) -> datetime | None:
        """Return an RFC 3339 time."""
        value = self.take(name, default)
        if value is None and default is None:
            return None
        try:
            return clock.parse_rfc3339(value)
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            raise invalid(f"{self.at(name)} is not an RFC 3339 time with an offset") from error

    def hex(self, name: str, size: int) -> bytes:
        """Return *size* bytes written as lower-case hex, not all zero."""
        return hex_bytes(self.take(name), size, self.at(name))

    def objects(self, name: str, default: list[Any] = _MISSING) -> tuple["Fields", ...]:
        """Return a list of objects, each to be taken apart."""
        return tuple(Fields(item, f"{self.at(name)}[{index}]") for index, item in enumerate(self.items(name, default)))

    def done(self) -> None:
        """Refuse fields that nobody took."""
        if self._values:
            unknown = min(self._values)
            raise invalid(f"{self.at(unknown[:64])!a} is not a field of this schema")


def hex_bytes(value: Any, size: int, place: str) -> bytes:
    """Read lower-case hex of exactly *size* bytes.

    Raises:
        MalformedError: Another length, upper case, another character, all zero.
    """
    if type(value) is not str or len(value) != 2 * size or not set(value) <= set("0123456789abcdef"):
        raise invalid(f"{place} is not {2 * size} lower-case hex digits")
    raw = bytes.fromhex(value)
    if raw == bytes(size):
        raise invalid(f"{place} is all zero, which identifies nothing")
    return raw
