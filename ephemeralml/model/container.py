"""From a package's blobs to verified files in sealed memory (model-package.md section 4).

Ranges of the blobs are fetched by several threads at once, files beside files.
Each range is whole chunks: a chunk is decrypted into memory of its own, hashed,
and copied to its place in the destination. A file is handed on only when the
root over all its chunk digests is the one that the signed manifest states.

That a chunk authenticates under the data key proves little by itself: a relay
can have the key of its own making released. The chunk root is the proof.
"""

import hmac
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from ephemeralml.crypto.aead_stream import HEADER_BYTES, TAG_BYTES, ContainerKey, Header, path_hash
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError
from ephemeralml.model import lanes
from ephemeralml.model.blobs import BlobStore, check_size
from ephemeralml.model.encryption import stream_suite
from ephemeralml.model.hashing import Meter, chunk_digest, chunk_root, worker_count
from ephemeralml.model.manifest import ManifestFile, Suite, chunk_count
from ephemeralml.model.memory_file import Destination, LoadedFile
from ephemeralml.model.verify import VerifiedManifest
from ephemeralml.progress import Progress, Silent

IN_FLIGHT = 8
RANGE_BYTES = 16 << 20


class Blob:
    """One file's blob, its size and header held against the manifest; reads its chunks."""

    __slots__ = ("_key", "_start", "_store", "_tag", "chunks", "file")

    def __init__(self, store: BlobStore, file: ManifestFile, key: ContainerKey | None) -> None:
        self.file = file
        """What the manifest says of it."""
        self.chunks = chunk_count(file.size, file.chunk_size)
        """How many there are."""
        self._store = store
        self._key = key
        self._start, self._tag = (0, 0) if key is None else (HEADER_BYTES, TAG_BYTES)

    @classmethod
    def open(cls, store: BlobStore, file: ManifestFile, suite: Suite, dek: SecretBytes | None) -> "Blob":
        """Check size and header before anything is decrypted.

        Raises:
            MalformedError: The header does not parse.
            RejectedError: Size or header are not those of the manifest (codes
                SIZE_MISMATCH, HEADER_MISMATCH).
            UnavailableError: The blob is missing.
        """
        check_size(store, file)
        if suite is Suite.NONE or dek is None:
            return cls(store, file, None)
        data = bytearray(HEADER_BYTES)
        store.read_into(file.blob, 0, memoryview(data))
        try:
            header = Header.parse(bytes(data))
        except MalformedError as error:
            raise MalformedError(f"{file.path}: {error.message}", code=error.code) from error
        _check_header(file, suite, header)
        return cls(store, file, ContainerKey(dek.reveal(), header))

    def extent(self, first: int, last: int) -> int:
        """Return the bytes that chunks *first* up to *last* have in the blob."""
        return self._offset(last) - self._offset(first)

    def fetch(self, first: int, last: int, window: memoryview) -> memoryview:
        """Return chunks *first* up to *last* as they stand in the blob, in *window*."""
        part = window[: self.extent(first, last)]
        self._store.read_into(self.file.blob, self._offset(first), part)
        return part

    def plaintext(self, first: int, index: int, fetched: memoryview, scratch: memoryview) -> memoryview:
        """Return the plaintext of chunk *index*, authenticated if the suite can.

        Args:
            first: The first chunk that was fetched.
            index: The chunk.
            fetched: What `fetch` returned.
            scratch: Memory for a chunk; overwritten.

        Raises:
            RejectedError: The chunk does not open (code CHUNK_AUTH_FAILED).
        """
        start = self._offset(index) - self._offset(first)
        stored = fetched[start : start + self.extent(index, index + 1)]
        if self._key is None:
            return stored
        out = scratch[: len(stored) - TAG_BYTES]
        try:
            self._key.open_into(index, stored, out)
        except RejectedError as error:
            raise RejectedError(f"{self.file.path}: {error.message}", code=error.code) from error
        return out

    def read_chunk(self, index: int, window: memoryview, out: memoryview) -> memoryview:
        """Fetch and open chunk *index* alone; return its plaintext, a part of *out*.

        Args:
            index: The chunk.
            window: Memory for a chunk and its tag; overwritten.
            out: Memory for a chunk.

        Raises:
            RejectedError: The chunk does not open (code CHUNK_AUTH_FAILED).
        """
        fetched = self.fetch(index, index + 1, out if self._key is None else window)
        return self.plaintext(index, index, fetched, out)

    def check_root(self, digests: Sequence[bytes]) -> None:
        """Refuse contents that the manifest was not signed for.

        Raises:
            RejectedError: With code CHUNK_ROOT_MISMATCH.
        """
        root = chunk_root(digests)
        if not hmac.compare_digest(root, self.file.chunk_root):
            raise RejectedError(
                f"{self.file.path}: its contents are not those the manifest was signed for",
                code="CHUNK_ROOT_MISMATCH",
                expected=self.file.chunk_root.hex(),
                actual=root.hex(),
            )

    def close(self) -> None:
        """Drop the container's key."""
        if self._key is not None:
            self._key.wipe()

    def _offset(self, index: int) -> int:
        """Return where chunk *index* begins in the blob, or where the last one ends."""
        return self._start + min(index * self.file.chunk_size, self.file.size) + index * self._tag


def _check_header(file: ManifestFile, suite: Suite, header: Header) -> None:
    expected = Header(stream_suite(suite), file.chunk_size, file.size, header.salt, path_hash(file.path))
    for name in ("suite", "chunk_size", "plaintext_size", "path_hash"):
        wanted, found = getattr(expected, name), getattr(header, name)
        if wanted != found:
            raise RejectedError(
                f"{file.path}: the {name} in its container's header is not that of the manifest",
                code="HEADER_MISMATCH",
                expected=wanted.hex() if isinstance(wanted, bytes) else int(wanted),
                actual=found.hex() if isinstance(found, bytes) else int(found),
            )


def open_blobs(
    verified: VerifiedManifest, store: BlobStore, dek: SecretBytes | None, *, in_flight: int = IN_FLIGHT
) -> list[Blob]:
    """Open the blob of every file, several at once; errors as `Blob.open`.

    Raises:
        IncompleteError: The package is encrypted and there is no *dek* (code KEY_MISSING).
    """
    manifest = verified.manifest
    if manifest.suite is not Suite.NONE and dek is None:
        raise IncompleteError(
            f"the package is encrypted ({manifest.suite.value}) and there is no key to it", code="KEY_MISSING"
        )
    opened: list[Blob | None] = [None] * len(manifest.files)
    indices = iter(range(len(opened)))

    def lane(stop: threading.Event) -> None:
        for index in indices:
            if stop.is_set():
                return
            opened[index] = Blob.open(store, manifest.files[index], manifest.suite, dek)

    try:
        lanes.run([lane] * min(in_flight, len(opened)), name="load")
    except BaseException:
        for blob in opened:
            if blob is not None:
                blob.close()
        raise
    return [blob for blob in opened if blob is not None]


def load_files(
    verified: VerifiedManifest,
    store: BlobStore,
    *,
    dek: SecretBytes | None = None,
    in_flight: int = IN_FLIGHT,
    range_bytes: int = RANGE_BYTES,
    progress: Progress | None = None,
) -> Mapping[str, LoadedFile]:
    """Bring every file of a package into sealed memory, verified against its manifest.

    At its peak this holds the plaintext, *in_flight* ranges, and one chunk for
    each core.

    Args:
        verified: The package's manifest.
        store: Where its blobs are; trusted for nothing.
        dek: The package's data key; not needed for suite ``none``.
        in_flight: How many ranges are fetched at once.
        range_bytes: How much of a blob is fetched at once; at least a chunk.
        progress: Told of the bytes that arrived.

    Raises:
        IncompleteError: The package is encrypted and there is no *dek*.
        MalformedError: A container's header does not parse.
        RejectedError: A blob's size (code SIZE_MISMATCH), header
            (HEADER_MISMATCH) or contents (CHUNK_AUTH_FAILED,
            CHUNK_ROOT_MISMATCH) are not those of the manifest.
        UnavailableError: A blob is missing, or there is not enough memory.
    """
    progress = progress or Silent()
    progress.step("load")
    blobs = open_blobs(verified, store, dek, in_flight=in_flight)
    meter = Meter(progress, sum(blob.file.size for blob in blobs))
    loaded: dict[str, LoadedFile] = {}
    with ExitStack() as always, ExitStack() as undo:
        targets = []
        for blob in blobs:
            always.callback(blob.close)
            targets.append(_Target(blob))
            always.callback(targets[-1].destination.discard)
        _Loader(targets, in_flight, range_bytes, meter).run()
        for target in targets:
            target.blob.check_root(target.digests)
        for target in targets:
            loaded[target.blob.file.path] = undo.enter_context(closing(target.seal()))
        undo.pop_all()
    return loaded


class _Target:
    """A file that is being loaded."""

    __slots__ = ("blob", "destination", "digests")

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        self.destination = Destination(blob.file.size)
        self.digests = [b""] * blob.chunks

    def seal(self) -> LoadedFile:
        return self.destination.seal(self.blob.file.path, self.blob.file.role)


@dataclass(frozen=True, slots=True)
class _Range:
    """Whole chunks of one file, fetched together."""

    target: _Target
    first: int
    last: int


def ranges_of(blob: Blob, range_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks of *blob* in groups of about *range_bytes*, each group as its first and behind its last."""
    step = max(1, range_bytes // blob.file.chunk_size)
    for first in range(0, blob.chunks, step):
        yield first, min(first + step, blob.chunks)


class _Loader:
    """The threads of one `load_files`."""

    def __init__(self, targets: Sequence[_Target], in_flight: int, range_bytes: int, meter: Meter) -> None:
        self._targets = targets
        ranges = [
            _Range(target, first, last) for target in targets for first, last in ranges_of(target.blob, range_bytes)
        ]
        # Advancing a list's iterator is atomic, so the lanes share it without a lock.
        self._ranges = iter(ranges)
        self._window = max(work.target.blob.extent(work.first, work.last) for work in ranges)
        chunk = max(min(target.blob.file.size, target.blob.file.chunk_size) for target in targets)
        # A chunk may be longer than a range should be; the memory for all of them stays what was asked for.
        self._lanes = max(1, min(in_flight, len(ranges), in_flight * range_bytes // max(range_bytes, chunk)))
        self._scratches: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(min(worker_count(), self._lanes)):
            self._scratches.put(lanes.scratch(chunk))
        self._meter = meter

    def run(self) -> None:
        """Fill the destinations; errors as `load_files`."""
        lanes.run([self._fill] * self._lanes, name="load")

    def _fill(self, stop: threading.Event) -> None:
        window = lanes.scratch(self._window)
        for work in self._ranges:
            if stop.is_set():
                return
            fetched = work.target.blob.fetch(work.first, work.last, window)
            # As many decrypt at once as there are cores; the others fetch, or wait here with what they have.
            scratch = self._scratches.get()
            try:
                self._open(work, fetched, scratch, stop)
            finally:
                self._scratches.put(scratch)

    def _open(self, work: _Range, fetched: memoryview, scratch: memoryview, stop: threading.Event) -> None:
        target = work.target
        for index in range(work.first, work.last):
            if stop.is_set():
                return
            plain = target.blob.plaintext(work.first, index, fetched, scratch)
            target.digests[index] = chunk_digest(plain)
            target.destination.write(index * target.blob.file.chunk_size, plain)
            self._meter.add(len(plain))
