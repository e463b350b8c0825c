"""Ed25519: vectors of RFC 8032, and the keys and signatures it would let through."""

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto.keys import MAX_PEM_BYTES, SMALL_ORDER_ENCODINGS, PrivateKey, PublicKey
from ephemeralml.errors import MalformedError

RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
"""Secret key, public key, message, signature (RFC 8032, section 7.1)."""

ORDER = (1 << 252) + 27_742_317_777_372_353_535_851_937_790_883_648_493
PRIME = (1 << 255) - 19
D = -121_665 * pow(121_666, -1, PRIME) % PRIME

IDENTITY = b"\1" + bytes(31)
KEY = PrivateKey.from_seed(bytes(range(32)))


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    key = PrivateKey.from_seed(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert PublicKey.parse(public).verify(bytes.fromhex(signature), bytes.fromhex(message))
    assert not key.public.verify(bytes.fromhex(signature), bytes.fromhex(message) + b"!")


def add(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    """Addition on the curve, as RFC 8032, section 5.1.4 has it, in affine coordinates."""
    (x1, y1), (x2, y2) = left, right
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME)
    return x % PRIME, y % PRIME


def point(encoding: bytes) -> tuple[int, int]:
    """The point that 32 bytes stand for, canonical or not."""
    number = int.from_bytes(encoding, "little")
    sign, y = number >> 255, (number & (1 << 255) - 1) % PRIME
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    root = pow(square, (PRIME + 3) // 8, PRIME)
    if (root * root - square) % PRIME:
        root = root * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert (root * root - square) % PRIME == 0
    return (PRIME - root if root & 1 != sign else root) % PRIME, y


def test_the_list_of_small_orders_holds_fourteen() -> None:
    assert len(SMALL_ORDER_ENCODINGS) == 14


@pytest.mark.parametrize("encoding", sorted(SMALL_ORDER_ENCODINGS), ids=bytes.hex)
def test_each_of_them_has_small_order(encoding: bytes) -> None:
    eighth = point(encoding)
    for _ in range(3):
        eighth = add(eighth, eighth)
    assert eighth == (0, 1)


def test_the_list_is_complete() -> None:
    """Eight points; an encoding may say y or y + p where that fits, and either sign of x = 0."""
    seen = {point(encoding) for encoding in SMALL_ORDER_ENCODINGS}
    assert len(seen) == 8
    encodings = set()
    for x, y in seen:
        for number in (y, y + PRIME):
            if number < 1 << 255:
                signs = (0, 1) if x == 0 else (x & 1,)
                encodings |= {(number | sign << 255).to_bytes(32, "little") for sign in signs}
    assert encodings == SMALL_ORDER_ENCODINGS


@pytest.mark.parametrize("message", [b"", b"any", b"message"])
def test_signature_that_fits_every_message(message: bytes) -> None:
    """The library takes it; we must not (air-v1 section 13)."""
    signature = IDENTITY + bytes(32)
    Ed25519PublicKey.from_public_bytes(IDENTITY).verify(signature, message)
    assert not PublicKey(IDENTITY).verify(signature, message)


@pytest.mark.parametrize("encoding", sorted(SMALL_ORDER_ENCODINGS), ids=bytes.hex)
def test_small_order_key_verifies_nothing(encoding: bytes) -> None:
    key = PublicKey(encoding)
    assert key.small_order
    for r in SMALL_ORDER_ENCODINGS:
        assert not key.verify(r + bytes(32), b"message")


@pytest.mark.parametrize("encoding", sorted(SMALL_ORDER_ENCODINGS), ids=bytes.hex)
def test_small_order_r_verifies_nothing(encoding: bytes) -> None:
    """With R of order one, S = k·a fits; whoever knows the key can make such a signature."""
    secret = hashlib.sha512(bytes(range(32))).digest()[:32]
    scalar = int.from_bytes(secret, "little") & ~7 & ~(1 << 255) | 1 << 254
    k = int.from_bytes(hashlib.sha512(encoding + KEY.public.raw + b"message").digest(), "little")
    signature = encoding + (k * scalar % ORDER).to_bytes(32, "little")
    if encoding == IDENTITY:
        Ed25519PublicKey.from_public_bytes(KEY.public.raw).verify(signature, b"message")
    assert not KEY.public.verify(signature, b"message")


def test_s_beyond_the_order() -> None:
    signature = KEY.sign(b"message")
    s = int.from_bytes(signature[32:], "little") + ORDER
    assert not KEY.public.verify(signature[:32] + s.to_bytes(32, "little"), b"message")


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_signatures_of_other_shape(signature: bytes) -> None:
    assert not KEY.public.verify(signature, b"message")


def test_longer_signature() -> None:
    assert not KEY.public.verify(KEY.sign(b"message") + b"\0", b"message")


def test_another_key() -> None:
    assert not PrivateKey.generate().public.verify(KEY.sign(b"message"), b"message")


def test_string_that_is_no_point_verifies_nothing() -> None:
    raw = next(bytes([n]) + bytes(31) for n in range(2, 50) if not on_curve(n))
    assert not PublicKey(raw).verify(KEY.sign(b"message"), b"message")


def on_curve(y: int) -> bool:
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    return pow(square, (PRIME - 1) // 2, PRIME) in (0, 1)


@given(st.binary(max_size=64), st.integers(0, 511))
def test_any_flipped_bit_is_refused(message: bytes, bit: int) -> None:
    signature = bytearray(KEY.sign(message))
    assert KEY.public.verify(bytes(signature), message)
    signature[bit // 8] ^= 1 << bit % 8
    assert not KEY.public.verify(bytes(signature), message)


@pytest.mark.fuzz
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=70), st.binary(max_size=10))
def test_noise_verifies_nothing(raw: bytes, signature: bytes, message: bytes) -> None:
    assert not PublicKey(raw).verify(signature, message)


# --- forms ---


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_keys_of_other_sizes(size: int) -> None:
    with pytest.raises(MalformedError, match=f"32 bytes, not {size}"):
        PublicKey(bytes(size))
    with pytest.raises(MalformedError, match=f"32 bytes, not {size}"):
        PrivateKey.from_seed(bytes(size))


def test_text_form() -> None:
    key = KEY.public
    assert str(key) == f"ed25519:{key.raw.hex()}"
    assert PublicKey.parse(str(key)) == PublicKey.parse(key.raw.hex()) == key
    assert repr(key) == f"PublicKey(ed25519:{key.raw.hex()})"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        "ed25519:" + "AB" * 32,
        "ed25519:" + "ab" * 31,
        "ed25519:" + "ab" * 33,
        "ED25519:" + "ab" * 32,
        "ed25519:ed25519:" + "ab" * 32,
        "ab" * 31 + " a",
        " " + "ab" * 32,
        "ab" * 32 + "\n",
        "ab" * 31 + "zz",
        "\u0660" * 64,  # zeros, in another script
    ],
)
def test_text_that_is_no_key(text: str) -> None:
    with pytest.raises(MalformedError, match="64 lower-case hex"):
        PublicKey.parse(text)


def test_equality_and_hash() -> None:
    key, same, other = KEY.public, PublicKey(KEY.public.raw), PrivateKey.generate().public
    assert key == same
    assert len({key, same, other}) == 2
    assert key != other
    assert key != key.raw


def test_buffers_are_copied() -> None:
    raw = bytearray(KEY.public.raw)
    key = PublicKey(raw)
    raw[0] ^= 1
    assert key == KEY.public


def test_key_id() -> None:
    assert KEY.public.keyid == hashlib.sha256(KEY.public.raw).hexdigest()[:16]


def test_private_key_is_in_no_text() -> None:
    assert str(KEY) == repr(KEY) == f"PrivateKey(public=ed25519:{KEY.public.raw.hex()})"
    assert bytes(range(32)).hex() not in repr(KEY)


def test_pem_round_trip() -> None:
    pem = KEY.to_pem()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert PrivateKey.from_pem(pem).sign(b"x") == KEY.sign(b"x")


def pem_of(key: object, *, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, encryption)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "key",
    [
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65_537, 2_048),
    ],
    ids=lambda key: type(key).__name__,
)
def test_pem_of_another_kind(key: object) -> None:
    with pytest.raises(MalformedError, match="not an Ed25519 key"):
        PrivateKey.from_pem(pem_of(key))


def test_pem_with_a_password() -> None:
    with pytest.raises(MalformedError, match="unencrypted"):
        PrivateKey.from_pem(pem_of(Ed25519PrivateKey.generate(), password=b"secret"))


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"not PEM",
        KEY.to_pem()[:-40],
        KEY.to_pem().replace(b"PRIVATE", b"PUBLIC"),
        KEY.to_pem().replace(b"MC4", b"MC5"),
        b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
    ],
)
def test_pem_that_is_broken(pem: bytes) -> None:
    with pytest.raises(MalformedError, match="unencrypted PKCS #8"):
        PrivateKey.from_pem(pem)


def test_pem_of_unknown_algorithm() -> None:
    """cryptography says so with an error of another family."""
    unknown = KEY.to_pem().replace(b"MC4CAQAwBQYDK2Vw", b"MC4CAQAwBQYDK2V7")
    assert unknown != KEY.to_pem()
    with pytest.raises(MalformedError, match="unencrypted PKCS #8"):
        PrivateKey.from_pem(unknown)


def test_pem_size_limit() -> None:
    longest = KEY.to_pem().ljust(MAX_PEM_BYTES, b"\n")
    PrivateKey.from_pem(longest)
    with pytest.raises(MalformedError, match="at most 16384"):
        PrivateKey.from_pem(longest + b"\n")


@pytest.mark.fuzz
@given(st.data())
def test_only_our_error_leaves_a_key_file(data: st.DataObject) -> None:
    pem = bytearray(KEY.to_pem())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(pem)))
        pem[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        PrivateKey.from_pem(bytes(pem))
    except MalformedError:
        return
