"""Where the bound values sit, and the known answers of attestation section 1."""

import hashlib

import pytest

from ephemeralml.attestation.binding import channel_binding, nitro_fields
from ephemeralml.attestation.evidence import ExpectedBinding
from ephemeralml.errors import MalformedError
from tests.fakes.nitro import BINDING, EXPECTED, NONCE, RECEIPT_KEY


def test_known_answer_of_the_key_hash() -> None:
    assert hashlib.sha256(RECEIPT_KEY).hexdigest() == "9f72ea0cf49536e3c66c787f705186df9a4378083753ae9536d65b3ad7fcddc4"


def test_nitro_carries_the_raw_values() -> None:
    assert nitro_fields(EXPECTED) == (RECEIPT_KEY, BINDING, NONCE)
    assert nitro_fields(ExpectedBinding(RECEIPT_KEY)) == (RECEIPT_KEY, None, None)


@pytest.mark.parametrize(("key", "binding"), [(bytes(31), None), (bytes(33), None), (bytes(32), bytes(31))])
def test_an_expectation_has_32_bytes(key: bytes, binding: bytes | None) -> None:
    with pytest.raises(MalformedError):
        ExpectedBinding(key, binding)


INPUTS = {
    "client_hello": b"hello",
    "suite": 2,
    "session_id": bytes(16),
    "kem_public_key": b"k" * 32,
    "receipt_key": RECEIPT_KEY,
    "identity": b"identity",
    "limits": b"limits",
}


def test_channel_binding_is_the_transcript_that_channel_section_2_prints() -> None:
    def lp(value: bytes) -> bytes:
        return len(value).to_bytes(4, "big") + value

    transcript = (
        lp(b"ephemeralml/channel/1/binding")
        + lp(b"hello")
        + b"\x00\x02"
        + lp(bytes(16))
        + lp(b"k" * 32)
        + lp(RECEIPT_KEY)
        + lp(hashlib.sha256(b"identity").digest())
        + lp(b"limits")
    )
    assert channel_binding(**INPUTS) == hashlib.sha256(transcript).digest()


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_every_input_changes_the_channel_binding(name: str) -> None:
    value = INPUTS[name]
    other = value + 1 if isinstance(value, int) else value + b"x"
    assert channel_binding(**INPUTS | {name: other}) != channel_binding(**INPUTS)
