import hashlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.model.hashing import Meter, chunk_digest, chunk_root, worker_count


def tree_hash(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as its text puts it."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


@pytest.mark.fuzz
@given(st.binary(max_size=300), st.integers(1, 40))
def test_the_chunk_root_is_the_tree_hash_of_the_chunks_digests(data: bytes, size: int) -> None:
    chunks = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
    expected = tree_hash([hashlib.sha256(chunk).digest() for chunk in chunks])
    assert chunk_root([chunk_digest(memoryview(chunk)) for chunk in chunks]) == expected


def test_an_empty_file_has_one_leaf() -> None:
    nothing = hashlib.sha256(b"").digest()
    assert chunk_root([chunk_digest(b"")]) == hashlib.sha256(b"\x00" + nothing).digest()


def test_threads_add_up() -> None:
    seen: list[tuple[int, int | None]] = []

    class Watcher:
        def step(self, name: str) -> None:
            raise AssertionError(name)

        def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
            seen.append((done, total))

    meter = Meter(Watcher(), 400)
    threads = [threading.Thread(target=lambda: [meter.add(1) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(count, 400) for count in range(1, 401)]


def test_there_is_always_a_worker() -> None:
    assert 1 <= worker_count() <= 16
