"""The ten published vectors of AIR v1, read in place."""

import json
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.attestation.verdict import Assurance, Status, Verdict
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.receipt import AirClaims, Measurements, ReceiptPolicy, issue, verify_receipt

NOW = 1_772_000_000
VALID = ("v1-nitro-no-nonce", "v1-tdx-with-nonce")
INVALID = (
    "v1-bad-measurement-length",
    "v1-model-hash-mismatch",
    "v1-nonce-mismatch",
    "v1-platform-mismatch",
    "v1-stale-iat",
    "v1-wrong-alg",
    "v1-wrong-key",
    "v1-zero-model-hash",
)
LAYERS = {1: "parse", 2: "crypto", 3: "claim", 4: "policy"}


def read(shared: Path, kind: str, name: str) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads((shared / "vectors" / "air-v1" / kind / f"{name}.json").read_bytes())
    return vector


def policy_of(vector: dict[str, Any]) -> ReceiptPolicy:
    demands = vector.get("verify_policy") or {}
    nonce, model_hash = demands.get("expected_nonce_hex"), demands.get("expected_model_hash_hex")
    return ReceiptPolicy(
        max_age=demands.get("max_age_secs"),
        nonce=bytes.fromhex(nonce) if nonce else None,
        model_hash=bytes.fromhex(model_hash) if model_hash else None,
        platform=demands.get("expected_platform"),
    )


def claims_of(vector: dict[str, Any]) -> AirClaims:
    values: dict[str, Any] = {}
    for name, value in vector["claims"].items():
        if name == "enclave_measurements" or value is None:
            continue
        values[name.removesuffix("_hex")] = bytes.fromhex(value) if name.endswith("_hex") else value
    registers: dict[str, Any] = {}
    for name, value in vector["claims"]["enclave_measurements"].items():
        if value is not None:
            registers[name.removesuffix("_hex")] = bytes.fromhex(value) if name.endswith("_hex") else value
    return AirClaims(**values, enclave_measurements=Measurements(**registers))


@pytest.mark.parametrize("name", VALID)
def test_valid_vector_verifies_at_assurance_receipt(shared: Path, name: str) -> None:
    vector = read(shared, "valid", name)
    receipt = bytes.fromhex(vector["receipt_hex"])
    assert len(receipt) == vector["receipt_length"]
    result = verify_receipt(receipt, bytes.fromhex(vector["public_key_hex"]), policy=ReceiptPolicy(), now=NOW)
    assert result.verdict is Verdict.VERIFIED
    assert result.assurance is Assurance.RECEIPT
    assert result.warnings == ()
    assert result.require().claims == claims_of(vector)


def test_tdx_vector_verifies_with_its_nonce(shared: Path) -> None:
    vector = read(shared, "valid", "v1-tdx-with-nonce")
    policy = ReceiptPolicy(nonce=bytes.fromhex("deadbeefcafebabe"))
    result = verify_receipt(
        bytes.fromhex(vector["receipt_hex"]), bytes.fromhex(vector["public_key_hex"]), policy=policy, now=NOW
    )
    assert result.verdict is Verdict.VERIFIED


@pytest.mark.parametrize("name", INVALID)
def test_invalid_vector_fails_in_exactly_its_row(shared: Path, name: str) -> None:
    vector = read(shared, "invalid", name)
    key = bytes.fromhex(vector.get("wrong_public_key_hex") or vector["public_key_hex"])
    result = verify_receipt(bytes.fromhex(vector["receipt_hex"]), key, policy=policy_of(vector), now=NOW)
    expected = vector["expected_failure"]
    assert [(row.layer, row.id, row.code) for row in result.rows if row.status is Status.FAIL] == [
        (LAYERS[expected["layer"]], expected["check"], expected["code"])
    ]
    assert result.verdict is (Verdict.MALFORMED if expected["layer"] == 1 else Verdict.REJECTED)
    assert result.claims is not None


@pytest.mark.parametrize("name", VALID)
def test_valid_vector_is_issued_again_byte_for_byte(shared: Path, name: str) -> None:
    vector = read(shared, "valid", name)
    claims = claims_of(vector)
    assert claims.encode().hex() == vector["payload_hex"]
    key = PrivateKey.from_seed(bytes.fromhex(vector["signing_key_seed_hex"]))
    assert issue(claims, key).hex() == vector["receipt_hex"]
