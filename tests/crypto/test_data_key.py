import copy
import pickle

import pytest

from ephemeralml.crypto.data_key import SecretBytes, WrappedKey


def test_a_secret_is_wiped_where_it_lies() -> None:
    data = bytearray(b"secret")
    secret = SecretBytes(data)
    assert bytes(secret.reveal()) == b"secret"
    secret.reveal().release()
    secret.wipe()
    secret.wipe()
    assert data == bytes(6)
    with pytest.raises(RuntimeError, match="wiped"):
        secret.reveal()


def test_it_is_wiped_at_the_end_of_its_block() -> None:
    data = bytearray(b"secret")
    with SecretBytes(data) as secret:
        assert secret.reveal().readonly
    assert data == bytes(6)


def test_it_is_shown_and_stored_by_nothing() -> None:
    secret = SecretBytes(bytearray(b"secret"))
    assert "secret" not in repr(secret) + str(secret)
    for store in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            store(secret)


def test_a_wrapped_key_is_a_value() -> None:
    wrapped = WrappedKey("local", "local:arn", b"x", {"model_id": "m"})
    assert wrapped == WrappedKey("local", "local:arn", b"x", {"model_id": "m"})
