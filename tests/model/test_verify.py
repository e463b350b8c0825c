import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.crypto import dsse
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.model import envelope
from ephemeralml.model.package import Package
from ephemeralml.model.sign import sign_package
from ephemeralml.model.verify import VerifiedManifest, verify_manifest, verify_package
from ephemeralml.model.verify_full import verify_plaintext
from ephemeralml.semver import SemVer
from tests.fakes.descriptors import open_descriptors
from tests.fakes.packages import PUBLISHER, STRANGER, signed_package

KEYS = (PUBLISHER.public,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return signed_package(tmp_path)


def verify(folder: Path, **options: Any) -> VerifiedManifest:
    with Package.open(folder) as package:
        return verify_package(package, **{"publisher_keys": KEYS, "allow_plaintext": True} | options)


def refused(folder: Path, kind: type[EphemeralError], code: str | None, **options: Any) -> EphemeralError:
    with pytest.raises(kind) as caught:
        verify(folder, **options)
    assert getattr(caught.value, "code", None) == code
    return caught.value


def payload_of(folder: Path) -> dict[str, Any]:
    return json.loads(envelope.parse((folder / "manifest.json").read_bytes()).payload)


def resign(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the publisher signed, so that only the blobs or the rules can refuse it."""
    document = payload_of(folder)
    change(document)
    payload = json.dumps(document).encode()
    (folder / "manifest.json").write_bytes(dsse.seal(envelope.PAYLOAD_TYPE, payload, PUBLISHER))


def edit_envelope(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "manifest.json").read_bytes())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))


def blob_of(folder: Path, path: str = "model.safetensors") -> Path:
    (entry,) = (entry for entry in payload_of(folder)["files"] if entry["path"] == path)
    return folder / entry["blob"]


def test_a_signed_package_verifies(folder: Path) -> None:
    verified = verify(folder)
    assert verified.manifest.model_id == "tiny-bert"
    assert verified.publisher_key == PUBLISHER.public
    assert verified.envelope == (folder / "manifest.json").read_bytes()
    assert verified.model_hash == hashlib.sha256(verified.payload).digest()
    assert verified.model_hash_scheme == "sha256-manifest"
    assert "tiny-bert@1.0.0" in repr(verified)


def test_any_of_several_publishers_may_have_signed(folder: Path) -> None:
    assert verify(folder, publisher_keys=(STRANGER.public, PUBLISHER.public)).publisher_key == PUBLISHER.public


def test_the_hash_does_not_depend_on_who_signed(folder: Path) -> None:
    before = verify(folder).model_hash
    sign_package(folder, STRANGER)
    assert verify(folder, publisher_keys=(STRANGER.public,)).model_hash == before


# Step 1: the envelope


def test_a_missing_manifest_is_unavailable(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    refused(folder, UnavailableError, None)


def test_a_bare_manifest_without_envelope_is_malformed(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps(payload_of(folder)))
    refused(folder, MalformedError, None)


@pytest.mark.parametrize("data", [b"", b"{}", b"[", b"\xff", b"x" * 6_000_000])
def test_an_unreadable_manifest_is_malformed(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    refused(folder, MalformedError, None)


def test_two_signatures_are_malformed(folder: Path) -> None:
    edit_envelope(folder, lambda d: d["signatures"].append(d["signatures"][0]))
    refused(folder, MalformedError, None)


def test_an_unknown_field_of_the_envelope_is_malformed(folder: Path) -> None:
    edit_envelope(folder, lambda d: d.update(more=1))
    refused(folder, MalformedError, None)


# Step 2: the signature


def test_an_unsigned_package_is_rejected(folder: Path) -> None:
    edit_envelope(folder, lambda d: d.update(signatures=[]))
    refused(folder, RejectedError, "UNSIGNED")


def test_the_wrong_publisher_is_rejected(folder: Path) -> None:
    refused(folder, RejectedError, "SIGNER_UNKNOWN", publisher_keys=(STRANGER.public,))


def test_no_publisher_accepts_nothing(folder: Path) -> None:
    refused(folder, RejectedError, "SIGNER_UNKNOWN", publisher_keys=())


def test_a_stranger_under_the_publishers_name_is_rejected(folder: Path) -> None:
    sign_package(folder, STRANGER)
    edit_envelope(folder, lambda d: d["signatures"][0].update(keyid=PUBLISHER.public.keyid))
    refused(folder, RejectedError, "SIGNATURE_INVALID")


def test_a_payload_edited_after_signing_is_rejected(folder: Path) -> None:
    payload = json.dumps(payload_of(folder) | {"license": "MIT"}).encode()
    edit_envelope(folder, lambda d: d.update(payload=base64.b64encode(payload).decode()))
    refused(folder, RejectedError, "SIGNATURE_INVALID")


def test_the_signature_is_checked_before_the_payload_is_parsed(folder: Path) -> None:
    edit_envelope(folder, lambda d: d.update(payload=base64.b64encode(b"no JSON").decode()))
    refused(folder, RejectedError, "SIGNATURE_INVALID")


def test_another_kind_of_document_of_the_same_publisher_is_rejected(folder: Path) -> None:
    payload = envelope.parse((folder / "manifest.json").read_bytes()).payload
    data = dsse.seal("application/vnd.ephemeralml.policy+json", payload, PUBLISHER)
    (folder / "manifest.json").write_bytes(data)
    refused(folder, RejectedError, "PAYLOAD_TYPE_MISMATCH")


# Step 3: the payload


def test_a_signed_payload_that_is_no_manifest_is_malformed(folder: Path) -> None:
    resign(folder, lambda d: d.update(schema="ephemeralml.model/9"))
    refused(folder, MalformedError, None)


def test_a_signed_path_traversal_is_malformed(folder: Path) -> None:
    resign(folder, lambda d: d["files"][0].update(path="../../etc/passwd"))
    refused(folder, MalformedError, "PATH_NOT_ALLOWED")


# Step 4: rollback


@pytest.mark.parametrize("oldest", ["1.0.1", "2.0.0", "1.1.0-rc.1"])
def test_an_older_version_is_a_rollback(folder: Path, oldest: str) -> None:
    refused(folder, RejectedError, "VERSION_ROLLBACK", min_version=SemVer.parse(oldest))


@pytest.mark.parametrize("oldest", ["1.0.0", "1.0.0-rc.1", "0.9.9", "1.0.0+later"])
def test_the_pinned_version_or_a_newer_one_is_taken(folder: Path, oldest: str) -> None:
    verify(folder, min_version=SemVer.parse(oldest))


# Step 5: plaintext


def test_a_plaintext_package_needs_permission(folder: Path) -> None:
    refused(folder, RejectedError, "PLAINTEXT_NOT_ALLOWED", allow_plaintext=False)


def test_the_manifest_alone_can_be_verified(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes()
    assert verify_manifest(data, publisher_keys=KEYS, allow_plaintext=True) == verify(folder)
    with pytest.raises(RejectedError):
        verify_manifest(data, publisher_keys=KEYS)


# The folder, sizes and digests


def test_a_missing_blob_is_unavailable(folder: Path) -> None:
    blob_of(folder).unlink()
    refused(folder, UnavailableError, None)


@pytest.mark.parametrize("where", ["extra", "blobs/extra", "keys.json", ".hidden"])
def test_an_extra_file_is_malformed(folder: Path, where: str) -> None:
    (folder / where).write_text("{}")
    refused(folder, MalformedError, None)


@pytest.mark.parametrize("where", ["extra", "blobs/extra"])
def test_an_extra_folder_is_malformed(folder: Path, where: str) -> None:
    (folder / where).mkdir()
    refused(folder, MalformedError, None)


def replaced_by_link(folder: Path, tmp_path: Path, path: Path) -> None:
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")


@pytest.mark.parametrize("which", ["manifest.json", "blobs", "blob"])
def test_links_are_not_followed(folder: Path, tmp_path: Path, which: str) -> None:
    replaced_by_link(folder, tmp_path, blob_of(folder) if which == "blob" else folder / which)
    refused(folder, MalformedError, None)


@pytest.mark.parametrize("which", ["manifest.json", "blob"])
def test_a_fifo_does_not_block(folder: Path, which: str) -> None:
    path = blob_of(folder) if which == "blob" else folder / which
    path.unlink()
    os.mkfifo(path)
    refused(folder, MalformedError, None)


def test_blobs_that_are_no_folder_are_malformed(folder: Path) -> None:
    for blob in (folder / "blobs").iterdir():
        blob.unlink()
    (folder / "blobs").rmdir()
    (folder / "blobs").write_text("")
    refused(folder, MalformedError, None)


def test_a_truncated_blob_is_rejected(folder: Path) -> None:
    blob = blob_of(folder)
    blob.write_bytes(blob.read_bytes()[:-1])
    refused(folder, RejectedError, "SIZE_MISMATCH")


def test_an_extended_blob_is_rejected(folder: Path) -> None:
    with blob_of(folder).open("ab") as file:
        file.write(b"\0")
    refused(folder, RejectedError, "SIZE_MISMATCH")


def test_a_size_that_lies_is_rejected(folder: Path) -> None:
    def lie(document: dict[str, Any]) -> None:
        for entry in document["files"]:
            entry["size"] = entry["blob_size"] = entry["size"] + 1

    resign(folder, lie)
    refused(folder, RejectedError, "SIZE_MISMATCH")


@pytest.mark.parametrize("position", [0, 1_000, -1])
def test_a_flipped_byte_is_rejected(folder: Path, position: int) -> None:
    blob = blob_of(folder)
    data = bytearray(blob.read_bytes())
    data[position] ^= 1
    blob.write_bytes(data)
    error = refused(folder, RejectedError, "BLOB_DIGEST_MISMATCH")
    assert "model.safetensors" in error.message


def test_two_blobs_swapped_are_rejected(tmp_path: Path) -> None:
    folder = signed_package(tmp_path)
    one, two = blob_of(folder, "config.json"), blob_of(folder, "modules.json")
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    refused(folder, RejectedError, "SIZE_MISMATCH")


def test_a_digest_that_lies_is_rejected(folder: Path) -> None:
    resign(folder, lambda d: d["files"][0].update(sha256="00" * 32, blob_sha256="00" * 32))
    refused(folder, RejectedError, "BLOB_DIGEST_MISMATCH")


def test_the_chunk_root_is_what_full_verification_checks(folder: Path) -> None:
    resign(folder, lambda d: d["files"][0].update(chunk_root="00" * 32))
    verified = verify(folder)
    with Package.open(folder) as package, pytest.raises(RejectedError) as caught:
        verify_plaintext(verified, package)
    assert caught.value.code == "CHUNK_ROOT_MISMATCH"


def test_full_verification_of_a_sound_package(folder: Path) -> None:
    verified = verify(folder)
    before = open_descriptors()
    with Package.open(folder) as package:
        verify_plaintext(verified, package)
    assert open_descriptors() == before


def test_full_verification_checks_the_flat_digest_too(folder: Path) -> None:
    resign(folder, lambda d: d["files"][0].update(sha256="00" * 32, blob_sha256="00" * 32))
    verified = verify_manifest((folder / "manifest.json").read_bytes(), publisher_keys=KEYS, allow_plaintext=True)
    with Package.open(folder) as package, pytest.raises(RejectedError) as caught:
        verify_plaintext(verified, package)
    assert caught.value.code == "FILE_DIGEST_MISMATCH"
