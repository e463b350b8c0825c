import itertools
import os
import threading
import time
from pathlib import Path

import pytest

from ephemeralml.crypto.aead_stream import HEADER_BYTES, ContainerKey
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.model import lanes
from ephemeralml.model.container import load_files
from ephemeralml.model.hashing import worker_count
from ephemeralml.model.memory_file import Destination, LoadedFile
from ephemeralml.model.package import Package
from ephemeralml.model.roles import Role
from ephemeralml.model.verify import VerifiedManifest, verify_manifest
from ephemeralml.storage.file import FileStorage
from tests.fakes import tiny_bert
from tests.fakes.descriptors import open_descriptors
from tests.fakes.key_source import OneKey
from tests.fakes.packages import PUBLISHER, data_key, encrypted_package, signed_package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # About 150 KB of weights: three chunks of 64 KiB, the last one short.
    return signed_package(tmp_path, shape=tiny_bert.Shape(layers=6, intermediate=128))


def verified(folder: Path) -> VerifiedManifest:
    data = (folder / "manifest.json").read_bytes()
    return verify_manifest(data, publisher_keys=(PUBLISHER.public,), allow_plaintext=True)


def blob_of(folder: Path, path: str = "model.safetensors") -> Path:
    return folder / verified(folder).manifest.file(path).blob


def rejected(folder: Path) -> RejectedError:
    before = open_descriptors()
    with Package.open(folder) as package, pytest.raises(RejectedError) as caught:
        load_files(verified(folder), package)
    assert open_descriptors() == before, "what was loaded before is given back"
    return caught.value


def test_every_file_is_loaded_under_its_path_and_role(folder: Path) -> None:
    source = folder.parent / "source-tiny-bert-1.0.0"
    with Package.open(folder) as package:
        loaded = load_files(verified(folder), package)
    assert loaded["model.safetensors"].role is Role.WEIGHTS
    assert loaded["model.safetensors"].size > 2 * 65_536
    for path, file in loaded.items():
        assert bytes(file.view()) == (source / path).read_bytes()
        file.close()


def test_a_storage_adapter_serves_as_well_as_a_folder(folder: Path) -> None:
    source = folder.parent / "source-tiny-bert-1.0.0"
    for path, file in load_files(verified(folder), FileStorage(folder)).items():
        assert bytes(file.view()) == (source / path).read_bytes()
        file.close()


def test_an_empty_file_is_loaded(tmp_path: Path) -> None:
    from ephemeralml.model.create import create_package
    from ephemeralml.model.sign import sign_package
    from tests.fakes.packages import request

    source = tiny_bert.write(tmp_path / "source")
    (source / "empty.txt").touch()
    create_package(source, tmp_path / "package", request())
    sign_package(tmp_path / "package", PUBLISHER)
    with Package.open(tmp_path / "package") as package:
        loaded = load_files(verified(tmp_path / "package"), package)
    assert bytes(loaded["empty.txt"].view()) == b""
    for file in loaded.values():
        file.close()


@pytest.mark.parametrize("position", [0, 65_535, 65_536, 131_072, -1])
def test_a_flipped_chunk_is_rejected(folder: Path, position: int) -> None:
    blob = blob_of(folder)
    data = bytearray(blob.read_bytes())
    data[position] ^= 0x80
    blob.write_bytes(data)
    error = rejected(folder)
    assert error.code == "CHUNK_ROOT_MISMATCH"
    assert "model.safetensors" in error.message


def test_reordered_chunks_are_rejected(folder: Path) -> None:
    blob = blob_of(folder)
    data = blob.read_bytes()
    blob.write_bytes(data[65_536:131_072] + data[:65_536] + data[131_072:])
    assert rejected(folder).code == "CHUNK_ROOT_MISMATCH"


@pytest.mark.parametrize("change", [-1, 1, -100_000])
def test_another_length_is_rejected_before_anything_is_read(folder: Path, change: int) -> None:
    blob = blob_of(folder)
    os.truncate(blob, blob.stat().st_size + change)
    assert rejected(folder).code == "SIZE_MISMATCH"


def test_a_blob_that_shrinks_while_it_is_read_is_rejected(folder: Path) -> None:
    class Shrinking(FileStorage):
        def read_into(self, key: str, start: int, buffer: memoryview) -> None:
            if start:
                os.truncate(folder / key, 70_000)
            super().read_into(key, start, buffer)

    with pytest.raises(RejectedError) as caught:
        load_files(verified(folder), Shrinking(folder), range_bytes=65_536)
    assert caught.value.code in {"BLOB_TRUNCATED", "OBJECT_CHANGED"}


def test_a_missing_blob_is_unavailable(folder: Path) -> None:
    blob_of(folder).unlink()
    with Package.open(folder) as package, pytest.raises(UnavailableError, match="lacks"):
        load_files(verified(folder), package)


def test_swapped_blobs_are_rejected(tmp_path: Path) -> None:
    folder = signed_package(tmp_path)
    other = signed_package(tmp_path, model_id="other", seed=8)
    blob_of(folder).write_bytes(blob_of(other).read_bytes())
    assert rejected(folder).code == "CHUNK_ROOT_MISMATCH"


def test_an_error_of_the_store_stops_the_others_and_comes_through(folder: Path) -> None:
    class Failing(FileStorage):
        def read_into(self, key: str, start: int, buffer: memoryview) -> None:
            raise UnavailableError("the network is gone")

    with pytest.raises(UnavailableError, match="network is gone"):
        load_files(verified(folder), Failing(folder))


def test_progress_ends_with_everything(folder: Path) -> None:
    calls: list[tuple[int, int | None]] = []

    class Watcher:
        def step(self, name: str) -> None:
            assert name == "load"

        def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
            calls.append((done, total))

    with Package.open(folder) as package:
        for file in load_files(verified(folder), package, progress=Watcher()).values():
            file.close()
    assert calls[-1][0] == calls[-1][1] == sum(file.size for file in verified(folder).manifest.files)


class Watching(FileStorage):
    """Notes what is read, how much of it at once, and by whom.

    Reads of chunks wait, a second at most, until *together* of them are there:
    so many have to come, however slowly this machine starts threads.
    """

    def __init__(self, folder: Path, *, together: int = 1) -> None:
        super().__init__(folder)
        self.together = together
        self.all_there = threading.Event()
        self.reads: list[tuple[str, int, int]] = []
        self.threads: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        with self.lock:
            self.reads.append((key, start, len(buffer)))
            self.threads.add(threading.current_thread().name)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            if len(buffer) > HEADER_BYTES and self.at_once >= self.together:
                self.all_there.set()
        if len(buffer) > HEADER_BYTES:
            self.all_there.wait(1)
        time.sleep(0.002)
        super().read_into(key, start, buffer)
        with self.lock:
            self.at_once -= 1


def load_watched(folder: Path, dek: SecretBytes | None = None, *, together: int = 1, **options: int) -> Watching:
    store = Watching(folder, together=together)
    for file in load_files(verified(folder), store, dek=dek, **options).values():
        file.close()
    return store


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Path, SecretBytes]:
    keys = OneKey()
    folder = encrypted_package(tmp_path, keys=keys, shape=tiny_bert.Shape(layers=6, intermediate=128))
    return folder, data_key(folder, keys)


def test_ranges_are_whole_chunks_and_every_byte_is_read_once(sealed: tuple[Path, SecretBytes]) -> None:
    folder, dek = sealed
    store = load_watched(folder, dek, range_bytes=2 * 65_536 + 5)
    file = verified(folder).manifest.file("model.safetensors")
    stride = 65_536 + 16
    found = sorted((start, length) for key, start, length in store.reads if key == file.blob)
    assert found == [(0, 96), (96, 2 * stride), (96 + 2 * stride, file.blob_size - 96 - 2 * stride)]


def test_a_range_is_at_least_a_chunk(folder: Path) -> None:
    store = load_watched(folder, range_bytes=1)
    blob = verified(folder).manifest.file("model.safetensors").blob
    assert sorted(start for key, start, _ in store.reads if key == blob) == [0, 65_536, 131_072]


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_so_many_ranges_are_in_flight_and_no_more(sealed: tuple[Path, SecretBytes], in_flight: int) -> None:
    folder, dek = sealed
    store = load_watched(folder, dek, together=in_flight, in_flight=in_flight, range_bytes=65_536)
    assert store.most_at_once == len(store.threads) == in_flight
    assert all(name.startswith("load") for name in store.threads)


def test_files_share_the_lanes(tmp_path: Path) -> None:
    """Small files are fetched beside each other, not one after the other."""
    assert load_watched(signed_package(tmp_path), together=3).most_at_once > 2


def test_chunks_longer_than_a_range_take_no_more_memory(
    sealed: tuple[Path, SecretBytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, dek = sealed
    taken: list[int] = []
    real = lanes.scratch
    monkeypatch.setattr(lanes, "scratch", lambda size: taken.append(size) or real(size))
    load_watched(folder, dek, in_flight=4, range_bytes=40_000)
    window = 65_536 + 16
    assert taken.count(window) == 4 * 40_000 // 65_536
    assert taken.count(65_536) <= worker_count()


def test_different_bytes_at_every_reading_end_in_a_refusal(sealed: tuple[Path, SecretBytes]) -> None:
    class Restless(FileStorage):
        def read_into(self, key: str, start: int, buffer: memoryview) -> None:
            super().read_into(key, start, buffer)
            if start >= 96:
                buffer[next(turns) % len(buffer)] ^= 1

    folder, dek = sealed
    turns = itertools.count()
    for _ in range(3):
        with pytest.raises(RejectedError) as caught:
            load_files(verified(folder), Restless(folder), dek=dek)
        assert caught.value.code == "CHUNK_AUTH_FAILED"


def test_an_error_does_not_wait_for_a_range_that_stalls_longer_than_it_must(folder: Path) -> None:
    """Nobody may write to memory that was given back, so the stalled read is waited for, and no new one begins."""
    begun: list[int] = []
    failed = threading.Event()

    class Stalling(FileStorage):
        def read_into(self, key: str, start: int, buffer: memoryview) -> None:
            begun.append(start)
            if len(begun) == 1:
                assert failed.wait(10)
                super().read_into(key, start, buffer)
                return
            failed.set()
            raise UnavailableError("the network is gone")

    with pytest.raises(UnavailableError, match="network is gone"):
        load_files(verified(folder), Stalling(folder), in_flight=2, range_bytes=65_536)
    assert len(begun) <= 3


def test_plaintext_lies_in_sealed_memory_alone(sealed: tuple[Path, SecretBytes]) -> None:
    folder, dek = sealed
    with Package.open(folder) as package:
        loaded = load_files(verified(folder), package, dek=dek)
    for file in loaded.values():
        with pytest.raises(PermissionError):
            os.pwrite(file.fd, b"x", 0)
        file.close()


def test_what_was_sealed_is_given_back_if_a_later_file_cannot_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = verified(folder).manifest.files[-1].path
    real = Destination.seal

    def seal(self: Destination, path: str, role: Role) -> LoadedFile:
        if path == last:
            raise UnavailableError("no descriptor is left")
        return real(self, path, role)

    monkeypatch.setattr(Destination, "seal", seal)
    before = open_descriptors()
    with Package.open(folder) as package, pytest.raises(UnavailableError, match="no descriptor"):
        load_files(verified(folder), package)
    assert open_descriptors() == before


def test_every_containers_key_is_dropped_in_the_end(
    sealed: tuple[Path, SecretBytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[ContainerKey] = []
    monkeypatch.setattr(ContainerKey, "wipe", lambda key: dropped.append(key))  # noqa: PLW0108 - a built-in is no method
    folder, dek = sealed
    load_watched(folder, dek)
    assert len({id(key) for key in dropped}) == len(verified(folder).manifest.files)


def test_keys_are_dropped_where_a_later_header_does_not_hold(
    sealed: tuple[Path, SecretBytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[ContainerKey] = []
    monkeypatch.setattr(ContainerKey, "wipe", lambda key: dropped.append(key))  # noqa: PLW0108 - a built-in is no method
    folder, dek = sealed
    files = verified(folder).manifest.files
    blob = folder / files[-1].blob
    data = bytearray(blob.read_bytes())
    data[60] ^= 1
    blob.write_bytes(data)
    with pytest.raises(RejectedError):
        load_files(verified(folder), FileStorage(folder), dek=dek, in_flight=1)
    assert len(dropped) == len(files) - 1
