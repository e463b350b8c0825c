"""Encrypted packages on the command line: made, signed, verified, refused (model-package.md sections 5 and 6)."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ephemeralml.crypto import dsse
from ephemeralml.model import envelope
from tests.cli.runner import Result, run
from tests.fakes import tiny_bert
from tests.fakes.key_source import OneKey
from tests.fakes.kms_server import KmsServer
from tests.fakes.packages import PUBLISHER, STRANGER, data_key, encrypted_package

KEY = str(PUBLISHER.public)
NAMES = ("--model-id", "tiny", "--model-version", "1.0.0", "--chunk-size", "65536")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_bert.write(tmp_path / "model")


@pytest.fixture
def signer(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(PUBLISHER.to_pem())
    path.chmod(0o600)
    return path


@pytest.fixture
def keys() -> OneKey:
    return OneKey()


@pytest.fixture
def package(tmp_path: Path, keys: OneKey) -> Path:
    return encrypted_package(tmp_path, keys=keys)


def dek_file(folder: Path, key: bytes) -> Path:
    path = folder / "dek"
    path.write_text(key.hex() + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def dek(tmp_path: Path, package: Path, keys: OneKey) -> Path:
    return dek_file(tmp_path, bytes(data_key(package, keys).reveal()))


def refused(done: Result, code: int, *, says: str = "", name: str | None = None) -> None:
    assert done.exit_code == code, done.stderr
    assert says in done.stderr
    assert done.stderr.splitlines()[-1].startswith(("error: ", "hint: "))
    if name is not None:
        assert done.json["code"] == name
    else:
        assert done.stdout == ""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


SUITES = {
    "default": ((), "chacha20poly1305-stream", False),
    "chacha": (("--suite", "chacha20poly1305-stream"), "chacha20poly1305-stream", False),
    "aes": (("--suite", "aes256gcm-stream"), "aes256gcm-stream", False),
    "bound": (("--bind-manifest",), "chacha20poly1305-stream", True),
}


@pytest.mark.parametrize("choice", SUITES)
def test_from_model_to_verified_plaintext(model: Path, signer: Path, uri: str, tmp_path: Path, choice: str) -> None:
    options, suite, bound = SUITES[choice]
    made = run("model", "encrypt", model, "--out", tmp_path / "p", *NAMES, "--key", uri, *options, "--json")
    assert made.exit_code == 0, made.stderr
    assert "not encrypted" not in made.stderr
    assert made.json["suite"] == suite
    (entry,) = made.json["keys"]
    assert (entry["provider"], entry["key"]) == ("local", uri)
    assert ("manifest" in entry["context"]) is bound
    assert run("model", "sign", tmp_path / "p", "--key", signer).exit_code == 0
    plain = run("model", "verify", tmp_path / "p", "--publisher-key", KEY)
    assert plain.stdout.splitlines()[:5] == ["✓ signature", "✓ layout", "✓ sizes", "✓ blob digests", "✓ key bindings"]
    full = run("model", "verify", tmp_path / "p", "--publisher-key", KEY, "--full", "--json")
    assert (full.exit_code, full.json["checks"][-1]) == (0, "plaintext digests")
    assert full.json["keys"] == made.json["keys"]


def test_no_plaintext_and_no_key_is_in_a_package(model: Path, uri: str, tmp_path: Path) -> None:
    assert run("model", "encrypt", model, "--out", tmp_path / "p", *NAMES, "--key", uri).exit_code == 0
    packaged = b"".join(path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file())
    for path in model.rglob("*"):
        if path.is_file() and path.stat().st_size >= 64:
            assert path.read_bytes()[-64:] not in packaged, path


def test_an_alias_becomes_the_key_that_it_names(operator: KmsServer, model: Path, uri: str, tmp_path: Path) -> None:
    client = operator.client()
    alias = f"alias/{tmp_path.name}"
    client.create_alias(AliasName=alias, TargetKeyId=uri.removeprefix("local:"))
    named = uri.rpartition(":key/")[0] + ":" + alias
    made = run("model", "encrypt", model, "--out", tmp_path / "p", *NAMES, "--key", named, "--json")
    assert [entry["key"] for entry in made.json["keys"]] == [uri]


def test_a_key_server_can_be_named(
    operator: KmsServer, monkeypatch: pytest.MonkeyPatch, model: Path, uri: str, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_KMS")
    encrypt = ("model", "encrypt", model, "--out", tmp_path / "p", *NAMES, "--key", uri)
    refused(run(*encrypt), 5, says="--kms-endpoint")
    assert not (tmp_path / "p").exists()
    assert run(*encrypt, "--kms-endpoint", operator.endpoint).exit_code == 0


def as_publisher(kms: KmsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in kms.environment("publisher").items():
        monkeypatch.setenv(name, value)


def test_what_the_kms_denies_is_not_packaged(
    operator: KmsServer, monkeypatch: pytest.MonkeyPatch, model: Path, uri: str, tmp_path: Path
) -> None:
    as_publisher(operator, monkeypatch)
    done = run("model", "encrypt", model, "--out", tmp_path / "p", *NAMES, "--key", uri, "--json")
    refused(done, 3, name="KEY_RELEASE_DENIED")
    assert names(tmp_path) == {"model"}


def test_an_encrypted_package_shows_its_keys(package: Path, keys: OneKey) -> None:
    document = run("model", "inspect", package, "--json").json
    assert document["package"]["keys"] == [
        {"provider": "local", "key": keys.uri, "context": {"model_id": "tiny-bert", "version": "1.0.0"}}
    ]
    text = run("model", "inspect", package).stdout
    assert f"key           {keys.uri}, bound to id and version" in text.splitlines()
    assert "format        safetensors, tensors encrypted" in text.splitlines()
    (package / "keys.json").unlink()
    assert run("model", "inspect", package, "--json").json["package"]["keys"] == []


def full(package: Path, *options: object) -> Result:
    return run("model", "verify", package, "--publisher-key", KEY, "--full", *options, "--json")


def test_the_data_key_can_be_given(package: Path, dek: Path) -> None:
    assert full(package, "--dek", dek).json["verdict"] == "verified"


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "0g" * 32, "é" * 32])
def test_a_data_key_that_is_none_is_malformed(package: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "dek"
    path.write_text(text)
    path.chmod(0o600)
    assert full(package, "--dek", path).exit_code == 4


def test_a_data_key_that_others_may_read_is_refused(package: Path, dek: Path, tmp_path: Path) -> None:
    dek.chmod(0o640)
    done = full(package, "--dek", dek)
    assert (done.exit_code, "chmod 600" in done.stderr) == (2, True)
    assert full(package, "--dek", tmp_path / "nothing").exit_code == 2


def test_the_wrong_data_key_is_rejected(package: Path, tmp_path: Path) -> None:
    refused(full(package, "--dek", dek_file(tmp_path, bytes(32))), 3, name="CHUNK_AUTH_FAILED")


def test_the_data_key_of_another_package_is_rejected(package: Path, keys: OneKey, tmp_path: Path) -> None:
    other = encrypted_package(tmp_path / "other", keys=keys, version="2.0.0")
    key = dek_file(tmp_path, bytes(data_key(other, keys).reveal()))
    refused(full(package, "--dek", key), 3, name="CHUNK_AUTH_FAILED")


def test_without_a_key_at_hand_it_is_incomplete(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_KMS", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    done = full(package)
    refused(done, 6, name="KEY_MISSING", says="give --kms-endpoint")


def test_a_key_that_the_kms_does_not_know_is_unavailable(package: Path, operator: KmsServer) -> None:
    assert full(package).exit_code == 5


def test_a_data_key_that_the_kms_denies_is_rejected(
    operator: KmsServer, monkeypatch: pytest.MonkeyPatch, model: Path, signer: Path, uri: str, tmp_path: Path
) -> None:
    assert run("model", "encrypt", model, "--out", tmp_path / "p", *NAMES, "--key", uri).exit_code == 0
    assert run("model", "sign", tmp_path / "p", "--key", signer).exit_code == 0
    as_publisher(operator, monkeypatch)
    refused(full(tmp_path / "p"), 3, name="KEY_RELEASE_DENIED")


def test_a_data_key_is_for_full_verification_only(package: Path, dek: Path) -> None:
    verify = ("model", "verify", package, "--publisher-key", KEY)
    refused(run(*verify, "--dek", dek), 2, says="--full")
    refused(run(*verify, "--kms-endpoint", "http://127.0.0.1:1"), 2, says="--full")


def largest(package: Path) -> Path:
    return max((package / "blobs").iterdir(), key=lambda path: path.stat().st_size)


def change(package: Path, edit: Callable[[bytearray], object]) -> None:
    blob = largest(package)
    data = bytearray(blob.read_bytes())
    edit(data)
    blob.write_bytes(data)


def flip(package: Path, place: int) -> None:
    change(package, lambda data: data.__setitem__(place, data[place] ^ 1))


def reorder(package: Path) -> None:
    def swap(data: bytearray) -> None:
        size = 65_536 + 16
        data[96 : 96 + 2 * size] = data[96 + size : 96 + 2 * size] + data[96 : 96 + size]

    change(package, swap)


def swap_blobs(package: Path) -> None:
    first, second, *_ = sorted((package / "blobs").iterdir())
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def payload_of(package: Path) -> bytes:
    return envelope.parse((package / "manifest.json").read_bytes()).payload


def resign(package: Path, old: bytes, new: bytes) -> None:
    payload = payload_of(package)
    assert old in payload
    edited = payload.replace(old, new, 1)
    (package / "manifest.json").write_bytes(dsse.seal(envelope.PAYLOAD_TYPE, edited, PUBLISHER))


def unsign(package: Path) -> None:
    (package / "manifest.json").write_bytes(envelope.unsigned(payload_of(package)))


def edit_after_signing(package: Path) -> None:
    document = json.loads((package / "manifest.json").read_bytes())
    document["payload"] = document["payload"][:-8] + "AAAAAAAA"
    (package / "manifest.json").write_text(json.dumps(document))


def lie_about_digest(package: Path) -> None:
    digest = json.loads(payload_of(package))["files"][0]["sha256"].encode()
    resign(package, digest, digest[::-1])


def lie_about_size(package: Path) -> None:
    size = json.loads(payload_of(package))["files"][0]["size"]
    resign(package, b'"size": %d' % size, b'"size": %d' % (size + 1))


def edit_context(package: Path) -> None:
    path = package / "keys.json"
    path.write_text(path.read_text().replace("1.0.0", "1.0.1"))


FAULTS: dict[str, tuple[Callable[[Path], object], int, str | None]] = {
    "unsigned": (unsign, 3, "UNSIGNED"),
    "payload edited after signing": (edit_after_signing, 3, "SIGNATURE_INVALID"),
    "header edited": (lambda package: flip(package, 20), 3, "BLOB_DIGEST_MISMATCH"),
    "chunk flipped": (lambda package: flip(package, 1_000), 3, "BLOB_DIGEST_MISMATCH"),
    "tag flipped": (lambda package: flip(package, -1), 3, "BLOB_DIGEST_MISMATCH"),
    "truncated": (lambda package: change(package, bytearray.pop), 3, "SIZE_MISMATCH"),
    "extended": (lambda package: change(package, lambda data: data.append(0)), 3, "SIZE_MISMATCH"),
    "reordered": (reorder, 3, "BLOB_DIGEST_MISMATCH"),
    "two blobs swapped": (swap_blobs, 3, "SIZE_MISMATCH"),
    "size lies": (lie_about_size, 4, None),
    "digest lies": (lie_about_digest, 3, "FILE_DIGEST_MISMATCH"),
    "path traversal": (lambda package: resign(package, b'"config.json"', b'"../onfig.json"'), 4, "PATH_NOT_ALLOWED"),
    "object missing": (lambda package: largest(package).unlink(), 5, None),
    "keys missing": (lambda package: (package / "keys.json").unlink(), 5, None),
    "keys malformed": (lambda package: (package / "keys.json").write_text("{}"), 4, None),
    "keys of another version": (edit_context, 3, "CONTEXT_MISMATCH"),
    "extra file": (lambda package: (package / "extra").write_text(""), 4, None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_packages_are_refused_with_the_documented_code(tmp_path: Path, fault: str) -> None:
    keys = OneKey()
    shape = tiny_bert.Shape(hidden=64)
    package = encrypted_package(tmp_path, keys=keys, shape=shape)
    key = dek_file(tmp_path, bytes(data_key(package, keys).reveal()))
    edit, code, name = FAULTS[fault]
    edit(package)
    done = full(package, "--dek", key)
    assert (done.exit_code, done.json["code"]) == (code, name), done.stderr
    assert done.stderr.splitlines()[-1].startswith(("error: ", "hint: "))


def test_strangers_and_older_versions_are_refused(package: Path) -> None:
    verify = ("model", "verify", package, "--json", "--publisher-key")
    refused(run(*verify, STRANGER.public), 3, name="SIGNER_UNKNOWN")
    refused(run(*verify, KEY, "--min-version", "1.0.1"), 3, name="VERSION_ROLLBACK")


def test_a_full_disk_leaves_nothing(model: Path, uri: str, tmp_path: Path) -> None:
    (model / "large.json").write_bytes(b" " * 3_000_000)
    command = f"ulimit -f 1000; exec {sys.executable} -m ephemeralml model encrypt"
    arguments = [model, "--out", tmp_path / "p", *NAMES, "--key", uri]
    done = subprocess.run(
        ["bash", "-c", f'{command} "$@"', "bash", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "File too large" in done.stderr) == (5, True), done.stderr
    assert names(tmp_path) == {"model"}
