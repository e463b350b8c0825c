import json
import os
from pathlib import Path

import numpy as np
import pytest

from ephemeralml.crypto import dsse
from ephemeralml.model import envelope
from tests.cli.runner import Result, run, run_process
from tests.fakes import tiny_bert
from tests.fakes.packages import PUBLISHER, STRANGER, signed_package

KEY = str(PUBLISHER.public)
ENCRYPT = ("--model-id", "tiny", "--model-version", "1.0.0", "--suite", "none")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_bert.write(tmp_path / "model")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return signed_package(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(PUBLISHER.to_pem())
    path.chmod(0o600)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(done: Result, code: int, *, says: str = "") -> None:
    assert done.exit_code == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(("error: ", "hint: "))
    assert says in done.stderr


def test_from_model_to_verified_package(model: Path, key: Path, tmp_path: Path) -> None:
    made = run("model", "encrypt", model, "--out", tmp_path / "p", *ENCRYPT)
    assert made.exit_code == 0
    assert made.stdout.splitlines()[1] == "model         tiny 1.0.0 (safetensors, bert)"
    assert "warning: the package is not encrypted" in made.stderr
    signed = run("model", "sign", tmp_path / "p", "--key", key, "--json")
    assert signed.json == {
        "schema": "ephemeralml.model-signature/1",
        "package": str(tmp_path / "p"),
        "model_id": "tiny",
        "version": "1.0.0",
        "publisher_key": KEY,
        "keyid": PUBLISHER.public.keyid,
    }
    verified = run("model", "verify", tmp_path / "p", "--publisher-key", KEY, "--allow-plaintext")
    assert verified.exit_code == 0
    assert verified.stdout.splitlines()[0] == "✓ signature"
    assert verified.stdout.splitlines()[-1] == "verified"
    assert names(tmp_path) == {"model", "key.pem", "p"}


def test_encrypt_prints_one_document(model: Path, tmp_path: Path) -> None:
    done = run(
        "model", "encrypt", model, "--out", tmp_path / "p", *ENCRYPT, "--license", "MIT", "--publisher", "us", "--json"
    )
    assert done.json["schema"] == "ephemeralml.model-package/1"
    assert (done.json["files"], done.json["signed"]) == (6, False)
    payload = json.loads(envelope.parse((tmp_path / "p" / "manifest.json").read_bytes()).payload)
    assert (payload["license"], payload["publisher"]["name"]) == ("MIT", "us")


USAGE = {
    "no --out": ["--model-id", "m", "--model-version", "1.0.0", "--suite", "none"],
    "no id": ["--out", "p", "--model-version", "1.0.0", "--suite", "none"],
    "no version": ["--out", "p", "--model-id", "m", "--suite", "none"],
    "version no SemVer": ["--out", "p", "--model-id", "m", "--model-version", "1.0", "--suite", "none"],
    "bad id": ["--out", "p", "--model-id", "a@b", "--model-version", "1.0.0", "--suite", "none"],
    "unknown suite": ["--out", "p", *ENCRYPT[:4], "--suite", "rot13"],
    "encrypted suite": ["--out", "p", *ENCRYPT[:4], "--suite", "aes256gcm-stream"],
    "default suite": ["--out", "p", *ENCRYPT[:4]],
    "key without use": ["--out", "p", *ENCRYPT, "--key", "local:x"],
    "key of no KMS": ["--out", "p", *ENCRYPT[:4], "--key", "vault:x"],
    "key that is half one": ["--out", "p", *ENCRYPT[:4], "--key", "local:arn:aws:kms:local:1:key/x"],
    "binding without a key": ["--out", "p", *ENCRYPT, "--bind-manifest"],
    "endpoint without a key": ["--out", "p", *ENCRYPT, "--kms-endpoint", "http://127.0.0.1:1"],
    "signature and no signer": ["--out", "p", *ENCRYPT, "--oms-signature", "model/config.json"],
    "signer without signature": ["--out", "p", *ENCRYPT, "--oms-key", "model/config.json"],
    "signer that is no file": ["--out", "p", *ENCRYPT, "--oms-key", "nothing"],
    "identity without issuer": ["--out", "p", *ENCRYPT, "--oms-identity", "me@example.com"],
    "two signers": ["--out", "p", *ENCRYPT, "--oms-key", "model/config.json", "--oms-identity", "me"],
    "trust in nobody": ["--out", "p", *ENCRYPT, "--oms-trust-config", "model/config.json"],
    "chunk size": ["--out", "p", *ENCRYPT, "--chunk-size", "5"],
    "unknown dtype": ["--out", "p", *ENCRYPT, "--allow-dtype", "F31"],
    "long licence": ["--out", "p", *ENCRYPT, "--license", "x" * 300],
    "no folder for it": ["--out", "no/where", *ENCRYPT],
}


@pytest.mark.parametrize("fault", USAGE)
def test_encrypt_refuses_options_that_cannot_be_meant(model: Path, tmp_path: Path, fault: str) -> None:
    refused(run("model", "encrypt", model, *USAGE[fault], cwd=tmp_path), 2)
    assert names(tmp_path) == {"model"}


def test_a_suite_that_encrypts_needs_a_key(model: Path, tmp_path: Path) -> None:
    done = run("model", "encrypt", model, "--out", tmp_path / "p", *ENCRYPT[:4], "--suite", "aes256gcm-stream")
    refused(done, 2, says="needs --key URI")


def test_nothing_is_left_unencrypted_by_default(model: Path, tmp_path: Path) -> None:
    done = run("model", "encrypt", model, "--out", tmp_path / "p", *ENCRYPT[:4])
    refused(done, 2, says="hint: --key URI encrypts the package")


@pytest.mark.parametrize("out", ["model", "model/p", "model/../model/p", "."])
def test_a_package_and_its_model_do_not_lie_in_each_other(model: Path, tmp_path: Path, out: str) -> None:
    refused(run("model", "encrypt", "model", "--out", out, *ENCRYPT, "--force", cwd=tmp_path), 2, says="in each other")
    assert names(tmp_path) == {"model"}


def test_what_a_lone_weights_file_is_for_nobody_knows(model: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((model / "model.safetensors").read_bytes())
    assert run("model", "inspect", lone, "--json").json["task"] == "unknown"
    assert "unknown, for unknown" in run("model", "inspect", lone).stdout


@pytest.mark.parametrize(
    "command",
    [["inspect"], ["encrypt", *ENCRYPT, "--out", "p"], ["sign", "--key", "k"], ["verify", "--publisher-key", KEY]],
)
def test_a_missing_input_is_a_usage_error(tmp_path: Path, command: list[str]) -> None:
    refused(run("model", command[0], "nowhere", *command[1:], cwd=tmp_path), 2, says="nowhere")


def test_a_package_that_exists_stays_unless_forced(model: Path, tmp_path: Path) -> None:
    assert run("model", "encrypt", model, "--out", tmp_path / "p", *ENCRYPT).exit_code == 0
    before = (tmp_path / "p" / "manifest.json").read_bytes()
    refused(run("model", "encrypt", model, "--out", tmp_path / "p", *ENCRYPT), 2, says="exists")
    assert (tmp_path / "p" / "manifest.json").read_bytes() == before
    forced = ("--model-id", "other", *ENCRYPT[2:], "--force")
    assert run("model", "encrypt", model, "--out", tmp_path / "p", *forced).exit_code == 0
    assert (tmp_path / "p" / "manifest.json").read_bytes() != before


def test_force_replaces_packages_only(model: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    refused(run("model", "encrypt", model, "--out", tmp_path / "precious", *ENCRYPT, "--force"), 5, says="no package")
    assert names(tmp_path / "precious") == {"file"}
    assert names(tmp_path) == {"model", "precious"}


@pytest.mark.parametrize("command", ["inspect", "encrypt"])
@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("pytorch_model.bin", b"PK", "suffix that pickles use"),
        ("vocab.txt", b"\x80\x04\x95", "is a pickle"),
        ("b.safetensors", b"\0" * 9, "b.safetensors"),
        ("link", None, "symbolic link"),
        ("a\\b", b"", "backslash"),
    ],
)
def test_unsafe_models_are_malformed(model: Path, command: str, name: str, data: bytes | None, says: str) -> None:
    if data is None:
        (model / name).symlink_to("config.json")
    else:
        (model / name).write_bytes(data)
    options = ("--out", model.parent / "p", *ENCRYPT) if command == "encrypt" else ()
    refused(run("model", command, model, *options), 4, says=says)
    assert names(model.parent) == {"model"}


@pytest.mark.parametrize("command", ["inspect", "encrypt"])
def test_a_dtype_can_be_allowed(model: Path, command: str) -> None:
    tensors = tiny_bert.tensors() | {"extra": np.zeros(2, np.float64)}
    (model / "model.safetensors").write_bytes(tiny_bert.safetensors(tensors))
    options = ("--out", model.parent / "p", *ENCRYPT) if command == "encrypt" else ()
    refused(run("model", command, model, *options), 4, says="--allow-dtype F64")
    assert run("model", command, model, *options, "--allow-dtype", "F64").exit_code == 0


def test_inspect_shows_a_model(model: Path) -> None:
    done = run("model", "inspect", model, "--tensors")
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert "format        safetensors, 38 tensors" in lines
    assert "architecture  bert, for embedding" in lines
    assert any(line.startswith("encoder.layer.1.output.dense.weight") for line in lines)
    assert all(len(line.split()[-1]) == 64 for line in lines if line.startswith(("config.json", "model.safetensors")))


def test_inspect_prints_one_document(model: Path, package: Path) -> None:
    plain, packaged = run("model", "inspect", model, "--json").json, run("model", "inspect", package, "--json").json
    assert plain["schema"] == "ephemeralml.model-inspect/1"
    assert plain["package"] is None
    assert plain["files"] == packaged["files"]
    assert packaged["package"]["signed_by"] == PUBLISHER.public.keyid
    assert packaged["package"]["signature"] == "not checked"
    assert len(plain["tensors"]) == 38


def test_names_cannot_command_the_terminal(model: Path) -> None:
    tensors = tiny_bert.tensors() | {"\x1b[31mred[bold]": np.zeros(2, np.float32)}
    (model / "model.safetensors").write_bytes(tiny_bert.safetensors(tensors))
    done = run("model", "inspect", model, "--tensors")
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred[bold]" in done.stdout


def test_sign_wants_a_private_key(package: Path, tmp_path: Path) -> None:
    (tmp_path / "public").write_text(KEY)
    before = (package / "manifest.json").read_bytes()
    refused(run("model", "sign", package, "--key", tmp_path / "public"), 4)
    refused(run("model", "sign", package, "--key", tmp_path / "nothing"), 2)
    assert (package / "manifest.json").read_bytes() == before


def test_sign_refuses_what_is_no_package(model: Path, key: Path) -> None:
    refused(run("model", "sign", model, "--key", key), 2, says="is no package")
    refused(run("model", "sign", model / "config.json", "--key", key), 2)


def unsign(package: Path) -> None:
    payload = envelope.parse((package / "manifest.json").read_bytes()).payload
    (package / "manifest.json").write_bytes(envelope.unsigned(payload))


def flip(package: Path) -> None:
    blob = max((package / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)


def drop(package: Path) -> None:
    next((package / "blobs").iterdir()).unlink()


def edit(package: Path) -> None:
    document = json.loads((package / "manifest.json").read_bytes())
    document["signatures"][0]["sig"] = "A" * 86 + "=="
    (package / "manifest.json").write_text(json.dumps(document))


def traverse(package: Path) -> None:
    payload = envelope.parse((package / "manifest.json").read_bytes()).payload
    edited = payload.replace(b'"config.json"', b'"../onfig.json"')
    (package / "manifest.json").write_bytes(dsse.seal(envelope.PAYLOAD_TYPE, edited, PUBLISHER))


FAULTS = {
    "unsigned": (unsign, 3, "not signed"),
    "bad signature": (edit, 3, "signature does not fit"),
    "flipped byte": (flip, 3, "model.safetensors"),
    "missing blob": (drop, 5, "lacks blobs/"),
    "path traversal": (traverse, 4, "segment"),
    "extra file": (lambda package: (package / "extra").write_text(""), 4, "does not belong"),
    "FIFO": (lambda package: os.mkfifo(package / "pipe"), 4, "does not belong"),
    "garbage": (lambda package: (package / "manifest.json").write_text("garbage"), 4, "not JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_refuses_with_the_documented_code(package: Path, fault: str) -> None:
    change, code, says = FAULTS[fault]
    change(package)
    refused(run("model", "verify", package, "--publisher-key", KEY, "--allow-plaintext"), code, says=says)


def test_verify_refuses_rollback_plaintext_and_strangers(package: Path) -> None:
    verify = ("model", "verify", package, "--publisher-key")
    refused(run(*verify, KEY), 3, says="not encrypted")
    refused(run(*verify, KEY, "--allow-plaintext", "--min-version", "1.0.1"), 3, says="older than 1.0.1")
    refused(run(*verify, STRANGER.public, "--allow-plaintext"), 3, says="not among the keys")
    refused(run(*verify, KEY, "--min-version", "new"), 2)
    refused(run(*verify, "ed25519:xyz"), 4)
    refused(run("model", "verify", package), 2, says="--publisher-key")


def test_verify_says_what_was_wrong_in_json_too(package: Path) -> None:
    unsign(package)
    done = run("model", "verify", package, "--publisher-key", KEY, "--json")
    assert (done.exit_code, done.json["code"], done.json["exit_code"]) == (3, "UNSIGNED", 3)


def test_verify_in_full_prints_one_document(package: Path, tmp_path: Path) -> None:
    (tmp_path / "pub").write_text(KEY)
    done = run(
        "model",
        "verify",
        package,
        "--publisher-key",
        STRANGER.public,
        "--publisher-key",
        tmp_path / "pub",
        "--allow-plaintext",
        "--full",
        "--json",
    )
    assert (done.exit_code, done.json["verdict"], done.json["publisher_key"]) == (0, "verified", KEY)
    assert done.json["checks"][-1] == "plaintext digests"


def test_the_commands_work_in_a_process_of_their_own(package: Path) -> None:
    done = run_process("model", "verify", package, "--publisher-key", KEY, "--allow-plaintext")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "verified")


def test_packaging_imports_no_engine() -> None:
    import subprocess
    import sys

    script = "import sys, ephemeralml.model.create, ephemeralml.model.inspect, ephemeralml.model.verify_full, ephemeralml.cli.commands.model; print(sorted({'numpy', 'onnxruntime', 'tokenizers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
