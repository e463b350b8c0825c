import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ephemeralml.crypto.aead_stream import HEADER_BYTES, TAG_BYTES, ContainerKey, Header
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.model import pack
from ephemeralml.model.hashing import Meter, OrderedDigest, chunk_root, worker_count
from ephemeralml.model.manifest import Suite
from ephemeralml.model.pack import SPARE_BUFFERS, Packed, Packer, Sealing
from ephemeralml.progress import Silent

CHUNK = 65_536
DATA = os.urandom(30 * CHUNK + 5)
DEK = bytes(range(32))
SEALED = pytest.mark.parametrize("suite", [None, Suite.CHACHA20POLY1305, Suite.AES256GCM])


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A source with the data, and an empty target."""
    (tmp_path / "source").write_bytes(DATA)
    source = os.open(tmp_path / "source", os.O_RDWR)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield source, target
    os.close(source)
    os.close(target)


def packer(suite: Suite | None) -> Packer:
    sealing = suite and Sealing(suite, SecretBytes(bytearray(DEK)), os.urandom)
    return Packer(CHUNK, len(DATA), sealing, Meter(Silent(), len(DATA)))


def packed(files: tuple[int, int], suite: Suite | None) -> Packed:
    return packer(suite).pack("m.gguf", len(DATA), *files)


def written(files: tuple[int, int]) -> bytes:
    return os.pread(files[1], 1 << 30, 0)


def opened(blob: bytes) -> bytes:
    key = ContainerKey(memoryview(DEK), Header.parse(blob[:HEADER_BYTES]))
    plain, position = b"", HEADER_BYTES
    for index in range(key.header.chunks):
        out = bytearray(key.chunk_bytes(index))
        end = position + len(out) + TAG_BYTES
        key.open_into(index, memoryview(blob[position:end]), memoryview(out))
        plain, position = plain + out, end
    assert position == len(blob)
    return plain


def check(found: Packed, blob: bytes, suite: Suite | None) -> None:
    chunks = [DATA[start : start + CHUNK] for start in range(0, len(DATA), CHUNK)]
    assert found.sha256 == hashlib.sha256(DATA).digest()
    assert found.blob_sha256 == hashlib.sha256(blob).digest()
    assert found.chunk_root == chunk_root([hashlib.sha256(chunk).digest() for chunk in chunks])
    assert (blob if suite is None else opened(blob)) == DATA


@SEALED
def test_digests_are_those_of_what_was_read_and_written(files: tuple[int, int], suite: Suite | None) -> None:
    check(packed(files, suite), written(files), suite)


@SEALED
def test_memory_is_not_used_again_before_both_digests_have_passed_it(
    files: tuple[int, int], suite: Suite | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OrderedDigest.offer

    def slow(self: OrderedDigest, index: int, part: memoryview, done: Callable[[], None]) -> None:
        if index % 7 == 0:
            time.sleep(0.02)
        real(self, index, part, done)

    monkeypatch.setattr(OrderedDigest, "offer", slow)
    check(packed(files, suite), written(files), suite)


@SEALED
def test_reads_and_writes_that_are_cut_short_go_on(
    files: tuple[int, int], suite: Suite | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, start: read(fd, [buffers[0][:50_001]], start))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, start: write(fd, data[:50_003], start))
    check(packed(files, suite), written(files), suite)


@SEALED
@pytest.mark.parametrize("chunk", [0, 1, 15, 30])
def test_a_disk_that_is_full_anywhere_ends_it(
    files: tuple[int, int], suite: Suite | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More chunks than there is memory for: whoever waits for some must not wait for ever."""
    assert worker_count() + SPARE_BUFFERS < 30
    real = os.pwrite

    def full(fd: int, data: memoryview, start: int) -> int:
        if start >= HEADER_BYTES + chunk * (CHUNK + TAG_BYTES) or (suite is None and start >= chunk * CHUNK):
            raise OSError(28, "No space left on device")
        return real(fd, data, start)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        packed(files, suite)


@SEALED
def test_a_source_that_shrinks_or_breaks_ends_it(
    files: tuple[int, int], suite: Suite | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.ftruncate(files[0], 3 * CHUNK)
    with pytest.raises(RejectedError) as caught:
        packed(files, suite)
    assert caught.value.code == "SOURCE_CHANGED"

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(UnavailableError, match=r"cannot read m\.gguf"):
        packed(files, suite)


def test_the_containers_key_is_dropped_and_the_blob_is_on_disk(
    files: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped, synced = [], []
    monkeypatch.setattr(ContainerKey, "wipe", lambda key: dropped.append(key))  # noqa: PLW0108 - a built-in is no method
    monkeypatch.setattr(os, "fsync", synced.append)
    packed(files, Suite.AES256GCM)
    assert (len(dropped), synced) == (1, [files[1]])


def test_one_packer_takes_file_after_file(files: tuple[int, int]) -> None:
    several = packer(Suite.CHACHA20POLY1305)
    for _ in range(3):
        check(several.pack("m.gguf", len(DATA), *files), written(files), Suite.CHACHA20POLY1305)


def test_a_file_of_one_chunk_is_hashed_once_for_both(files: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "chunk_digest", lambda _: pytest.fail("hashed twice"))
    os.ftruncate(files[0], 100)
    found = packer(None).pack("m.gguf", 100, *files)
    assert found.chunk_root == chunk_root([hashlib.sha256(DATA[:100]).digest()])
