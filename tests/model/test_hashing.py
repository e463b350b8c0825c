import hashlib
import itertools
import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.model.hashing import Meter, OrderedDigest, chunk_digest, chunk_root, worker_count


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


def test_parts_in_any_order_give_the_digest_of_the_whole() -> None:
    parts = [bytes([index]) * (index + 1) for index in range(5)]
    for order in itertools.permutations(range(5)):
        digest = OrderedDigest(b"beginning")
        done: list[int] = []
        for index in order:
            digest.offer(index, memoryview(parts[index]), partial(done.append, index))
        assert digest.digest() == hashlib.sha256(b"beginning" + b"".join(parts)).digest()
        assert done == list(range(5)), "a part is given back once it was hashed, in order"


def test_a_part_is_kept_until_those_before_it_came() -> None:
    digest = OrderedDigest()
    done: list[int] = []
    digest.offer(1, memoryview(b"b"), lambda: done.append(1))
    assert done == []
    with pytest.raises(RuntimeError, match="missing"):
        digest.digest()
    digest.offer(0, memoryview(b"a"), lambda: done.append(0))
    assert done == [0, 1]


def test_many_threads_feed_one_digest() -> None:
    parts = [bytes([index % 256]) * 4_096 for index in range(400)]
    digest = OrderedDigest()
    indices = iter(range(400))
    released = []

    def work() -> None:
        for index in indices:
            digest.offer(index, memoryview(parts[index]), lambda: released.append(1))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digest.digest() == hashlib.sha256(b"".join(parts)).digest()
    assert len(released) == 400
