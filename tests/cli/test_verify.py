"""`ephemeralml verify` as operators, scripts and auditors meet it (cli: one contract)."""

import hashlib
import json
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ephemeralml.attestation.roots import RootKind
from ephemeralml.receipt import issue
from ephemeralml.receipt.claims import KeyOrder
from tests.cli.runner import Result, run, run_process
from tests.fakes.nitro import AT, crl, policy_bytes
from tests.fakes.receipts import MANIFEST, MODEL_HASH, PUBLISHER, RECEIPT_KEY, archive, collateral
from tests.vectors.receipt.lab import OTHER_KEY, claims, seal

KEY = RECEIPT_KEY.public.raw.hex()
AT_TEXT = "2026-01-15T12:00:10Z"
FIELDS = {
    "receipt_id", "issuer", "issued_at", "model_id", "model_version", "model_hash", "model_hash_scheme", "request_hash",
    "response_hash", "attestation_doc_hash", "measurement_type", "measurements", "policy_version", "sequence_number",
    "execution_time_ms", "memory_peak_mb", "security_mode", "eat_nonce",
}  # fmt: skip


@pytest.fixture
def receipt(tmp_path: Path) -> Path:
    """A receipt of 2026-01-15 without anything beside it."""
    return archive().write(tmp_path, sidecars=False)


def verify(*args: object) -> Result:
    return run("verify", *args)


def failing(result: Result) -> list[tuple[str, str]]:
    return [(check["id"], check["code"]) for check in result.json["checks"] if check["status"] == "fail"]


class TestPublishedVectors:
    @pytest.mark.parametrize(
        ("name", "options", "code", "failed"),
        [
            ("valid/v1-nitro-no-nonce", [], 0, None),
            ("valid/v1-tdx-with-nonce", [], 0, None),
            ("valid/v1-tdx-with-nonce", ["--nonce", "deadbeefcafebabe"], 0, None),
            ("invalid/v1-wrong-alg", [], 4, "BAD_ALG"),
            ("invalid/v1-wrong-key", [], 3, "SIG_FAILED"),
            ("invalid/v1-zero-model-hash", [], 3, "ZERO_MODEL_HASH"),
            ("invalid/v1-bad-measurement-length", [], 3, "BAD_MEASUREMENT_LENGTH"),
            ("invalid/v1-nonce-mismatch", ["--nonce", "00" * 8], 3, "NONCE_MISMATCH"),
            ("invalid/v1-model-hash-mismatch", ["--expect-model-hash", "ff" * 32], 3, "MODEL_HASH_MISMATCH"),
            ("invalid/v1-platform-mismatch", ["--expect-platform", "tdx-mrtd-rtmr"], 3, "PLATFORM_MISMATCH"),
            ("invalid/v1-stale-iat", ["--max-age", "3600"], 3, "TIMESTAMP_STALE"),
        ],
    )
    def test_verdict_and_exit_code(
        self, shared: Path, tmp_path: Path, name: str, options: list[str], code: int, failed: str | None
    ) -> None:
        vector = json.loads((shared / "vectors" / "air-v1" / f"{name}.json").read_bytes())
        path = tmp_path / "r.cbor"
        path.write_bytes(bytes.fromhex(vector["receipt_hex"]))
        key = vector.get("wrong_public_key_hex") or vector["public_key_hex"]
        result = verify(path, "--public-key", key, *options, "--json")
        assert result.exit_code == code
        assert [code for _, code in failing(result)] == ([failed] if failed else [])
        text = verify(path, "--public-key", key, *options)
        assert text.exit_code == code
        assert text.stdout.splitlines()[-1].startswith({0: "verified", 3: "rejected", 4: "malformed"}[code])


class TestOutput:
    def test_json_document_is_the_contracts(self, receipt: Path) -> None:
        result = verify(receipt, "--public-key", KEY, "--json")
        document = result.json
        assert list(document) == [
            "schema",
            "verdict",
            "assurance",
            "receipt",
            "checks",
            "warnings",
            "verified_at",
            "time_basis",
        ]
        assert document["schema"] == "ephemeralml.verify/1"
        assert (document["verdict"], document["assurance"], document["time_basis"]) == ("verified", "receipt", "now")
        assert set(document["receipt"]) == FIELDS
        assert document["receipt"]["receipt_id"] == "01020304-0506-0708-090a-0b0c0d0e0f10"
        assert document["receipt"]["measurements"]["pcr8"] == "a8" * 48
        assert document["receipt"]["eat_nonce"] == "deadbeefcafebabe"
        assert all(set(check) == {"id", "layer", "status", "code", "detail"} for check in document["checks"])
        assert result.stderr == ""

    def test_what_does_not_decode_has_no_claims(self, tmp_path: Path) -> None:
        path = tmp_path / "x.cbor"
        path.write_bytes(b"hello")
        result = verify(path, "--public-key", KEY, "--json")
        assert (result.exit_code, result.json["receipt"]) == (4, None)
        assert failing(result) == [("COSE_DECODE", "COSE_DECODE_FAILED")]

    def test_text_shows_each_check_and_for_what_failed_the_compared_values(self, receipt: Path) -> None:
        result = verify(receipt, "--public-key", KEY, "--expect-model", "other", "--max-age", 9)
        assert result.exit_code == 3
        lines = result.stdout.splitlines()
        assert any(line.startswith("  ✓ SIG ") for line in lines)
        assert any(line.startswith("  – RHASH ") for line in lines)
        at = next(index for index, line in enumerate(lines) if line.startswith("  ✗ MODEL "))
        assert lines[at].endswith("MODEL_ID_MISMATCH")
        assert lines[at + 1].split() == ["why:", "wanted", "other"]
        assert lines[at + 2].split() == ["found", "minilm-l6-v2"]
        assert lines[at + 3].strip().startswith("fix: ")
        assert "claims (unverified)" in result.stdout
        assert lines[-1] == "rejected, assurance receipt: TIMESTAMP_STALE, MODEL_ID_MISMATCH"

    def test_what_a_receipt_says_is_never_markup_or_control(self, tmp_path: Path) -> None:
        evil = claims(iss="[red]\x1b[31m\u202e<script>alert(1)</script>", model_id="[/]{{7*7}}\r\nverified")
        path = tmp_path / "r.cbor"
        path.write_bytes(issue(evil, RECEIPT_KEY))
        page = tmp_path / "o.html"
        result = verify(path, "--public-key", KEY, "--at", "2026-12-01T00:00:00Z", "--html", page)
        assert result.exit_code == 0
        assert "[red]\\x1b[31m\\u202e<script>" in result.stdout
        assert not any(c in result.stdout for c in "\x1b\r\u202e")
        html = page.read_text()
        assert "<script" not in html
        assert "&lt;script&gt;" in html
        assert "{{7*7}}" in html
        assert "\u202e" not in html

    def test_a_file_name_cannot_draw_on_the_terminal(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path, "é\x1b[2J\n\u202e.cbor", sidecars=False)
        result = verify(path, "--public-key", KEY, "--html", tmp_path / "o.html")
        assert result.stdout.splitlines()[0].endswith("é\\x1b[2J\\n\\u202e.cbor")
        assert "\u202e" not in (tmp_path / "o.html").read_text()

    def test_a_verdict_at_another_time_says_so_first(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path)
        made = verify(path, *archive().policy_options(tmp_path), "--at", AT_TEXT)
        assert (
            made.stdout.splitlines()[0]
            == f"receipt {path}, judged at {AT_TEXT}, the time given: it shows what held then"
        )
        own = verify(path, *archive().policy_options(tmp_path))
        assert "judged at 2026-01-15T12:00:00Z, the evidence's own time" in own.stdout.splitlines()[0]

    def test_unencodable_terminals(self, receipt: Path) -> None:
        done = run_process("verify", receipt, "--public-key", KEY, env={"PYTHONIOENCODING": "ascii"})
        assert (done.exit_code, done.stderr) == (0, "")
        assert "  + SIG " in done.stdout


class TestKey:
    @pytest.mark.parametrize("text", [KEY, f"ed25519:{KEY}", KEY.upper()])
    def test_on_the_command_line(self, receipt: Path, text: str) -> None:
        assert verify(receipt, "--public-key", text).exit_code == 0

    def test_in_a_file(self, receipt: Path, tmp_path: Path) -> None:
        pem = Ed25519PublicKey.from_public_bytes(RECEIPT_KEY.public.raw).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        for content in (KEY.encode(), f"ed25519:{KEY}\n".encode(), pem):
            path = tmp_path / "key"
            path.write_bytes(content)
            assert verify(receipt, "--public-key", path).exit_code == 0

    @pytest.mark.parametrize(
        "text", ["00", "ab" * 31, "ab" * 33, "ab" * 3_000, "x" * 3_000, "ed25519:00", "no-such-file", ""]
    )
    def test_anything_else_is_a_usage_error(self, receipt: Path, text: str) -> None:
        result = verify(receipt, "--public-key", text)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: ")

    def test_a_file_with_another_key_is_a_usage_error(self, receipt: Path, tmp_path: Path) -> None:
        path = tmp_path / "key"
        x25519 = X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for content in (
            b"",
            b"\xff" * 32,
            b"-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----\n",
            x25519,
            KEY.encode() * 2,
        ):
            path.write_bytes(content)
            assert verify(receipt, "--public-key", path).exit_code == 2

    def test_another_key_and_a_small_order_key_fail_the_signature(self, receipt: Path) -> None:
        for key in (OTHER_KEY.public.raw.hex(), "01" + "00" * 31, "ff" * 32):
            result = verify(receipt, "--public-key", key, "--json")
            assert (result.exit_code, failing(result)) == (3, [("SIG", "SIG_FAILED")])


class TestExpectations:
    def test_everything_that_holds(self, receipt: Path, tmp_path: Path) -> None:
        body = tmp_path / "body"
        body.write_bytes(b"request")
        answer = tmp_path / "answer"
        answer.write_bytes(b"response")
        result = verify(
            receipt, "--public-key", KEY, "--expect-model", "minilm-l6-v2", "--expect-model-hash", MODEL_HASH.hex(),
            "--request", body, "--response", answer, "--expect-platform", "nitro-pcr", "--expect-pcr", "0=" + "a0" * 48,
            "--expect-pcr", "8=" + "A8" * 48, "--nonce", "deadbeefcafebabe", "--at", AT_TEXT, "--max-age", 5, "--json",
        )  # fmt: skip
        assert result.exit_code == 0
        made = {check["id"] for check in result.json["checks"] if check["status"] == "pass"}
        assert {"FRESH", "MHASH", "RHASH", "OHASH", "MODEL", "PLATFORM", "NONCE", "EXPECT_PCR"} <= made
        assert result.json["time_basis"] == "given"
        assert result.json["verified_at"] == AT_TEXT

    @pytest.mark.parametrize(
        ("options", "failed"),
        [
            (["--expect-request-hash", "00" * 32], ("RHASH", "REQUEST_HASH_MISMATCH")),
            (["--expect-response-hash", "00" * 32], ("OHASH", "RESPONSE_HASH_MISMATCH")),
            (["--expect-pcr", "1=" + "00" * 48], ("EXPECT_PCR", "RECEIPT_MEASUREMENTS_MISMATCH:pcr1")),
            (["--nonce", "deadbeef"], ("NONCE", "NONCE_MISMATCH")),
            (["--at", "2026-01-15T12:00:11Z", "--max-age", "5"], ("FRESH", "TIMESTAMP_STALE")),
            (["--at", "2026-01-15T11:59:04Z"], ("FRESH", "TIMESTAMP_FUTURE")),
        ],
    )
    def test_what_differs_is_rejected(self, receipt: Path, options: list[str], failed: tuple[str, str]) -> None:
        result = verify(receipt, "--public-key", KEY, *options, "--json")
        assert (result.exit_code, failing(result)) == (3, [failed])

    def test_any_platform_is_no_demand(self, receipt: Path) -> None:
        result = verify(receipt, "--public-key", KEY, "--expect-platform", "any", "--json")
        assert {check["id"]: check["status"] for check in result.json["checks"]}["PLATFORM"] == "skip"

    @pytest.mark.parametrize(
        "options",
        [
            ["--expect-model-hash", "zz"],
            ["--expect-model-hash", "00"],
            ["--expect-model-hash", "00 " * 32],
            ["--expect-request-hash", "00" * 32, "--request", "FILE"],
            ["--request", "no-such-file"],
            ["--expect-pcr", "5=" + "00" * 48],
            ["--expect-pcr", "0=00"],
            ["--expect-pcr", "0=" + "00" * 48, "--expect-pcr", "0=" + "00" * 48],
            ["--nonce", "abc"],
            ["--nonce", ""],
            ["--max-age", "0"],
            ["--max-age", "x"],
            ["--at", "yesterday"],
            ["--at", "2026-01-15T12:00:00"],
            ["--at", "0001-01-01T00:00:00+14:00"],
            ["--request", "x" * 5_000],
            ["--policy", "x" * 5_000],
            ["--collateral", "no-such-folder"],
            ["--profile", "legacy"],
            ["--profile", "loose"],
            ["--policy-key", KEY],
            ["--policy", "no-such-file"],
            ["--manifest", "no-such-file"],
            ["--attestation", "no-such-file"],
            ["--expect-platform", "sgx"],
        ],
    )
    def test_what_cannot_be_meant_is_a_usage_error(self, receipt: Path, options: list[str]) -> None:
        known = [str(receipt) if option == "FILE" else option for option in options]
        result = verify(receipt, "--public-key", KEY, *known)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: ")

    def test_evaluation_needs_consent(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path, sidecars=False)
        assert verify(path, "--public-key", KEY).exit_code == 3
        assert verify(path, "--public-key", KEY, "--allow-evaluation").exit_code == 0

    def test_profile_compat_warns(self, tmp_path: Path) -> None:
        path = tmp_path / "old.cbor"
        path.write_bytes(seal(claims(security_mode="GatewayOnly").encode(KeyOrder.G0)))
        options = ("--public-key", KEY, "--at", "2026-12-01T00:00:00Z")
        assert verify(path, *options).exit_code == 4
        result = verify(path, *options, "--profile", "compat", "--json")
        assert result.exit_code == 0
        assert result.json["warnings"] == ["WARN_G0_KEY_ORDER", "WARN_FREE_SECURITY_MODE"]
        assert result.stderr.count("warning: ") == 2


class TestEvidence:
    def test_sidecars_are_found_and_named(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        policy = archive(RootKind.SOFTWARE).policy_options(tmp_path)
        result = verify(path, *policy, "--at", AT_TEXT)
        assert result.exit_code == 0, result.stdout
        assert f"(from {path}.json)" in result.stdout
        assert f"evidence  {path}.att: local, software TEE" in result.stdout
        assert result.stdout.splitlines()[-1] == "verified, assurance document"
        assert "warning: WARN_SOFTWARE_TEE: software TEE: not protected" in result.stderr

    def test_the_document_alone_yields_the_key(self, tmp_path: Path) -> None:
        made = archive()
        path = made.write(tmp_path)
        Path(f"{path}.json").unlink()
        policy = made.policy_options(tmp_path)
        for options in ([], ["--attestation", f"{path}.att"], ["--attestation", f"{path}.att", "--public-key", KEY]):
            result = verify(path, *options, *policy, "--at", AT_TEXT, "--json")
            assert (result.exit_code, result.json["assurance"]) == (0, "tee")
            assert "WARN_CHANNEL_BINDING_UNCHECKED" in result.json["warnings"]

    def test_the_sidecar_serves_a_document_given_by_name_too(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path)
        document = Path(f"{path}.att").rename(tmp_path / "elsewhere.bin")
        result = verify(path, "--attestation", document, *archive().policy_options(tmp_path), "--at", AT_TEXT, "--json")
        assert result.exit_code == 0
        assert "WARN_CHANNEL_BINDING_UNCHECKED" not in result.json["warnings"]
        assert {check["id"]: check["status"] for check in result.json["checks"]}["N10"] == "pass"

    def test_a_binding_without_its_inputs_is_said_to_be_not_recomputed(self, tmp_path: Path) -> None:
        made = archive()
        path, policy = made.write(tmp_path), made.policy_options(tmp_path)
        Path(f"{path}.json").write_bytes(replace(made.sidecar, binding_inputs=None).encode())
        result = verify(path, *policy, "--at", AT_TEXT, "--json")
        assert result.exit_code == 0
        assert "WARN_BINDING_NOT_RECOMPUTED" in result.json["warnings"]

    def test_key_and_document_must_agree(self, tmp_path: Path) -> None:
        made = archive()
        path = made.write(tmp_path, sidecars=False)
        path.write_bytes(issue(made.claims, OTHER_KEY))
        document = tmp_path / "doc"
        document.write_bytes(made.document)
        other = OTHER_KEY.public.raw.hex()
        result = verify(
            path, "--public-key", other, "--attestation", document, *made.policy_options(tmp_path), "--json"
        )
        assert result.exit_code == 3
        assert ("N9", "NITRO_PUBKEY_BINDING_MISMATCH") in failing(result)

    def test_nothing_to_verify_with_is_a_usage_error_with_a_hint(self, receipt: Path) -> None:
        result = verify(receipt)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "hint: give --public-key or --attestation" in result.stderr
        assert "r.cbor.att" in result.stderr

    def test_an_explicit_key_leaves_sidecars_alone(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path)
        result = verify(path, "--public-key", KEY, "--json")
        assert (result.exit_code, result.json["assurance"]) == (0, "receipt")

    def test_a_software_tee_without_a_policy_is_rejected(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        result = verify(path, "--allow-evaluation", "--json")
        assert result.exit_code == 3
        assert ("N5", "NITRO_CERT_CHAIN_INVALID") in failing(result)
        assert result.json["assurance"] == "document"

    def test_a_production_policy_refuses_a_software_tee(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        result = verify(path, *archive().policy_options(tmp_path), "--at", AT_TEXT, "--json")
        assert result.exit_code == 3
        assert ("N5", "NITRO_CERT_CHAIN_INVALID") in failing(result)

    def test_unknown_evidence_is_malformed(self, receipt: Path, tmp_path: Path) -> None:
        document = tmp_path / "doc"
        document.write_bytes(b"what is this")
        for key in ([], ["--public-key", KEY]):
            result = verify(receipt, "--attestation", document, *key, "--json")
            assert result.exit_code == 4
            assert ("FORMAT", "EVIDENCE_FORMAT_UNKNOWN") in failing(result)

    def test_evidence_that_names_no_key_binds_none(self, tmp_path: Path) -> None:
        made = archive(fields={"public_key": None})
        path = made.write(tmp_path)
        Path(f"{path}.json").unlink()
        result = verify(path, "--json")
        assert (result.exit_code, result.json["assurance"]) == (3, "none")
        assert ("N9", "NITRO_PUBKEY_BINDING_MISMATCH") in failing(result)
        assert {check["id"]: check["status"] for check in result.json["checks"]}["SIG"] == "skip"

    def test_a_sidecar_of_another_document_is_not_used(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path)
        other = archive(fields={"timestamp": int(AT.timestamp()) * 1000 + 1})
        Path(f"{path}.json").write_bytes(other.sidecar.encode())
        result = verify(path, *archive().policy_options(tmp_path), "--at", AT_TEXT, "--json")
        assert result.exit_code == 0
        assert "WARN_SIDECAR_OF_ANOTHER_DOCUMENT" in result.json["warnings"]

    def test_a_broken_sidecar_is_malformed(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path)
        Path(f"{path}.json").write_bytes(b"{}")
        assert verify(path).exit_code == 4

    def test_real_evidence_and_the_wall_clock(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path)
        result = verify(path, *archive().policy_options(tmp_path), "--at", "now", "--json")
        assert result.exit_code == 3
        assert ("N7", "NITRO_CERT_TIME_INVALID") in failing(result)
        assert result.json["time_basis"] == "now"

    def test_without_evidence_a_policy_is_incomplete(self, receipt: Path, tmp_path: Path) -> None:
        result = verify(receipt, "--public-key", KEY, *archive().policy_options(tmp_path), "--at", AT_TEXT)
        assert result.exit_code == 6
        assert result.stdout.splitlines()[-1] == "incomplete, assurance receipt: not checked MIN_ASSURANCE"

    def test_collateral_serves_a_policy_that_requires_revocation_lists(self, tmp_path: Path) -> None:
        made = archive()
        path = made.write(tmp_path)
        section = {**made.policy_document()["nitro"], "revocation": "required"}
        options = (*made.policy_options(tmp_path, nitro=section), "--at", AT_TEXT, "--json")
        assert verify(path, *options).exit_code == 6
        issuers = (made.platform.root, *made.platform.cas)
        folder = collateral(tmp_path / "good", [crl(issuer) for issuer in issuers])
        assert verify(path, *options, "--collateral", folder).exit_code == 0
        serial = made.platform.leaf.certificate.serial_number
        lists = [crl(issuer, [serial] if issuer is issuers[-1] else []) for issuer in issuers]
        revoked = verify(path, *options, "--collateral", collateral(tmp_path / "bad", lists))
        assert (revoked.exit_code, failing(revoked)) == (3, [("N8", "NITRO_CERT_REVOKED")])

    def test_a_policy_that_is_no_policy(self, receipt: Path, tmp_path: Path) -> None:
        policy = tmp_path / "p.json"
        policy.write_bytes(b"{}")
        assert verify(receipt, "--public-key", KEY, "--policy", policy).exit_code == 4

    def test_a_policy_key_asks_for_a_signature(self, tmp_path: Path) -> None:
        made = archive()
        path, policy = made.write(tmp_path), tmp_path / "policy.json"
        options, keys = ("--policy", policy, "--at", AT_TEXT), made.policy_options(tmp_path)[2:]
        assert verify(path, *options, *keys).exit_code == 0
        assert verify(path, *options, "--policy-key", KEY).exit_code == 3
        assert verify(path, *options).exit_code == 6
        policy.write_bytes(policy_bytes(made.policy_document()))
        assert verify(path, *options, *keys).exit_code == 3

    def test_a_vendors_root_of_ones_own_takes_a_signed_policy(self, tmp_path: Path) -> None:
        made = archive()
        path, policy = made.write(tmp_path), tmp_path / "policy.json"
        policy.write_bytes(policy_bytes(made.policy_document()))
        result = verify(path, "--policy", policy, "--at", AT_TEXT)
        assert (result.exit_code, result.stdout) == (4, "")
        assert "only a signed policy may" in result.stderr
        assert "--policy-key" in result.stderr


class TestManifest:
    def test_its_hash_is_compared_and_files_are_said_to_be_unchecked(self, receipt: Path, tmp_path: Path) -> None:
        manifest = tmp_path / "manifest.json"
        manifest.write_bytes(MANIFEST)
        result = verify(receipt, "--public-key", KEY, "--manifest", manifest, "--json")
        assert (result.exit_code, result.json["warnings"]) == (0, ["WARN_MANIFEST_FILES_UNCHECKED"])
        assert {check["id"]: check["status"] for check in result.json["checks"]}["MHASH"] == "pass"

    def test_another_manifest_is_another_model(self, tmp_path: Path) -> None:
        path = archive(model_hash=b"\x01" * 32).write(tmp_path, sidecars=False)
        manifest = tmp_path / "manifest.json"
        manifest.write_bytes(MANIFEST)
        result = verify(path, "--public-key", KEY, "--manifest", manifest, "--json")
        assert (result.exit_code, failing(result)) == (3, [("MHASH", "MODEL_HASH_MISMATCH")])

    def test_what_is_no_manifest_is_malformed(self, receipt: Path, tmp_path: Path) -> None:
        from ephemeralml.crypto import dsse

        manifest = tmp_path / "manifest.json"
        for content in (b"{}", b"", dsse.seal("text/plain", b"x", PUBLISHER)):
            manifest.write_bytes(content)
            assert verify(receipt, "--public-key", KEY, "--manifest", manifest).exit_code == 4

    def test_the_publisher_is_checked_with_the_sidecar(self, tmp_path: Path) -> None:
        made = archive()
        path = made.write(tmp_path)
        models = {"publisher_keys": [str(PUBLISHER.public)]}
        options = (*made.policy_options(tmp_path, models=models), "--at", AT_TEXT)
        assert verify(path, *options).exit_code == 6
        beside = Path(f"{path}.manifest.json")
        beside.write_bytes(MANIFEST)
        result = verify(path, *options)
        assert result.exit_code == 0
        assert f"manifest  {beside}" in result.stdout


class TestSeveral:
    def test_several_receipts_are_a_list_and_the_worst_code_wins(self, tmp_path: Path) -> None:
        good = archive().write(tmp_path, "a.cbor", sidecars=False)
        bad = tmp_path / "b.cbor"
        bad.write_bytes(issue(archive().claims, OTHER_KEY))
        broken = tmp_path / "c.cbor"
        broken.write_bytes(b"")
        result = verify(good, bad, broken, "--public-key", KEY, "--json")
        assert result.exit_code == 4
        assert [document["verdict"] for document in result.json] == ["verified", "rejected", "malformed"]
        assert verify(good, bad, "--public-key", KEY).exit_code == 3
        missing = verify(good, broken, tmp_path / "none.cbor", "--public-key", KEY, "--json")
        assert missing.exit_code == 2
        assert missing.json[2]["schema"] == "ephemeralml.error/1"
        assert missing.stderr.startswith(f"error: {str(tmp_path / 'none.cbor')!r}: cannot read receipt")
        text = verify(good, bad, "--public-key", KEY).stdout.splitlines()
        assert text[-1] == "1 of 2 receipts verified"

    def test_a_folder_is_its_receipts_however_deep_in_order(self, tmp_path: Path) -> None:
        (tmp_path / "b" / "deep").mkdir(parents=True)
        for name in ("z.cbor", "b/deep/y.cbor", "b/a.cbor"):
            archive().write(tmp_path, name, sidecars=False)
        (tmp_path / "note.txt").write_text("no receipt")
        result = verify(tmp_path, "--public-key", KEY)
        assert result.exit_code == 0
        named = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("receipt ")]
        assert named == [str(tmp_path / name) for name in ("b/a.cbor", "b/deep/y.cbor", "z.cbor")]

    def test_a_receipt_of_a_folder_that_cannot_be_read_is_not_passed_over(self, tmp_path: Path) -> None:
        archive().write(tmp_path, sidecars=False)
        assert verify(tmp_path, "--public-key", KEY).exit_code == 0
        (tmp_path / "gone.cbor").symlink_to(tmp_path / "nowhere")
        result = verify(tmp_path, "--public-key", KEY)
        assert result.exit_code == 2
        assert "gone.cbor" in result.stderr

    def test_a_folder_of_one_is_a_list_of_one(self, tmp_path: Path) -> None:
        archive().write(tmp_path, sidecars=False)
        assert len(verify(tmp_path, "--public-key", KEY, "--json").json) == 1

    def test_a_folder_without_receipts_and_a_missing_receipt_are_usage_errors(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "none.cbor", "x" * 5_000):
            assert verify(path, "--public-key", KEY).exit_code == 2

    def test_a_name_too_long_for_sidecars_has_none(self, tmp_path: Path) -> None:
        path = archive().write(tmp_path, "x" * 250 + ".cbor", sidecars=False)
        assert verify(path, "--public-key", KEY).exit_code == 0
        assert verify(path).exit_code == 2


class TestReplay:
    def test_a_receipt_counts_once(self, receipt: Path, tmp_path: Path) -> None:
        store = tmp_path / "store.db"
        options = ("--public-key", KEY, "--replay-store", store, "--json")
        assert verify(receipt, *options, "--expect-model", "other").exit_code == 3
        assert verify(receipt, *options).exit_code == 0
        again = verify(receipt, *options)
        assert (again.exit_code, failing(again)) == (3, [("REPLAY", "REPLAY_CTI")])
        assert stat.S_IMODE(store.stat().st_mode) == 0o600

    def test_a_broken_store_is_an_error_and_no_verdict(self, receipt: Path, tmp_path: Path) -> None:
        store = tmp_path / "store.db"
        store.write_bytes(b"not a store")
        result = verify(receipt, "--public-key", KEY, "--replay-store", store)
        assert (result.exit_code, result.stdout) == (4, "")
        assert "hint: " in result.stderr


class TestOffline:
    def test_no_socket_is_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = archive()
        path = made.write(tmp_path)
        Path(f"{path}.manifest.json").write_bytes(MANIFEST)

        def forbidden(*_: Any, **__: Any) -> Any:
            raise AssertionError("a socket was opened")

        for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
            monkeypatch.setattr(socket, name, forbidden)
        options = (*made.policy_options(tmp_path), "--at", AT_TEXT, "--replay-store", tmp_path / "s.db")
        result = verify(path, *options, "--html", tmp_path / "o.html", "--json")
        assert (result.exit_code, result.json["assurance"]) == (0, "tee")

    def test_heavy_modules_are_not_imported_for_a_plain_verification(self, receipt: Path) -> None:
        code = (
            "import sys; from ephemeralml.cli.main import run; "
            f"code = run(['verify', {str(receipt)!r}, '--public-key', '{KEY}']); "
            "heavy = {'jinja2', 'sqlite3', 'numpy', 'onnxruntime', 'httpx', 'websockets', 'asyncio', 'ssl', "
            "'ephemeralml.attestation.verify', 'ephemeralml.attestation.policy', 'ephemeralml.channel'}; "
            "print('HEAVY', sorted(heavy & set(sys.modules)), code)"
        )
        import subprocess
        import sys

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "HEAVY [] 0"


def test_environment_gives_defaults(receipt: Path) -> None:
    done = run_process(
        "verify", receipt, "--json", env={"EPHEMERALML_PUBLIC_KEY": KEY, "EPHEMERALML_EXPECT_MODEL": "other"}
    )
    assert done.exit_code == 3
    assert failing(done) == [("MODEL", "MODEL_ID_MISMATCH")]


def test_a_huge_receipt_is_read_no_further_than_needed(tmp_path: Path) -> None:
    path = tmp_path / "r.cbor"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    result = verify(path, "--public-key", KEY, "--json")
    assert (result.exit_code, failing(result)) == (4, [("SIZE", "RECEIPT_TOO_LARGE")])


def test_streamed_files_hash_like_their_bytes(receipt: Path, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x" * 3_000_000)
    path = tmp_path / "s.cbor"
    path.write_bytes(issue(archive(request_hash=hashlib.sha256(body.read_bytes()).digest()).claims, RECEIPT_KEY))
    assert verify(path, "--public-key", KEY, "--request", body).exit_code == 0
    assert verify(receipt, "--public-key", KEY, "--request", body).exit_code == 3
