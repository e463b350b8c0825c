"""A small attester and verifier with real signatures, for tests of what lies above evidence.

The document is a deterministic CBOR map, signed with Ed25519; the verifier
checks the signature and compares all three bound values, as the real ones do.
"""

import hmac
from datetime import UTC, datetime
from types import MappingProxyType

from ephemeralml.attestation.evidence import (
    AppraisalTime,
    Evidence,
    ExpectedBinding,
    Format,
    MeasurementType,
    TimeBasis,
    VerifiedEvidence,
)
from ephemeralml.attestation.verdict import Assurance
from ephemeralml.crypto import cbor
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import RejectedError

_AT = AppraisalTime(TimeBasis.NOW, datetime(2026, 1, 1, tzinfo=UTC), "clock")


class FakeAttester:
    """Issues and verifies documents under one key of its own."""

    def __init__(self, seed: bytes = bytes(32), form: Format = Format.LOCAL) -> None:
        self._key = PrivateKey.from_seed(seed)
        self._form = form

    def attest(self, expected: ExpectedBinding) -> Evidence:
        payload = cbor.encode({1: expected.receipt_key, 2: expected.channel_binding, 3: expected.nonce})
        return Evidence(self._form, cbor.encode([payload, self._key.sign(payload)]))

    def verify(self, evidence: Evidence, expected: ExpectedBinding) -> VerifiedEvidence:
        payload, signature = cbor.decode(evidence.document, max_bytes=4096)
        if evidence.format is not self._form or not self._key.public.verify(signature, payload):
            raise RejectedError("the document's signature does not verify", code="FAKE_SIGNATURE")
        fields = cbor.decode(payload, max_bytes=4096)
        for number, name in ((1, "receipt_key"), (2, "channel_binding"), (3, "nonce")):
            if not hmac.compare_digest(fields[number], getattr(expected, name)):
                raise RejectedError(f"the document's {name} is another", code=f"FAKE_{name.upper()}")
        return VerifiedEvidence(
            format=self._form,
            digest=evidence.digest,
            receipt_key=fields[1],
            measurement_type=MeasurementType.NITRO_PCR,
            registers=MappingProxyType({}),
            software=True,
            debug=False,
            assurance=Assurance.DOCUMENT,
            at=_AT,
        )
