"""Upstream's signatures through Sigstore, against an instance of our own."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.model.oms import IdentityTrust, KeyTrust, sign_upstream, verify_upstream
from tests.cli.runner import run
from tests.fakes import tiny_bert
from tests.fakes.sigstore import Sigstore
from tests.model.test_oms import write_pair

IDENTITY, ISSUER = "release@example.com", "https://accounts.example.com"


@dataclass(frozen=True)
class Signed:
    """A model that was signed keyless."""

    instance: Sigstore
    model: Path
    bundle: Path
    trust: IdentityTrust


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    model = tiny_bert.write(tmp_path / "model")
    secret, _ = write_pair(tmp_path, "k", ec.generate_private_key(ec.SECP256R1()))
    sign_upstream(model, tmp_path / "by-key", secret)
    statement = base64.b64decode(json.loads((tmp_path / "by-key").read_text())["dsseEnvelope"]["payload"])
    instance, bundle = Sigstore(), tmp_path / "model.sig"
    bundle.write_bytes(instance.sign(statement, identity=IDENTITY, issuer=ISSUER))
    return Signed(instance, model, bundle, IdentityTrust(IDENTITY, ISSUER, instance.trust_config(tmp_path / "trust")))


def refused(signed: Signed, trust: IdentityTrust | KeyTrust) -> EphemeralError:
    with pytest.raises(RejectedError) as caught:
        verify_upstream(signed.model, signed.bundle, trust)
    assert caught.value.code == "UPSTREAM_SIGNATURE_INVALID"
    return caught.value


def test_whom_the_issuer_vouched_for_is_believed(signed: Signed) -> None:
    assert "model.safetensors" in verify_upstream(signed.model, signed.bundle, signed.trust).files


def test_another_identity_or_issuer_is_rejected(signed: Signed) -> None:
    config = signed.trust.trust_config
    refused(signed, IdentityTrust("other@example.com", ISSUER, config))
    refused(signed, IdentityTrust(IDENTITY, "https://other.example.com", config))


def test_another_instance_is_rejected(signed: Signed, tmp_path: Path) -> None:
    refused(signed, IdentityTrust(IDENTITY, ISSUER, Sigstore().trust_config(tmp_path / "other")))


@pytest.mark.parametrize("part", ["authority", "certificate_log", "signature_log"])
def test_each_part_of_the_instance_counts(signed: Signed, tmp_path: Path, part: str) -> None:
    own = {"authority", "certificate_log", "signature_log"} - {part}
    other = Sigstore(**{name: getattr(signed.instance, name) for name in own})
    refused(signed, IdentityTrust(IDENTITY, ISSUER, other.trust_config(tmp_path / "other")))


def test_a_key_is_no_identity_and_the_other_way_round(signed: Signed, tmp_path: Path) -> None:
    secret, public = write_pair(tmp_path, "k2", ec.generate_private_key(ec.SECP256R1()))
    refused(signed, KeyTrust(public))
    sign_upstream(signed.model, tmp_path / "s", secret)
    signed.bundle.write_bytes((tmp_path / "s").read_bytes())
    with pytest.raises(EphemeralError):
        verify_upstream(signed.model, signed.bundle, signed.trust)


def flip(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[-1] ^= 1
    return base64.b64encode(data).decode()


def entry(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["verificationMaterial"]["tlogEntries"][0]
    return found


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "statement": lambda document: document["dsseEnvelope"].update(
        payload=base64.b64encode(base64.b64decode(document["dsseEnvelope"]["payload"]) + b" ").decode()
    ),
    "signature": lambda document: document["dsseEnvelope"]["signatures"][0].update(
        sig=flip(document["dsseEnvelope"]["signatures"][0]["sig"])
    ),
    "certificate": lambda document: document["verificationMaterial"]["certificate"].update(
        rawBytes=flip(document["verificationMaterial"]["certificate"]["rawBytes"])
    ),
    "promise": lambda document: entry(document)["inclusionPromise"].update(
        signedEntryTimestamp=flip(entry(document)["inclusionPromise"]["signedEntryTimestamp"])
    ),
    "time": lambda document: entry(document).update(integratedTime="1"),
    "proof": lambda document: entry(document)["inclusionProof"].update(
        rootHash=flip(entry(document)["inclusionProof"]["rootHash"])
    ),
    "log entry": lambda document: entry(document).update(canonicalizedBody=flip(entry(document)["canonicalizedBody"])),
    "no log entry": lambda document: document["verificationMaterial"].update(tlogEntries=[]),
    "no certificate": lambda document: document["verificationMaterial"].pop("certificate"),
    "no material": lambda document: document.pop("verificationMaterial"),
}


@pytest.mark.parametrize("part", EDITS)
def test_each_part_of_a_bundle_counts(signed: Signed, part: str) -> None:
    document = json.loads(signed.bundle.read_text())
    EDITS[part](document)
    signed.bundle.write_text(json.dumps(document))
    refused(signed, signed.trust)


def test_a_trust_configuration_that_is_none(signed: Signed, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("{}")
    with pytest.raises(MalformedError, match="trust configuration"):
        verify_upstream(signed.model, signed.bundle, IdentityTrust(IDENTITY, ISSUER, tmp_path / "none"))
    with pytest.raises(UnavailableError):
        verify_upstream(signed.model, signed.bundle, IdentityTrust(IDENTITY, ISSUER, tmp_path / "nothing"))


def test_the_command_takes_identity_and_issuer(signed: Signed, tmp_path: Path) -> None:
    encrypt = ("model", "encrypt", signed.model, "--model-id", "m", "--model-version", "1.0.0", "--suite", "none")
    trust = ("--oms-issuer", ISSUER, "--oms-trust-config", signed.trust.trust_config, "--json")
    made = run(*encrypt, "--out", tmp_path / "p", "--oms-identity", IDENTITY, *trust)
    assert made.exit_code == 0, made.stderr
    assert len(made.json["upstream_signature"]) == 64
    other = run(*encrypt, "--out", tmp_path / "q", "--oms-identity", "other@example.com", *trust)
    assert (other.exit_code, other.json["code"]) == (3, "UPSTREAM_SIGNATURE_INVALID")
    assert not (tmp_path / "q").exists()
