import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model import create, envelope, manifest
from ephemeralml.model.create import PackageRequest, create_package
from ephemeralml.model.manifest import Format, Suite, Task
from ephemeralml.model.pack import Packer
from ephemeralml.model.package import Package
from ephemeralml.model.sign import sign_package
from ephemeralml.model.verify import verify_package
from ephemeralml.semver import SemVer
from tests.fakes import tiny_bert, tiny_gguf
from tests.fakes.packages import CREATED_AT, PUBLISHER, request


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_bert.write(tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    return tmp_path / "made" / "package"


def nothing_left(out: Path) -> bool:
    return not list(out.parent.iterdir())


def test_a_package_is_made_unsigned_and_verifies_once_signed(source: Path, out: Path) -> None:
    made = create_package(source, out, request())
    signed = envelope.parse((out / "manifest.json").read_bytes())
    assert signed.signature is None
    assert manifest.parse(signed.payload) == made
    assert (made.format, made.architecture, made.task, made.suite) == (
        Format.SAFETENSORS,
        "bert",
        Task.EMBEDDING,
        Suite.NONE,
    )
    assert sign_package(out, PUBLISHER) == made
    with Package.open(out) as package:
        verify_package(package, publisher_keys=(PUBLISHER.public,), allow_plaintext=True)
    assert [path.name for path in out.parent.iterdir()] == ["package"]


def test_the_same_model_gives_the_same_bytes(source: Path, out: Path) -> None:
    create_package(source, out, request())
    create_package(source, out.with_name("again"), request())
    assert (out / "manifest.json").read_bytes() == (out.with_name("again") / "manifest.json").read_bytes()


def test_what_the_publisher_says_comes_first(source: Path, out: Path) -> None:
    said = dataclasses.replace(request(), architecture="mine", task=Task.GENERATION, license="MIT", publisher="us")
    made = create_package(source, out, said)
    assert (made.architecture, made.task, made.license, made.publisher) == ("mine", Task.GENERATION, "MIT", "us")


def test_one_gguf_file_is_a_model(tmp_path: Path, out: Path) -> None:
    (tmp_path / "llama.gguf").write_bytes(tiny_gguf.gguf())
    made = create_package(tmp_path / "llama.gguf", out, request())
    assert (made.format, made.architecture, made.task) == (Format.GGUF, "llama", Task.GENERATION)
    assert [file.path for file in made.files] == ["llama.gguf"]


def test_a_pooled_gguf_is_an_embedding_model(tmp_path: Path, out: Path) -> None:
    pooling = tiny_gguf.pair("llama.pooling_type", tiny_gguf.U32, b"\1\0\0\0")
    (tmp_path / "m.gguf").write_bytes(tiny_gguf.gguf(pairs=(tiny_gguf.ARCHITECTURE, pooling)))
    assert create_package(tmp_path / "m.gguf", out, request()).task is Task.EMBEDDING


def test_a_gguf_that_does_not_say_what_it_is_is_refused(tmp_path: Path, out: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_gguf.gguf(pairs=()))
    with pytest.raises(MalformedError, match=r"general\.architecture"):
        create_package(tmp_path / "m.gguf", out, request())
    assert nothing_left(out)


def test_one_safetensors_file_without_config_has_no_known_architecture(source: Path, out: Path) -> None:
    made = create_package(source / "model.safetensors", out, request())
    assert (made.architecture, made.task) == ("unknown", Task.GENERATION)


def test_weights_of_two_formats_are_refused(source: Path, out: Path) -> None:
    (source / "m.gguf").write_bytes(tiny_gguf.gguf())
    with pytest.raises(MalformedError, match="more than one format"):
        create_package(source, out, request())
    assert nothing_left(out)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.bin", b"x"),
        ("vocab.txt", b"\x80\x04\x95"),
        ("extra.safetensors", b"x"),
        ("config.json", b"{"),
        ("x.gguf", b"GGUF"),
    ],
)
def test_an_unsafe_file_stops_it_with_nothing_written(source: Path, out: Path, name: str, data: bytes) -> None:
    (source / name).write_bytes(data)
    with pytest.raises(MalformedError):
        create_package(source, out, request())
    assert nothing_left(out)


def test_an_existing_package_is_not_replaced_unasked(source: Path, out: Path) -> None:
    create_package(source, out, request())
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(UnavailableError, match="exists"):
        create_package(source, out, request(version="2.0.0"))
    assert (out / "manifest.json").read_bytes() == before
    create_package(source, out, request(version="2.0.0"), replace=True)
    assert (out / "manifest.json").read_bytes() != before
    assert [path.name for path in out.parent.iterdir()] == ["package"]


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_something_else_is_never_replaced(source: Path, out: Path, what: str) -> None:
    if what == "folder":
        out.mkdir()
        (out / "precious").write_text("")
    elif what == "file":
        out.write_text("")
    else:
        out.symlink_to(source)
    with pytest.raises(UnavailableError, match="is no package"):
        create_package(source, out, request(), replace=True)
    assert out.exists()


def test_an_empty_folder_may_be_replaced_when_asked(source: Path, out: Path) -> None:
    out.mkdir()
    create_package(source, out, request(), replace=True)
    assert (out / "manifest.json").exists()


def test_a_folder_that_does_not_exist_is_unavailable(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not exist"):
        create_package(source, tmp_path / "no" / "where", request())


def test_a_full_disk_leaves_nothing(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview, start: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UnavailableError, match="No space left"):
        create_package(source, out, request())
    monkeypatch.undo()
    assert nothing_left(out)


def test_a_full_disk_keeps_the_package_that_was_there(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_package(source, out, request())
    before = (out / "manifest.json").read_bytes()

    def full(fd: int, data: memoryview, start: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UnavailableError):
        create_package(source, out, request(version="2.0.0"), replace=True)
    monkeypatch.undo()
    assert (out / "manifest.json").read_bytes() == before


def test_a_model_that_cannot_be_read_is_named(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(UnavailableError, match=r"cannot read model\.safetensors: Input/output error"):
        create_package(source / "model.safetensors", out, request())
    monkeypatch.undo()
    assert nothing_left(out)


@pytest.mark.parametrize("length", [-1, 1, -100_000_000])
def test_a_file_that_changes_its_length_meanwhile_is_rejected(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    real = Packer.pack

    def changing(self: Packer, path: str, size: int, *fds: int) -> object:
        os.truncate(source / path, max(size + length, 0))
        return real(self, path, size, *fds)

    monkeypatch.setattr(Packer, "pack", changing)
    with pytest.raises(RejectedError) as caught:
        create_package(source / "model.safetensors", out, request())
    assert caught.value.code == "SOURCE_CHANGED"
    assert "model.safetensors changed while" in caught.value.message
    assert nothing_left(out)


@pytest.mark.parametrize("kept_times", [False, True])
def test_what_was_checked_is_what_is_packaged(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, kept_times: bool
) -> None:
    real = Packer.pack
    weights = source / "model.safetensors"
    before = weights.stat()

    def changing(self: Packer, path: str, size: int, *fds: int) -> object:
        weights.write_bytes(b"\x80\x04cos\nsystem\n.".ljust(before.st_size, b"\0"))
        if kept_times:
            os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        return real(self, path, size, *fds)

    monkeypatch.setattr(Packer, "pack", changing)
    with pytest.raises(RejectedError) as caught:
        create_package(weights, out, request())
    assert caught.value.code == "SOURCE_CHANGED"
    assert nothing_left(out)


def failing_rename(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == out and not self.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)


def test_a_package_that_cannot_take_its_name_brings_the_old_one_back(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_package(source, out, request())
    before = (out / "manifest.json").read_bytes()
    failing_rename(monkeypatch, out)
    with pytest.raises(UnavailableError, match="Input/output error"):
        create_package(source, out, request(version="2.0.0"), replace=True)
    assert (out / "manifest.json").read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["package"]


def test_a_place_that_cannot_be_written_is_unavailable(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", denied)
    with pytest.raises(UnavailableError, match="Permission denied"):
        create_package(source, out, request())


def test_an_interrupt_leaves_nothing(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(create, "_write_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create_package(source, out, request())
    assert nothing_left(out)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000])
def test_chunks_meet_at_their_edges(tmp_path: Path, out: Path, size: int) -> None:
    source = tiny_bert.write(tmp_path / "edges")
    data = bytes(index * 7 % 251 for index in range(size))
    (source / "vocab.txt").write_bytes(data)
    made = create_package(source, out, request())
    sign_package(out, PUBLISHER)
    entry = made.file("vocab.txt")
    assert (entry.size, (out / entry.blob).read_bytes()) == (size, data)
    with Package.open(out) as package:
        verified = verify_package(package, publisher_keys=(PUBLISHER.public,), allow_plaintext=True)
        from ephemeralml.model.verify_full import verify_plaintext

        verify_plaintext(verified, package)


@pytest.mark.parametrize("size", [0, 1, 32_768, 65_537, 1 << 27, -65_536])
def test_chunk_sizes_are_powers_of_two_within_bounds(size: int) -> None:
    with pytest.raises(MalformedError, match="power of two"):
        PackageRequest("m", SemVer.parse("1.0.0"), CREATED_AT, chunk_size=size)


@pytest.mark.parametrize("model_id", ["", "a b", "a@b", "a\tb", "x" * 257])
def test_a_model_id_must_be_usable(model_id: str) -> None:
    with pytest.raises(MalformedError, match="model id"):
        PackageRequest(model_id, SemVer.parse("1.0.0"), CREATED_AT)


def test_texts_of_the_manifest_are_bounded() -> None:
    with pytest.raises(MalformedError, match="at most 256"):
        PackageRequest("m", SemVer.parse("1.0.0"), CREATED_AT, license="é" * 200)


def test_signing_needs_a_whole_package(source: Path, out: Path) -> None:
    create_package(source, out, request())
    before = (out / "manifest.json").read_bytes()
    blob = next((out / "blobs").iterdir())
    data = blob.read_bytes()
    blob.unlink()
    with pytest.raises(UnavailableError):
        sign_package(out, PUBLISHER)
    blob.write_bytes(data)
    (out / "extra").write_text("")
    with pytest.raises(MalformedError):
        sign_package(out, PUBLISHER)
    assert (out / "manifest.json").read_bytes() == before


def test_signing_replaces_a_signature_and_keeps_the_payload(source: Path, out: Path) -> None:
    create_package(source, out, request())
    payload = envelope.parse((out / "manifest.json").read_bytes()).payload
    sign_package(out, PUBLISHER)
    first = (out / "manifest.json").read_bytes()
    sign_package(out, PUBLISHER)
    assert (out / "manifest.json").read_bytes() == first
    assert envelope.parse(first).payload == payload
    assert [path.name for path in out.parent.iterdir()] == ["package"]


def test_another_document_is_not_signed_as_a_manifest() -> None:
    from ephemeralml.crypto import dsse

    with pytest.raises(MalformedError, match="not a model manifest"):
        envelope.signed(dsse.seal("application/x", b"{}", None), PUBLISHER)


def test_a_manifest_that_cannot_be_written_is_unavailable(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_package(source, out, request())

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match="cannot write"):
        sign_package(out, PUBLISHER)
    monkeypatch.undo()
    assert [path.name for path in out.parent.iterdir()] == ["package"]
    shutil.rmtree(out)


@pytest.mark.parametrize("name", ["inside", "deep/inside", ".", "..", "../source"])
def test_a_package_and_its_model_do_not_lie_in_each_other(source: Path, name: str) -> None:
    (source / "deep").mkdir(exist_ok=True)
    before = sorted(source.rglob("*"))
    with pytest.raises(UnavailableError, match="lie in each other"):
        create_package(source, source / name, request(), replace=True)
    assert sorted(source.rglob("*")) == before
