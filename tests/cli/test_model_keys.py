"""`model rewrap`, `model import` and `model sign --oms` as transcripts."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ephemeralml.cli import console, data_keys
from tests.cli.conftest import new_key
from tests.cli.runner import Result, run
from tests.fakes import legacy_packages, tiny_bert
from tests.fakes.key_source import OneKey
from tests.fakes.kms_server import KmsServer
from tests.fakes.packages import PUBLISHER, STRANGER, data_key, encrypted_package, signed_package

KEY = str(PUBLISHER.public)


def refused(done: Result, code: int, *, says: str = "") -> None:
    assert done.exit_code == code, done.stderr
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.splitlines()[-1].startswith(("error: ", "hint: "))


def dek_file(folder: Path, key: bytes = legacy_packages.DEK) -> Path:
    path = folder / "dek"
    path.write_text(key.hex())
    path.chmod(0o600)
    return path


@pytest.fixture
def package(tmp_path: Path, uri: str) -> Path:
    model = tiny_bert.write(tmp_path / "model")
    (tmp_path / "key.pem").write_bytes(PUBLISHER.to_pem())
    (tmp_path / "key.pem").chmod(0o600)
    options = ("--model-id", "tiny", "--model-version", "1.0.0", "--key", uri)
    assert run("model", "encrypt", model, "--out", tmp_path / "p", *options).exit_code == 0
    assert run("model", "sign", tmp_path / "p", "--key", tmp_path / "key.pem").exit_code == 0
    return tmp_path / "p"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def verified(package: Path, *options: object) -> Result:
    return run("model", "verify", package, "--publisher-key", KEY, "--json", *options)


def test_another_key_and_nothing_else(operator: KmsServer, package: Path, uri: str) -> None:
    before, model_hash = files(package), verified(package).json["model_hash"]
    other = new_key(operator)
    done = run("model", "rewrap", package, "--key", other, "--json")
    assert done.exit_code == 0, done.stderr
    assert [entry["key"] for entry in done.json["keys"]] == [other]
    after = files(package)
    assert {name for name in before if before[name] != after[name]} == {"keys.json"}
    full = verified(package, "--full")
    assert (full.exit_code, full.json["model_hash"]) == (0, model_hash)
    operator.client().disable_key(KeyId=uri.removeprefix("local:"))
    assert verified(package, "--full").exit_code == 0


def test_with_add_the_others_stay_and_a_failing_one_is_passed_over(
    operator: KmsServer, package: Path, uri: str
) -> None:
    other = new_key(operator)
    done = run("model", "rewrap", package, "--key", other, "--add")
    assert done.stdout.splitlines()[1:] == [
        f"key           {uri}, bound to id and version",
        f"key           {other}, bound to id and version",
    ]
    operator.client().disable_key(KeyId=uri.removeprefix("local:"))
    assert verified(package, "--full").exit_code == 0


def test_the_data_key_can_be_given_and_the_new_entry_bound(package: Path, uri: str, tmp_path: Path) -> None:
    keys = OneKey()
    foreign = encrypted_package(tmp_path / "foreign", keys=keys)
    dek = dek_file(tmp_path, bytes(data_key(foreign, keys).reveal()))
    done = run("model", "rewrap", foreign, "--key", uri, "--dek", dek, "--bind-manifest", "--json")
    assert done.exit_code == 0, done.stderr
    assert done.json["keys"][0]["context"]["manifest"] == verified(foreign).json["model_hash"]
    assert verified(foreign, "--full").exit_code == 0


@pytest.mark.parametrize(
    "text", ["", "00" * 31, "00" * 33, "0x" + "0" * 62, "00" * 32 + " ", "\n" + "00" * 32, "g0" * 32]
)
def test_a_file_without_a_data_key(package: Path, uri: str, tmp_path: Path, text: str) -> None:
    dek = dek_file(tmp_path)
    dek.write_text(text)
    done = run("model", "rewrap", package, "--key", uri, "--dek", dek)
    refused(done, 4)
    assert not text.strip() or text.strip() not in done.stderr


def test_a_data_key_read_from_a_file_is_wiped_where_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    real = console.read_file

    def kept(*args: Any, **more: Any) -> bytes:
        read.append(real(*args, **more))
        return read[-1]

    monkeypatch.setattr(console, "read_file", kept)
    with data_keys.read_dek(dek_file(tmp_path)) as dek:
        assert bytes(dek.reveal()) == legacy_packages.DEK
    assert read == [bytes(64)]


def test_rewrap_refuses_what_it_cannot_do(
    operator: KmsServer, monkeypatch: pytest.MonkeyPatch, package: Path, uri: str, tmp_path: Path
) -> None:
    rewrap = ("model", "rewrap", package, "--key")
    before = files(package)
    refused(run(*rewrap, uri, "--dek", dek_file(tmp_path, bytes(32))), 3, says="does not open the package")
    refused(run(*rewrap, "vault:x"), 2, says="--key")
    refused(run("model", "rewrap", tmp_path / "nowhere", "--key", uri), 2)
    refused(run("model", "rewrap", signed_package(tmp_path / "plain"), "--key", uri), 4, says="not encrypted")
    gone = uri[:-12] + "000000000000"
    refused(run(*rewrap, gone), 5)
    for name, value in operator.environment("publisher").items():
        monkeypatch.setenv(name, value)
    refused(run(*rewrap, uri), 3)
    assert files(package) == before


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    return legacy_packages.write(tmp_path / "old")


def imported(
    legacy: Path, tmp_path: Path, *options: object, dek: bytes = legacy_packages.DEK, key: str = KEY
) -> Result:
    return run(
        *("model", "import", legacy, "--out", tmp_path / "new", "--publisher-key", key),
        *("--dek", dek_file(tmp_path, dek), *options),
    )


def test_a_legacy_package_is_encrypted_anew(legacy: Path, uri: str, tmp_path: Path) -> None:
    done = imported(legacy, tmp_path, "--key", uri, "--json")
    assert done.exit_code == 0, done.stderr
    assert (done.json["model_id"], done.json["version"], done.json["format"]) == ("tiny-bert", "1.0.0", "safetensors")
    assert "modules.json: its old publisher signed no digest" in done.stderr
    assert "tokenizer.json: " not in done.stderr
    (tmp_path / "key.pem").write_bytes(PUBLISHER.to_pem())
    (tmp_path / "key.pem").chmod(0o600)
    assert run("model", "sign", tmp_path / "new", "--key", tmp_path / "key.pem").exit_code == 0
    assert verified(tmp_path / "new", "--full").exit_code == 0
    manifest = json.loads((legacy / "manifest.json").read_text())
    described = run("model", "inspect", tmp_path / "new", "--json").json["files"]
    weights = next(file for file in described if file["path"] == "model.safetensors")
    assert weights["sha256"] == bytes(manifest["model_hash"]).hex()
    assert bytes.fromhex(legacy_packages.DEK.hex()) not in b"".join(files(tmp_path / "new").values())


def test_a_legacy_package_can_stay_plaintext_under_another_name(legacy: Path, tmp_path: Path) -> None:
    options = ("--suite", "none", "--model-id", "renamed", "--model-version", "2.0.0")
    done = imported(legacy, tmp_path, *options, "--json")
    assert (done.json["model_id"], done.json["version"], done.json["suite"]) == ("renamed", "2.0.0", "none")


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_no_plaintext_stays_behind_an_order_to_stop(
    legacy: Path, tmp_path: Path, order: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    seen: list[str] = []

    def stopped(model: Path, *_: object, **__: object) -> None:
        seen.extend(path.name for path in model.iterdir())
        os.kill(os.getpid(), order)
        signal.sigtimedwait([], 5)  # the handler runs here, if there is one
        raise AssertionError("nothing stopped")

    monkeypatch.setattr("ephemeralml.cli.commands.model_keys._MEMORY", scratch)
    monkeypatch.setattr("ephemeralml.model.create.create_package", stopped)
    before = signal.signal(order, lambda *_: None)
    try:
        done = imported(legacy, tmp_path, "--suite", "none")
    finally:
        signal.signal(order, before)
    assert done.exit_code == 130
    assert "model.safetensors" in seen
    assert list(scratch.iterdir()) == []


def test_a_version_that_is_none_needs_one(tmp_path: Path) -> None:
    legacy = legacy_packages.write(tmp_path / "old", edit={"version": "v1"})
    refused(imported(legacy, tmp_path, "--suite", "none"), 2, says="--model-version")
    assert imported(legacy, tmp_path, "--suite", "none", "--model-version", "1.0.0").exit_code == 0


def test_import_refuses_with_the_documented_code(legacy: Path, tmp_path: Path) -> None:
    plain = ("--suite", "none")
    refused(imported(legacy, tmp_path, *plain, dek=bytes(32)), 3, says="is it the DEK of this package?")
    refused(imported(legacy, tmp_path, *plain, key=str(STRANGER.public)), 3, says="none of the keys")
    refused(imported(legacy, tmp_path), 2, says="--suite none")
    refused(imported(tmp_path / "nowhere", tmp_path, *plain), 2)
    (legacy / "config.json").write_text("{}")
    refused(imported(legacy, tmp_path, *plain), 3, says="config.json")
    (legacy / "config.json").unlink()
    refused(imported(legacy, tmp_path, *plain), 5, says="config.json")
    (legacy / "manifest.json").write_text("garbage")
    refused(imported(legacy, tmp_path, *plain), 4)
    (legacy / "manifest.json").unlink()
    refused(imported(legacy, tmp_path, *plain), 5, says="manifest.json")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "dek"}


@pytest.fixture
def upstream(tmp_path: Path) -> tuple[Path, Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    secret, public = tmp_path / "upstream.pem", tmp_path / "upstream.pub"
    secret.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    secret.chmod(0o600)
    public.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return secret, public


ENCRYPT = ("--model-id", "tiny", "--model-version", "1.0.0", "--suite", "none")


def test_a_model_is_signed_for_others_and_its_signature_kept(upstream: tuple[Path, Path], tmp_path: Path) -> None:
    model = tiny_bert.write(tmp_path / "model")
    signed = run("model", "sign", model, "--oms", "--key", upstream[0], "--json")
    assert signed.exit_code == 0, signed.stderr
    assert signed.json["signature"] == str(tmp_path / "model.sig")
    made = run("model", "encrypt", model, "--out", tmp_path / "p", *ENCRYPT, "--oms-key", upstream[1], "--json")
    assert made.exit_code == 0, made.stderr
    assert made.json["upstream_signature"] == signed.json["sha256"]
    text = run("model", "encrypt", model, "--out", tmp_path / "q", *ENCRYPT, "--oms-key", upstream[1]).stdout
    assert f"upstream      signature {signed.json['sha256']}" in text.splitlines()


def test_a_signature_can_lie_inside_of_the_model_or_elsewhere(upstream: tuple[Path, Path], tmp_path: Path) -> None:
    model = tiny_bert.write(tmp_path / "model")
    assert run("model", "sign", model, "--oms", "--key", upstream[0], "--out", tmp_path / "s").exit_code == 0
    encrypt = ("model", "encrypt", model, *ENCRYPT, "--oms-key", upstream[1], "--out")
    assert run(*encrypt, tmp_path / "p", "--oms-signature", tmp_path / "s").exit_code == 0
    refused(run(*encrypt, tmp_path / "q"), 2, says="--oms-signature")
    (tmp_path / "s").rename(tmp_path / "model.sig")
    here = ("model", "encrypt", ".", *encrypt[3:])
    assert run(*here, "../here", cwd=model).exit_code == 0
    (tmp_path / "model.sig").rename(model / "model.sig")
    assert run(*encrypt, tmp_path / "q").exit_code == 0


def test_a_model_that_upstream_did_not_sign_is_not_packaged(upstream: tuple[Path, Path], tmp_path: Path) -> None:
    model = tiny_bert.write(tmp_path / "model")
    assert run("model", "sign", model, "--oms", "--key", upstream[0]).exit_code == 0
    (model / "config.json").write_bytes((model / "config.json").read_bytes() + b" ")
    encrypt = ("model", "encrypt", model, *ENCRYPT, "--oms-key", upstream[1], "--out", tmp_path / "p")
    refused(run(*encrypt), 3, says="config.json")
    assert not (tmp_path / "p").exists()


def test_sign_for_others_refuses_what_it_cannot_do(upstream: tuple[Path, Path], tmp_path: Path) -> None:
    model = tiny_bert.write(tmp_path / "model")
    sign = ("model", "sign", model, "--oms", "--key")
    (tmp_path / "ed.pem").write_bytes(PUBLISHER.to_pem())
    (tmp_path / "ed.pem").chmod(0o600)
    refused(run(*sign, tmp_path / "ed.pem"), 4, says="EC key")
    refused(run(*sign, tmp_path / "nothing"), 2)
    refused(run(*sign, upstream[0], "--out", model / "model.sig"), 2, says="beside the model")
    refused(run("model", "sign", signed_package(tmp_path / "made"), "--oms", "--key", upstream[0]), 2, says="package")
    refused(run("model", "sign", signed_package(tmp_path / "again"), "--key", "k", "--out", "x"), 2, says="--oms")
    assert run(*sign, upstream[0]).exit_code == 0
    refused(run(*sign, upstream[0]), 2, says="exists")
    assert run(*sign, upstream[0], "--force").exit_code == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
