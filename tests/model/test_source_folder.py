import os
from pathlib import Path

import numpy as np
import pytest

from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.model import source_folder
from ephemeralml.model.formats.gguf import GgufHeader
from ephemeralml.model.formats.safetensors import DEFAULT_DTYPES, SafetensorsHeader
from ephemeralml.model.roles import Role
from ephemeralml.model.source_folder import SourceFile, check_format, find, opened
from tests.fakes import tiny_bert, tiny_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_bert.write(tmp_path / "model")


def checked(path: Path, data: bytes, **options: object) -> object:
    path.write_bytes(data)
    file = SourceFile(path.name, path, Role.WEIGHTS)
    with opened(file) as fd:
        return check_format(file, fd, **options)


def test_every_file_is_found_hidden_ones_too(model: Path) -> None:
    (model / ".hidden").mkdir()
    (model / ".hidden" / ".file").write_text("")
    found = find(model)
    assert [file.path for file in found.files] == sorted(
        path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()
    )
    assert {file.path: file.role for file in found.files}["model.safetensors"] is Role.WEIGHTS


def test_one_file_is_a_model(model: Path) -> None:
    (file,) = find(model / "model.safetensors").files
    assert (file.path, file.location) == ("model.safetensors", model / "model.safetensors")


def test_a_model_without_weights_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    for path in (model, model / "config.json"):
        with pytest.raises(MalformedError, match="no weights"):
            find(path)


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "a.safetensors").write_bytes(b"")
    with pytest.raises(MalformedError, match="no weights"):
        find(tmp_path)


def test_links_are_refused_inside_and_as_the_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "file-link.safetensors").symlink_to(model / "model.safetensors")
    for path in (tmp_path / "link", tmp_path / "file-link.safetensors"):
        with pytest.raises(MalformedError, match="symbolic link"):
            find(path)
    (model / "sub").symlink_to(tmp_path)
    with pytest.raises(MalformedError, match="'sub' is a symbolic link"):
        find(model)


def test_a_dangling_link_is_a_link(model: Path) -> None:
    (model / "x").symlink_to("nowhere")
    with pytest.raises(MalformedError, match="symbolic link"):
        find(model)


def test_fifos_are_refused(model: Path) -> None:
    os.mkfifo(model / "pipe")
    with pytest.raises(MalformedError, match="neither a regular file nor a folder"):
        find(model)


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "e\u0301", os.fsdecode(b"\xff")])
def test_names_that_no_manifest_can_carry_are_refused(model: Path, name: str) -> None:
    (model / name).write_text("")
    with pytest.raises(MalformedError):
        find(model)


def test_names_that_differ_in_case_only_are_refused(model: Path) -> None:
    (model / "CONFIG.json").write_text("")
    with pytest.raises(MalformedError, match="differ in case only"):
        find(model)


def test_too_many_files_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_folder, "MAX_FILES", 6)
    find(model)
    (model / "1_Pooling" / "x").write_text("")
    with pytest.raises(MalformedError, match="more than 6"):
        find(model)


def test_too_deep_a_folder_is_refused(model: Path) -> None:
    (model / "/".join("d" * 40)).mkdir(parents=True)
    with pytest.raises(MalformedError, match="nested deeper"):
        find(model)


def test_what_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot read"):
        find(tmp_path / "nowhere")


def test_a_file_that_became_a_link_is_refused(model: Path) -> None:
    file = next(file for file in find(model).files if file.path == "config.json")
    file.location.unlink()
    file.location.symlink_to("modules.json")
    with pytest.raises(MalformedError, match="symbolic link"), opened(file):
        pass


def test_a_file_that_became_a_fifo_is_refused(model: Path) -> None:
    file = next(file for file in find(model).files if file.path == "config.json")
    file.location.unlink()
    os.mkfifo(file.location)
    with pytest.raises(MalformedError, match="neither"), opened(file):
        pass


def test_a_file_that_vanished_is_unavailable(model: Path) -> None:
    file = find(model).files[0]
    file.location.unlink()
    with pytest.raises(UnavailableError, match="cannot read"), opened(file):
        pass


def test_the_format_is_that_of_the_name(tmp_path: Path) -> None:
    assert isinstance(checked(tmp_path / "a.safetensors", tiny_bert.contents()["model.safetensors"]), SafetensorsHeader)
    assert isinstance(checked(tmp_path / "a.gguf", tiny_gguf.gguf()), GgufHeader)
    assert checked(tmp_path / "a.txt", b"anything") is None


@pytest.mark.parametrize("name", ["a.safetensors", "a.gguf"])
def test_errors_name_the_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedError, match=name):
        checked(tmp_path / name, b"no such format at all")


def test_a_gguf_called_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match=r"a\.safetensors"):
        checked(tmp_path / "a.safetensors", tiny_gguf.gguf())


@pytest.mark.parametrize("name", ["a.safetensors", "a.gguf", "a.json"])
def test_a_pickle_is_called_a_pickle_under_any_name(tmp_path: Path, name: str) -> None:
    import pickle

    with pytest.raises(MalformedError) as caught:
        checked(tmp_path / name, pickle.dumps({"a": 1}, 2))
    assert caught.value.code == "PICKLE"


def test_a_dtype_can_be_allowed(tmp_path: Path) -> None:
    data = tiny_bert.safetensors({"a": np.zeros(2, np.float64)})
    with pytest.raises(MalformedError) as caught:
        checked(tmp_path / "a.safetensors", data)
    assert caught.value.code == "DTYPE_NOT_ALLOWED"
    assert checked(tmp_path / "a.safetensors", data, dtypes=DEFAULT_DTYPES | {"F64"}) is not None


@pytest.mark.parametrize("length", [384, 640, 896])
def test_a_sound_file_whose_header_length_looks_like_a_pickle_is_taken(tmp_path: Path, length: int) -> None:
    data = tiny_bert.safetensors({"a": np.zeros(2, np.float32)}, align=length)
    assert data[0] == 0x80
    assert checked(tmp_path / "a.safetensors", data) is not None
