"""Containers against their own arithmetic: one AEAD and k digests, on as many threads, in one run.

A container is sealed with two digests, of each chunk for its root and of the
blob, and opened with one. The third of a package, the flat digest of a file's
plaintext, is no part of the container; the package's row has it.
"""

import hashlib
import queue
import threading
from collections.abc import Callable
from functools import partial

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from ephemeralml.bench.measure import Row, Section, Target, interleaved, quantile
from ephemeralml.crypto.aead_stream import TAG_BYTES, ContainerKey, Header, StreamSuite
from ephemeralml.model import lanes
from ephemeralml.model.hashing import OrderedDigest, chunk_digest, worker_count
from ephemeralml.model.manifest import DEFAULT_CHUNK_BYTES

_SHARE_TARGET = 0.8
_NONCE = bytes(12)
_KEY = bytes(range(32))
_CIPHERS: dict[StreamSuite, type[ChaCha20Poly1305] | type[AESGCM]] = {
    StreamSuite.CHACHA20POLY1305: ChaCha20Poly1305,
    StreamSuite.AES256GCM: AESGCM,
}
_NAMES = {StreamSuite.CHACHA20POLY1305: "ChaCha20-Poly1305", StreamSuite.AES256GCM: "AES-256-GCM"}
_SEAL_DIGESTS, _OPEN_DIGESTS = 2, 1


def measure(*, quick: bool) -> Section:
    """Seal and open chunks in memory, and in turn the AEAD and the digest alone."""
    rows: list[Row] = []
    targets: list[Target] = []
    for suite in StreamSuite:
        found = _suite(suite, chunks=16 if quick else 64, rounds=3 if quick else 9)
        rows += found.rows
        targets += found.targets
    return Section(tuple(rows), tuple(targets))


def _suite(suite: StreamSuite, *, chunks: int, rounds: int) -> Section:
    work = _Work(suite, chunks)
    samples = interleaved(
        {
            "encrypt": work.encrypt,
            "decrypt": work.decrypt,
            "digest": work.digest,
            "seal": work.seal,
            "open": work.open,
        },
        rounds=rounds,
        warmup=1,
    )
    name, size = _NAMES[suite], chunks * DEFAULT_CHUNK_BYTES
    rows = tuple(
        _rate(f"{what}, {name}, {work.threads} threads", samples[key], size)
        for key, what in (
            ("encrypt", "AEAD alone, encrypt"),
            ("decrypt", "AEAD alone, decrypt"),
            ("digest", "SHA-256 alone, beside"),
            ("seal", f"container sealed, k = {_SEAL_DIGESTS}"),
            ("open", f"container opened, k = {_OPEN_DIGESTS}"),
        )
    )
    targets = (
        _share(f"container sealed, {name}, of its limit", samples, "encrypt", _SEAL_DIGESTS, "seal"),
        _share(f"container opened, {name}, of its limit", samples, "decrypt", _OPEN_DIGESTS, "open"),
    )
    return Section(rows, targets)


def _rate(name: str, samples: list[float], size: int) -> Row:
    rates = [size / seconds / 1e9 for seconds in samples]
    return Row(name, quantile(rates, 0.5), "GB/s", p50=quantile(rates, 0.5), p95=quantile(rates, 0.05), n=len(rates))


def _share(name: str, samples: dict[str, list[float]], aead: str, digests: int, whole: str) -> Target:
    """Times add up where rates do not: the limit is the AEAD's time and *digests* times the digest's."""
    # Paired by round, so that a machine that slows down for a while slows both sides of a ratio.
    shares = [
        (alone + digests * hashed) / measured
        for alone, hashed, measured in zip(samples[aead], samples["digest"], samples[whole], strict=True)
    ]
    return Target(name, quantile(shares, 0.5), _SHARE_TARGET, "×", at_most=False)


class _Slot:
    __slots__ = ("plain", "sealed")

    def __init__(self) -> None:
        self.plain = lanes.scratch(DEFAULT_CHUNK_BYTES)
        self.sealed = lanes.scratch(DEFAULT_CHUNK_BYTES + TAG_BYTES)


class _Work:
    """The same number of chunks, done in different ways on the same number of threads."""

    def __init__(self, suite: StreamSuite, chunks: int) -> None:
        self.threads = worker_count()
        self._chunks = chunks
        self._cipher = _CIPHERS[suite](_KEY)
        self._header = Header(suite, DEFAULT_CHUNK_BYTES, chunks * DEFAULT_CHUNK_BYTES, bytes(32), bytes(32))
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(self.threads + 2):
            self._free.put(_Slot())
        # Every chunk is the same plaintext; opened again and again, it is the first of the container.
        self._sealed = lanes.scratch(DEFAULT_CHUNK_BYTES + TAG_BYTES)
        self._plain = lanes.scratch(DEFAULT_CHUNK_BYTES)
        ContainerKey(memoryview(_KEY), self._header).seal_into(0, self._plain, self._sealed)
        self._bare = lanes.scratch(DEFAULT_CHUNK_BYTES + TAG_BYTES)
        self._cipher.encrypt_into(_NONCE, self._plain, None, self._bare)

    def encrypt(self) -> None:
        self._each(lambda _, slot: self._cipher.encrypt_into(_NONCE, slot.plain, None, slot.sealed))

    def decrypt(self) -> None:
        self._each(lambda _, slot: self._cipher.decrypt_into(_NONCE, self._bare, None, slot.plain))

    def digest(self) -> None:
        self._each(lambda _, slot: hashlib.sha256(slot.plain).digest())

    def seal(self) -> None:
        key, blob = ContainerKey(memoryview(_KEY), self._header), OrderedDigest(self._header.encode())
        self._run(partial(self._seal_one, key, blob))
        blob.digest()

    def open(self) -> None:
        key = ContainerKey(memoryview(_KEY), self._header)

        def one(_: int, slot: _Slot) -> None:
            key.open_into(0, self._sealed, slot.plain)
            chunk_digest(slot.plain)

        self._each(one)

    def _seal_one(self, key: ContainerKey, blob: OrderedDigest, index: int, slot: _Slot) -> None:
        chunk_digest(slot.plain)
        key.seal_into(index, slot.plain, slot.sealed)
        blob.offer(index, slot.sealed, partial(self._free.put, slot))

    def _each(self, one: Callable[[int, _Slot], object]) -> None:
        def free_after(index: int, slot: _Slot) -> None:
            one(index, slot)
            self._free.put(slot)

        self._run(free_after)

    def _run(self, one: Callable[[int, _Slot], object]) -> None:
        indices = iter(range(self._chunks))

        def lane(_: threading.Event) -> None:
            while True:
                slot = self._free.get()
                index = next(indices, None)
                if index is None:
                    self._free.put(slot)
                    return
                one(index, slot)

        lanes.run([lane] * self.threads, name="bench")
