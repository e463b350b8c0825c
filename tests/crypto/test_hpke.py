"""HPKE, against a short reading of RFC 9180 that shares no code with it.

The reference below is checked with the RFC's own vector (A.2.1, base mode) and
then opens what the module seals, and seals what the module opens.
"""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import hpke
from ephemeralml.crypto.hpke import TAG_BYTES, Aead, Kem, RecipientKey
from ephemeralml.errors import MalformedError, RejectedError

SUITES = [(kem, aead) for kem in Kem for aead in Aead]
INFO = b"ephemeralml test"
SECRET = bytes(range(32))

RFC_SECRET_KEY = "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"
RFC_PUBLIC_KEY = "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a"
RFC_ENC = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
RFC_INFO = b"Ode on a Grecian Urn"
RFC_CIPHERTEXT = "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"


def extract(salt: bytes, suite: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def expand(key: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    block = output = b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + labelled + bytes([counter]), "sha256")
        output += block
    return output[:length]


def cipher(shared: bytes, kem: int, aead: Aead, info: bytes) -> tuple[ChaCha20Poly1305 | AESGCM, bytes]:
    """Key schedule of base mode (RFC 9180, section 5.1): the cipher and its first nonce."""
    kind, number = (ChaCha20Poly1305, 3) if aead is Aead.CHACHA20_POLY1305 else (AESGCM, 2)
    suite = b"HPKE" + kem.to_bytes(2, "big") + b"\0\1" + number.to_bytes(2, "big")
    context = b"\0" + extract(b"", suite, b"psk_id_hash", b"") + extract(b"", suite, b"info_hash", info)
    secret = extract(shared, suite, b"secret", b"")
    return kind(expand(secret, suite, b"key", context, 32)), expand(secret, suite, b"base_nonce", context, 12)


def x25519_shared(exchanged: bytes, enc: bytes, public: bytes) -> bytes:
    """DHKEM(X25519, HKDF-SHA256), RFC 9180 section 4.1."""
    suite = b"KEM\0\x20"
    return expand(extract(b"", suite, b"eae_prk", exchanged), suite, b"shared_secret", enc + public, 32)


def x_wing_shared(ml_kem: bytes, exchanged: bytes, ephemeral: bytes, public: bytes) -> bytes:
    """The X-Wing combiner: SHA3-256 over both secrets, both X25519 keys and the label."""
    return hashlib.sha3_256(ml_kem + exchanged + ephemeral + public + b"\\./" + b"/^\\").digest()


def reference_open(
    kem: Kem, aead: Aead, x25519: X25519PrivateKey, ml_kem: MLKEM768PrivateKey, sealed: bytes, info: bytes
) -> bytes:
    enc, ciphertext = sealed[: kem.enc_bytes], sealed[kem.enc_bytes :]
    ephemeral, public = enc[-32:], x25519.public_key().public_bytes_raw()
    exchanged = x25519.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    if kem is Kem.X25519:
        shared = x25519_shared(exchanged, enc, public)
    else:
        shared = x_wing_shared(ml_kem.decapsulate(enc[:-32]), exchanged, ephemeral, public)
    box, nonce = cipher(shared, kem.value, aead, info)
    return box.decrypt(nonce, ciphertext, None)


def reference_seal(kem: Kem, aead: Aead, public: bytes, plaintext: bytes, info: bytes) -> bytes:
    ephemeral = X25519PrivateKey.generate()
    enc = ephemeral.public_key().public_bytes_raw()
    exchanged = ephemeral.exchange(X25519PublicKey.from_public_bytes(public[-32:]))
    if kem is Kem.X25519:
        shared = x25519_shared(exchanged, enc, public)
    else:
        ml_kem, encapsulated = MLKEM768PublicKey.from_public_bytes(public[:-32]).encapsulate()
        shared, enc = x_wing_shared(ml_kem, exchanged, enc, public[-32:]), encapsulated + enc
    box, nonce = cipher(shared, kem.value, aead, info)
    return enc + box.encrypt(nonce, plaintext, None)


def test_reference_opens_the_vector_of_the_rfc() -> None:
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(RFC_SECRET_KEY))
    assert private.public_key().public_bytes_raw().hex() == RFC_PUBLIC_KEY
    enc = bytes.fromhex(RFC_ENC)
    exchanged = private.exchange(X25519PublicKey.from_public_bytes(enc))
    shared = x25519_shared(exchanged, enc, bytes.fromhex(RFC_PUBLIC_KEY))
    box, nonce = cipher(shared, 0x20, Aead.CHACHA20_POLY1305, RFC_INFO)
    plaintext = box.decrypt(nonce, bytes.fromhex(RFC_CIPHERTEXT), b"Count-0")
    assert plaintext == b"Beauty is truth, truth beauty"


@pytest.mark.parametrize(("kem", "aead"), SUITES)
def test_reference_seals_and_we_open(kem: Kem, aead: Aead) -> None:
    key = hpke.generate(kem)
    sealed = reference_seal(kem, aead, key.public, SECRET, INFO)
    assert key.open(aead, sealed, INFO, plaintext_bytes=32) == SECRET


@pytest.mark.parametrize(("kem", "aead"), SUITES)
def test_we_seal_and_reference_opens(kem: Kem, aead: Aead) -> None:
    x25519, ml_kem = X25519PrivateKey.generate(), MLKEM768PrivateKey.generate()
    prefix = b"" if kem is Kem.X25519 else ml_kem.public_key().public_bytes_raw()
    public = prefix + x25519.public_key().public_bytes_raw()
    sealed = hpke.seal(kem, aead, public, SECRET, INFO)
    assert reference_open(kem, aead, x25519, ml_kem, sealed, INFO) == SECRET


@pytest.mark.parametrize(("kem", "aead"), SUITES)
def test_round_trip_and_sizes(kem: Kem, aead: Aead) -> None:
    key = hpke.generate(kem)
    sealed = hpke.seal(kem, aead, key.public, SECRET, INFO)
    assert len(key.public) == kem.public_key_bytes
    assert len(sealed) == kem.enc_bytes + len(SECRET) + TAG_BYTES
    assert key.open(aead, sealed, INFO, plaintext_bytes=32) == SECRET
    assert hpke.seal(kem, aead, key.public, SECRET, INFO) != sealed


def test_sizes_of_the_registry() -> None:
    assert [(kem.value, kem.public_key_bytes, kem.enc_bytes) for kem in Kem] == [
        (0x0020, 32, 32),
        (0x647A, 1_216, 1_120),
    ]


def refused(key: RecipientKey, aead: Aead, sealed: bytes, info: bytes = INFO) -> None:
    with pytest.raises(RejectedError, match=r"does not open$") as caught:
        key.open(aead, sealed, info, plaintext_bytes=32)
    assert caught.value.code == "HPKE_OPEN_FAILED"


@pytest.mark.parametrize(("kem", "aead"), SUITES)
def test_what_does_not_open(kem: Kem, aead: Aead) -> None:
    key = hpke.generate(kem)
    sealed = hpke.seal(kem, aead, key.public, SECRET, INFO)
    other = Aead.AES_256_GCM if aead is Aead.CHACHA20_POLY1305 else Aead.CHACHA20_POLY1305
    refused(key, aead, sealed, INFO + b"!")
    refused(key, other, sealed)
    refused(hpke.generate(kem), aead, sealed)
    refused(key, aead, bytes(len(sealed)))
    refused(key, aead, b"\xff" * len(sealed))


@pytest.mark.parametrize(("kem", "aead"), SUITES)
@pytest.mark.parametrize("where", [0, 31, -49, -48, -17, -16, -1])
def test_any_part_changed(kem: Kem, aead: Aead, where: int) -> None:
    key = hpke.generate(kem)
    sealed = bytearray(hpke.seal(kem, aead, key.public, SECRET, INFO))
    sealed[where] ^= 1
    refused(key, aead, bytes(sealed))


@pytest.mark.parametrize(("kem", "aead"), SUITES)
@pytest.mark.parametrize("change", [-1, 1])
def test_other_length(kem: Kem, aead: Aead, change: int) -> None:
    key = hpke.generate(kem)
    sealed = hpke.seal(kem, aead, key.public, bytes(32 + change), INFO)
    with pytest.raises(MalformedError, match="ciphertext of"):
        key.open(aead, sealed, INFO, plaintext_bytes=32)
    with pytest.raises(MalformedError, match="ciphertext of 0"):
        key.open(aead, b"", INFO, plaintext_bytes=32)


@pytest.mark.parametrize("kem", list(Kem))
@pytest.mark.parametrize("change", [-1, 1])
def test_public_key_of_other_length(kem: Kem, change: int) -> None:
    with pytest.raises(MalformedError, match="public key of"):
        hpke.seal(kem, Aead.AES_256_GCM, bytes(kem.public_key_bytes + change), SECRET, INFO)


@pytest.mark.parametrize("low", ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f"])
@pytest.mark.parametrize("kem", list(Kem))
def test_public_key_of_low_order(kem: Kem, low: str) -> None:
    """The exchange would give zeros, whatever the sender's key."""
    public = hpke.generate(kem).public[:-32] + bytes.fromhex(low)
    with pytest.raises(MalformedError, match="not a usable"):
        hpke.seal(kem, Aead.AES_256_GCM, public, SECRET, INFO)


@pytest.mark.parametrize("kem", list(Kem))
def test_enc_of_low_order(kem: Kem) -> None:
    key = hpke.generate(kem)
    sealed = hpke.seal(kem, Aead.AES_256_GCM, key.public, SECRET, INFO)
    end = kem.enc_bytes
    refused(key, Aead.AES_256_GCM, sealed[: end - 32] + bytes(32) + sealed[end:])


def test_ml_kem_key_with_coefficients_too_large() -> None:
    public = b"\xff" * 1_184 + hpke.generate(Kem.X25519).public
    with pytest.raises(MalformedError, match="not a usable X_WING"):
        hpke.seal(Kem.X_WING, Aead.AES_256_GCM, public, SECRET, INFO)


def test_private_key_is_in_no_text() -> None:
    for kem in Kem:
        assert repr(hpke.generate(kem)) == str(hpke.generate(kem)) == f"RecipientKey({kem.name})"


@pytest.mark.fuzz
@given(st.sampled_from(SUITES), st.binary(max_size=1_300))
def test_noise_gives_only_our_errors(suite: tuple[Kem, Aead], noise: bytes) -> None:
    kem, aead = suite
    with pytest.raises((MalformedError, RejectedError)):
        _KEYS[kem].open(aead, noise, INFO, plaintext_bytes=32)
    size = kem.enc_bytes + 48
    refused(_KEYS[kem], aead, (noise + bytes(size))[:size])


_KEYS = {kem: hpke.generate(kem) for kem in Kem}
