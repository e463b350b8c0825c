import os
from pathlib import Path

import pytest

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model.package import Package
from tests.fakes.descriptors import open_descriptors
from tests.fakes.packages import signed_package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return signed_package(tmp_path)


def some_blob(folder: Path) -> str:
    return f"blobs/{min(path.name for path in (folder / 'blobs').iterdir())}"


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_folder_is_unavailable(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot open the package"):
        Package.open(tmp_path / name)


def test_a_package_named_through_a_link_is_the_callers_choice(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    with Package.open(tmp_path / "current") as package:
        assert package.manifest_bytes() == (folder / "manifest.json").read_bytes()


def test_blobs_are_read_in_parts(folder: Path) -> None:
    key = some_blob(folder)
    data = (folder / key).read_bytes()
    with Package.open(folder) as package:
        assert package.size(key) == len(data)
        buffer = bytearray(10)
        package.read_into(key, 3, memoryview(buffer))
        assert buffer == data[3:13]


def test_reading_beyond_the_end_is_rejected(folder: Path) -> None:
    key = some_blob(folder)
    with Package.open(folder) as package, pytest.raises(RejectedError) as caught:
        package.read_into(key, package.size(key) - 1, memoryview(bytearray(2)))
    assert caught.value.code == "BLOB_TRUNCATED"


def test_a_missing_blob_is_unavailable(folder: Path) -> None:
    with Package.open(folder) as package:
        for read in (package.size, lambda key: package.read_into(key, 0, memoryview(bytearray(1)))):
            with pytest.raises(UnavailableError, match="lacks"):
                read("blobs/x")
            with pytest.raises(UnavailableError, match="lacks"):
                read("other/x")


def test_a_folder_in_place_of_a_blob_is_malformed(folder: Path) -> None:
    (folder / "blobs" / "folder").mkdir()
    with Package.open(folder) as package, pytest.raises(MalformedError, match="no regular file"):
        package.size("blobs/folder")


def test_a_socket_in_place_of_a_blob_is_malformed(folder: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(folder / "blobs")
        try:
            listener.bind("s")
        finally:
            os.chdir(before)
        with Package.open(folder) as package, pytest.raises(MalformedError, match="another kind"):
            package.size("blobs/s")


def test_a_closed_package_is_not_used(folder: Path) -> None:
    package = Package.open(folder)
    package.close()
    package.close()
    with pytest.raises(RuntimeError, match="closed"):
        package.manifest_bytes()


def test_a_folder_renamed_meanwhile_is_still_the_one_opened(folder: Path, tmp_path: Path) -> None:
    with Package.open(folder) as package:
        folder.rename(tmp_path / "moved")
        signed_package(tmp_path / "other", version="2.0.0").rename(folder)
        assert package.manifest_bytes() == (tmp_path / "moved" / "manifest.json").read_bytes()


def test_no_descriptor_is_left_open(folder: Path) -> None:
    before = open_descriptors()
    with Package.open(folder) as package:
        package.manifest_bytes()
        for key in ("blobs/x", "x", "blobs"):
            with pytest.raises((UnavailableError, MalformedError)):
                package.size(key)
        package.size(some_blob(folder))
    assert open_descriptors() == before
