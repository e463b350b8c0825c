"""Encrypted packages: made, loaded, and refused when a single thing about them is wrong (model-package.md section 5)."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto.aead_stream import HEADER_BYTES, TAG_BYTES, ContainerKey, Header, StreamSuite
from ephemeralml.crypto.data_key import DEK_BYTES, EncryptionContext, SecretBytes, WrappedKey
from ephemeralml.errors import EphemeralError, IncompleteError, MalformedError, RejectedError, UnavailableError
from ephemeralml.model.container import load_files
from ephemeralml.model.create import Upstream, create_package
from ephemeralml.model.encryption import expected_context
from ephemeralml.model.keys_file import parse_keys
from ephemeralml.model.manifest import ManifestFile, Suite
from ephemeralml.model.package import Package
from ephemeralml.model.sign import sign_package
from ephemeralml.model.verify import VerifiedManifest, verify_manifest, verify_package
from ephemeralml.model.verify_full import verify_plaintext
from tests.fakes import tiny_bert
from tests.fakes.descriptors import open_descriptors
from tests.fakes.key_source import OneKey
from tests.fakes.packages import PUBLISHER, data_key, encrypted_package, request

CHUNK = 65_536
SHAPE = tiny_bert.Shape(layers=6, intermediate=128)
"""About 150 KB of weights: three chunks, the last one short."""
WEIGHTS = "model.safetensors"
SUITES = pytest.mark.parametrize("suite", [Suite.CHACHA20POLY1305, Suite.AES256GCM])


@pytest.fixture
def keys() -> OneKey:
    return OneKey()


@pytest.fixture
def folder(tmp_path: Path, keys: OneKey) -> Path:
    return encrypted_package(tmp_path, keys=keys, shape=SHAPE)


def manifest_of(folder: Path) -> VerifiedManifest:
    return verify_manifest((folder / "manifest.json").read_bytes(), publisher_keys=(PUBLISHER.public,))


def contents(folder: Path, dek: SecretBytes | None, **options: int) -> Mapping[str, bytes]:
    with Package.open(folder) as package:
        loaded = load_files(manifest_of(folder), package, dek=dek, **options)
    found = {path: bytes(file.view()) for path, file in loaded.items()}
    for file in loaded.values():
        file.close()
    return found


def source_of(folder: Path) -> Mapping[str, bytes]:
    source = folder.parent / f"source-{folder.name}"
    return {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}


def entry_of(folder: Path, path: str = WEIGHTS) -> ManifestFile:
    return manifest_of(folder).manifest.file(path)


def edit(folder: Path, change: Callable[[bytearray], None], path: str = WEIGHTS) -> None:
    blob = folder / entry_of(folder, path).blob
    data = bytearray(blob.read_bytes())
    change(data)
    blob.write_bytes(data)


def refused_by_load(folder: Path, dek: SecretBytes, kind: type[EphemeralError] = RejectedError) -> EphemeralError:
    before = open_descriptors()
    with pytest.raises(kind) as caught:
        contents(folder, dek)
    assert open_descriptors() == before
    return caught.value


def refused_by_verify(folder: Path) -> EphemeralError:
    with Package.open(folder) as package, pytest.raises(EphemeralError) as caught:
        verify_package(package, publisher_keys=(PUBLISHER.public,))
    return caught.value


# Made as the specification says


@SUITES
@pytest.mark.parametrize("bind_manifest", [False, True])
def test_what_was_encrypted_verifies_and_loads(tmp_path: Path, keys: OneKey, suite: Suite, bind_manifest: bool) -> None:
    folder = encrypted_package(tmp_path, keys=keys, suite=suite, bind_manifest=bind_manifest, shape=SHAPE)
    with Package.open(folder) as package:
        verified = verify_package(package, publisher_keys=(PUBLISHER.public,))
        verify_plaintext(verified, package, dek=data_key(folder, keys))
    assert verified.manifest.suite is suite
    assert contents(folder, data_key(folder, keys)) == source_of(folder)


def test_the_default_suite_with_a_key_is_chacha(folder: Path) -> None:
    assert manifest_of(folder).manifest.suite is Suite.CHACHA20POLY1305


def test_no_blob_holds_plaintext_and_each_has_a_salt_of_its_own(folder: Path) -> None:
    salts = set()
    for file in manifest_of(folder).manifest.files:
        blob = (folder / file.blob).read_bytes()
        header = Header.parse(blob[:HEADER_BYTES])
        salts.add(header.salt)
        plain = source_of(folder)[file.path]
        assert header.plaintext_size == len(plain) == len(blob) - HEADER_BYTES - TAG_BYTES * header.chunks
        assert not any(plain[at : at + 16] in blob for at in range(0, len(plain) - 16, 97))
        assert hashlib.sha256(blob).digest() == file.blob_sha256
    assert len(salts) == len(manifest_of(folder).manifest.files)


def test_the_key_is_asked_for_under_the_context_and_wiped(folder: Path, keys: OneKey) -> None:
    assert keys.calls == [("generate", {"model_id": "tiny-bert", "version": "1.0.0"})]
    with pytest.raises(RuntimeError, match="wiped"):
        keys.given[0].reveal()


def test_a_bound_key_is_wrapped_under_the_final_manifest_and_wiped(tmp_path: Path, keys: OneKey) -> None:
    folder = encrypted_package(tmp_path, keys=keys, bind_manifest=True)
    context = {"model_id": "tiny-bert", "version": "1.0.0", "manifest": manifest_of(folder).model_hash.hex()}
    assert keys.calls == [("wrap", context)]
    with pytest.raises(RuntimeError, match="wiped"):
        keys.given[0].reveal()


def test_the_same_randomness_gives_the_same_package_and_other_randomness_another(tmp_path: Path) -> None:
    source = tiny_bert.write(tmp_path / "source")
    said = dataclasses.replace(request(), bind_manifest=True)
    for name, byte in (("a", b"\1"), ("b", b"\1"), ("c", b"\2")):
        create_package(
            source, tmp_path / name, said, key_source=OneKey(), entropy=lambda count, byte=byte: byte * count
        )
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in "abc"]
    assert manifests[0] == manifests[1] != manifests[2]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 7])
def test_chunks_meet_at_their_edges(tmp_path: Path, keys: OneKey, size: int) -> None:
    source = tiny_bert.write(tmp_path / "source")
    (source / "vocab.txt").write_bytes(data := os.urandom(size))
    create_package(source, tmp_path / "package", request(), key_source=keys)
    sign_package(tmp_path / "package", PUBLISHER)
    dek = data_key(tmp_path / "package", keys)
    for range_bytes in (1, CHUNK, 2 * CHUNK, 1 << 24):
        assert contents(tmp_path / "package", dek, range_bytes=range_bytes)["vocab.txt"] == data
    with Package.open(tmp_path / "package") as package:
        verify_plaintext(manifest_of(tmp_path / "package"), package, dek=dek)


@pytest.mark.parametrize(
    ("suite", "with_key"), [(Suite.NONE, True), (Suite.CHACHA20POLY1305, False), (Suite.AES256GCM, False)]
)
def test_suite_and_key_must_fit(tmp_path: Path, keys: OneKey, suite: Suite, with_key: bool) -> None:
    source = tiny_bert.write(tmp_path / "source")
    said = dataclasses.replace(request(), suite=suite)
    with pytest.raises(ValueError, match="key"):
        create_package(source, tmp_path / "out", said, key_source=keys if with_key else None)
    assert not (tmp_path / "out").exists()


class Denying(OneKey):
    """A KMS that says no."""

    def generate(self, context: EncryptionContext) -> tuple[SecretBytes, WrappedKey]:
        raise RejectedError("not allowed", code="KEY_RELEASE_DENIED")

    def wrap(self, dek: SecretBytes, context: EncryptionContext) -> WrappedKey:
        self.given.append(dek)
        raise RejectedError("not allowed", code="KEY_RELEASE_DENIED")


@pytest.mark.parametrize("bind_manifest", [False, True])
def test_a_kms_that_denies_leaves_nothing(tmp_path: Path, bind_manifest: bool) -> None:
    denying = Denying()
    with pytest.raises(RejectedError) as caught:
        encrypted_package(tmp_path / "work", keys=denying, bind_manifest=bind_manifest)
    assert caught.value.code == "KEY_RELEASE_DENIED"
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["source-tiny-bert-1.0.0"]
    for dek in denying.given:
        with pytest.raises(RuntimeError, match="wiped"):
            dek.reveal()


def test_a_full_disk_leaves_nothing_and_wipes_the_key(
    tmp_path: Path, keys: OneKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def full(fd: int, data: memoryview, start: int) -> int:
        if start > HEADER_BYTES:
            raise OSError(28, "No space left on device")
        return real(fd, data, start)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UnavailableError, match="No space left"):
        encrypted_package(tmp_path / "work", keys=keys, shape=SHAPE)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["source-tiny-bert-1.0.0"]
    with pytest.raises(RuntimeError, match="wiped"):
        keys.given[0].reveal()


def upstream_of(source: Path) -> Upstream:
    found = [path for path in source.rglob("*") if path.is_file()]
    return Upstream(
        b"\7" * 32, {str(path.relative_to(source)): hashlib.sha256(path.read_bytes()).digest() for path in found}
    )


def test_what_upstream_signed_is_recorded(tmp_path: Path, keys: OneKey) -> None:
    source = tiny_bert.write(tmp_path / "source")
    said = dataclasses.replace(request(), upstream=upstream_of(source))
    assert create_package(source, tmp_path / "out", said, key_source=keys).upstream_signature == b"\7" * 32


@pytest.mark.parametrize("fault", ["changed", "missing", "extra"])
def test_files_other_than_upstreams_are_refused(tmp_path: Path, keys: OneKey, fault: str) -> None:
    source = tiny_bert.write(tmp_path / "source")
    said = dataclasses.replace(request(), upstream=upstream_of(source))
    (tmp_path / "made").mkdir()
    if fault == "changed":
        (source / "tokenizer.json").write_bytes(b"x")
    elif fault == "missing":
        (source / "tokenizer.json").unlink()
    else:
        (source / "vocab2.txt").write_bytes(b"x")
    with pytest.raises(RejectedError) as caught:
        create_package(source, tmp_path / "made" / "out", said, key_source=keys)
    assert caught.value.code == "UPSTREAM_MISMATCH"
    assert not list((tmp_path / "made").iterdir())


def test_the_signatures_own_file_need_not_be_covered(tmp_path: Path, keys: OneKey) -> None:
    source = tiny_bert.write(tmp_path / "source")
    upstream = dataclasses.replace(upstream_of(source), uncovered=("model.sig",))
    (source / "model.sig").write_bytes(b"{}")
    said = dataclasses.replace(request(), upstream=upstream)
    made = create_package(source, tmp_path / "out", said, key_source=keys)
    assert "model.sig" in {file.path for file in made.files}
    assert made.upstream_signature == upstream.signature


# Refused


def test_without_a_key_nothing_is_loaded(folder: Path) -> None:
    with pytest.raises(IncompleteError) as caught:
        contents(folder, None)
    assert caught.value.code == "KEY_MISSING"


def test_a_wrong_key_opens_nothing(folder: Path) -> None:
    error = refused_by_load(folder, SecretBytes(bytearray(DEK_BYTES)))
    assert error.code == "CHUNK_AUTH_FAILED"


def test_the_key_of_another_package_opens_nothing(folder: Path, tmp_path: Path, keys: OneKey) -> None:
    other = encrypted_package(tmp_path / "other", keys=keys, version="2.0.0")
    assert refused_by_load(folder, data_key(other, keys)).code == "CHUNK_AUTH_FAILED"


def test_a_wrong_key_is_refused_by_full_verification(folder: Path) -> None:
    with Package.open(folder) as package, pytest.raises(RejectedError) as caught:
        verify_plaintext(manifest_of(folder), package, dek=SecretBytes(bytearray(DEK_BYTES)))
    assert caught.value.code == "CHUNK_AUTH_FAILED"


@SUITES
def test_a_relay_that_chooses_key_and_contents_meets_the_signed_root(
    tmp_path: Path, keys: OneKey, suite: Suite
) -> None:
    """CiphertextForRecipient is not authentic: anyone can have a key released and seal under it."""
    folder = encrypted_package(tmp_path, keys=keys, suite=suite, shape=SHAPE)
    chosen = SecretBytes(bytearray(b"\x13" * DEK_BYTES))
    for file in manifest_of(folder).manifest.files:
        blob = folder / file.blob
        key = ContainerKey(chosen.reveal(), Header.parse(blob.read_bytes()[:HEADER_BYTES]))
        sealed = key.header.encode()
        for index in range(key.header.chunks):
            out = bytearray(key.chunk_bytes(index) + TAG_BYTES)
            key.seal_into(index, memoryview(bytes(key.chunk_bytes(index))), memoryview(out))
            sealed += out
        blob.write_bytes(sealed)
    assert refused_by_load(folder, chosen).code == "CHUNK_ROOT_MISMATCH"


HEADER_EDITS = [
    pytest.param(0, 1, MalformedError, None, id="magic"),
    pytest.param(8, 3, RejectedError, "HEADER_MISMATCH", id="suite"),
    pytest.param(9, 1, MalformedError, None, id="reserved"),
    pytest.param(13, 3, RejectedError, "HEADER_MISMATCH", id="chunk size"),
    pytest.param(23, 1, RejectedError, "HEADER_MISMATCH", id="plaintext size"),
    pytest.param(24, 1, RejectedError, "CHUNK_AUTH_FAILED", id="salt"),
    pytest.param(56, 1, RejectedError, "HEADER_MISMATCH", id="path hash"),
    pytest.param(95, 1, MalformedError, None, id="reserved at the end"),
]


@pytest.mark.parametrize(("place", "bits", "kind", "code"), HEADER_EDITS)
def test_an_edited_header_is_refused_before_anything_opens(
    folder: Path, keys: OneKey, place: int, bits: int, kind: type[EphemeralError], code: str | None
) -> None:
    def flip(data: bytearray) -> None:
        data[place] ^= bits

    edit(folder, flip)
    error = refused_by_load(folder, data_key(folder, keys), kind)
    assert error.code == code
    assert WEIGHTS in error.message
    assert refused_by_verify(folder).code == "BLOB_DIGEST_MISMATCH"


def test_the_header_of_every_file_is_checked_before_the_first_chunk(
    folder: Path, keys: OneKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = manifest_of(folder).manifest.files[-1].path
    edit(folder, lambda data: data.__setitem__(8, 2), last)
    monkeypatch.setattr(ContainerKey, "open_into", lambda *_: pytest.fail("a chunk was opened"))
    assert refused_by_load(folder, data_key(folder, keys)).code == "HEADER_MISMATCH"


def test_a_container_of_another_suite_than_the_manifests_is_refused(tmp_path: Path, keys: OneKey) -> None:
    """Same data key, same path, sealed properly, but with the other cipher."""
    folder = encrypted_package(tmp_path, keys=keys, shape=SHAPE)
    dek, plain = data_key(folder, keys), source_of(folder)[WEIGHTS]
    blob = folder / entry_of(folder).blob
    right = Header.parse(blob.read_bytes()[:HEADER_BYTES])
    key = ContainerKey(dek.reveal(), dataclasses.replace(right, suite=StreamSuite.AES256GCM))
    sealed = key.header.encode()
    for index in range(key.header.chunks):
        out = bytearray(key.chunk_bytes(index) + TAG_BYTES)
        key.seal_into(index, memoryview(plain)[index * CHUNK :][: key.chunk_bytes(index)], memoryview(out))
        sealed += out
    blob.write_bytes(sealed)
    error = refused_by_load(folder, dek)
    assert (error.code, "suite" in error.message) == ("HEADER_MISMATCH", True)


STRIDE = CHUNK + TAG_BYTES


def cut(data: bytearray) -> None:
    del data[-1:]


def extend(data: bytearray) -> None:
    data.append(0)


def cut_chunk(data: bytearray) -> None:
    del data[HEADER_BYTES + 2 * STRIDE :]


@pytest.mark.parametrize("change", [cut, extend, cut_chunk])
def test_another_length_is_refused_before_it_is_read(
    folder: Path, keys: OneKey, change: Callable[[bytearray], None]
) -> None:
    edit(folder, change)
    assert refused_by_load(folder, data_key(folder, keys)).code == "SIZE_MISMATCH"
    assert refused_by_verify(folder).code == "SIZE_MISMATCH"


def reorder(data: bytearray) -> None:
    first, second = HEADER_BYTES, HEADER_BYTES + STRIDE
    data[first:] = data[second : second + STRIDE] + data[first:second] + data[second + STRIDE :]


def repeat(data: bytearray) -> None:
    data[HEADER_BYTES + STRIDE : HEADER_BYTES + 2 * STRIDE] = data[HEADER_BYTES : HEADER_BYTES + STRIDE]


@pytest.mark.parametrize("change", [reorder, repeat])
def test_moved_chunks_are_refused(folder: Path, keys: OneKey, change: Callable[[bytearray], None]) -> None:
    edit(folder, change)
    error = refused_by_load(folder, data_key(folder, keys))
    assert error.code == "CHUNK_AUTH_FAILED"
    assert WEIGHTS in error.message
    assert refused_by_verify(folder).code == "BLOB_DIGEST_MISMATCH"


def test_two_swapped_blobs_are_refused(tmp_path: Path, keys: OneKey) -> None:
    """Equal in size, suite and key: the path hash in the header gives them away."""
    source = tiny_bert.write(tmp_path / "source")
    (source / "a.txt").write_bytes(b"1" * 100)
    (source / "b.txt").write_bytes(b"2" * 100)
    folder = tmp_path / "package"
    create_package(source, folder, request(), key_source=keys)
    sign_package(folder, PUBLISHER)
    first, second = (folder / entry_of(folder, name).blob for name in ("a.txt", "b.txt"))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert refused_by_load(folder, data_key(folder, keys)).code == "HEADER_MISMATCH"
    # With the other path written into the header, the key is another.
    for blob, stolen, own in ((first, two, one), (second, one, two)):
        blob.write_bytes(stolen[:56] + own[56:88] + stolen[88:])
    assert refused_by_load(folder, data_key(folder, keys)).code == "CHUNK_AUTH_FAILED"


def test_blobs_of_another_version_are_refused(folder: Path, tmp_path: Path, keys: OneKey) -> None:
    other = encrypted_package(tmp_path / "other", keys=keys, version="0.9.0", shape=SHAPE, seed=9)
    (folder / entry_of(folder).blob).write_bytes((other / entry_of(other).blob).read_bytes())
    assert refused_by_load(folder, data_key(folder, keys)).code == "CHUNK_AUTH_FAILED"
    assert refused_by_verify(folder).code == "BLOB_DIGEST_MISMATCH"


def test_a_missing_blob_is_unavailable(folder: Path, keys: OneKey) -> None:
    (folder / entry_of(folder).blob).unlink()
    assert isinstance(refused_by_verify(folder), UnavailableError)
    refused_by_load(folder, data_key(folder, keys), UnavailableError)


# Any single byte


@contextlib.contextmanager
def changed(path: Path, place: int, bits: int) -> Iterator[None]:
    original = path.read_bytes()
    data = bytearray(original)
    data[place] ^= bits
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(original)


def taken(folder: Path, keys: OneKey) -> tuple[VerifiedManifest, WrappedKey]:
    """Take the package as a runtime does: manifest, wrapped key, data key, files. The store checks no blob digest."""
    verified = manifest_of(folder)
    (wrapped,) = parse_keys((folder / "keys.json").read_bytes())
    if wrapped.key != keys.uri:
        raise RejectedError("not a key that measured configuration allows", code="KEY_NOT_ALLOWED")
    expected_context(verified, wrapped)
    contents(folder, keys.open(wrapped))
    return verified, wrapped


@pytest.fixture(scope="module", params=[False, True], ids=["free", "bound"])
def fixed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, OneKey]:
    keys = OneKey()
    return encrypted_package(tmp_path_factory.mktemp("fixed"), keys=keys, bind_manifest=request.param), keys


@pytest.mark.timeout(600)
@pytest.mark.fuzz
@given(st.data())
def test_any_single_byte_changed_anywhere_is_refused(fixed: tuple[Path, OneKey], data: st.DataObject) -> None:
    folder, keys = fixed
    sound = taken(folder, keys)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    place = data.draw(st.integers(0, path.stat().st_size - 1))
    with changed(path, place, data.draw(st.integers(1, 255))):
        if path.parent.name == "blobs":
            assert refused_by_verify(folder).code == "BLOB_DIGEST_MISMATCH"
        try:
            found = taken(folder, keys)
        except EphemeralError:
            return
        # White space between JSON's tokens means nothing; whatever means something was refused.
        assert path.name in ("keys.json", "manifest.json")
        assert (found[0].payload, found[0].publisher_key, found[1]) == (
            sound[0].payload,
            sound[0].publisher_key,
            sound[1],
        )


def test_every_byte_of_a_small_container_and_of_the_keys_is_covered(fixed: tuple[Path, OneKey]) -> None:
    folder, keys = fixed
    sound = taken(folder, keys)
    smallest = min((folder / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    for path in (smallest, folder / "keys.json"):
        for place in range(path.stat().st_size):
            with changed(path, place, 1 << place % 8):
                try:
                    found = taken(folder, keys)
                except EphemeralError:
                    continue
                assert path.name == "keys.json"
                assert found[1] == sound[1]
