"""The keys of one boot."""

import pytest

from ephemeralml.crypto.keys import PrivateKey, PublicKey
from ephemeralml.enclave.keys import ReceiptKey


def test_a_key_signs_until_it_is_wiped() -> None:
    key = ReceiptKey.generate()
    assert PublicKey(key.public).verify(key.signing.sign(b"m"), b"m")
    key.wipe()
    with pytest.raises(RuntimeError, match="wiped"):
        _ = key.signing


def test_nothing_private_is_shown() -> None:
    key = ReceiptKey(PrivateKey.from_seed(b"\x07" * 32))
    assert repr(key) == f"ReceiptKey(public={key.public.hex()})"
    assert not hasattr(key, "__dict__")


def test_each_boot_has_its_own() -> None:
    assert ReceiptKey.generate().public != ReceiptKey.generate().public
