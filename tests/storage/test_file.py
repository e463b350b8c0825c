import hashlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.storage.file import FileStorage
from ephemeralml.storage.sources import BytesSource

if TYPE_CHECKING:
    from ephemeralml.storage.base import Storage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "blobs").mkdir(parents=True)
    (tmp_path / "root" / "manifest.json").write_bytes(b"manifest")
    (tmp_path / "root" / "blobs" / "a.raw").write_bytes(b"0123456789")
    (tmp_path / "outside").write_bytes(b"outside")
    return tmp_path / "root"


@pytest.fixture
def storage(root: Path) -> "Storage":
    return FileStorage(root)


def test_objects_are_read_in_ranges(storage: "Storage") -> None:
    assert storage.size("blobs/a.raw") == 10
    assert storage.read("blobs/a.raw", 2, 5) == b"234"
    assert storage.read("blobs/a.raw", 10, 10) == b""
    buffer = bytearray(4)
    storage.read_into("blobs/a.raw", 6, memoryview(buffer))
    assert buffer == b"6789"


@pytest.mark.parametrize(("start", "end"), [(0, 11), (11, 11), (5, 4), (-1, 3), (0, 1 << 62)])
def test_a_range_beyond_the_object_is_rejected(storage: "Storage", start: int, end: int) -> None:
    with pytest.raises(RejectedError) as caught:
        storage.read("blobs/a.raw", start, end)
    assert caught.value.code == "BLOB_TRUNCATED"


def test_an_object_that_ends_early_is_rejected(storage: "Storage") -> None:
    with pytest.raises(RejectedError) as caught:
        storage.read_into("blobs/a.raw", 8, memoryview(bytearray(3)))
    assert caught.value.code == "BLOB_TRUNCATED"


@pytest.mark.parametrize("key", ["nothing", "blobs/b", "no/such/folder", "manifest.json/x", "blobs"])
def test_a_missing_object_is_unavailable(storage: "Storage", key: str) -> None:
    with pytest.raises(UnavailableError):
        storage.size(key)
    with pytest.raises(UnavailableError):
        storage.read(key, 0, 1)


@pytest.mark.parametrize(
    "key", ["", "/", "/etc/passwd", "..", "../outside", "blobs/../manifest.json", "a//b", "a/", ".", "a\0b"]
)
def test_a_key_stays_below_the_root(storage: "Storage", key: str) -> None:
    with pytest.raises(MalformedError, match="is no key"):
        storage.size(key)
    with pytest.raises(MalformedError, match="is no key"):
        storage.write(key, [b"x"])


def test_links_are_not_followed(storage: "Storage", root: Path) -> None:
    (root / "link").symlink_to(root.parent / "outside")
    (root / "folder").symlink_to(root.parent)
    for key in ("link", "folder/outside"):
        with pytest.raises(UnavailableError):
            storage.read(key, 0, 1)
    assert list(storage.list("")) == ["blobs/a.raw", "manifest.json"]


def test_a_fifo_does_not_block(storage: "Storage", root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(UnavailableError, match="no regular file"):
        storage.size("pipe")


def test_what_is_written_can_be_read(storage: "Storage", root: Path) -> None:
    storage.write("new/deep/object", [b"one", b"", b"two"])
    assert storage.read("new/deep/object", 0, 6) == b"onetwo"
    assert list(storage.list("new")) == ["new/deep/object"]
    assert [path.name for path in (root / "new" / "deep").iterdir()] == ["object"]


def test_an_object_is_not_replaced(storage: "Storage") -> None:
    with pytest.raises(UnavailableError, match="cannot store"):
        storage.write("manifest.json", [b"other"])
    assert storage.read("manifest.json", 0, 8) == b"manifest"


def test_an_interrupted_stream_leaves_nothing(storage: "Storage", root: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError("peer")

    with pytest.raises(UnavailableError, match="cannot store"):
        storage.write("blobs/new", broken())
    assert [path.name for path in (root / "blobs").iterdir()] == ["a.raw"]


def test_keys_are_listed_by_prefix(storage: "Storage") -> None:
    assert list(storage.list("")) == ["blobs/a.raw", "manifest.json"]
    assert list(storage.list("blobs/")) == ["blobs/a.raw"]
    assert list(storage.list("x")) == []


def test_what_is_stored_does_not_leave_by_a_link(storage: "Storage", root: Path) -> None:
    (root / "folder").symlink_to(root.parent)
    with pytest.raises(UnavailableError, match="cannot store folder/new"):
        storage.write("folder/new", [b"x"])
    assert not (root.parent / "new").exists()
    assert not storage.exists("folder/outside")
    (root / "link").symlink_to(root.parent / "outside")
    assert not storage.exists("link")
    assert storage.put("link", BytesSource(b"x"), sha256=hashlib.sha256(b"x").digest(), force=True)
    assert (root.parent / "outside").read_bytes() == b"outside"


def test_a_full_disk_leaves_nothing(storage: "Storage", root: Path) -> None:
    """A limit on the size of files fails a write as a full disk does, in its middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = bytes(3 << 20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(UnavailableError, match="cannot store blobs/new: File too large"):
            storage.put("blobs/new", BytesSource(data), sha256=hashlib.sha256(data).digest())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (root / "blobs").iterdir()] == ["a.raw"]


def test_a_store_is_made_when_it_is_written(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "not" / "yet")
    assert not storage.exists("a")
    storage.write("a/b", [b"x"])
    assert storage.read("a/b", 0, 1) == b"x"
    assert (tmp_path / "not" / "yet" / "a" / "b").stat().st_mode & 0o777 == 0o644


def test_a_file_replaced_between_two_reads_is_noticed(storage: "Storage", root: Path) -> None:
    assert storage.read("blobs/a.raw", 0, 1) == b"0"
    (root / "blobs" / "new").write_bytes(b"0123456789")
    (root / "blobs" / "new").replace(root / "blobs" / "a.raw")
    with pytest.raises(RejectedError) as caught:
        storage.read("blobs/a.raw", 0, 1)
    assert caught.value.code == "OBJECT_CHANGED"
