"""From plaintext files to blobs: read, hash, seal and write, several chunks at once.

What is hashed is what is written: each chunk is read once into memory that
nobody else writes, and everything else is made from there.
"""

import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ephemeralml.crypto.aead_stream import HEADER_BYTES, TAG_BYTES, ContainerKey, Header, path_hash
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.model import lanes
from ephemeralml.model.encryption import stream_suite
from ephemeralml.model.hashing import Meter, OrderedDigest, chunk_digest, chunk_root, worker_count
from ephemeralml.model.manifest import Suite, chunk_count

SALT_BYTES = 32
SPARE_BUFFERS = 2
"""Beyond one for each thread: chunks that wait for their turn in a flat digest."""


@dataclass(frozen=True, slots=True)
class Sealing:
    """How the containers of a package are sealed."""

    suite: Suite
    dek: SecretBytes
    entropy: Callable[[int], bytes]
    """Where the salts come from."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What the manifest says of a file's bytes."""

    sha256: bytes
    blob_sha256: bytes
    chunk_root: bytes


class _Slot:
    """Memory for a chunk's plaintext and ciphertext; free again once both flat digests have passed it."""

    __slots__ = ("_free", "_lock", "_users", "plain", "sealed")

    def __init__(self, chunk_size: int, *, sealed: bool, free: "queue.SimpleQueue[_Slot | None]") -> None:
        self.plain = lanes.scratch(chunk_size)
        self.sealed = lanes.scratch(chunk_size + TAG_BYTES) if sealed else self.plain
        self._users = 0
        self._lock = threading.Lock()
        self._free = free

    def take(self, users: int) -> None:
        self._users = users

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._free.put(self)


class Packer:
    """Turns files into blobs, one after the other, each on several threads."""

    def __init__(self, chunk_size: int, largest: int, sealing: Sealing | None, meter: Meter) -> None:
        """Take the memory for chunks of files of up to *largest* bytes.

        Raises:
            UnavailableError: There is no such memory.
        """
        self._chunk_size = chunk_size
        self._sealing = sealing
        self._meter = meter
        self._workers = min(worker_count(), chunk_count(largest, chunk_size))
        self._free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        for _ in range(self._workers + SPARE_BUFFERS):
            self._free.put(_Slot(min(chunk_size, largest), sealed=sealing is not None, free=self._free))

    def pack(self, path: str, size: int, source: int, target: int) -> Packed:
        """Write the blob of the file open as *source*, of *size* bytes, to *target*.

        A packer that failed is not used again.

        Raises:
            RejectedError: The file has another length (code SOURCE_CHANGED).
            UnavailableError: It cannot be read.
            OSError: The blob cannot be written.
        """
        work = _File(path, size, source, target, self._chunk_size, self._sealing)
        indices = iter(range(work.chunks))
        workers = min(self._workers, work.chunks)

        def lane(stop: threading.Event) -> None:
            # The memory comes first: the lowest chunk not yet hashed always has some, so none waits for ever.
            while (slot := self._free.get()) is not None and not stop.is_set():
                index = next(indices, None)
                if index is None:
                    self._free.put(slot)
                    return
                self._meter.add(work.pack(index, slot))

        def wake() -> None:
            for _ in range(workers):
                self._free.put(None)

        lanes.run([lane] * workers, name="package", on_stop=wake)
        return work.finish()


class _File:
    """One file on its way into its blob."""

    def __init__(
        self, path: str, size: int, source: int, target: int, chunk_size: int, sealing: Sealing | None
    ) -> None:
        self._path, self._size, self._source, self._target = path, size, source, target
        self._chunk_size = chunk_size
        self.chunks = chunk_count(size, chunk_size)
        self._digests = [b""] * self.chunks
        self._flat = OrderedDigest()
        self._key: ContainerKey | None = None
        if sealing is not None:
            header = Header(stream_suite(sealing.suite), chunk_size, size, sealing.entropy(SALT_BYTES), path_hash(path))
            self._key = ContainerKey(sealing.dek.reveal(), header)
            _write_at(target, memoryview(header.encode()), 0)
            self._blob = OrderedDigest(header.encode())

    def pack(self, index: int, slot: _Slot) -> int:
        """Bring one chunk into the blob; return its length."""
        start = index * self._chunk_size
        plain = slot.plain[: min(self._chunk_size, self._size - start)]
        self._read(plain, start)
        if self.chunks > 1:
            self._digests[index] = chunk_digest(plain)
        if self._key is None:
            slot.take(1)
            _write_at(self._target, plain, start)
        else:
            slot.take(2)
            sealed = slot.sealed[: len(plain) + TAG_BYTES]
            self._key.seal_into(index, plain, sealed)
            _write_at(self._target, sealed, HEADER_BYTES + index * (self._chunk_size + TAG_BYTES))
            self._blob.offer(index, sealed, slot.release)
        length = len(plain)
        self._flat.offer(index, plain, slot.release)
        return length

    def finish(self) -> Packed:
        """Return what the manifest says of it, once every chunk is in the blob."""
        if os.pread(self._source, 1, self._size):
            raise self._changed(self._size + 1)
        if self._key is not None:
            self._key.wipe()
        os.fsync(self._target)
        flat = self._flat.digest()
        blob = flat if self._key is None else self._blob.digest()
        return Packed(flat, blob, chunk_root(self._digests if self.chunks > 1 else [flat]))

    def _read(self, buffer: memoryview, start: int) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._source, [buffer[done:]], start + done)
            except OSError as error:
                raise UnavailableError(f"cannot read {self._path}: {error.strerror}") from error
            if not count:
                raise self._changed(start + done)
            done += count

    def _changed(self, actual: int) -> RejectedError:
        return RejectedError(
            f"{self._path} changed while it was packaged", code="SOURCE_CHANGED", expected=self._size, actual=actual
        )


def _write_at(fd: int, data: memoryview, start: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], start + done)
