from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import EphemeralError, RejectedError, UnavailableError
from ephemeralml.storage.ranges import WORTHWHILE, check_bounds, check_content_range, fill, header
from ephemeralml.storage.retry import Deadline, Retries, RetryPolicy, TransientFault

RETRIES = Retries(RetryPolicy(tries=3, first_wait=0, longest_wait=0))
DATA = bytes(range(256)) * 2048


def test_a_header_names_both_ends() -> None:
    assert header(0, 1) == "bytes=0-0"
    assert header(10, 100) == "bytes=10-109"


def test_the_range_that_was_asked_for_is_accepted() -> None:
    assert check_content_range("k", "bytes 0-9/10", 0, 10) == 10
    assert check_content_range("k", "bytes 10-19/1000", 10, 10) == 1000


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "RANGE_MISMATCH"),
        ("", "RANGE_MISMATCH"),
        ("bytes 10-19", "RANGE_MISMATCH"),
        ("bytes 10-19/*", "RANGE_MISMATCH"),
        ("bytes */100", "RANGE_MISMATCH"),
        ("bytes 9-19/100", "RANGE_MISMATCH"),
        ("bytes 10-20/100", "RANGE_MISMATCH"),
        ("bytes 10-18/100", "RANGE_MISMATCH"),
        ("bytes 10-19/19", "RANGE_MISMATCH"),
        ("bytes 10-19/0", "RANGE_MISMATCH"),
        ("bytes=10-19/100", "RANGE_MISMATCH"),
        ("bytes 10-19/100 ", "RANGE_MISMATCH"),
        ("bytes 10-19/100\n", "RANGE_MISMATCH"),
        ("bytes 1\u0660-19/100", "RANGE_MISMATCH"),
        ("bytes 10-19/" + "9" * 20, "RANGE_MISMATCH"),
        ("bytes 10-14/15", "BLOB_TRUNCATED"),
    ],
)
def test_any_other_is_not(value: str | None, code: str) -> None:
    with pytest.raises(RejectedError) as caught:
        check_content_range("k", value, 10, 10)
    assert caught.value.code == code


@pytest.mark.fuzz
@given(st.text(max_size=60) | st.from_regex(r"bytes [0-9]{0,21}-[0-9]{0,21}/[0-9]{0,21}", fullmatch=True))
def test_only_our_errors_leave(value: str) -> None:
    with suppress(EphemeralError):
        assert check_content_range("k", value, 10, 10) >= 20


@pytest.mark.parametrize(("start", "end"), [(0, 11), (11, 11), (5, 4), (-1, 3)])
def test_bounds_are_those_of_the_object(start: int, end: int) -> None:
    check_bounds("k", 0, 10, 10)
    with pytest.raises(RejectedError):
        check_bounds("k", start, end, 10)


class Breaking:
    """A fetch that gives *step* bytes and breaks off."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.asked: list[int] = []

    def __call__(self, start: int, view: memoryview, _limit: Deadline) -> None:
        self.asked.append(start)
        count = min(self.step, len(view))
        view[:count] = DATA[start : start + count]
        if count < len(view):
            raise TransientFault("broke off", done=count)


@pytest.mark.parametrize("step", [WORTHWHILE, 100_000, len(DATA)])
def test_a_range_is_filled_across_breaks(step: int) -> None:
    fetch = Breaking(step)
    buffer = bytearray(len(DATA) - 5)
    fill(RETRIES, "read x", 5, memoryview(buffer), fetch)
    assert buffer == DATA[5:]
    assert fetch.asked == list(range(5, len(DATA), step))


def test_breaks_that_bring_too_little_are_failures() -> None:
    fetch = Breaking(WORTHWHILE - 1)
    with pytest.raises(UnavailableError, match="broke off, 3 times"):
        fill(RETRIES, "read x", 0, memoryview(bytearray(len(DATA))), fetch)
    assert len(fetch.asked) == 3


def test_a_break_after_the_last_byte_is_none() -> None:
    def fetch(start: int, view: memoryview, _limit: Deadline) -> None:
        view[:] = DATA[start : start + len(view)]
        raise TransientFault("reset", done=len(view))

    buffer = bytearray(10)
    fill(RETRIES, "read x", 0, memoryview(buffer), fetch)
    assert buffer == DATA[:10]


def test_nothing_is_asked_for_no_bytes() -> None:
    fetch = Breaking(1)
    fill(RETRIES, "read x", 0, memoryview(bytearray()), fetch)
    assert fetch.asked == []
