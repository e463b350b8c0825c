"""Ranges of bytes: asking for them, checking what came, going on where it broke."""

import re
from collections.abc import Callable

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.storage.retry import Deadline, Retries, TransientFault

WORTHWHILE = 64 << 10
"""Bytes that a broken try must have brought for it not to count as a failure.

A server that cuts the connection after each byte is given up on like one that sends none."""

UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, RuntimeError)
"""What the clouds' libraries raise over answers that no store gives; a redirection without an end is a RuntimeError."""

EMPTY_PAGES = 1_000
"""Pages of a listing, one after the other, that may hold nothing."""

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.ASCII)


def header(start: int, length: int) -> str:
    """Return the `Range` header's value for *length* bytes from *start*."""
    return f"bytes={start}-{start + length - 1}"


def check_content_range(key: str, value: str | None, start: int, length: int) -> int:
    """Return the whole length named by a `Content-Range` that is exactly what was asked.

    Raises:
        RejectedError: It is missing, unreadable or another range (code RANGE_MISMATCH), or
            the object ends before the range does (BLOB_TRUNCATED).
    """
    match = _CONTENT_RANGE.fullmatch(value or "")
    wanted = (start, start + length - 1)
    if match is None:
        raise RejectedError(f"{key}: the answer to a range does not say which", code="RANGE_MISMATCH", expected=wanted)
    first, last, total = (int(number) for number in match.groups())
    if first == start and last < wanted[1] and last == total - 1:
        raise truncated(key, start + length)
    if (first, last) != wanted or total <= last:
        raise RejectedError(
            f"{key}: the answer is another range", code="RANGE_MISMATCH", expected=wanted, actual=(first, last)
        )
    return total


def truncated(key: str, end: int) -> RejectedError:
    """Return the error for object *key* that ends before byte *end*."""
    return RejectedError(f"{key} ends before byte {end}", code="BLOB_TRUNCATED")


def unreadable(action: str, place: str) -> UnavailableError:
    """Return the error for an answer that the cloud's library stumbled over."""
    return UnavailableError(
        f"cannot {action} {place}: what answers there is no such store",
        hint="check the endpoint and what stands before it",
    )


def check_bounds(key: str, start: int, end: int, size: int) -> None:
    """Refuse a range that object *key* does not have, before memory is taken for it.

    Raises:
        RejectedError: With code BLOB_TRUNCATED.
    """
    if not 0 <= start <= end <= size:
        raise RejectedError(f"{key} has no bytes {start} to {end}", code="BLOB_TRUNCATED")


def fill(
    retries: Retries, what: str, start: int, buffer: memoryview, fetch: Callable[[int, memoryview, Deadline], None]
) -> None:
    """Fill *buffer* with the bytes from *start*, going on at the byte where a try broke off.

    Args:
        retries: How patient to be.
        what: What is being done, to follow *cannot*.
        start: Where in the object to begin.
        buffer: What to fill.
        fetch: Fills a view from an offset; raises `TransientFault` with the bytes that it got.

    Raises:
        UnavailableError: The bytes could not be had.
    """
    limit = retries.deadline.within(retries.policy.call_seconds)
    done = 0

    def attempt(limit: Deadline) -> None:
        nonlocal done
        try:
            fetch(start + done, buffer[done:], limit)
        except TransientFault as fault:
            done += fault.done
            if fault.done < WORTHWHILE and done < len(buffer):
                raise
        else:
            done = len(buffer)

    while done < len(buffer):
        retries.call(what, attempt, limit=limit)
