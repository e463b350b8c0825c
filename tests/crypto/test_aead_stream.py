import hashlib
import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import aead_stream
from ephemeralml.crypto.aead_stream import HEADER_BYTES, TAG_BYTES, ContainerKey, Header, StreamSuite, path_hash
from ephemeralml.errors import MalformedError, RejectedError
from tests.vectors.containers import generate

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "containers" / "containers.json").read_text())
CHUNK = 65_536
DEK = memoryview(bytes(range(32)))
SUITES = pytest.mark.parametrize("suite", StreamSuite)


def header(size: int, suite: StreamSuite = StreamSuite.CHACHA20POLY1305, **fields: Any) -> Header:
    values = {"chunk_size": CHUNK, "salt": bytes(range(32)), "path_hash": path_hash("model.safetensors")}
    return Header(suite, plaintext_size=size, **values | fields)


def seal(key: ContainerKey, plaintext: bytes) -> list[bytes]:
    """Return the sealed chunks."""
    chunks = []
    for index in range(key.header.chunks):
        part = plaintext[index * key.header.chunk_size :][: key.header.chunk_size]
        out = bytearray(len(part) + TAG_BYTES)
        key.seal_into(index, memoryview(part), memoryview(out))
        chunks.append(bytes(out))
    return chunks


def opened(key: ContainerKey, index: int, sealed: bytes) -> bytes:
    out = bytearray(len(sealed) - TAG_BYTES)
    key.open_into(index, memoryview(sealed), memoryview(out))
    return bytes(out)


def refused(key: ContainerKey, index: int, sealed: bytes) -> None:
    out = bytearray(b"\xff" * (len(sealed) - TAG_BYTES))
    with pytest.raises(RejectedError) as caught:
        key.open_into(index, memoryview(sealed), memoryview(out))
    assert caught.value.code == "CHUNK_AUTH_FAILED"
    assert not any(out), "nothing that is not authentic is left behind"


def test_the_vectors_are_those_the_generator_makes() -> None:
    assert list(generate.vectors()) == VECTORS


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['suite']}-{v['size']}")
def test_known_answers_both_ways(vector: dict[str, Any]) -> None:
    plaintext = generate.plaintext(vector["size"])
    made = Header(
        StreamSuite(vector["suite"]),
        vector["chunk_size"],
        vector["size"],
        bytes.fromhex(vector["salt"]),
        path_hash(vector["path"]),
    )
    key = ContainerKey(memoryview(bytes.fromhex(vector["dek"])), made)
    chunks = seal(key, plaintext)
    sealed = made.encode() + b"".join(chunks)
    assert hashlib.sha256(sealed).hexdigest() == vector["sha256"]
    assert "container" not in vector or sealed.hex() == vector["container"]
    again = ContainerKey(memoryview(bytes.fromhex(vector["dek"])), Header.parse(sealed[:HEADER_BYTES]))
    assert b"".join(opened(again, index, chunk) for index, chunk in enumerate(chunks)) == plaintext


@SUITES
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_chunks_have_the_lengths_of_the_format(suite: StreamSuite, size: int) -> None:
    key = ContainerKey(DEK, header(size, suite))
    lengths = [key.chunk_bytes(index) for index in range(key.header.chunks)]
    assert sum(lengths) == size
    assert len(lengths) == max(1, -(-size // CHUNK))
    assert all(length == CHUNK for length in lengths[:-1])


def test_the_header_is_96_bytes_in_the_order_of_the_format() -> None:
    made = header(1 << 40, StreamSuite.AES256GCM, chunk_size=1 << 22)
    data = made.encode()
    assert data == (
        b"EMLCTNR1\x02\0\0\0" + struct.pack(">IQ", 1 << 22, 1 << 40) + made.salt + made.path_hash + bytes(8)
    )
    assert (len(data), Header.parse(data)) == (96, made)


@pytest.mark.parametrize("place", [9, 10, 11, *range(88, 96)])
def test_a_reserved_byte_must_be_zero(place: int) -> None:
    data = bytearray(header(1).encode())
    data[place] = 1
    with pytest.raises(MalformedError, match="reserved"):
        Header.parse(bytes(data))


@pytest.mark.parametrize("number", [0, 3, 255])
def test_another_suite_is_malformed(number: int) -> None:
    data = bytearray(header(1).encode())
    data[8] = number
    with pytest.raises(MalformedError, match="suite"):
        Header.parse(bytes(data))


@pytest.mark.parametrize("place", range(8))
def test_another_magic_is_malformed(place: int) -> None:
    data = bytearray(header(1).encode())
    data[place] ^= 0x20
    with pytest.raises(MalformedError, match="no container"):
        Header.parse(bytes(data))


@pytest.mark.parametrize("length", [0, 1, 95, 97, 200])
def test_another_length_is_malformed(length: int) -> None:
    with pytest.raises(MalformedError, match="96 bytes"):
        Header.parse((header(1).encode() * 3)[:length])


@pytest.mark.parametrize("chunk_size", [0, 1, 32_768, 65_535, 98_304, 1 << 27, (1 << 32) - 1])
def test_a_chunk_size_out_of_bounds_is_malformed(chunk_size: int) -> None:
    data = bytearray(header(1).encode())
    data[12:16] = chunk_size.to_bytes(4, "big")
    with pytest.raises(MalformedError, match="power of two"):
        Header.parse(bytes(data))


def test_more_chunks_than_the_index_counts_are_malformed() -> None:
    assert header(CHUNK << 32).chunks == 1 << 32
    data = bytearray(header(1).encode())
    data[16:24] = ((CHUNK << 32) + 1).to_bytes(8, "big")
    with pytest.raises(MalformedError, match=r"2\^32"):
        Header.parse(bytes(data))


def test_a_header_of_many_terabytes_takes_no_memory() -> None:
    key = ContainerKey(DEK, header(CHUNK << 32))
    assert key.chunk_bytes((1 << 32) - 1) == CHUNK
    refused(key, (1 << 32) - 1, bytes(CHUNK + TAG_BYTES))


@pytest.mark.parametrize("field", ["salt", "path_hash"])
def test_salt_and_path_hash_have_32_bytes(field: str) -> None:
    with pytest.raises(MalformedError, match="32 bytes"):
        header(1, **{field: b"short"})


@pytest.mark.fuzz
@given(
    st.one_of(
        st.binary(max_size=200), st.binary(min_size=84, max_size=84).map(lambda tail: b"EMLCTNR1\x01\0\0\0" + tail)
    )
)
def test_only_our_errors_leave_the_parser(data: bytes) -> None:
    try:
        parsed = Header.parse(data)
    except MalformedError:
        return
    assert parsed.encode() == data


@SUITES
def test_a_truncated_container_does_not_open(suite: StreamSuite) -> None:
    """The chunk that became the last one was sealed as another than the last."""
    chunks = seal(ContainerKey(DEK, header(2 * CHUNK, suite)), bytes(2 * CHUNK))
    shorter = ContainerKey(DEK, header(CHUNK, suite))
    refused(shorter, 0, chunks[0])


@SUITES
def test_the_last_flag_alone_makes_truncation_fail(suite: StreamSuite) -> None:
    """The header's hash would refuse it too; with that out of the way the flag still does."""
    chunks = seal(ContainerKey(DEK, header(2 * CHUNK, suite)), bytes(2 * CHUNK))
    shorter = ContainerKey(DEK, header(CHUNK, suite))
    shorter._aad = hashlib.sha256(header(2 * CHUNK, suite).encode()).digest()
    refused(shorter, 0, chunks[0])
    longer = ContainerKey(DEK, header(3 * CHUNK, suite))
    longer._aad = shorter._aad
    assert opened(longer, 0, chunks[0]) == bytes(CHUNK)
    refused(longer, 1, chunks[1])


@SUITES
def test_reordered_chunks_do_not_open(suite: StreamSuite) -> None:
    key = ContainerKey(DEK, header(3 * CHUNK, suite))
    first, second, last = seal(key, os.urandom(3 * CHUNK))
    for index, chunk in ((0, second), (1, first), (1, last), (2, second)):
        refused(key, index, chunk)


@SUITES
@pytest.mark.parametrize(
    "other",
    [
        {"salt": bytes(32)},
        {"path_hash": path_hash("other.safetensors")},
        {"chunk_size": 2 * CHUNK},
        {"plaintext_size": CHUNK - 1},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_chunk_under_another_header_does_not_open(suite: StreamSuite, other: dict[str, Any]) -> None:
    sealed = seal(ContainerKey(DEK, header(100, suite)), bytes(100))[0]
    fields = {"plaintext_size": 100} | other
    size = fields.pop("plaintext_size")
    key = ContainerKey(DEK, header(size, suite, **fields))
    refused(key, 0, sealed[: key.chunk_bytes(0) + TAG_BYTES].ljust(key.chunk_bytes(0) + TAG_BYTES, b"\0"))


@pytest.mark.parametrize("field", ["chunk_size", "salt", "path_hash"])
def test_the_headers_hash_alone_binds_every_field(field: str) -> None:
    """Key and nonces taken from the right header: only the associated data differs."""
    right = header(100)
    other = header(100, **{field: {"chunk_size": 2 * CHUNK}.get(field, b"\x55" * 32)})
    sealed = seal(ContainerKey(DEK, right), bytes(100))[0]
    key = ContainerKey(DEK, right)
    assert opened(key, 0, sealed) == bytes(100)
    key._aad = ContainerKey(DEK, other)._aad
    refused(key, 0, sealed)


@SUITES
def test_another_data_key_does_not_open(suite: StreamSuite) -> None:
    sealed = seal(ContainerKey(DEK, header(10, suite)), bytes(10))[0]
    refused(ContainerKey(memoryview(bytes(32)), header(10, suite)), 0, sealed)


@pytest.mark.fuzz
@given(st.sampled_from(StreamSuite), st.binary(min_size=0, max_size=300), st.data())
def test_any_changed_bit_of_a_chunk_is_refused(suite: StreamSuite, plaintext: bytes, data: st.DataObject) -> None:
    key = ContainerKey(DEK, header(len(plaintext), suite))
    sealed = bytearray(seal(key, plaintext)[0])
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(key, 0, bytes(sealed))


@SUITES
def test_no_chunk_is_sealed_twice(suite: StreamSuite) -> None:
    key = ContainerKey(DEK, header(2 * CHUNK, suite))
    out = bytearray(CHUNK + TAG_BYTES)
    key.seal_into(1, memoryview(bytes(CHUNK)), memoryview(out))
    with pytest.raises(RuntimeError, match="chunk 1 was sealed before"):
        key.seal_into(1, memoryview(b"x" * CHUNK), memoryview(out))
    key.seal_into(0, memoryview(bytes(CHUNK)), memoryview(out))


def test_of_many_threads_one_seals_a_chunk() -> None:
    key = ContainerKey(DEK, header(CHUNK))

    def attempt(_: int) -> bool:
        try:
            key.seal_into(0, memoryview(bytes(CHUNK)), memoryview(bytearray(CHUNK + TAG_BYTES)))
        except RuntimeError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(32))) == 1


@SUITES
def test_chunks_open_on_many_threads_in_any_order(suite: StreamSuite) -> None:
    key = ContainerKey(DEK, header(16 * CHUNK, suite))
    plaintext = os.urandom(16 * CHUNK)
    chunks = seal(key, plaintext)
    order = [index * 7 % 16 for index in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: opened(key, index, chunks[index]), order))
    assert all(found[at] == plaintext[index * CHUNK : (index + 1) * CHUNK] for at, index in enumerate(order))


def test_a_wiped_key_does_nothing_more() -> None:
    key = ContainerKey(DEK, header(0))
    sealed = seal(key, b"")[0]
    key.wipe()
    key.wipe()
    with pytest.raises(RuntimeError, match="wiped"):
        opened(key, 0, sealed)
    with pytest.raises(RuntimeError, match="wiped"):
        ContainerKey.seal_into(wiped(), 0, memoryview(b""), memoryview(bytearray(16)))


def wiped() -> ContainerKey:
    key = ContainerKey(DEK, header(0))
    key.wipe()
    return key


@pytest.mark.parametrize(
    ("index", "plain", "sealed"), [(-1, CHUNK, CHUNK + 16), (2, 1, 17), (0, 1, 17), (1, 1, 16), (1, 1, 18)]
)
def test_wrong_use_is_a_bug_not_an_input(index: int, plain: int, sealed: int) -> None:
    key = ContainerKey(DEK, header(CHUNK + 1))
    with pytest.raises(ValueError, match="chunk"):
        key.open_into(index, memoryview(bytes(sealed)), memoryview(bytearray(plain)))
    with pytest.raises(ValueError, match="chunk"):
        key.seal_into(index, memoryview(bytes(plain)), memoryview(bytearray(sealed)))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_data_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ContainerKey(memoryview(bytes(length)), header(0))


def test_nothing_shows_a_key() -> None:
    key = ContainerKey(DEK, header(0))
    assert repr(key) == "ContainerKey(CHACHA20POLY1305, 1 chunks)"
    assert not hasattr(key, "__dict__")


def test_containers_of_one_file_share_no_key_and_no_prefix() -> None:
    first = aead_stream._derive(DEK, header(1))
    second = aead_stream._derive(DEK, header(1, salt=bytes(32)))
    assert first[:32] != second[:32]
    assert first[32:] != second[32:]
