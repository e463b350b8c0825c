"""The handshake with real documents of the software TEE and the production verifier."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ephemeralml.attestation.binding import nitro_fields
from ephemeralml.attestation.evidence import (
    AppraisalTime,
    Evidence,
    ExpectedBinding,
    Format,
    TimeBasis,
    VerifiedEvidence,
)
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.verify import verify_evidence
from ephemeralml.channel import ClientChannel, Suite
from ephemeralml.channel.frames import FrameType
from ephemeralml.errors import EphemeralError, RejectedError
from tests.channel.pair import Pair, make_pair
from tests.fakes.attester import FakeAttester

AT = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
PCRS = {number: bytes([number + 1]) * 48 for number in range(5)}


class SoftwareTee(FakeAttester):
    """Documents from an authority, appraised as a client does it."""

    def __init__(self, change: Callable[[ExpectedBinding], ExpectedBinding] = lambda expected: expected) -> None:
        self._authority = Authority.ephemeral(at=AT)
        self._policy = Policy.accept_local(roots=self._authority.roots)
        self._change = change

    def attest(self, expected: ExpectedBinding) -> Evidence:
        bound = nitro_fields(self._change(expected))
        fields = DocumentFields("software-0", PCRS, bound.public_key, bound.user_data, bound.nonce)
        return Evidence(Format.LOCAL, self._authority.issue_document(fields, AT))

    def verify(self, evidence: Evidence, expected: ExpectedBinding) -> VerifiedEvidence:
        appraisal = verify_evidence(
            evidence,
            expected=expected,
            policy=self._policy,
            roots=self._policy.trust_roots(evidence.format),
            at=AppraisalTime(TimeBasis.NOW, AT, "clock"),
            live=True,
        )
        return appraisal.require()


TEE = SoftwareTee()


def attempt(pair: Pair, change: Callable[[FrameType, bytes], bytes] = lambda _, data: data) -> EphemeralError | None:
    try:
        pair.run(lambda _, data: change(FrameType(data[0]), data))
    except EphemeralError as error:
        return error
    return None


def pair_with(tee: SoftwareTee) -> Pair:
    pair = make_pair()
    pair.attester = tee
    return pair


def test_it_works() -> None:
    pair = pair_with(TEE)
    assert attempt(pair) is None
    assert pair.established


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"receipt_key": b"\x01" * 32}, "NITRO_PUBKEY_BINDING_MISMATCH"),
        ({"channel_binding": b"\x01" * 32}, "NITRO_USERDATA_BINDING_MISMATCH"),
        ({"nonce": b"\x01" * 32}, "NITRO_NONCE_MISMATCH"),
        ({"nonce": None}, "NITRO_NONCE_MISMATCH"),
    ],
)
def test_each_bound_value(change: dict[str, bytes | None], code: str) -> None:
    pair = pair_with(SoftwareTee(lambda expected: replace(expected, **change)))
    error = attempt(pair)
    assert isinstance(error, RejectedError)
    assert error.code == code
    assert not pair.client.established


def test_evidence_of_an_earlier_session() -> None:
    first = pair_with(TEE)
    answers: list[bytes] = []
    attempt(first, lambda kind, data: answers.append(data) or data if kind is FrameType.SERVER_HELLO else data)
    second = pair_with(TEE)
    error = attempt(second, lambda kind, data: answers[0] if kind is FrameType.SERVER_HELLO else data)
    assert isinstance(error, RejectedError)
    assert not second.client.established


def test_bytes_of_the_offer_flipped() -> None:
    """Every third one; `test_handshake` flips them all under a cheaper verifier."""
    pair = pair_with(TEE)
    pair.server_step(bytes(pair.client.data_to_send()))
    offer = bytes(pair.server.data_to_send())
    assert len(offer) > 2_000

    def accepted(data: bytes) -> bool:
        # A client that said the same hello, so that nothing but the flip can be wrong.
        fresh = pair_with(TEE)
        fresh.client = ClientChannel(suites=(Suite.X25519_CHACHA20,), formats=(Format.LOCAL,), nonce=pair.client.nonce)
        fresh.client.data_to_send()
        with contextlib.suppress(EphemeralError):
            fresh.client_step(data)
        return bytes(fresh.client.data_to_send()[:1]) == b"\x03"

    assert accepted(offer)
    for position in range(0, len(offer), 3):
        assert not accepted(offer[:position] + bytes((offer[position] ^ 1,)) + offer[position + 1 :]), position
