"""Documents whose maker is known, for whoever accepts by rules of its own: a KMS (key-release.md section 8)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ephemeralml.attestation.appraisal import T1, T2, T3, RowList
from ephemeralml.attestation.collateral import NO_COLLATERAL
from ephemeralml.attestation.nitro.verify import STEPS, Case, NitroTerms, authenticate, read
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.attestation.verdict import Status
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError

_TABLE = tuple((step, layer) for step, layer in STEPS if layer in (T1, T2, T3))


@dataclass(frozen=True, slots=True)
class AuthenticDocument:
    """What a document says that a trusted root vouches for; only `authentic_document` makes one."""

    module_id: str
    timestamp: datetime
    pcrs: Mapping[int, bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    digest: bytes
    """SHA-256 of the document."""


def authentic_document(document: bytes, *, roots: TrustRoots, at: datetime) -> AuthenticDocument:
    """Verify a document's shape, signature and chain, N1 to N8, at the instant *at*.

    Not checked here: what the document is bound to, how old it is, whether it
    is a debug enclave's, and its registers. A KMS leaves the last two to its
    key policy, and takes a document as long as its certificates are valid.

    Raises:
        MalformedError: One of N1 to N3, with the step's code.
        RejectedError: One of N4 to N8, with the step's code.
        IncompleteError: There is no root to judge by.
    """
    rows = RowList(_TABLE)
    parsed = read(document, rows)
    if parsed is not None:
        authenticate(Case(parsed, None, NitroTerms(None), roots, NO_COLLATERAL, at, live=False), rows)
    for row in rows.complete():
        if row.status is Status.FAIL:
            message, code = f"{row.id}: {row.detail}", row.code or row.id
            raise MalformedError(message, code=code) if row.layer == T1 else RejectedError(message, code=code)
        if row.status is Status.SKIP and row.required:
            raise IncompleteError(f"{row.id}: {row.detail}", code=row.code)
    assert parsed is not None
    return AuthenticDocument(
        module_id=parsed.module_id,
        timestamp=parsed.timestamp,
        pcrs=parsed.pcrs,
        public_key=parsed.public_key,
        user_data=parsed.user_data,
        nonce=parsed.nonce,
        digest=hashlib.sha256(document).digest(),
    )
