"""The reference system's packages: read, verified, refused (legacy.md section 3)."""

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.model import legacy_manifest, legacy_weights
from ephemeralml.model.legacy_import import LegacyPackage, open_legacy, unpacked
from tests.fakes import legacy_packages, tiny_bert
from tests.fakes.legacy_packages import DEK, NONCE
from tests.fakes.packages import PUBLISHER, STRANGER

KEYS = (PUBLISHER.public,)


def secret(dek: bytes = DEK) -> SecretBytes:
    return SecretBytes(bytearray(dek))


def unpack(package: LegacyPackage, scratch: Path, dek: bytes = DEK) -> dict[str, bytes]:
    with unpacked(package, secret(dek), scratch=scratch) as folder:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_package_becomes_the_plaintext_model_again(tmp_path: Path) -> None:
    source = tiny_bert.write(tmp_path / "source")
    package = open_legacy(legacy_packages.write(tmp_path / "old"), publisher_keys=KEYS)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    plain = unpack(package, scratch)
    assert plain == {
        path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()
    }
    assert list(scratch.iterdir()) == []
    assert (package.manifest.model_id, package.manifest.version) == ("tiny-bert", "1.0.0")
    assert package.manifest.publisher_key == PUBLISHER.public


def test_the_plaintext_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    package = open_legacy(legacy_packages.write(tmp_path / "old"), publisher_keys=KEYS)
    with unpacked(package, secret(), scratch=tmp_path) as folder:
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "model.safetensors").stat().st_mode & 0o077 == 0


def test_files_that_nobody_signed_are_named(tmp_path: Path) -> None:
    package = open_legacy(legacy_packages.write(tmp_path / "old"), publisher_keys=KEYS)
    assert "config.json" not in package.unsigned
    assert "modules.json" in package.unsigned


def test_optionals_may_be_missing_or_null(tmp_path: Path) -> None:
    edit = {"tokenizer_hash": None, "config_hash": None}
    package = open_legacy(legacy_packages.write(tmp_path / "old", edit=edit), publisher_keys=KEYS)
    assert "config.json" in package.unsigned
    document = json.loads((tmp_path / "old" / "manifest.json").read_text())
    del document["tokenizer_hash"], document["config_hash"]
    again = legacy_manifest.verify(json.dumps(document).encode(), publisher_keys=KEYS)
    assert again.tokenizer_hash is None


def test_any_of_the_keys_may_have_signed(tmp_path: Path) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    package = open_legacy(folder, publisher_keys=(STRANGER.public, PUBLISHER.public))
    assert package.manifest.publisher_key == PUBLISHER.public


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "version": lambda document: document.update(version="1.0.1"),
    "model_hash": lambda document: document["model_hash"].__setitem__(0, document["model_hash"][0] ^ 1),
    "tokenizer_hash": lambda document: document.update(tokenizer_hash=None),
    "gcs_uris": lambda document: document["gcs_uris"].update(more="gs://x"),
    "signature": lambda document: document["signature"].__setitem__(0, document["signature"][0] ^ 1),
}


@pytest.mark.parametrize("field", EDITS)
def test_what_was_edited_after_signing_is_rejected(tmp_path: Path, field: str) -> None:
    folder = legacy_packages.write(tmp_path / "old", after_signing=EDITS[field])
    with pytest.raises(RejectedError) as caught:
        open_legacy(folder, publisher_keys=KEYS)
    assert caught.value.code == "SIGNATURE_INVALID"


def test_a_strangers_package_is_rejected(tmp_path: Path) -> None:
    folder = legacy_packages.write(tmp_path / "old", key=STRANGER)
    with pytest.raises(RejectedError) as caught:
        open_legacy(folder, publisher_keys=KEYS)
    assert caught.value.code == "SIGNATURE_INVALID"


@pytest.mark.parametrize("signature", [None, []])
def test_an_unsigned_package_is_rejected(tmp_path: Path, signature: object) -> None:
    folder = legacy_packages.write(
        tmp_path / "old", after_signing=lambda document: document.update(signature=signature)
    )
    with pytest.raises(RejectedError) as caught:
        open_legacy(folder, publisher_keys=KEYS)
    assert caught.value.code == "UNSIGNED"


MALFORMED: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown field": lambda document: document.update(more=1),
    "no model id": lambda document: document.pop("model_id"),
    "an empty model id": lambda document: document.update(model_id=""),
    "a long model id": lambda document: document.update(model_id="x" * 257),
    "a version that is a number": lambda document: document.update(version=1),
    "a short hash": lambda document: document["model_hash"].pop(),
    "a hash in hex": lambda document: document.update(model_hash="00" * 32),
    "a hash of no bytes": lambda document: document["model_hash"].__setitem__(0, 256),
    "a hash of booleans": lambda document: document["model_hash"].__setitem__(0, True),
    "a short signature": lambda document: document["signature"].pop(),
    "addresses that are no object": lambda document: document.update(gcs_uris=[]),
    "an address that is no text": lambda document: document.update(gcs_uris={"a": 1}),
    "a time that is none": lambda document: document.update(created_at=None),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_broken_manifest_is_malformed(tmp_path: Path, fault: str) -> None:
    folder = legacy_packages.write(tmp_path / "old", after_signing=MALFORMED[fault])
    with pytest.raises(MalformedError):
        open_legacy(folder, publisher_keys=KEYS)


def test_another_hash_is_malformed_though_signed(tmp_path: Path) -> None:
    folder = legacy_packages.write(tmp_path / "old", edit={"hash_algorithm": "blake3"})
    with pytest.raises(MalformedError, match="only sha256"):
        open_legacy(folder, publisher_keys=KEYS)


def refuse_unpacking(folder: Path, scratch: Path, code: str, dek: bytes = DEK) -> None:
    package = open_legacy(folder, publisher_keys=KEYS)
    scratch.mkdir()
    with pytest.raises(RejectedError) as caught:
        unpack(package, scratch, dek)
    assert caught.value.code == code
    assert list(scratch.iterdir()) == []


def test_the_wrong_key_is_rejected(tmp_path: Path) -> None:
    refuse_unpacking(legacy_packages.write(tmp_path / "old"), tmp_path / "s", "WEIGHTS_AUTH_FAILED", bytes(32))


@pytest.mark.parametrize("position", [0, 11, 12, 5_000, -17, -16, -1])
def test_changed_weights_are_rejected(tmp_path: Path, position: int) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    data = bytearray((folder / "model.safetensors.enc").read_bytes())
    data[position] ^= 1
    (folder / "model.safetensors.enc").write_bytes(data)
    refuse_unpacking(folder, tmp_path / "s", "WEIGHTS_AUTH_FAILED")


def test_other_weights_under_the_same_key_are_rejected(tmp_path: Path) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    other = NONCE + ChaCha20Poly1305(DEK).encrypt(NONCE, b"other weights", None)
    (folder / "model.safetensors.enc").write_bytes(other)
    refuse_unpacking(folder, tmp_path / "s", "FILE_DIGEST_MISMATCH")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_changed_plaintext_file_is_rejected(tmp_path: Path, name: str) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    refuse_unpacking(folder, tmp_path / "s", "FILE_DIGEST_MISMATCH")


@pytest.mark.parametrize("length", [0, 27, 28])
def test_weights_too_short_for_nonce_and_tag_are_malformed(tmp_path: Path, length: int) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    (folder / "model.safetensors.enc").write_bytes(bytes(length))
    with pytest.raises(MalformedError, match="no encrypted weights"):
        unpack(open_legacy(folder, publisher_keys=KEYS), tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors.enc", "tokenizer.json"])
def test_a_missing_file_is_unavailable(tmp_path: Path, name: str) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    (folder / name).unlink()
    with pytest.raises(UnavailableError):
        open_legacy(folder, publisher_keys=KEYS)


def test_two_encrypted_files_need_a_name(tmp_path: Path) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    (folder / "extra.enc").write_bytes(b"")
    with pytest.raises(MalformedError, match="2 encrypted files"):
        open_legacy(folder, publisher_keys=KEYS)
    assert open_legacy(folder, publisher_keys=KEYS, weights="model.safetensors.enc").weights == "model.safetensors.enc"
    with pytest.raises(UnavailableError):
        open_legacy(folder, publisher_keys=KEYS, weights="nothing.enc")


def test_links_and_special_files_are_refused(tmp_path: Path) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(MalformedError, match="link"):
        open_legacy(folder, publisher_keys=KEYS)
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(MalformedError, match="special"):
        open_legacy(folder, publisher_keys=KEYS)


def test_weights_without_a_telling_name_are_told_by_their_bytes(tmp_path: Path) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    (folder / "model.safetensors.enc").rename(folder / "weights.enc")
    assert "model.safetensors" in unpack(open_legacy(folder, publisher_keys=KEYS), tmp_path)


@pytest.mark.parametrize(
    ("weights", "plain"),
    [("model.safetensors", "model.safetensors"), ("model.bin", "model.safetensors"), ("w.encrypted", None)],
)
def test_other_names_of_the_weights_are_known(tmp_path: Path, weights: str, plain: str | None) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    (folder / "model.safetensors.enc").rename(folder / weights)
    package = open_legacy(folder, publisher_keys=KEYS)
    assert package.weights == weights
    assert (plain or "model.safetensors") in unpack(package, tmp_path)


def test_another_name_of_the_manifest_is_known(tmp_path: Path) -> None:
    folder = legacy_packages.write(tmp_path / "old")
    (folder / "manifest.json").rename(folder / "model_manifest.json")
    assert open_legacy(folder, publisher_keys=KEYS).manifest.model_id == "tiny-bert"
    (folder / "other-manifest.json").write_text("{}")
    with pytest.raises(UnavailableError):
        open_legacy(folder, publisher_keys=KEYS)


def test_a_scratch_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    package = open_legacy(legacy_packages.write(tmp_path / "old"), publisher_keys=KEYS)
    with pytest.raises(UnavailableError):
        unpack(package, tmp_path / "nowhere")


@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_001])
def test_streaming_equals_the_librarys_construction(tmp_path: Path, length: int) -> None:
    plaintext = os.urandom(length)
    path = tmp_path / "weights"
    path.write_bytes(NONCE + ChaCha20Poly1305(DEK).encrypt(NONCE, plaintext, None))
    with ExitStack() as open_files:
        file = open_files.enter_context(path.open("rb"))
        with legacy_weights.authenticated(file.fileno(), "weights", secret()) as weights:
            assert weights.head() == plaintext[:8]
            assert b"".join(weights.blocks()) == plaintext


def test_keys_of_other_lengths_are_malformed(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(40))
    with (
        path.open("rb") as file,
        pytest.raises(MalformedError),
        legacy_weights.authenticated(file.fileno(), "weights", secret(b"short")),
    ):
        pass


@pytest.mark.fuzz
@given(st.binary(max_size=400) | st.text(alphabet='{}[]":,019model_idversn', max_size=300).map(str.encode))
def test_only_our_errors_leave_the_manifests_parser(data: bytes) -> None:
    with pytest.raises(EphemeralError):
        legacy_manifest.verify(data, publisher_keys=KEYS)
