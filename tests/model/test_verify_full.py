import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.crypto import dsse
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.errors import IncompleteError, RejectedError, UnavailableError
from ephemeralml.model import envelope
from ephemeralml.model.create import create_package
from ephemeralml.model.manifest import Suite
from ephemeralml.model.package import Package
from ephemeralml.model.sign import sign_package
from ephemeralml.model.verify import VerifiedManifest, verify_manifest
from ephemeralml.model.verify_full import verify_plaintext
from tests.fakes import tiny_bert
from tests.fakes.descriptors import open_descriptors
from tests.fakes.key_source import OneKey
from tests.fakes.packages import PUBLISHER, data_key, request

CHUNK = 65_536


@pytest.fixture(params=list(Suite), ids=lambda suite: suite.value)
def made(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, SecretBytes | None]:
    source = tiny_bert.write(tmp_path / "source")
    (source / "vocab.txt").write_bytes(os.urandom(20 * CHUNK + 100))
    (source / "empty.txt").touch()
    keys = None if request.param is Suite.NONE else OneKey()
    folder = tmp_path / "package"
    create_package(source, folder, dataclasses.replace(said(), suite=request.param), key_source=keys)
    sign_package(folder, PUBLISHER)
    return folder, keys and data_key(folder, keys)


said = request


def manifest_of(folder: Path) -> VerifiedManifest:
    data = (folder / "manifest.json").read_bytes()
    return verify_manifest(data, publisher_keys=(PUBLISHER.public,), allow_plaintext=True)


def resign(folder: Path, **changes: Any) -> None:
    """Have the publisher sign other digests for vocab.txt, so that only its contents can refuse them."""
    document = json.loads(envelope.parse((folder / "manifest.json").read_bytes()).payload)
    (file,) = (file for file in document["files"] if file["path"] == "vocab.txt")
    file.update(changes)
    if document["encryption"]["suite"] == "none":
        file["blob_sha256"] = file["sha256"]
    payload = json.dumps(document).encode()
    (folder / "manifest.json").write_bytes(dsse.seal(envelope.PAYLOAD_TYPE, payload, PUBLISHER))


def verify(folder: Path, dek: SecretBytes | None) -> None:
    before = open_descriptors()
    with Package.open(folder) as package:
        try:
            verify_plaintext(manifest_of(folder), package, dek=dek)
        finally:
            package.close()
            assert open_descriptors() == before


def refused(folder: Path, dek: SecretBytes | None) -> str:
    with pytest.raises(RejectedError) as caught:
        verify(folder, dek)
    assert "vocab.txt" in caught.value.message
    return caught.value.code


def test_a_sound_package_passes(made: tuple[Path, SecretBytes | None]) -> None:
    verify(*made)


def test_a_chunk_root_that_lies_is_refused(made: tuple[Path, SecretBytes | None]) -> None:
    resign(made[0], chunk_root="00" * 32)
    assert refused(*made) == "CHUNK_ROOT_MISMATCH"


def test_a_flat_digest_that_lies_is_refused_here_alone(made: tuple[Path, SecretBytes | None]) -> None:
    resign(made[0], sha256="00" * 32)
    assert refused(*made) == "FILE_DIGEST_MISMATCH"


@pytest.mark.parametrize("place", [96, 96 + CHUNK, -1])
def test_a_changed_byte_is_refused(made: tuple[Path, SecretBytes | None], place: int) -> None:
    folder, dek = made
    blob = folder / manifest_of(folder).manifest.file("vocab.txt").blob
    data = bytearray(blob.read_bytes())
    data[place] ^= 1
    blob.write_bytes(data)
    assert refused(*made) == ("CHUNK_ROOT_MISMATCH" if dek is None else "CHUNK_AUTH_FAILED")


def test_a_blob_that_is_missing_is_unavailable(made: tuple[Path, SecretBytes | None]) -> None:
    folder, dek = made
    (folder / manifest_of(folder).manifest.file("vocab.txt").blob).unlink()
    with pytest.raises(UnavailableError):
        verify(folder, dek)


def test_without_its_key_an_encrypted_package_is_not_verified(made: tuple[Path, SecretBytes | None]) -> None:
    folder, dek = made
    if dek is None:
        verify(folder, None)
        return
    with pytest.raises(IncompleteError) as caught:
        verify(folder, None)
    assert caught.value.code == "KEY_MISSING"


def test_progress_ends_with_everything(made: tuple[Path, SecretBytes | None]) -> None:
    calls: list[tuple[int, int | None]] = []

    class Watcher:
        def step(self, name: str) -> None:
            assert name == "verify contents"

        def advance(self, done: int, total: int | None, *, unit: str = "B") -> None:
            calls.append((done, total))

    with Package.open(made[0]) as package:
        verify_plaintext(manifest_of(made[0]), package, dek=made[1], progress=Watcher())
    total = sum(file.size for file in manifest_of(made[0]).manifest.files)
    assert calls[-1] == (total, total)
    assert sorted(done for done, _ in calls) == [done for done, _ in calls]


def test_nothing_of_the_size_of_a_file_is_held(
    made: tuple[Path, SecretBytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "memfd_create", lambda *_: pytest.fail("a file was loaded"))
    with Package.open(made[0]) as package:
        verify_plaintext(manifest_of(made[0]), package, dek=made[1])


def test_the_digests_are_those_of_the_source(made: tuple[Path, SecretBytes | None]) -> None:
    for file in manifest_of(made[0]).manifest.files:
        assert hashlib.sha256((made[0].parent / "source" / file.path).read_bytes()).digest() == file.sha256
