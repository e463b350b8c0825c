import os
from pathlib import Path

import pytest

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.model.container import load_files
from ephemeralml.model.package import Package
from ephemeralml.model.roles import Role
from ephemeralml.model.verify import VerifiedManifest, verify_manifest
from ephemeralml.storage.file import FileStorage
from tests.fakes import tiny_bert
from tests.fakes.descriptors import open_descriptors
from tests.fakes.packages import PUBLISHER, signed_package


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
