"""The ciphertext's bytes: a known answer made by hand, its parts bound, its parser bounded."""

import hashlib
import struct
import uuid

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.keyrelease.local.ciphertext import Ciphertext, decrypt, encrypt

KEY_ID = "01234567-89ab-4def-8123-456789abcdef"
MATERIAL = hashlib.sha256(b"material").digest()
CONTEXT = {"version": "1", "model_id": "a", "Ä": "ö"}
NONCE = bytes(range(12))


def _made() -> bytes:
    return encrypt(MATERIAL, b"plaintext", key_id=KEY_ID, version=3, context=CONTEXT, nonce=NONCE)


def test_byte_for_byte() -> None:
    header = b"EMLK" + b"\x01" + uuid.UUID(KEY_ID).bytes + struct.pack(">I", 3) + NONCE
    pairs = [(b"model_id", b"a"), (b"version", b"1"), ("Ä".encode(), "ö".encode())]
    aad = header + b"".join(struct.pack(">I", len(x)) + x for pair in pairs for x in pair)
    assert _made() == header + AESGCM(MATERIAL).encrypt(NONCE, b"plaintext", aad)


def test_there_and_back() -> None:
    parsed = Ciphertext.parse(_made())
    assert (parsed.key_id, parsed.version) == (KEY_ID, 3)
    assert decrypt(MATERIAL, parsed, dict(reversed(CONTEXT.items()))) == b"plaintext"


@pytest.mark.parametrize(
    "context", [{}, {**CONTEXT, "x": ""}, {"model_id": "a", "version": "1"}, {**CONTEXT, "Version": "1"}]
)
def test_other_contexts(context: dict[str, str]) -> None:
    with pytest.raises(RejectedError):
        decrypt(MATERIAL, Ciphertext.parse(_made()), context)


def test_pairs_are_not_run_together() -> None:
    made = encrypt(MATERIAL, b"", key_id=KEY_ID, version=1, context={"a": "bc"}, nonce=NONCE)
    with pytest.raises(RejectedError):
        decrypt(MATERIAL, Ciphertext.parse(made), {"ab": "c"})


@pytest.mark.parametrize("data", [b"", b"EMLK\x01" + bytes(47), b"EMLK\x02" + bytes(60), b"EMLK\x01" + bytes(6_140)])
def test_not_ours(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Ciphertext.parse(data)


@pytest.mark.fuzz
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"EMLK\x01" + data))
def test_only_our_errors_leave(data: bytes) -> None:
    with pytest.raises((MalformedError, RejectedError)) as caught:
        decrypt(MATERIAL, Ciphertext.parse(data), {})
    assert caught.value.code == "InvalidCiphertextException"
