import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ephemeralml.crypto.data_key import DEK_BYTES, SecretBytes
from ephemeralml.errors import IncompleteError, RejectedError
from ephemeralml.model.create import create_package
from ephemeralml.model.manifest import Suite
from ephemeralml.model.package import Package
from ephemeralml.model.reader import open_container
from ephemeralml.model.sign import sign_package
from ephemeralml.model.verify import VerifiedManifest, verify_manifest
from tests.fakes import tiny_bert
from tests.fakes.key_source import OneKey
from tests.fakes.packages import PUBLISHER, data_key, request

CHUNK = 65_536
DATA = os.urandom(3 * CHUNK + 100)


@pytest.fixture(scope="module", params=[Suite.NONE, Suite.CHACHA20POLY1305, Suite.AES256GCM], ids=lambda s: s.value)
def made(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, SecretBytes | None]:
    return package(tmp_path_factory.mktemp("reader"), request.param)


def package(folder: Path, suite: Suite) -> tuple[Path, SecretBytes | None]:
    source = tiny_bert.write(folder / "source")
    (source / "vocab.txt").write_bytes(DATA)
    (source / "empty.txt").touch()
    keys = None if suite is Suite.NONE else OneKey()
    create_package(source, folder / "package", dataclasses.replace(request(), suite=suite), key_source=keys)
    sign_package(folder / "package", PUBLISHER)
    return folder / "package", keys and data_key(folder / "package", keys)


def verified(folder: Path) -> VerifiedManifest:
    data = (folder / "manifest.json").read_bytes()
    return verify_manifest(data, publisher_keys=(PUBLISHER.public,), allow_plaintext=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.fuzz
@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)))
def test_any_part_is_that_of_the_file(made: tuple[Path, SecretBytes | None], one: int, other: int) -> None:
    folder, dek = made
    start, end = sorted((one, other))
    with Package.open(folder) as store, open_container(verified(folder), store, dek=dek) as reader:
        assert reader.read("vocab.txt", start, end) == DATA[start:end]


@pytest.mark.parametrize(
    ("start", "end"), [(0, 0), (0, len(DATA)), (CHUNK, CHUNK), (CHUNK - 1, CHUNK + 1), (len(DATA) - 1, len(DATA))]
)
def test_parts_meet_at_chunks(made: tuple[Path, SecretBytes | None], start: int, end: int) -> None:
    folder, dek = made
    with Package.open(folder) as store, open_container(verified(folder), store, dek=dek) as reader:
        assert reader.read("vocab.txt", start, end) == DATA[start:end]
        assert reader.read("empty.txt", 0, 0) == b""


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (0, len(DATA) + 1), (len(DATA) + 1, len(DATA) + 1)])
def test_bytes_that_are_not_there_are_the_callers_mistake(
    made: tuple[Path, SecretBytes | None], start: int, end: int
) -> None:
    folder, dek = made
    with Package.open(folder) as store, open_container(verified(folder), store, dek=dek) as reader:
        with pytest.raises(ValueError, match="no bytes"):
            reader.read("vocab.txt", start, end)
        with pytest.raises(KeyError):
            reader.read("none.txt", 0, 0)


def test_only_the_chunks_that_are_needed_are_opened(tmp_path: Path) -> None:
    folder, dek = package(tmp_path, Suite.CHACHA20POLY1305)
    blob = folder / verified(folder).manifest.file("vocab.txt").blob
    data = bytearray(blob.read_bytes())
    data[96 + 2 * (CHUNK + 16)] ^= 1
    blob.write_bytes(data)
    with Package.open(folder) as store, open_container(verified(folder), store, dek=dek) as reader:
        assert reader.read("vocab.txt", 0, 2 * CHUNK) == DATA[: 2 * CHUNK]
        with pytest.raises(RejectedError) as caught:
            reader.read("vocab.txt", 2 * CHUNK - 1, 2 * CHUNK + 1)
    assert (caught.value.code, "vocab.txt: chunk 2" in caught.value.message) == ("CHUNK_AUTH_FAILED", True)


def test_a_wrong_or_missing_key_opens_nothing(tmp_path: Path) -> None:
    folder, _ = package(tmp_path, Suite.AES256GCM)
    with Package.open(folder) as store:
        with pytest.raises(IncompleteError):
            open_container(verified(folder), store)
        wrong = SecretBytes(bytearray(DEK_BYTES))
        with open_container(verified(folder), store, dek=wrong) as reader, pytest.raises(RejectedError) as caught:
            reader.read("vocab.txt", 0, 1)
    assert caught.value.code == "CHUNK_AUTH_FAILED"


def test_a_closed_reader_has_no_key(tmp_path: Path) -> None:
    folder, dek = package(tmp_path, Suite.AES256GCM)
    with Package.open(folder) as store:
        reader = open_container(verified(folder), store, dek=dek)
        reader.close()
        with pytest.raises(RuntimeError, match="wiped"):
            reader.read("vocab.txt", 0, 1)
