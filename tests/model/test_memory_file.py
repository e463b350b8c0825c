import mmap
import os
from pathlib import Path

import pytest

from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.model.memory_file import Destination, load_bytes
from ephemeralml.model.roles import Role
from tests.fakes.descriptors import open_descriptors


def test_a_loaded_file_can_be_read_and_opened_by_path() -> None:
    file = load_bytes("a/b", Role.CONFIG, b"content")
    with Path(file.fd_path).open("rb") as again:
        assert again.read() == b"content"
    assert (bytes(file.view()), file.size, file.path, file.role) == (b"content", 7, "a/b", Role.CONFIG)
    assert repr(file) == "LoadedFile('a/b', config, 7 bytes)"
    file.close()


def test_nobody_can_change_it_any_more() -> None:
    file = load_bytes("x", Role.WEIGHTS, b"content")
    assert file.view().readonly
    with pytest.raises(PermissionError):
        os.pwrite(file.fd, b"C", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(file.fd, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(file.fd, 100)
    with pytest.raises(PermissionError):
        mmap.mmap(file.fd, 7, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    file.close()


def test_views_outlive_the_file() -> None:
    file = load_bytes("x", Role.WEIGHTS, b"content")
    view = file.view()
    file.close()
    file.close()
    assert bytes(view) == b"content"


def test_an_empty_file_is_a_file() -> None:
    file = load_bytes("x", Role.CONFIG, b"")
    assert (bytes(file.view()), file.read(max_bytes=0)) == (b"", b"")
    file.close()


def test_a_copy_is_bounded() -> None:
    file = load_bytes("x", Role.CONFIG, b"content")
    assert file.read(max_bytes=7) == b"content"
    with pytest.raises(MalformedError, match="at most 6"):
        file.read(max_bytes=6)
    file.close()


def test_a_view_that_is_still_held_stops_the_sealing() -> None:
    destination = Destination(4)
    view = destination.buffer()
    with pytest.raises(RuntimeError, match="still held"):
        destination.seal("x", Role.CONFIG)
    view.release()
    destination.seal("x", Role.CONFIG).close()


def test_a_destination_is_used_once() -> None:
    destination = Destination(4)
    destination.seal("x", Role.CONFIG).close()
    destination.discard()
    with pytest.raises(RuntimeError, match="sealed or discarded"):
        destination.seal("x", Role.CONFIG)


def test_what_is_discarded_gives_its_descriptor_back() -> None:
    before = open_descriptors()
    for _ in range(10):
        destination = Destination(4)
        destination.discard()
        destination.discard()
    assert open_descriptors() == before


def test_parts_are_written_anywhere_and_in_any_order() -> None:
    destination = Destination(10_000)
    destination.write(5_000, memoryview(b"b" * 5_000))
    destination.write(0, memoryview(b"a" * 5_000))
    destination.write(3, memoryview(b""))
    file = destination.seal("x", Role.WEIGHTS)
    assert bytes(file.view()) == b"a" * 5_000 + b"b" * 5_000
    file.close()


def test_a_write_that_is_cut_short_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, start: real(fd, data[:3], start))
    destination = Destination(10)
    destination.write(0, memoryview(b"0123456789"))
    file = destination.seal("x", Role.WEIGHTS)
    assert bytes(file.view()) == b"0123456789"
    file.close()


def test_a_file_that_cannot_be_mapped_is_unavailable_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> object:
        raise OSError(24, "Too many open files")

    before = open_descriptors()
    destination = Destination(4)
    monkeypatch.setattr(mmap, "mmap", full)
    with pytest.raises(UnavailableError, match="cannot map x: Too many open files"):
        destination.seal("x", Role.CONFIG)
    monkeypatch.undo()
    destination.discard()
    assert open_descriptors() == before


def test_memory_that_runs_out_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    destination = Destination(4)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UnavailableError, match="no memory for a file of 4 bytes"):
        destination.write(0, memoryview(b"abcd"))
    destination.discard()


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, 1 << 70])
def test_an_impossible_size_is_unavailable_and_leaves_nothing(size: int) -> None:
    before = open_descriptors()
    with pytest.raises(UnavailableError, match="no memory"):
        Destination(size)
    assert open_descriptors() == before


def test_a_kernel_without_anonymous_files_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", missing)
    with pytest.raises(UnavailableError, match="no anonymous memory file"):
        Destination(4)
