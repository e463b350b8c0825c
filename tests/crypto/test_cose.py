"""COSE_Sign1: structure, what is signed, and the two algorithms."""

from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import cbor, cose
from ephemeralml.crypto.cbor import Pairs
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import MalformedError

KEY = PrivateKey.from_seed(bytes(range(32)))
P384 = ec.generate_private_key(ec.SECP384R1())
P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
PAYLOAD = b"This is the content."
SIGNATURE = bytes(64)


def parse(data: bytes) -> cose.Sign1:
    return cose.parse(data, max_bytes=4_096)


def encoded(*parts: Any, tag: int | None = None) -> bytes:
    """Any array, tagged or not, as another implementation writes it."""
    return cbor2.dumps(cbor2.CBORTag(tag, list(parts)) if tag is not None else list(parts))


# --- what is signed ---


def test_signed_structure_byte_by_byte() -> None:
    """["Signature1", h'a10127', h'', h'546869…'] (RFC 9052, section 4.4)."""
    expected = "846a5369676e61747572653143a101274054" + PAYLOAD.hex()
    assert cose.sig_structure(cose.PROTECTED_EDDSA, PAYLOAD).hex() == expected


def test_protected_headers_say_what_they_are() -> None:
    assert cbor.decode(cose.PROTECTED_EDDSA, max_bytes=99) == {1: cose.ALG_EDDSA}
    assert cbor.decode(cose.PROTECTED_ES384, max_bytes=99) == {1: cose.ALG_ES384}


def test_published_example_of_the_working_group() -> None:
    """EdDSA over "This is the content." with the key of RFC 8032's test 1 and a key id outside."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = PrivateKey.from_seed(seed)
    signature = cose.sign_eddsa(key, cose.PROTECTED_EDDSA, PAYLOAD)
    assert signature == key.sign(cbor2.dumps(["Signature1", b"\xa1\x01\x27", b"", PAYLOAD]))
    message = parse(encoded(cose.PROTECTED_EDDSA, {4: b"11"}, PAYLOAD, signature, tag=18))
    assert message.unprotected == Pairs(((4, b"11"),))
    assert message.payload == PAYLOAD
    assert cose.verify_eddsa(key.public, message.protected, PAYLOAD, message.signature)


# --- structure ---


@pytest.mark.parametrize("tagged", [True, False])
def test_round_trip(tagged: bool) -> None:
    data = cose.encode(cose.PROTECTED_EDDSA, PAYLOAD, SIGNATURE, tagged=tagged)
    assert data == encoded(cose.PROTECTED_EDDSA, {}, PAYLOAD, SIGNATURE, tag=18 if tagged else None)
    message = parse(data)
    assert message == cose.Sign1(tagged, cose.PROTECTED_EDDSA, Pairs(((1, -8),)), Pairs(()), PAYLOAD, SIGNATURE)


def test_empty_protected_string_is_an_empty_map() -> None:
    message = parse(encoded(b"", {}, None, b""))
    assert (message.protected, message.protected_header, message.payload) == (b"", Pairs(()), None)


def test_bytes_are_kept_as_received() -> None:
    overlong = bytes.fromhex("a118 0127".replace(" ", ""))
    message = parse(encoded(overlong, {}, PAYLOAD, SIGNATURE))
    assert message.protected == overlong
    assert message.protected_header == Pairs(((1, -8),))


def test_indefinite_lengths_parse() -> None:
    data = bytes.fromhex("9f43a10127bfff5f41004101ff40ff")
    assert parse(data).payload == b"\0\1"


NO_SIGN1 = {
    "tag 17": encoded(b"", {}, b"", b"", tag=17),
    "tag 98": encoded(b"", {}, b"", b"", tag=98),
    "two tags": cbor2.dumps(cbor2.CBORTag(18, cbor2.CBORTag(18, [b"", {}, b"", b""]))),
    "self-described": cbor2.dumps(cbor2.CBORTag(55_799, cbor2.CBORTag(18, [b"", {}, b"", b""]))),
    "three parts": encoded(b"", {}, b""),
    "five parts": encoded(b"", {}, b"", b"", b""),
    "map": cbor2.dumps({0: b"", 1: {}, 2: b"", 3: b""}),
    "byte string": cbor2.dumps(encoded(b"", {}, b"", b"")),
    "protected is a map": encoded({}, {}, b"", b""),
    "protected is nil": encoded(None, {}, b"", b""),
    "protected holds an array": encoded(b"\x80", {}, b"", b""),
    "protected holds rubbish": encoded(b"\xff", {}, b"", b""),
    "protected holds two maps": encoded(b"\xa0\xa0", {}, b"", b""),
    "protected repeats a label": encoded(bytes.fromhex("a201270127"), {}, b"", b""),
    "protected repeats a label, overlong": encoded(bytes.fromhex("a20127180127"), {}, b"", b""),
    "unprotected is bytes": encoded(b"", b"\xa0", b"", b""),
    "unprotected is nil": encoded(b"", None, b"", b""),
    "unprotected repeats a label": bytes.fromhex("8440a2040004004040"),
    "payload is text": encoded(b"", {}, "", b""),
    "payload is an array": encoded(b"", {}, [], b""),
    "payload is undefined": bytes.fromhex("8440a0f740"),
    "signature is text": encoded(b"", {}, b"", ""),
    "signature is nil": encoded(b"", {}, b"", None),
    "trailing byte": encoded(b"", {}, b"", b"") + b"\0",
    "nothing": b"",
    "huge payload declared": bytes.fromhex("8440a05b0000010000000000"),
    "deep header": encoded(b"", {4: [[[[[[[[0]]]]]]]]}, b"", b""),
    "too long": encoded(b"", {}, bytes(4_096), b""),
}


@pytest.mark.parametrize("data", NO_SIGN1.values(), ids=NO_SIGN1.keys())
def test_no_sign1(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(data)


@pytest.mark.fuzz
@given(st.data())
def test_only_our_error_leaves(data: st.DataObject) -> None:
    message = bytearray(cose.encode(cose.PROTECTED_EDDSA, PAYLOAD, SIGNATURE, tagged=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(message)))
        message[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        parsed = parse(bytes(message))
    except MalformedError:
        return
    assert isinstance(parsed.protected, bytes)


@pytest.mark.fuzz
@given(st.binary(max_size=100))
def test_only_our_error_leaves_noise(noise: bytes) -> None:
    try:
        parse(noise)
    except MalformedError:
        return


# --- signatures ---


@pytest.mark.parametrize(
    ("protected", "payload"),
    [
        (cose.PROTECTED_ES384, PAYLOAD),
        (cose.PROTECTED_EDDSA, PAYLOAD + b"!"),
        (b"", PAYLOAD),
        (cose.PROTECTED_EDDSA, b""),
    ],
)
def test_eddsa_covers_header_and_payload(protected: bytes, payload: bytes) -> None:
    signature = cose.sign_eddsa(KEY, cose.PROTECTED_EDDSA, PAYLOAD)
    assert cose.verify_eddsa(KEY.public, cose.PROTECTED_EDDSA, PAYLOAD, signature)
    assert not cose.verify_eddsa(KEY.public, protected, payload, signature)


def test_es384_round_trip() -> None:
    signature = cose.sign_es384(P384, cose.PROTECTED_ES384, PAYLOAD)
    assert len(signature) == 96
    assert cose.verify_es384(P384.public_key(), cose.PROTECTED_ES384, PAYLOAD, signature)
    assert not cose.verify_es384(P384.public_key(), cose.PROTECTED_ES384, PAYLOAD + b"!", signature)
    assert not cose.verify_es384(P384.public_key(), cose.PROTECTED_EDDSA, PAYLOAD, signature)


def test_es384_is_plain_ecdsa_over_the_structure() -> None:
    r, s = decode_dss_signature(P384.sign(cose.sig_structure(b"", b""), ec.ECDSA(hashes.SHA384())))
    assert cose.verify_es384(P384.public_key(), b"", b"", r.to_bytes(48, "big") + s.to_bytes(48, "big"))
    r, s = decode_dss_signature(P384.sign(cose.sig_structure(b"", b""), ec.ECDSA(hashes.SHA256())))
    assert not cose.verify_es384(P384.public_key(), b"", b"", r.to_bytes(48, "big") + s.to_bytes(48, "big"))


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        bytes(95),
        bytes(96),
        bytes(97),
        b"\xff" * 96,
        bytes(48) + b"\1" * 48,
        b"\1" * 48 + bytes(48),
        P384_ORDER.to_bytes(48, "big") * 2,
    ],
)
def test_es384_values_out_of_range(signature: bytes) -> None:
    assert not cose.verify_es384(P384.public_key(), cose.PROTECTED_ES384, PAYLOAD, signature)


@pytest.mark.parametrize("where", [0, 48])
def test_es384_values_with_a_leading_zero(where: int) -> None:
    """The same two numbers, in 97 bytes."""
    longer = _SIGNED[:where] + b"\0" + _SIGNED[where:]
    assert cose.verify_es384(P384.public_key(), cose.PROTECTED_ES384, PAYLOAD, _SIGNED)
    assert not cose.verify_es384(P384.public_key(), cose.PROTECTED_ES384, PAYLOAD, longer)


def test_es384_signature_in_der_is_none() -> None:
    signature = P384.sign(cose.sig_structure(cose.PROTECTED_ES384, PAYLOAD), ec.ECDSA(hashes.SHA384()))
    assert not cose.verify_es384(P384.public_key(), cose.PROTECTED_ES384, PAYLOAD, signature)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()])
def test_es384_with_a_key_of_another_curve(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    r, s = decode_dss_signature(key.sign(cose.sig_structure(b"", b""), ec.ECDSA(hashes.SHA384())))
    size = 48 if curve.key_size < 384 else 66
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert not cose.verify_es384(key.public_key(), b"", b"", signature)


@given(st.integers(0, 96 * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    signature = bytearray(_SIGNED)
    signature[bit // 8] ^= 1 << bit % 8
    assert not cose.verify_es384(P384.public_key(), cose.PROTECTED_ES384, PAYLOAD, bytes(signature))


_SIGNED = cose.sign_es384(P384, cose.PROTECTED_ES384, PAYLOAD)
