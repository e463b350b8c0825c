import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.channel.frames import (
    HEADER_BYTES,
    LIMITS,
    FrameReader,
    FrameType,
    VersionMismatchError,
    encode_frame,
)
from ephemeralml.errors import MalformedError


def header(kind: int = 5, reserved: int = 0, version: int = 1, length: int = 3) -> bytes:
    return struct.pack(">BBHI", kind, reserved, version, length)


def test_layout() -> None:
    assert encode_frame(FrameType.RECORD, b"abc") == bytes.fromhex("0500000100000003") + b"abc"


def test_limits_are_the_specifications() -> None:
    assert {kind.value: limit for kind, limit in LIMITS.items()} == {
        1: 16_384, 2: 3 * 1_048_576, 3: 16_384, 4: 16_384, 5: 1_048_576 + 16, 6: 256,
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(FrameType))
def test_a_payload_at_its_limit_and_beyond(kind: FrameType) -> None:
    (frame,) = FrameReader().feed(encode_frame(kind, bytes(LIMITS[kind])))
    assert len(frame.payload) == LIMITS[kind]
    with pytest.raises(MalformedError, match="at most"):
        encode_frame(kind, bytes(LIMITS[kind] + 1))
    with pytest.raises(MalformedError, match="at most"):
        FrameReader().feed(header(kind, length=LIMITS[kind] + 1))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (header(0), "unknown frame type 0"),
        (header(7), "unknown frame type 7"),
        (header(255), "unknown frame type 255"),
        (header(reserved=1), "reserved byte"),
        (header(version=0), "channel version 0"),
        (header(version=2), "channel version 2"),
        (header(version=256), "channel version 256"),
        (header(length=0xFFFF_FFFF), "4294967295 bytes"),
    ],
)
def test_a_bad_header_is_refused_before_its_payload(head: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message) as raised:
        FrameReader().feed(head)
    assert isinstance(raised.value, VersionMismatchError) == ("version" in message)


def test_an_unknown_type_is_refused_by_its_first_byte() -> None:
    with pytest.raises(MalformedError):
        FrameReader().feed(b"\x47")
    with pytest.raises(MalformedError, match="out of order"):
        FrameReader(expected=(FrameType.CLIENT_HELLO,)).feed(b"\x05")


def test_a_declared_length_allocates_nothing() -> None:
    reader = FrameReader()
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            reader.feed(header(length=0xFFFF_FFFF))
        reader = FrameReader()
        assert reader.feed(header(length=LIMITS[FrameType.RECORD])) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_limit_and_expectation_hold_from_the_next_frame_on() -> None:
    reader = FrameReader(expected=(FrameType.ALERT,))
    reader.receive(encode_frame(FrameType.ALERT, b"a") + encode_frame(FrameType.RECORD, b"bcd"))
    assert reader.next_frame() is not None
    reader.expect(FrameType.RECORD)
    reader.limit(FrameType.RECORD, 2)
    with pytest.raises(MalformedError, match="record of 3 bytes"):
        reader.next_frame()


def test_a_payload_outlives_later_bytes() -> None:
    reader = FrameReader()
    reader.receive(bytearray(encode_frame(FrameType.RECORD, b"first")[:9]))
    reader.receive(encode_frame(FrameType.RECORD, b"first")[9:] + header(length=2) + b"2")
    first = reader.next_frame()
    assert first is not None
    assert reader.next_frame() is None
    reader.receive(b"n" + encode_frame(FrameType.RECORD, b"third"))
    assert [bytes(frame.payload) for frame in reader] == [b"2n", b"third"]
    assert bytes(first.payload) == b"first"
    assert reader.buffered == 0


def test_the_owners_buffer_may_change_afterwards() -> None:
    data = bytearray(encode_frame(FrameType.RECORD, b"abc"))
    reader = FrameReader()
    reader.receive(data)
    data[:] = bytes(len(data))
    (frame,) = reader
    assert bytes(frame.payload) == b"abc"


PAYLOADS = st.lists(st.tuples(st.sampled_from(list(FrameType)), st.binary(max_size=200)), max_size=6)


@given(PAYLOADS, st.lists(st.integers(1, 64), min_size=1, max_size=8))
def test_any_split_gives_the_same_frames(frames: list[tuple[FrameType, bytes]], cuts: list[int]) -> None:
    data = b"".join(encode_frame(kind, payload) for kind, payload in frames)
    reader, found, start, turn = FrameReader(), [], 0, 0
    while start < len(data):
        size = cuts[turn % len(cuts)]
        found += reader.feed(data[start : start + size])
        start, turn = start + size, turn + 1
    assert [(frame.type, bytes(frame.payload)) for frame in found] == frames
    assert reader.buffered == 0


@pytest.mark.fuzz
@given(
    st.lists(
        st.binary(max_size=64)
        | st.builds(header, st.integers(0, 8), st.integers(0, 1), st.integers(0, 2), st.integers(0, 40)),
        max_size=8,
    )
)
def test_only_our_errors_leave(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            for frame in reader.feed(piece):
                assert len(frame.payload) <= LIMITS[frame.type]
    except MalformedError:
        pass
    assert reader.buffered <= sum(map(len, pieces))
    assert HEADER_BYTES == 8
