"""Every code of section 9 by a receipt that is wrong in that one thing."""

import json

import pytest

from ephemeralml.attestation.verdict import Assurance, Status, Verdict
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError
from ephemeralml.receipt import Profile, ReceiptPolicy, ReceiptResult, VerifiedReceipt, verify_receipt
from ephemeralml.receipt.claims import KeyOrder
from ephemeralml.receipt.codes import CODES, Code, base
from ephemeralml.receipt.trail import CRITICAL
from tests.vectors.receipt.generate import Broken, broken, main
from tests.vectors.receipt.lab import IAT, PUBLIC, Raw, changed, claims, pairs, registers, seal, without

VECTORS = broken()
L1 = (
    "SIZE",
    "COSE_DECODE",
    "UNPROTECTED",
    "ALG",
    "CONTENT_TYPE",
    "PROTECTED",
    "PAYLOAD",
    "CLAIMS_DECODE",
    "EAT_PROFILE",
    "ENCODING",
)
L3 = ("CTI", "BOUNDS", "MHASH_PRESENT", "MEAS", "MTYPE", "MHASH_SCHEME", "SECURITY_MODE")
L4 = ("FRESH", "MHASH", "RHASH", "OHASH", "ADHASH", "MODEL", "SECURITY_MODE_POLICY", "PLATFORM", "NONCE", "REPLAY")
STOPPING = {"SIZE", "COSE_DECODE", "UNPROTECTED", "PAYLOAD", "CLAIMS_DECODE", "EAT_PROFILE"}


def judge(
    receipt: bytes, *, now: int | None = IAT + 10, profile: Profile = Profile.STRICT, **demands: object
) -> ReceiptResult:
    return verify_receipt(receipt, PUBLIC, policy=ReceiptPolicy(**demands), profile=profile, now=now)  # type: ignore[arg-type]


def failing(result: ReceiptResult) -> list[tuple[str, str | None]]:
    return [(row.id, row.code) for row in result.rows if row.status is Status.FAIL]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_broken_receipt_fails_in_its_rows_and_no_other(vector: Broken) -> None:
    result = verify_receipt(
        vector.receipt, vector.public_key, policy=vector.policy, profile=vector.profile, now=vector.now
    )
    assert failing(result) == list(vector.rows)
    parse = any(row.layer == "parse" for row in result.failed)
    assert result.verdict is (Verdict.MALFORMED if parse else Verdict.REJECTED)
    with pytest.raises(MalformedError if parse else RejectedError) as caught:
        result.require()
    assert caught.value.code == vector.rows[0][1]  # type: ignore[attr-defined]
    assert caught.value.hint
    checks = [row.id for row in result.rows]
    if vector.rows[0][0] in STOPPING:
        assert checks[-1] == vector.rows[-1][0], "later rows are absent"
        assert result.claims is None
    else:
        assert checks[-1] == "REPLAY", "everything else still ran"


def test_vectors_are_the_same_every_time_and_their_names_unique(capsys: pytest.CaptureFixture[str]) -> None:
    assert broken() == VECTORS
    assert len({vector.name for vector in VECTORS}) == len(VECTORS)
    main()
    assert [vector["name"] for vector in json.loads(capsys.readouterr().out)] == [vector.name for vector in VECTORS]


def test_every_code_has_a_vector() -> None:
    seen = {base(code) for vector in VECTORS for _, code in vector.rows}
    # these two are tested with the replay stores and with evidence
    assert set(CODES) - seen == {Code.REPLAY_CTI, Code.EVIDENCE_FORMAT_UNKNOWN}


def test_good_receipt_passes_every_row_in_the_order_of_the_tables() -> None:
    result = judge(seal(pairs()))
    assert [row.id for row in result.rows] == [*L1, "SIG", *L3, *L4]
    skipped = [row.id for row in result.rows if row.status is Status.SKIP]
    assert skipped == ["FRESH", "MHASH", "RHASH", "OHASH", "ADHASH", "MODEL", "PLATFORM", "NONCE", "REPLAY"]
    assert not CRITICAL & set(skipped)
    verified = result.require()
    assert isinstance(verified, VerifiedReceipt)
    assert verified.claims == claims()
    assert verified.assurance is Assurance.RECEIPT


def test_every_demand_that_holds_passes() -> None:
    good = claims()
    result = judge(
        seal(pairs()),
        max_age=100,
        model_id=good.model_id,
        model_hash=good.model_hash,
        manifest_hash=good.model_hash,
        request_hash=good.request_hash,
        response_hash=good.response_hash,
        document_hash=good.attestation_doc_hash,
        security_modes=frozenset({"production"}),
        platform="nitro-pcr",
        nonce=good.eat_nonce,
        nonce_required=True,
        registers={"pcr0": b"\x01" * 48, "pcr2": b"\x03" * 48},
    )
    assert {row.status for row in result.rows if row.id != "REPLAY"} == {Status.PASS}
    assert result.verdict is Verdict.VERIFIED


def test_faults_of_different_checks_are_all_reported() -> None:
    receipt = seal(claims(cti=bytes(16), model_hash=bytes(32), security_mode="x", iat=0).encode(), signature=bytes(64))
    assert failing(judge(receipt, model_id="other", nonce=bytes(8))) == [
        ("SIG", "SIG_FAILED"),
        ("CTI", "BAD_CTI_LENGTH"),
        ("BOUNDS", "OUT_OF_RANGE:iat"),
        ("MHASH_PRESENT", "ZERO_MODEL_HASH"),
        ("SECURITY_MODE", "UNKNOWN_SECURITY_MODE:x"),
        ("MODEL", "MODEL_ID_MISMATCH"),
        ("NONCE", "NONCE_MISMATCH"),
    ]


def test_faults_of_the_claims_map_come_in_the_order_of_the_table() -> None:
    body = registers(lambda old: [("pcr9", 1), *old[1:], ("pcr2", b"\x03" * 48)])
    body = [(key, 5 if key == 1 else value) for key, value in body if key != -65537]
    assert failing(judge(seal([*body, (8, 1), (6, IAT)]))) == [
        ("CLAIMS_DECODE", "DUPLICATE_KEY"),
        ("CLAIMS_DECODE", "DUPLICATE_KEY"),
        ("CLAIMS_DECODE", "UNKNOWN_CLAIM:8"),
        ("CLAIMS_DECODE", "UNKNOWN_MEASUREMENT:pcr9"),
        ("CLAIMS_DECODE", "MISSING_CLAIM:model_id"),
        ("CLAIMS_DECODE", "MISSING_CLAIM:enclave_measurements.pcr0"),
        ("CLAIMS_DECODE", "WRONG_TYPE:iss"),
    ]


def test_array_keys_are_one_key_only_if_they_are_equal_in_cbor() -> None:
    """And are compared as text: hashes of arrays of integers can be made to collide, and then every key meets all."""
    keys = [(1,), (1.0,), (True,)]
    assert failing(judge(seal([*pairs(), *((key, 0) for key in keys)]))) == [
        ("CLAIMS_DECODE", "UNKNOWN_CLAIM:an array")
    ] * len(keys)
    assert ("CLAIMS_DECODE", "DUPLICATE_KEY") in failing(judge(seal([*pairs(), ((1,), 0), ((1,), 0)])))


@pytest.mark.parametrize("count", [15, 16, 17, 5_000])
def test_a_check_has_at_most_16_rows(count: int) -> None:
    found = failing(judge(seal([*pairs(), *((1_000 + index, 0) for index in range(count))])))
    assert found == [("CLAIMS_DECODE", f"UNKNOWN_CLAIM:{1_000 + index}") for index in range(min(count, 16))]


def test_the_protected_header_has_at_most_16_rows() -> None:
    extra = b"\xb8\x20\x01\x27\x03\x18\x3d" + b"".join(bytes([0x18, 100 + index, 0]) for index in range(30))
    assert len(failing(judge(seal(pairs(), protected=extra)))) == 16


def test_a_map_with_the_right_profile_twice_is_a_duplicate_and_not_another_profile() -> None:
    assert failing(judge(seal([*pairs(), (265, "other")]))) == [("CLAIMS_DECODE", "DUPLICATE_KEY")]
    twice = [*changed(265, "other"), (265, "another")]
    assert failing(judge(seal(twice))) == [("EAT_PROFILE", "WRONG_PROFILE")]


def test_absent_optional_claims_are_fine() -> None:
    result = judge(seal(without(10, -65549)))
    assert result.verdict is Verdict.VERIFIED
    assert result.claims is not None
    assert (result.claims.eat_nonce, result.claims.model_hash_scheme) == (None, None)


def test_all_zero_request_response_and_document_hashes_are_well_formed() -> None:
    zero = dict.fromkeys(("request_hash", "response_hash", "attestation_doc_hash"), bytes(32))
    assert judge(seal(claims(**zero, pcr0=bytes(48)).encode())).verdict is Verdict.VERIFIED


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "x" * 256},
        {"iss": "x"},
        {"iss": "é" * 128},
        {"model_id": "x" * 256},
        {"model_version": "x" * 128},
        {"policy_version": "é" * 128},
        {"eat_nonce": b"n" * 8},
        {"eat_nonce": b"n" * 64},
        {"iat": 1},
        {"sequence_number": 0},
        {"sequence_number": 2**64 - 1},
        {"execution_time_ms": 2**64 - 1, "memory_peak_mb": 0},
        {"pcr3": bytes(48), "pcr4": bytes(48), "pcr8": bytes(48)},
        {"measurement_type": "tdx-mrtd-rtmr", "pcr3": bytes(48), "pcr4": bytes(48)},
        {"model_hash_scheme": "sha256-single"},
        {"model_hash_scheme": "sha256-concat"},
    ],
)
def test_bounds_are_inclusive(changes: dict[str, object]) -> None:
    assert judge(seal(claims(**changes).encode())).verdict is Verdict.VERIFIED


def test_largest_receipt_passes_size() -> None:
    room = 65_536 - len(seal([*pairs(), (99, b"")]))
    full = next(receipt for gap in range(12) if len(receipt := seal([*pairs(), (99, bytes(room - gap))])) == 65_536)
    assert failing(judge(full)) == [("CLAIMS_DECODE", "UNKNOWN_CLAIM:99")]
    assert failing(judge(full + b"\x00")) == [("SIZE", "RECEIPT_TOO_LARGE")]


def test_bounds_on_depth_are_inclusive() -> None:
    for arrays, code in ((5, "NON_EMPTY_UNPROTECTED"), (6, "COSE_DECODE_FAILED")):
        deep = b"\xa1\x04" + b"\x81" * arrays + b"\x00"  # inside tag, array and map
        assert [code for _, code in failing(judge(seal(pairs(), unprotected=deep)))] == [code]
    for arrays, code in ((3, "UNKNOWN_CLAIM:99"), (4, "PAYLOAD_NOT_MAP")):
        deep = b"\x81" * arrays + b"\x00"  # inside the map
        assert [code for _, code in failing(judge(seal([*pairs(), (99, Raw(deep))])))] == [code]


@pytest.mark.parametrize(
    ("now", "max_age", "code"),
    [
        (IAT + 100, 100, None),
        (IAT + 101, 100, "TIMESTAMP_STALE"),
        (IAT - 60, None, None),
        (IAT - 61, None, "TIMESTAMP_FUTURE"),
        (IAT - 60, 1, None),
        (IAT - 61, 1, "TIMESTAMP_FUTURE"),
        (2**64, None, None),
    ],
)
def test_bounds_in_time_are_inclusive(now: int, max_age: int | None, code: str | None) -> None:
    assert failing(judge(seal(pairs()), now=now, max_age=max_age)) == ([("FRESH", code)] if code else [])


def test_an_iat_beyond_the_calendar_is_only_in_the_future() -> None:
    assert failing(judge(seal(claims(iat=2**64 - 1).encode()))) == [("FRESH", "TIMESTAMP_FUTURE")]


def test_a_nonce_nobody_asked_about_is_ignored() -> None:
    row = next(row for row in judge(seal(pairs())).rows if row.id == "NONCE")
    assert row.status is Status.SKIP


@pytest.mark.parametrize("max_age", [0, -1])
def test_a_maximum_age_is_positive(max_age: int) -> None:
    with pytest.raises(ValueError, match="greater than zero"):
        ReceiptPolicy(max_age=max_age)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_is_an_error_before_any_check(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        verify_receipt(b"", bytes(size), policy=ReceiptPolicy(), now=IAT)


def test_without_a_key_nothing_is_verified() -> None:
    result = verify_receipt(seal(pairs()), None, policy=ReceiptPolicy(), now=IAT)
    assert (result.verdict, result.assurance) == (Verdict.INCOMPLETE, Assurance.NONE)
    with pytest.raises(IncompleteError):
        result.require()


def test_allow_evaluation_and_expected_mode() -> None:
    receipt = seal(claims(security_mode="evaluation").encode())
    assert judge(receipt, allow_evaluation=True).verdict is Verdict.VERIFIED
    assert judge(receipt, security_modes=frozenset({"evaluation"})).verdict is Verdict.VERIFIED
    strict = judge(receipt, security_modes=frozenset({"production"}), allow_evaluation=True)
    assert failing(strict) == [("SECURITY_MODE_POLICY", "SECURITY_MODE_MISMATCH")]


def test_verification_reads_no_clock_socket_file_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = seal(pairs())

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a verifier looked beyond its arguments")

    with monkeypatch.context() as patch:
        for name in ("time.time", "socket.socket", "builtins.open", "os.getenv", "os.urandom"):
            patch.setattr(name, forbidden)
        result = judge(receipt, max_age=100)
    assert result.verdict is Verdict.VERIFIED


class TestCompat:
    def test_g0_order_is_read_with_a_warning(self) -> None:
        receipt = seal(claims().encode(KeyOrder.G0))
        assert failing(judge(receipt)) == [("ENCODING", "NON_CANONICAL")]
        result = judge(receipt, profile=Profile.COMPAT)
        assert result.verdict is Verdict.VERIFIED
        assert result.warnings == ("WARN_G0_KEY_ORDER",)
        assert result.claims == claims()

    def test_g0_order_is_what_the_page_says(self) -> None:
        import cbor2

        payload = cbor2.loads(claims(pcr3=bytes(48), pcr8=bytes(48)).encode(KeyOrder.G0))
        assert list(payload) == [*range(-65549, -65536), 1, 6, 7, 10, 265]
        assert list(payload[-65543]) == ["measurement_type", "pcr0", "pcr1", "pcr2", "pcr3", "pcr8"]

    def test_todays_order_needs_no_warning(self) -> None:
        assert judge(seal(pairs()), profile=Profile.COMPAT).warnings == ()

    @pytest.mark.parametrize("mode", ["GatewayOnly", "ShieldMode", "FullAttestation", "x", "é" * 32])
    def test_free_text_mode_is_read_with_a_warning(self, mode: str) -> None:
        receipt = seal(claims(security_mode=mode).encode())
        assert judge(receipt).verdict is Verdict.REJECTED
        result = judge(receipt, profile=Profile.COMPAT)
        assert result.verdict is Verdict.VERIFIED
        assert result.warnings == ("WARN_FREE_SECURITY_MODE",)

    def test_evaluation_stays_evaluation(self) -> None:
        receipt = seal(claims(security_mode="evaluation").encode())
        assert failing(judge(receipt, profile=Profile.COMPAT)) == [("SECURITY_MODE_POLICY", "EVALUATION_MODE_REJECTED")]

    def test_nothing_else_is_relaxed(self) -> None:
        for vector in VECTORS:
            if vector.name in ("encoding-g0-in-strict", "mode-unknown", "mode-case"):
                continue
            result = verify_receipt(
                vector.receipt, vector.public_key, policy=vector.policy, profile=Profile.COMPAT, now=vector.now
            )
            assert failing(result) == list(vector.rows), vector.name
