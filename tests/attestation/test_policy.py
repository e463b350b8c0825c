"""Policy files: rules 1 to 9 of attestation section 6, each broken alone."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.attestation.evidence import AppraisalTime, Format
from ephemeralml.attestation.policy import PAYLOAD_TYPE, DebugRule, NonceRule, Policy, seal_policy
from ephemeralml.attestation.roots import AWS_NITRO, AWS_NITRO_ROOT_SHA256, NO_ROOTS, RootKind
from ephemeralml.attestation.verdict import Assurance, Verdict
from ephemeralml.crypto import dsse
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError, UnavailableError
from tests.fakes.nitro import (
    AT,
    PCRS,
    check,
    entry,
    failures,
    policy,
    policy_bytes,
    policy_document,
    row,
    workshop,
)

VENDOR = workshop()
KEY = PrivateKey.from_seed(b"\x07" * 32)
AWS = {"roots": ["aws"], "allow": [entry()]}
"""A section that an unsigned policy may have."""


def nitro(**changes: Any) -> dict[str, Any]:
    values = policy_document()["nitro"] | changes
    return {key: value for key, value in values.items() if value is not ...}


def refused(code: str | None, kind: RootKind = RootKind.VENDOR, **changes: Any) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        policy(kind, **changes)
    assert caught.value.code == code
    return caught.value


class TestDefaults:
    def test_what_is_left_out_is_strict(self) -> None:
        accepted = policy(
            min_assurance=..., security_modes=..., allow_local=..., created_at=..., nitro={"allow": [entry()]}
        )
        assert accepted.min_assurance is Assurance.TEE
        assert accepted.security_modes == ("production",)
        assert accepted.debug is DebugRule.REFUSE
        assert accepted.nonce is NonceRule.REQUIRED
        assert (accepted.max_age_seconds, accepted.max_skew_seconds) == (300, 60)
        assert not accepted.allow_local
        assert accepted.nitro is not None
        assert accepted.nitro.roots is AWS_NITRO
        assert accepted.nitro.revocation.value == "off"

    def test_the_whole_schema(self) -> None:
        accepted = policy(
            debug="refuse",
            nonce="optional",
            max_age_seconds=60,
            max_skew_seconds=0,
            transparency={"log_keys": [], "witnesses": 0},
            nitro=nitro(
                roots=["aws", "sha256:" + "ab" * 32],
                revocation="required",
                allow=[entry(indices=(0, 1, 2, 3, 4, 8), until="2026-06-01T00:00:00+02:00")],
            ),
            models={
                "publisher_keys": [str(KEY.public)],
                "allow": [
                    {"model_id": "m", "min_version": "1.0.0", "model_hash": "01" * 32, "scheme": "sha256-manifest"}
                ],
            },
        )
        assert accepted.nitro is not None
        assert accepted.nitro.roots.digests == {AWS_NITRO_ROOT_SHA256, b"\xab" * 32}
        assert accepted.nitro.allow[0].until == datetime(2026, 5, 31, 22, tzinfo=UTC)
        assert accepted.models.publisher_keys[0].raw == KEY.public.raw
        assert accepted.warnings == ()

    @pytest.mark.parametrize(
        ("models", "warned"),
        [
            ({"allow": [{"model_id": "m"}]}, True),
            ({"allow": [{"model_id": "m", "model_hash": "01" * 32}]}, False),
            ({"allow": [{"model_id": "m"}], "publisher_keys": [str(KEY.public)]}, False),
            ({"publisher_keys": [str(KEY.public)]}, False),
        ],
    )
    def test_a_model_that_anybody_may_have_made_is_warned_about(self, models: dict[str, Any], warned: bool) -> None:
        assert ("WARN_MODEL_UNPINNED" in policy(models=models).warnings) is warned

    @pytest.mark.parametrize(
        "changes",
        [
            {"policy_id": "x"},
            {"policy_id": "x" * 256},
            {"version": 0},
            {"max_age_seconds": 1},
            {"max_age_seconds": 86_400},
            {"max_skew_seconds": 0},
            {"max_skew_seconds": 3_600},
            {"models": {"allow": [{"model_id": f"m{number}"} for number in range(1_024)]}},
            {"nitro": {"roots": [f"sha256:{number:064x}" for number in range(1, 1_025)], "allow": [entry()]}},
        ],
    )
    def test_bounds_are_inclusive(self, changes: dict[str, Any]) -> None:
        assert policy(**changes).formats == (Format.NITRO,)

    @pytest.mark.parametrize("name", ["schema", "policy_id", "version", "expires_at"])
    def test_what_has_no_strict_default_is_required(self, name: str) -> None:
        assert name in refused(None, **{name: ...}).message

    def test_roots_follow_the_format(self) -> None:
        accepted, local = policy(), policy(RootKind.SOFTWARE)
        assert accepted.trust_roots(Format.NITRO).kind is RootKind.VENDOR
        assert accepted.trust_roots(Format.LOCAL) is accepted.trust_roots(Format.NITRO)
        assert local.trust_roots(Format.NITRO).kind is RootKind.SOFTWARE
        assert accepted.trust_roots(Format.TDX) is NO_ROOTS


class TestStrictReading:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("schema", "ephemeralml.policy/2"),
            ("policy_id", ""),
            ("policy_id", "x" * 257),
            ("policy_id", 7),
            ("version", -1),
            ("version", "7"),
            ("version", True),
            ("version", 7.0),
            ("created_at", "yesterday"),
            ("expires_at", "2027-01-01"),
            ("expires_at", "2027-01-01T00:00:00"),
            ("expires_at", None),
            ("expires_at", 1_800_000_000),
            ("formats", "nitro"),
            ("formats", ["nitro", "nitro"]),
            ("formats", ["sgx"]),
            ("formats", ["nitro", "tdx"]),
            ("min_assurance", "none"),
            ("min_assurance", "receipt"),
            ("min_assurance", 4),
            ("security_modes", ["Production"]),
            ("security_modes", "production"),
            ("debug", "allow"),
            ("nonce", "no"),
            ("max_age_seconds", 0),
            ("max_age_seconds", 86_401),
            ("max_skew_seconds", -1),
            ("allow_local", 0),
            ("allow_local", "false"),
            ("nitro", []),
            ("models", []),
            ("transparency", {"log_keys": [], "witnesses": 1}),
            ("transparency", {"log_keys": ["ed25519:00"]}),
            ("transparency", {"other": 1}),
            ("extra", 1),
            ("Formats", ["nitro"]),
        ],
    )
    def test_a_field_is_not_as_it_must_be(self, name: str, value: Any) -> None:
        refused(None, **{name: value})

    @pytest.mark.parametrize(
        "section",
        [
            {"roots": "aws"},
            {"roots": ["AWS"]},
            {"roots": ["sha256:" + "AB" * 32]},
            {"roots": ["sha256:" + "00" * 32]},
            {"roots": ["sha256:abcd"]},
            {"roots": ["ab" * 32]},
            {"revocation": "maybe"},
            {"allow": {}},
            {"allow": [[]]},
            {"allow": [{name: value for name, value in entry().items() if name != "name"}]},
            {"allow": [entry(pcr5="ab" * 48)]},
            {"allow": [entry(until="soon")]},
            {"allow": [entry(signer_only="yes")]},
            {"extra": 1},
        ],
    )
    def test_the_nitro_section_is_not_as_it_must_be(self, section: dict[str, Any]) -> None:
        refused(None, nitro=nitro(**section))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"[]",
            b"null",
            b"\xff\xfe",
            b'{"schema": "ephemeralml.policy/1", "schema": "ephemeralml.policy/1"}',
            b"[" * 100_000,
            b" " * (2 * 1_048_576 + 1),
            policy_bytes(policy_document(nitro=AWS)) + b"x",
        ],
        ids=["empty", "list", "null", "not UTF-8", "name twice", "deep", "oversize", "trailing"],
    )
    def test_not_one_json_object(self, data: bytes) -> None:
        with pytest.raises(MalformedError):
            Policy.parse(data, now=AT)

    def test_more_than_a_mebibyte(self) -> None:
        data = policy_bytes(policy_document(nitro=AWS)) + b" " * 1_048_576
        with pytest.raises(MalformedError):
            Policy.parse(data, now=AT)


class TestTuples:
    """Rule 1."""

    def two(self) -> Policy:
        first = entry(name="first")
        second = entry(PCRS | dict.fromkeys((0, 1, 2), b"\xbb" * 48), name="second")
        return policy(nitro=nitro(allow=[first, second]))

    def test_each_entry_is_accepted_whole(self) -> None:
        for pcrs in (PCRS, PCRS | dict.fromkeys((0, 1, 2), b"\xbb" * 48)):
            assert failures(check(VENDOR.document(pcrs=pcrs), policy=self.two()).run()) == []

    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_values_of_two_entries_never_mix(self, index: int) -> None:
        document = VENDOR.document(pcrs=PCRS | {index: b"\xbb" * 48})
        appraisal = check(document, policy=self.two()).run()
        assert failures(appraisal) == [("N14", "NITRO_MEASUREMENT_MISMATCH")]
        assert "first" in row(appraisal, "N14").detail

    def test_the_nearest_entry_is_reported_with_every_register(self) -> None:
        document = VENDOR.document(pcrs=PCRS | {0: b"\xbb" * 48, 1: b"\xbb" * 48, 2: b"\xcc" * 48})
        appraisal = check(document, policy=self.two()).run()
        mismatches = [row for row in appraisal.rows if row.id == "N14"]
        assert len(mismatches) == 1
        assert "pcr2" in mismatches[0].detail
        assert "second" in mismatches[0].detail

    @pytest.mark.parametrize("index", [3, 4, 8])
    def test_further_registers_count_where_they_are_named(self, index: int) -> None:
        pinned = policy(nitro=nitro(allow=[entry(indices=(0, 1, 2, 3, 4, 8))]))
        assert failures(check(policy=pinned).run()) == []
        document = VENDOR.document(pcrs=PCRS | {index: b"\x01" * 48})
        assert failures(check(document, policy=pinned).run()) == [("N14", "NITRO_MEASUREMENT_MISMATCH")]
        assert failures(check(document).run()) == []

    def test_a_register_that_the_document_lacks(self) -> None:
        pinned = policy(nitro=nitro(allow=[entry(indices=(0, 1, 2, 8))]))
        document = VENDOR.document(pcrs={index: PCRS[index] for index in (0, 1, 2)})
        assert row(check(document, policy=pinned).run(), "N14").actual == "absent"

    def test_until_ends_an_entry(self) -> None:
        ending = policy(nitro=nitro(allow=[entry(until="2026-01-15T12:00:01Z")]))
        assert failures(check(policy=ending).run()) == []
        at = AppraisalTime.now(AT + timedelta(seconds=1))
        appraisal = check(policy=ending, at=at).run()
        assert failures(appraisal) == [("N14", "NITRO_MEASUREMENT_MISMATCH")]
        assert row(appraisal, "N14").detail.startswith("until")


class TestMinimumTuple:
    """Rule 2."""

    @pytest.mark.parametrize("indices", [(), (0,), (0, 1), (1, 2), (0, 2), (8,), (3, 4)])
    def test_pcr0_pcr1_pcr2_are_named(self, indices: tuple[int, ...]) -> None:
        refused("POLICY_EMPTY", nitro=nitro(allow=[entry(indices=indices)]))

    def test_one_signer_instead(self) -> None:
        signer = policy(nitro=nitro(allow=[entry(indices=(8,), signer_only=True)]))
        other_image = VENDOR.document(pcrs=PCRS | {0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48})
        assert failures(check(other_image, policy=signer).run()) == []
        other_signer = VENDOR.document(pcrs=PCRS | {8: b"\x01" * 48})
        assert failures(check(other_signer, policy=signer).run()) == [("N14", "NITRO_MEASUREMENT_MISMATCH")]

    @pytest.mark.parametrize("indices", [(0, 1, 2), (3,), (0, 1, 2, 8), (0, 8)])
    def test_signer_only_goes_with_pcr8_alone(self, indices: tuple[int, ...]) -> None:
        refused("POLICY_CONTRADICTION", nitro=nitro(allow=[entry(indices=indices, signer_only=True)]))

    @pytest.mark.parametrize(
        "value", ["00" * 48, "AB" * 48, "ab" * 47, "ab" * 49, "ab" * 47 + "a ", "", None, 5, ["ab" * 48]]
    )
    def test_a_register_that_identifies_nothing(self, value: Any) -> None:
        refused(None, nitro=nitro(allow=[entry(pcr1=value)]))


class TestNeverEmpty:
    """Rule 3."""

    def test_no_formats(self) -> None:
        refused("POLICY_EMPTY", formats=[])
        with pytest.raises(MalformedError, match=r"formats is empty.* \(POLICY_EMPTY\)$") as caught:
            policy(formats=[])
        assert '"formats": ["nitro"]' in (caught.value.hint or "")
        refused("POLICY_EMPTY", formats=...)

    def test_a_format_without_its_section(self) -> None:
        refused("POLICY_EMPTY", nitro=...)

    def test_a_section_whose_format_is_not_listed(self) -> None:
        refused("POLICY_CONTRADICTION", local=policy_document(RootKind.SOFTWARE)["local"])
        refused("POLICY_CONTRADICTION", tdx={})
        refused("POLICY_CONTRADICTION", nvidia_gpu={"required": True})

    def test_no_entry(self) -> None:
        refused("POLICY_EMPTY", nitro=nitro(allow=[]))
        refused("POLICY_EMPTY", nitro=nitro(allow=...))

    def test_no_live_entry(self) -> None:
        refused("POLICY_EMPTY", nitro=nitro(allow=[entry(until="2026-01-15T12:00:00Z")]))
        section = policy_document(RootKind.SOFTWARE)["local"] | {"allow": [entry(until="2026-01-01T00:00:00Z")]}
        refused("POLICY_EMPTY", RootKind.SOFTWARE, local=section)

    @pytest.mark.parametrize("models", [..., {}, {"allow": []}, {"publisher_keys": [], "allow": []}])
    def test_no_constraint_on_models(self, models: Any) -> None:
        refused("POLICY_EMPTY", models=models)

    def test_no_security_mode(self) -> None:
        refused("POLICY_EMPTY", security_modes=[])

    def test_no_root(self) -> None:
        refused("POLICY_EMPTY", nitro=nitro(roots=[]))
        refused("POLICY_EMPTY", RootKind.SOFTWARE, local={"roots": [], "allow": []})
        refused("POLICY_EMPTY", RootKind.SOFTWARE, local={"allow": []})


class TestLocal:
    """Rule 4."""

    def test_alone_and_allowed(self) -> None:
        accepted = policy(RootKind.SOFTWARE, min_assurance=...)
        assert accepted.formats == (Format.LOCAL,)
        assert accepted.min_assurance is Assurance.DOCUMENT

    def test_beside_a_production_format(self) -> None:
        refused("POLICY_CONTRADICTION", RootKind.SOFTWARE, formats=["local", "nitro"], nitro=nitro())

    def test_not_allowed(self) -> None:
        refused("POLICY_CONTRADICTION", RootKind.SOFTWARE, allow_local=False)
        refused("POLICY_CONTRADICTION", RootKind.SOFTWARE, allow_local=...)

    def test_allowed_without_being_listed(self) -> None:
        refused("POLICY_CONTRADICTION", allow_local=True)

    @pytest.mark.parametrize("level", ["platform", "tee"])
    def test_asking_for_more_than_it_can_give(self, level: str) -> None:
        refused("POLICY_CONTRADICTION", RootKind.SOFTWARE, min_assurance=level)

    def test_a_vendors_root_among_its_roots(self) -> None:
        section = {"roots": [f"sha256:{AWS_NITRO_ROOT_SHA256.hex()}"], "allow": []}
        refused("POLICY_CONTRADICTION", RootKind.SOFTWARE, local=section)


class TestDebug:
    """Rule 5."""

    @pytest.mark.parametrize("modes", [["production"], ["production", "evaluation"]])
    def test_goes_with_evaluation_alone(self, modes: list[str]) -> None:
        refused("POLICY_CONTRADICTION", debug="evaluation-only", security_modes=modes)

    def test_does_not_reach_tee(self) -> None:
        document = VENDOR.document(pcrs=PCRS | {index: bytes(48) for index in (0, 1, 2)})
        lenient = policy(debug="evaluation-only", security_modes=["evaluation"])
        assert failures(check(document, policy=lenient).run()) == [("MIN_ASSURANCE", "ASSURANCE_TOO_LOW")]

    def test_other_evidence_is_judged_as_ever(self) -> None:
        lenient = policy(debug="evaluation-only", security_modes=["evaluation"])
        assert check(policy=lenient).run().assurance is Assurance.TEE
        other = VENDOR.document(pcrs=PCRS | {0: b"\x01" * 48})
        assert failures(check(other, policy=lenient).run()) == [("N14", "NITRO_MEASUREMENT_MISMATCH")]


class TestExpiry:
    """Rule 6; the state file has its own tests."""

    def test_expired(self) -> None:
        data = policy_bytes(policy_document(expires_at="2026-01-15T12:00:00Z", nitro=AWS))
        with pytest.raises(RejectedError) as caught:
            Policy.parse(data, now=AT)
        assert caught.value.code == "POLICY_EXPIRED"
        assert Policy.parse(data, now=AT - timedelta(seconds=1)).policy_id == "test"

    def test_expired_and_to_be_reported(self) -> None:
        data = policy_bytes(policy_document(expires_at="2026-01-01T00:00:00Z", nitro=AWS))
        assert Policy.parse(data, now=AT, allow_expired=True).expired()

    def test_expiry_is_judged_no_earlier_than_loading(self) -> None:
        accepted = policy()
        assert not accepted.expired()
        assert accepted.expired(datetime(2027, 1, 1, tzinfo=UTC))
        assert not accepted.expired(datetime(2020, 1, 1, tzinfo=UTC))
        assert not Policy.accept_local().expired(AT)


class TestSigned:
    """Rule 7."""

    def envelope(self, key: PrivateKey | None = KEY, kind: str = PAYLOAD_TYPE) -> bytes:
        return dsse.seal(kind, policy_bytes(policy_document()), key)

    def test_signed_and_checked(self) -> None:
        accepted = Policy.parse(self.envelope(), key=KEY.public, now=AT)
        assert accepted.signer == KEY.public
        assert accepted.warnings == ()
        assert check(policy=accepted).run().verdict is Verdict.VERIFIED

    def test_round_trip(self) -> None:
        bare = policy()
        signed = Policy.parse(bare.sign(KEY), key=KEY.public, now=AT)
        assert signed.digest == bare.digest
        assert signed.document == bare.document

    def test_a_policy_made_in_code_has_nothing_to_sign(self) -> None:
        with pytest.raises(ValueError, match="document"):
            Policy.accept_local().sign(KEY)

    def test_an_unsigned_policy_where_a_key_is_configured(self) -> None:
        with pytest.raises(RejectedError) as caught:
            Policy.parse(policy_bytes(policy_document(nitro=AWS)), key=KEY.public, now=AT)
        assert caught.value.code == "UNSIGNED"

    def test_an_envelope_without_a_signature(self) -> None:
        with pytest.raises(RejectedError) as caught:
            Policy.parse(self.envelope(None), key=KEY.public, now=AT)
        assert caught.value.code == "UNSIGNED"

    def test_an_envelope_and_no_key(self) -> None:
        with pytest.raises(IncompleteError) as caught:
            Policy.parse(self.envelope(), now=AT)
        assert caught.value.hint is not None
        assert "--policy-key" in caught.value.hint

    def test_another_signer(self) -> None:
        with pytest.raises(RejectedError) as caught:
            Policy.parse(self.envelope(PrivateKey.from_seed(bytes(32))), key=KEY.public, now=AT)
        assert caught.value.code == "SIGNER_UNKNOWN"

    def test_another_kind_of_document(self) -> None:
        with pytest.raises(RejectedError) as caught:
            Policy.parse(self.envelope(kind="application/vnd.other+json"), key=KEY.public, now=AT)
        assert caught.value.code == "PAYLOAD_TYPE_MISMATCH"

    def test_changed_after_signing(self) -> None:
        envelope = json.loads(self.envelope())
        payload = policy_bytes(policy_document(max_age_seconds=3_600))
        changed = json.loads(dsse.seal(PAYLOAD_TYPE, payload, None))
        changed["signatures"] = envelope["signatures"]
        with pytest.raises(RejectedError) as caught:
            Policy.parse(json.dumps(changed).encode(), key=KEY.public, now=AT)
        assert caught.value.code == "SIGNATURE_INVALID"

    def test_the_signature_is_checked_before_the_content(self) -> None:
        envelope = dsse.seal(PAYLOAD_TYPE, b"not a policy", PrivateKey.from_seed(bytes(32)))
        with pytest.raises(RejectedError):
            Policy.parse(envelope, key=KEY.public, now=AT)


class TestVendorRoots:
    """Section 3: pinned in the package, or in a signed policy."""

    OWN = "sha256:" + "ab" * 32
    PACKAGED = f"sha256:{AWS_NITRO_ROOT_SHA256.hex()}"

    @pytest.mark.parametrize("roots", [[OWN], ["aws", OWN], [PACKAGED, OWN]])
    def test_an_unsigned_policy_brings_none_of_its_own(self, roots: list[str]) -> None:
        data = policy_bytes(policy_document(nitro=AWS | {"roots": roots}))
        with pytest.raises(MalformedError, match="abab, which only a signed policy may") as caught:
            Policy.parse(data, now=AT)
        assert caught.value.code == "POLICY_ROOT_UNSIGNED"
        assert "--policy-key" in (caught.value.hint or "")
        accepted, envelope = seal_policy(data, KEY, now=AT)
        assert accepted == Policy.parse(envelope, key=KEY.public, now=AT)
        assert b"\xab" * 32 in accepted.trust_roots(Format.NITRO).digests

    @pytest.mark.parametrize("roots", [["aws"], [PACKAGED], ["aws", PACKAGED]])
    def test_the_packages_own_needs_no_signature(self, roots: list[str]) -> None:
        accepted = Policy.parse(policy_bytes(policy_document(nitro=AWS | {"roots": roots})), now=AT)
        assert accepted.trust_roots(Format.NITRO).digests == {AWS_NITRO_ROOT_SHA256}
        assert accepted.warnings == ("WARN_POLICY_UNSIGNED",)

    def test_a_software_root_needs_none_either(self) -> None:
        accepted = Policy.parse(policy_bytes(policy_document(RootKind.SOFTWARE)), now=AT)
        assert accepted.warnings == ("WARN_POLICY_UNSIGNED",)

    def test_what_is_sealed_could_be_loaded(self) -> None:
        with pytest.raises(MalformedError):
            seal_policy(policy_bytes(policy_document(formats=[])), KEY, now=AT)
        with pytest.raises(RejectedError):
            seal_policy(policy_bytes(policy_document(expires_at="2026-01-01T00:00:00Z")), KEY, now=AT)
        with pytest.raises(MalformedError, match="signed already"):
            seal_policy(policy().sign(KEY), KEY, now=AT)


class TestLoad:
    def test_from_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.json"
        path.write_bytes(policy_bytes(policy_document(expires_at="2100-01-01T00:00:00Z", nitro=AWS)))
        assert Policy.load(path).policy_id == "test"
        assert Policy.load(str(path)).policy_id == "test"

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError):
            Policy.load(tmp_path / "absent.json")

    def test_the_one_that_accepts_local_is_narrow(self) -> None:
        accepted = Policy.accept_local()
        assert accepted.formats == (Format.LOCAL,)
        assert accepted.security_modes == ("evaluation",)
        assert accepted.nitro is None
        assert accepted.trust_roots(Format.NITRO).kind is RootKind.SOFTWARE
