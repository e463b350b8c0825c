"""The one place that reads the time of day.

Verifiers take an instant as an argument; whoever stands at the edge reads the
clock once, here, and hands it down.
"""

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Return the present instant, in UTC."""
    return datetime.now(UTC)


def unix_now() -> int:
    """Return the present instant in whole seconds since 1970."""
    return int(time.time())


def parse_rfc3339(text: str) -> datetime:
    """Read an RFC 3339 date and time with an explicit offset.

    Raises:
        ValueError: *text* is no such date, or has no offset.
    """
    if len(text) > 40 or "T" not in text.upper():
        raise ValueError(f"not an RFC 3339 time: {text[:40]!r}")
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"an RFC 3339 time needs an offset such as Z: {text!r}")
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"a time beyond the calendar: {text!r}") from error


def format_rfc3339(instant: datetime) -> str:
    """Write *instant* as RFC 3339 in UTC, with ``Z``, to the second or the microsecond."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
