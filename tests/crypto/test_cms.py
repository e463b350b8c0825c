"""A KMS's envelope: key-release.md section 2, section 9."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import ber, cms
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError

VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "cms"
DOCUMENT = json.loads((VECTORS / "envelopes.json").read_text())
DEK = bytes.fromhex(DOCUMENT["dek"])
MESSAGES = {entry["name"]: bytes.fromhex(entry["message"]) for entry in DOCUMENT["messages"]}
ONE_MESSAGE = "the key's envelope does not open with this boot's key"


def named(outcome: str) -> list[str]:
    return [entry["name"] for entry in DOCUMENT["messages"] if entry["outcome"] == outcome]


def private_key(name: str = "recipient") -> rsa.RSAPrivateKey:
    key = load_pem_private_key((VECTORS / f"{name}.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


KEY = private_key()


def spki(key: object) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]


class KEY_OF_4104_BITS:  # noqa: N801 - a value
    """No prime stands behind it; only its size is looked at."""

    @staticmethod
    def public_key() -> rsa.RSAPublicKey:
        return rsa.RSAPublicNumbers(65_537, (1 << 4_103) + 1).public_key()


def unwrapped(message: bytes, key: rsa.RSAPrivateKey = KEY) -> bytes:
    with cms.unwrap(message, key) as secret:
        return bytes(secret.reveal())


def test_the_generator_makes_these_vectors() -> None:
    subprocess.run([sys.executable, VECTORS / "generate.py", "--check"], check=True, timeout=60)


@pytest.mark.parametrize("name", named("opens"))
def test_accepted_forms(name: str) -> None:
    assert unwrapped(MESSAGES[name]) == DEK


@pytest.mark.parametrize("name", named("malformed"))
def test_other_structures(name: str) -> None:
    with pytest.raises(MalformedError, match="the key's envelope is") as caught:
        cms.unwrap(MESSAGES[name], KEY)
    assert caught.value.code == "KEY_RESPONSE_INVALID"


@pytest.mark.parametrize("name", named("rejected"))
def test_what_does_not_open_fails_alike(name: str) -> None:
    with pytest.raises(RejectedError) as caught:
        cms.unwrap(MESSAGES[name], KEY)
    error = caught.value
    assert (error.message, error.code, error.hint) == (ONE_MESSAGE, "KEY_RESPONSE_INVALID", None)
    assert (error.expected, error.actual, error.__cause__, error.__context__) == (None, None, None, None)


@pytest.mark.parametrize("name", [*named("rejected"), *named("opens")[:3]])
def test_every_step_is_gone_through_whatever_failed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for step in ("_content_key", "_decrypt"):
        original = getattr(cms, step)
        monkeypatch.setattr(cms, step, lambda *args, s=step, o=original: (calls.append(s), o(*args))[1])
    try:
        cms.unwrap(MESSAGES[name], KEY)
    except RejectedError:
        assert name in named("rejected")
    assert calls == ["_content_key", "_decrypt"]


@pytest.mark.parametrize("name", ["wrong-recipient", "content-key-16-bytes", "content-47-bytes", "content-empty"])
def test_what_stands_in_for_a_failed_step_is_never_believed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the random key, or the zeros in the content's place, came out as a data key."""
    monkeypatch.setattr(cms, "_decrypt", lambda *_: (bytearray(DEK), True))
    with pytest.raises(RejectedError, match="does not open"):
        cms.unwrap(MESSAGES[name], KEY)


def test_content_over_the_limit() -> None:
    with pytest.raises(RejectedError, match="does not open"):
        cms.unwrap(MESSAGES["content-4128-bytes"], KEY, plaintext_bytes=None)


def test_secrets_are_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    wiped = []

    class Watched(cms.SecretBytes):
        def __init__(self, data: bytearray) -> None:
            super().__init__(data)
            self.size = len(data)

        def wipe(self) -> None:
            wiped.append(self.size)
            super().wipe()

    monkeypatch.setattr(cms, "wipe_bytes", lambda secret: wiped.append(len(secret)))
    monkeypatch.setattr(cms, "SecretBytes", Watched)
    cms.unwrap(MESSAGES["primitive-content"], KEY)
    assert wiped == [63, 32]  # the padded plaintext in its buffer, the content key
    wiped.clear()
    with pytest.raises(RejectedError):
        cms.unwrap(MESSAGES["key-33-bytes"], KEY)
    assert wiped == [63, 32, 33]  # and what was no key
    wiped.clear()
    cms.wrap(KEY.public_key(), DEK, constructed=True)
    assert wiped == [32]


def outcome(message: bytes) -> bytes | EphemeralError:
    """What comes out: a key, or one of the errors there are."""
    try:
        return unwrapped(message)
    except (MalformedError, RejectedError) as error:
        return error


def is_expected(error: EphemeralError) -> bool:
    return getattr(error, "code", "") == "KEY_RESPONSE_INVALID" and (
        isinstance(error, MalformedError) or error.message == ONE_MESSAGE
    )


def flips() -> Iterator[tuple[int, bytes]]:
    for name in ("primitive-content", "constructed-content-indefinite-three-parts"):
        message = MESSAGES[name]
        for place in range(len(message)):
            for bit in (0x01, 0x20, 0x80):
                yield place, message[:place] + bytes([message[place] ^ bit]) + message[place + 1 :]


def test_every_byte_flipped() -> None:
    """Only the key's identifier, which nobody reads, may change without changing what comes out."""
    unread = 0
    for _, message in flips():
        result = outcome(message)
        # Nothing is authenticated: another key may come out, and then opens no package.
        assert isinstance(result, bytes) or is_expected(result)
        unread += result == DEK
    assert unread == 2 * 3 * 20


def test_every_prefix() -> None:
    message = MESSAGES["constructed-content-indefinite-three-parts"]
    for end in range(len(message)):
        with pytest.raises(MalformedError):
            cms.unwrap(message[:end], KEY)


@pytest.mark.parametrize("constructed", [False, True])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32, 1_024, 4_096])
def test_round_trip(size: int, *, constructed: bool) -> None:
    plaintext = bytes(value & 0xFF for value in range(size))
    message = cms.wrap(KEY.public_key(), plaintext, constructed=constructed)
    assert message[:2] == b"\x30\x80"
    assert message.endswith(b"\0\0")
    with_bounds = None if size == 0 else size
    secret = cms.unwrap(message, KEY, plaintext_bytes=with_bounds)
    if size:
        assert bytes(secret.reveal()) == plaintext
    if size != 32:
        with pytest.raises(RejectedError, match="does not open"):
            cms.unwrap(message, KEY)


def test_the_form_of_the_content_is_the_one_asked_for() -> None:
    for constructed, tag in ((False, 0x80), (True, 0xA0)):
        message = cms.wrap(spki(KEY), bytes(2_000), constructed=constructed)
        envelope = ber.read(message).children[1].children[0]
        content = envelope.children[2].children[2]
        assert content.tag == tag
        assert len(content.children) == (2 if constructed else 0)


def test_a_message_is_for_one_recipient_and_once_only() -> None:
    first, second = (cms.wrap(KEY.public_key(), DEK, constructed=False) for _ in range(2))
    assert first != second
    with pytest.raises(RejectedError, match="does not open"):
        cms.unwrap(first, private_key("stranger"))


def test_too_long_a_plaintext() -> None:
    with pytest.raises(ValueError, match="4097 bytes to wrap"):
        cms.wrap(KEY.public_key(), bytes(4_097), constructed=False)


def test_recipient_keys() -> None:
    assert cms.recipient_key(spki(KEY)).key_size == 2_048
    for key, why in (
        (ec.generate_private_key(ec.SECP384R1()), "not an RSA key"),
        (ed25519.Ed25519PrivateKey.generate(), "not an RSA key"),
        (rsa.generate_private_key(65_537, 1_024), "1024 bits"),
        (KEY_OF_4104_BITS, "4104 bits"),
    ):
        with pytest.raises(MalformedError, match=why):
            cms.wrap(spki(key), DEK, constructed=False)
    for noise in (b"", b"\x30\x00", spki(KEY)[:-1], spki(KEY) + b"\0", bytes(32)):
        with pytest.raises(MalformedError, match="SubjectPublicKeyInfo"):
            cms.recipient_key(noise)


def _of_numbers(modulus: int, exponent: int) -> bytes:
    """The DER of an RSA key that no library would make."""

    def integer(value: int) -> bytes:
        return ber.encode(ber.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    key = ber.encode(ber.SEQUENCE, integer(modulus) + integer(exponent))
    algorithm = ber.encode(ber.SEQUENCE, bytes.fromhex("06092a864886f70d0101010500"))
    return ber.encode(ber.SEQUENCE, algorithm + ber.encode(3, b"\0" + key))


def test_numbers_that_no_rsa_key_has() -> None:
    modulus = KEY.public_key().public_numbers().n
    for fine in (3, 65_537, (1 << 31) + 1):
        assert cms.recipient_key(_of_numbers(modulus, fine)).public_numbers().e == fine
    for wrong in ((modulus - 1, 65_537), (1 << 2_047, 65_537), (modulus, (1 << 32) + 1), (modulus, (1 << 2_040) + 1)):
        with pytest.raises(MalformedError, match="even modulus or a huge exponent"):
            cms.recipient_key(_of_numbers(*wrong))


@pytest.mark.fuzz
@given(st.binary(max_size=600))
def test_noise_gives_only_our_errors(noise: bytes) -> None:
    with pytest.raises(EphemeralError):
        cms.unwrap(noise, KEY)


@pytest.mark.fuzz
@given(st.sampled_from(sorted(MESSAGES)), st.data())
def test_damaged_messages_give_only_our_errors(name: str, data: st.DataObject) -> None:
    message = bytearray(MESSAGES[name][:2_000])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(message)))
        message[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    result = outcome(bytes(message))
    assert isinstance(result, bytes) or is_expected(result)
