"""Records: every change, drop, repeat, move and cut is noticed (channel section 3)."""

import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.channel.frames import HEADER_BYTES, MAX_PLAINTEXT, FrameReader
from ephemeralml.channel.key_schedule import DirectionKey, next_generation
from ephemeralml.channel.records import RECORDS_PER_KEY, Opener, Sealer
from ephemeralml.channel.suites import Suite
from ephemeralml.errors import MalformedError, RejectedError

KEY = DirectionKey(b"k" * 32, b"i" * 12)
SESSION = b"s" * 16
SUITES = list(Suite)


def ends(suite: Suite = Suite.X25519_CHACHA20, sequence: int = 0) -> tuple[Sealer, Opener]:
    return Sealer(suite, KEY, SESSION, sequence=sequence), Opener(suite, KEY, SESSION, sequence=sequence)


def refuses(opener: Opener, payload: bytes) -> None:
    with pytest.raises(RejectedError) as raised:
        opener.open(payload)
    assert raised.value.code == "CHANNEL_RECORD"


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", [0, 1, 1_000, MAX_PLAINTEXT])
def test_round_trip(suite: Suite, size: int) -> None:
    sealer, opener = ends(suite)
    plaintext = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for _ in range(3):
        assert opener.open(sealer.seal(plaintext)) == plaintext


def test_nonce_and_aad_are_the_specifications() -> None:
    sealer, _ = ends(sequence=0x1_0203)
    nonce = bytes(a ^ b for a, b in zip(KEY.iv, bytes(9) + b"\x01\x02\x03", strict=True))
    aad = b"\x05\x00\x00\x01" + SESSION + struct.pack(">Q", 0x1_0203)
    assert ChaCha20Poly1305(KEY.key).decrypt(nonce, sealer.seal(b"text"), aad) == b"text"


def test_a_frame_is_header_and_sealed_pieces() -> None:
    one, _ = ends()
    two, _ = ends()
    frame = one.seal_frame((b"a", bytearray(b"bc"), memoryview(b"def")))
    assert frame[:HEADER_BYTES] == bytes.fromhex("05000001") + struct.pack(">I", 6 + 16)
    assert frame[HEADER_BYTES:] == two.seal(b"abcdef")


def test_a_plaintext_beyond_a_record() -> None:
    sealer, _ = ends()
    with pytest.raises(MalformedError):
        sealer.seal(bytes(MAX_PLAINTEXT + 1))
    assert sealer.sequence == 0


@pytest.mark.parametrize("suite", SUITES)
def test_every_byte_flipped(suite: Suite) -> None:
    payload = ends(suite)[0].seal(b"a message")
    for position in range(len(payload)):
        for mask in (0x01, 0x80):
            changed = bytearray(payload)
            changed[position] ^= mask
            refuses(ends(suite)[1], bytes(changed))


def test_every_truncation_and_an_extension() -> None:
    payload = ends()[0].seal(b"a message")
    for keep in range(len(payload)):
        refuses(ends()[1], payload[:keep])
    refuses(ends()[1], payload + b"\x00")


def test_dropped_repeated_reordered() -> None:
    sealer, opener = ends()
    first, second, third = (sealer.seal(text) for text in (b"1", b"2", b"3"))
    assert opener.open(first) == b"1"
    refuses(opener, third)  # the second was dropped
    _, opener = ends()
    opener.open(first)
    refuses(opener, first)  # repeated
    _, opener = ends()
    refuses(opener, second)  # the first two swapped


def test_a_gap_is_not_healed_by_what_follows() -> None:
    sealer, opener = ends()
    records = [sealer.seal(b"x") for _ in range(4)]
    opener.open(records[0])
    for later in records[2:]:
        _, fresh = ends()
        fresh.open(records[0])
        refuses(fresh, later)


def test_session_direction_and_key_are_bound() -> None:
    payload = ends()[0].seal(b"x")
    refuses(Opener(Suite.X25519_CHACHA20, KEY, b"t" * 16), payload)
    refuses(Opener(Suite.X25519_CHACHA20, DirectionKey(KEY.key, b"j" * 12), SESSION), payload)
    refuses(Opener(Suite.X25519_CHACHA20, DirectionKey(b"l" * 32, KEY.iv), SESSION), payload)
    refuses(Opener(Suite.HYBRID_AES256, KEY, SESSION), payload)
    with pytest.raises(ValueError, match="session id"):
        Opener(Suite.X25519_CHACHA20, KEY, b"short")


@pytest.mark.parametrize("generation", [1, 2, 40_000])
def test_rekeying(generation: int) -> None:
    boundary = generation * RECORDS_PER_KEY
    sealer, opener = ends(sequence=boundary - 2)
    for text in (b"a", b"b", b"c", b"d"):
        assert opener.open(sealer.seal(text)) == text
    after = next_generation(KEY)
    assert after != KEY
    # Record number k·2^16 is the first under the next key, not the last under this one.
    old, _ = ends(sequence=boundary - 1)
    last, first = old.seal(b"x"), old.seal(b"y")
    refuses(Opener(Suite.X25519_CHACHA20, after, SESSION, sequence=boundary - 1), last)
    assert Opener(Suite.X25519_CHACHA20, KEY, SESSION, sequence=boundary).open(first) == b"y"
    nonce = (int.from_bytes(after.iv, "big") ^ boundary).to_bytes(12, "big")
    aad = b"\x05\x00\x00\x01" + SESSION + struct.pack(">Q", boundary)
    assert ChaCha20Poly1305(after.key).decrypt(nonce, first, aad) == b"y"


def test_a_side_that_does_not_rekey_is_refused() -> None:
    sealer, _ = ends(sequence=RECORDS_PER_KEY - 1)
    sealer.seal(b"x")
    nonce = (int.from_bytes(KEY.iv, "big") ^ RECORDS_PER_KEY).to_bytes(12, "big")
    aad = b"\x05\x00\x00\x01" + SESSION + struct.pack(">Q", RECORDS_PER_KEY)
    stale = ChaCha20Poly1305(KEY.key).encrypt(nonce, b"y", aad)
    refuses(Opener(Suite.X25519_CHACHA20, KEY, SESSION, sequence=RECORDS_PER_KEY), stale)


def test_the_last_sequence_number() -> None:
    sealer, opener = ends(sequence=(1 << 64) - 1)
    assert opener.open(sealer.seal(b"x")) == b"x"
    with pytest.raises(RuntimeError):
        sealer.seal(b"x")


def test_no_key_in_a_repr() -> None:
    for thing in (*ends(), KEY):
        assert "kkkk" not in repr(thing)
        assert "6b6b" not in repr(thing)


@pytest.mark.fuzz
@given(st.binary(max_size=200), st.sampled_from(SUITES))
def test_only_our_error_leaves(payload: bytes, suite: Suite) -> None:
    refuses(ends(suite)[1], payload)


@given(st.lists(st.binary(max_size=300), max_size=5), st.sampled_from(SUITES))
def test_what_is_sealed_opens(plaintexts: list[bytes], suite: Suite) -> None:
    sealer, opener = ends(suite)
    reader = FrameReader()
    for text in plaintexts:
        reader.receive(sealer.seal_frame((text,)))
    assert [opener.open(frame.payload) for frame in reader] == plaintexts
