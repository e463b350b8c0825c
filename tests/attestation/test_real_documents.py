"""Genuine Nitro documents: authentic at their own time, expired now, and not to be changed by a bit."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ephemeralml import clock
from ephemeralml.attestation.appraisal import T1, T2
from ephemeralml.attestation.evidence import AppraisalTime, Evidence, ExpectedBinding, Format
from ephemeralml.attestation.nitro.document import NitroDocument, parse
from ephemeralml.attestation.nitro.verify import instance_agrees
from ephemeralml.attestation.recognise import recognise
from ephemeralml.attestation.roots import AWS_NITRO, AWS_NITRO_ROOT_SHA256, RootKind, TrustRoots
from ephemeralml.attestation.verdict import Assurance, Status, Verdict
from ephemeralml.attestation.verify import verify_evidence, yielded_receipt_keys
from ephemeralml.crypto import cose
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import MalformedError
from tests.fakes.nitro import failures, policy, policy_document, row

NAMES = ("pcr8", "debug")
TIMES = {
    "pcr8": datetime(2022, 10, 13, 8, 58, 2, 136_000, tzinfo=UTC),
    "debug": datetime(2022, 10, 12, 13, 50, 6, 81_000, tzinfo=UTC),
}


def load(shared: Path, name: str) -> bytes:
    path = shared / "evidence" / f"nitro-evervault-2022-{name}.bin"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path.read_bytes()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def document(shared: Path, name: str) -> bytes:
    return load(shared, name)


def appraise(document: bytes, at: AppraisalTime, **changes: object):
    arguments = {"expected": None, "policy": None, "roots": AWS_NITRO, "live": False, **changes}
    return verify_evidence(Evidence(Format.NITRO, document), at=at, **arguments)


def layers_hold(appraisal, *steps: str) -> bool:
    return all(row(appraisal, step).status is Status.PASS for step in steps)


def test_the_pinned_root_is_the_one_that_aws_publishes(shared: Path) -> None:
    der = (shared / "evidence" / "aws-nitro-root-g1.der").read_bytes()
    assert TrustRoots.of_certificates(RootKind.VENDOR, [der]).digests == {AWS_NITRO_ROOT_SHA256}


def test_recognised_from_its_bytes(document: bytes) -> None:
    assert recognise(document) is Format.NITRO


def test_authentic_at_its_own_time(document: bytes, name: str) -> None:
    appraisal = appraise(document, AppraisalTime.of_document())
    assert layers_hold(appraisal, "N1", "N2", "N3", "N4", "N5", "N6", "N7")
    assert appraisal.at.instant == TIMES[name]
    assert appraisal.at.source == "nitro.timestamp"


def test_expired_by_the_clock(document: bytes) -> None:
    appraisal = appraise(document, AppraisalTime.now(clock.now()))
    assert failures(appraisal)[0] == ("N7", "NITRO_CERT_TIME_INVALID")
    assert appraisal.verdict is Verdict.REJECTED


@pytest.mark.parametrize("seed", [bytes(32), b"\x01" * 32])
def test_no_receipt_key_is_bound(document: bytes, seed: bytes) -> None:
    expected = ExpectedBinding(PrivateKey.from_seed(seed).public.raw)
    appraisal = appraise(document, AppraisalTime.of_document(), expected=expected)
    assert ("N9", "NITRO_PUBKEY_BINDING_MISMATCH") in failures(appraisal)
    assert appraisal.assurance is Assurance.NONE
    assert yielded_receipt_keys(Evidence(Format.NITRO, document)) == ()


def test_the_debug_document_is_refused_for_its_zero_registers(shared: Path) -> None:
    appraisal = appraise(load(shared, "debug"), AppraisalTime.of_document())
    assert ("N13", "NITRO_DEBUG_REJECTED") in failures(appraisal)
    assert row(appraisal, "N13").actual == "PCR0, PCR1, PCR2 zero"
    assert appraisal.debug
    assert appraisal.registers["pcr4"].hex().startswith("615fa5b1a8838d39")


def test_the_other_document_is_no_debug_one(shared: Path) -> None:
    appraisal = appraise(load(shared, "pcr8"), AppraisalTime.of_document())
    assert layers_hold(appraisal, "N13")
    assert failures(appraisal) == [("N9", "NITRO_PUBKEY_BINDING_MISMATCH")]
    assert appraisal.registers["pcr8"].hex().startswith("8790eb3cce6c83d0")


def test_its_registers_can_be_pinned(shared: Path) -> None:
    document = load(shared, "pcr8")
    registers = parse(document).pcrs
    accepted = policy(
        now=TIMES["pcr8"],
        nitro={
            "roots": ["aws"],
            "allow": [{"name": "evervault", **{f"pcr{index}": registers[index].hex() for index in (0, 1, 2)}}],
        },
    )
    appraisal = appraise(document, AppraisalTime.of_document(), policy=accepted)
    assert layers_hold(appraisal, "N14")
    other = policy(now=TIMES["pcr8"], nitro=policy_document()["nitro"] | {"roots": ["aws"]})
    appraisal = appraise(document, AppraisalTime.of_document(), policy=other)
    assert failures(appraisal).count(("N14", "NITRO_MEASUREMENT_MISMATCH")) == 3


def test_pcr4_is_of_the_instance_in_module_id(document: bytes) -> None:
    parsed = parse(document)
    assert parsed.instance_id is not None
    assert parsed.instance_id.startswith("i-0")
    assert instance_agrees(parsed) is True


def test_fields(shared: Path) -> None:
    parsed = parse(load(shared, "pcr8"))
    assert parsed.timestamp_ms == 1_665_651_482_136
    assert parsed.public_key is None
    assert parsed.user_data is None
    assert parsed.nonce is not None
    assert len(parsed.nonce) == 256
    debug = parse(load(shared, "debug"))
    assert (debug.public_key, debug.user_data) == (b"my super secret key", b"hello, world!")
    assert debug.nonce is None


def refused(document: bytes) -> bool:
    """Whether T1 or T2 refuses, which is where every change must end."""
    try:
        parsed: NitroDocument = parse(document)
    except MalformedError:
        return True
    key, sign1 = parsed.chain[-1].public_key(), parsed.sign1
    return not cose.verify_es384(key, sign1.protected, sign1.payload or b"", sign1.signature)  # type: ignore[arg-type]


def changed(document: bytes, masks: range) -> Iterator[bytes]:
    for position in range(len(document)):
        for mask in masks:
            flipped = bytearray(document)
            # A different bit at every position, or all eight.
            flipped[position] ^= 1 << ((position + mask) % 8)
            yield bytes(flipped)


def test_a_changed_bit_in_any_byte_is_refused(document: bytes) -> None:
    assert not refused(document)
    assert all(refused(other) for other in changed(document, range(1)))


def test_no_other_value_of_an_unsigned_byte_is_taken(document: bytes) -> None:
    """What no signature covers: the envelope's heads before and behind the payload."""
    payload = parse(document).sign1.payload
    assert payload is not None
    begin = document.index(payload)
    end = begin + len(payload)
    for position in (*range(begin), *range(end, end + 2)):
        for value in set(range(256)) - {document[position]}:
            assert refused(document[:position] + bytes([value]) + document[position + 1 :])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_changed_bit_is_refused(document: bytes) -> None:
    assert all(refused(other) for other in changed(document, range(8)))


@pytest.mark.parametrize("position", [0, 3, 5, 8, 100, 700, 2_000, 4_000, -1])
def test_a_changed_byte_ends_the_whole_verification_there(document: bytes, position: int) -> None:
    flipped = bytearray(document)
    flipped[position] ^= 0x10
    appraisal = appraise(bytes(flipped), AppraisalTime.of_document())
    first = next(row for row in appraisal.rows if row.status is Status.FAIL)
    assert first.layer in (T1, T2)
    assert appraisal.verdict in (Verdict.MALFORMED, Verdict.REJECTED)


def test_every_truncation_is_malformed(document: bytes) -> None:
    for length in range(len(document)):
        with pytest.raises(MalformedError):
            parse(document[:length])
