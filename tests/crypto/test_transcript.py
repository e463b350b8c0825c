"""Length-prefixed transcripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import transcript
from ephemeralml.crypto.transcript import lp


def test_known_answers() -> None:
    assert lp() == b""
    assert lp(b"") == bytes(4)
    assert lp(b"ab", b"c") == b"\0\0\0\2ab\0\0\0\1c"
    assert lp(bytearray(b"ab"), memoryview(b"c")) == lp(b"ab", b"c")


def test_boundaries_count() -> None:
    assert lp(b"ab", b"c") != lp(b"a", b"bc")
    assert lp(b"ab") != lp(b"ab", b"")


@given(st.lists(st.binary(max_size=20)), st.lists(st.binary(max_size=20)))
def test_different_parts_give_different_bytes(left: list[bytes], right: list[bytes]) -> None:
    assert (lp(*left) == lp(*right)) is (left == right)
    assert lp(*left) + lp(*right) == lp(*left, *right)


def test_part_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "MAX_PART_BYTES", 4)
    assert lp(b"1234") == b"\0\0\0\x041234"
    with pytest.raises(ValueError, match="5 bytes"):
        lp(b"12345")
