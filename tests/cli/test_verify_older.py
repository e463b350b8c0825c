"""`ephemeralml verify` on receipts of earlier deployments, whose documents carry the key in `user_data`."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ephemeralml.receipt import issue
from tests.cli.runner import run
from tests.fakes.nitro import PCRS, workshop
from tests.fakes.receipts import archive
from tests.vectors.receipt.lab import OTHER_KEY


@pytest.mark.parametrize("other", [b"\x09" * 32, b"\x30" * 294], ids=["X25519", "RSA"])
def test_a_key_of_another_kind_in_public_key_is_no_contradiction(other: bytes, tmp_path: Path) -> None:
    key = {"receipt_signing_key": list(OTHER_KEY.public.raw), "protocol_version": 1, "supported_features": []}
    document = workshop().document(public_key=other, user_data=json.dumps(key).encode())
    (tmp_path / "r.cbor.att").write_bytes(document)
    old = archive().claims
    policy = archive().policy_options(tmp_path, models={"allow": [{"model_id": "any"}]})
    registers = {f"pcr{index}": PCRS[index] for index in (0, 1, 2)}
    assert old.enclave_measurements.registers().items() >= registers.items()
    stated = {"attestation_doc_hash": hashlib.sha256(document).digest(), "model_id": "any"}
    for signer, code in ((OTHER_KEY, 0), (type(OTHER_KEY).from_seed(b"\x77" * 32), 3)):
        (tmp_path / "r.cbor").write_bytes(issue(replace(old, **stated), signer))
        result = run("verify", tmp_path / "r.cbor", *policy, "--json")
        assert result.exit_code == code, result.stdout
        assert result.json["assurance"] == ("none" if code else "tee")
