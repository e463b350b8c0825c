"""What all clients share: key-release.md section 1."""

import os

import pytest

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.base import checked_context, take_secret


@pytest.mark.parametrize("size", [2, 31, 33, 64])
def test_what_is_no_data_key_is_wiped_all_the_same(size: int) -> None:
    plaintext = os.urandom(size)
    assert take_secret(plaintext) is None
    assert plaintext == bytes(size)


def test_a_data_key_moves() -> None:
    plaintext = os.urandom(32)
    copy = bytes(bytearray(plaintext))
    secret = take_secret(plaintext)
    assert secret is not None
    assert bytes(secret.reveal()) == copy
    assert plaintext == bytes(32)


def test_contexts() -> None:
    eight = {f"name{index}": "x" for index in range(8)}
    assert checked_context(eight) == eight
    assert checked_context({"n": "x" * 8_191}) == {"n": "x" * 8_191}
    with pytest.raises(MalformedError, match="of 8193 characters"):
        checked_context({"n": "x" * 8_192})
