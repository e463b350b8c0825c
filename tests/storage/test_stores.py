"""What every store does alike, against real servers (model-package.md sections 4 and 5)."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.storage.base import Storage
from ephemeralml.storage.open import open_storage
from ephemeralml.storage.sources import BytesSource
from tests.storage.conftest import sha256

LARGE = os.urandom((34 << 20) + 5)
"""More than two parts or chunks of an upload."""


def put(store: Storage, key: str, data: bytes, *, force: bool = False) -> int | None:
    return store.put(key, BytesSource(data), sha256=sha256(data), force=force)


@pytest.mark.parametrize("data", [b"", b"x", b"\r\n0123456789\n\r\0\xff" * 99], ids=["empty", "one", "some"])
def test_what_is_put_can_be_read(store: Storage, data: bytes) -> None:
    assert put(store, "blobs/a.eml", data) == len(data)
    assert store.exists("blobs/a.eml")
    assert store.size("blobs/a.eml") == len(data)
    assert store.digest("blobs/a.eml") == sha256(data)
    assert store.read("blobs/a.eml", 0, len(data)) == data


def test_a_large_object_goes_and_comes_in_parts(store: Storage) -> None:
    seen: list[tuple[int, int | None]] = []

    class Watching:
        def step(self, name: str) -> None: ...

        def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
            seen.append((done, total))

    assert store.put("large", BytesSource(LARGE), sha256=sha256(LARGE), progress=Watching())
    assert seen == sorted(seen)
    assert seen[-1] == (len(LARGE), len(LARGE))
    assert len(seen) >= 3
    buffer = bytearray(len(LARGE))
    pieces = range(0, len(LARGE), 5 << 20)
    view = memoryview(buffer)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda start: store.read_into("large", start, view[start : start + (5 << 20)]), pieces))
    assert buffer == LARGE


@pytest.mark.parametrize(("start", "end"), [(0, 11), (11, 11), (5, 4), (-1, 3), (0, 1 << 62)])
def test_a_range_beyond_the_object_is_rejected(store: Storage, start: int, end: int) -> None:
    put(store, "a", b"0123456789")
    with pytest.raises(RejectedError) as caught:
        store.read("a", start, end)
    assert caught.value.code == "BLOB_TRUNCATED"


@pytest.mark.parametrize(("start", "length"), [(8, 3), (10, 1), (0, 11), (1000, 10)])
def test_an_object_that_ends_early_is_rejected(store: Storage, start: int, length: int) -> None:
    put(store, "a", b"0123456789")
    with pytest.raises(RejectedError) as caught:
        store.read_into("a", start, memoryview(bytearray(length)))
    assert caught.value.code == "BLOB_TRUNCATED"


def test_no_bytes_can_be_read_of_any_object(store: Storage) -> None:
    put(store, "a", b"")
    store.read_into("a", 0, memoryview(bytearray()))
    assert store.read("a", 0, 0) == b""


def test_a_missing_object_is_named(store: Storage) -> None:
    assert not store.exists("no/such")
    for ask in (
        lambda: store.size("no/such"),
        lambda: store.digest("no/such"),
        lambda: store.read("no/such", 0, 1),
        lambda: store.read_into("no/such", 0, memoryview(bytearray(1))),
    ):
        with pytest.raises(UnavailableError, match=r"there is no object .*no/such"):
            ask()


def test_the_start_of_a_key_is_no_key(store: Storage) -> None:
    put(store, "blobs/abc", b"x")
    assert not store.exists("blobs/ab")
    assert not store.exists("blobs")


@pytest.mark.parametrize("key", ["", "/a", "../a", "a/../b", "a//b", "a/", ".", "a\0b", "a\\b", "a\nb", "x" * 1025])
def test_a_key_stays_below_the_prefix(store: Storage, key: str) -> None:
    for ask in (
        lambda: store.size(key),
        lambda: store.exists(key),
        lambda: store.read_into(key, 0, memoryview(bytearray(1))),
        lambda: store.write(key, [b"x"]),
        lambda: put(store, key, b"x"),
    ):
        with pytest.raises(MalformedError, match="key"):
            ask()


def test_an_equal_object_is_left_alone(store: Storage) -> None:
    assert put(store, "a", b"same")
    assert not put(store, "a", b"same")
    assert not put(store, "a", b"same", force=True)


def test_a_differing_object_is_replaced_only_by_force(store: Storage) -> None:
    put(store, "a", b"old")
    for other in (b"new", b"longer"):
        with pytest.raises(RejectedError) as caught:
            put(store, "a", other)
        assert caught.value.code == "OBJECT_EXISTS"
    assert store.read("a", 0, 3) == b"old"
    assert put(store, "a", b"longer", force=True)
    assert store.read("a", 0, 6) == b"longer"
    assert store.digest("a") == sha256(b"longer")


@pytest.mark.parametrize("size", [10, 34 << 20], ids=["small", "large"])
def test_bytes_that_are_not_those_announced_are_not_stored(store: Storage, size: int) -> None:
    with pytest.raises(RejectedError) as caught:
        store.put("a", BytesSource(LARGE[:size]), sha256=sha256(b"other"))
    assert caught.value.code == "DIGEST_MISMATCH"
    assert not store.exists("a")
    assert list(store.list("")) == []


@pytest.mark.parametrize("blocks", [[], [b""], [b"a", b"", b"bc"], [LARGE[: 17 << 20], LARGE[17 << 20 :]]])
def test_a_stream_is_stored(store: Storage, blocks: list[bytes]) -> None:
    whole = b"".join(blocks)
    store.write("new/deep/object", blocks)
    assert store.size("new/deep/object") == len(whole)
    assert store.read("new/deep/object", 0, len(whole)) == whole


def test_a_stream_replaces_nothing(store: Storage) -> None:
    put(store, "a", b"old")
    with pytest.raises(UnavailableError, match="exists"):
        store.write("a", [b"new"])
    assert store.read("a", 0, 3) == b"old"


def test_a_stream_that_breaks_leaves_nothing(store: Storage) -> None:
    def broken() -> Iterator[bytes]:
        yield LARGE
        raise ConnectionResetError("peer")

    with pytest.raises(UnavailableError, match=r"cannot (write|store)"):
        store.write("a", broken())
    assert not store.exists("a")
    assert list(store.list("")) == []


def test_keys_are_listed_by_prefix_in_order(store: Storage) -> None:
    for key in ("b/2", "a", "b/1", "c"):
        put(store, key, b"x")
    assert list(store.list("")) == sorted(["b/2", "a", "b/1", "c"])
    assert list(store.list("b/")) == ["b/1", "b/2"]
    assert list(store.list("zzz")) == []


def test_an_object_replaced_by_another_is_noticed(store: Storage, place: str) -> None:
    """Model-package.md section 5: an object changing during download."""
    put(store, "a", b"first version")
    assert store.read("a", 0, 5) == b"first"
    with open_storage(place) as someone_else:
        put(someone_else, "a", b"other version", force=True)
    asked = [lambda: store.size("a"), lambda: store.digest("a")]
    if not place.startswith("gs:"):  # the emulator gives any generation; test_gcs.py has a server that does not
        asked += [lambda: store.read("a", 0, 5), lambda: store.read_into("a", 6, memoryview(bytearray(4)))]
    for ask in asked:
        with pytest.raises(RejectedError) as caught:
            ask()
        assert caught.value.code == "OBJECT_CHANGED"


def test_what_we_replace_ourselves_is_no_surprise(store: Storage) -> None:
    put(store, "a", b"first version")
    assert store.read("a", 0, 5) == b"first"
    put(store, "a", b"other version", force=True)
    assert store.read("a", 0, 5) == b"other"


def test_a_length_that_changes_is_noticed(store: Storage, place: str) -> None:
    put(store, "a", b"0123456789")
    store.size("a")
    with open_storage(place) as someone_else:
        put(someone_else, "a", b"0123", force=True)
    with pytest.raises(RejectedError) as caught:
        store.size("a")
    assert caught.value.code == "OBJECT_CHANGED"
