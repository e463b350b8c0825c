"""Receipts: issue and verify, in one process."""

import os
import time

from ephemeralml.bench.measure import Section, Target, interleaved, row
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.receipt.claims import AirClaims, Measurements
from ephemeralml.receipt.issue import issue
from ephemeralml.receipt.policy import ReceiptPolicy
from ephemeralml.receipt.verify import verify_receipt

_ISSUE_TARGET_MS = 0.1
_VERIFY_TARGET_MS = 0.25


def example_claims() -> AirClaims:
    """Return claims of the size that real receipts have; the values mean nothing."""
    registers = [os.urandom(48) for _ in range(5)]
    return AirClaims(
        iss="bench",
        iat=int(time.time()),
        cti=os.urandom(16),
        model_id="minilm-l6-v2",
        model_version="1.0.0",
        model_hash=os.urandom(32),
        request_hash=os.urandom(32),
        response_hash=os.urandom(32),
        attestation_doc_hash=os.urandom(32),
        enclave_measurements=Measurements("nitro-pcr", *registers),
        policy_version="bench-1",
        sequence_number=0,
        execution_time_ms=5,
        memory_peak_mb=0,
        security_mode="production",
        model_hash_scheme="sha256-manifest",
        eat_nonce=os.urandom(32),
    )


def measure(*, quick: bool) -> Section:
    """Issue one receipt and verify it strictly, in turn."""
    key, claims = PrivateKey.generate(), example_claims()
    receipt = issue(claims, key)
    policy = ReceiptPolicy(model_hash=claims.model_hash, nonce=claims.eat_nonce)

    def verify() -> None:
        verify_receipt(receipt, key.public.raw, policy=policy, now=claims.iat).require()

    samples = interleaved({"issue": lambda: issue(claims, key), "verify": verify}, rounds=200 if quick else 1_000)
    rows = (
        row("receipt issue", samples["issue"], scale=1e3, unit="ms"),
        row("receipt verify, strict, all layers", samples["verify"], scale=1e3, unit="ms"),
    )
    targets = (
        Target("receipt issue", rows[0].value, _ISSUE_TARGET_MS, "ms", at_most=True),
        Target("receipt verify", rows[1].value, _VERIFY_TARGET_MS, "ms", at_most=True),
    )
    return Section(rows, targets)
