"""What each release leaves behind: who asked for which key, on which document, and what came of it.

key-release.md section 1. Records stand in the boot report and the evidence
bundle; nothing in them opens anything.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.nitro import document as nitro
from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.errors import EphemeralError, MalformedError

RELEASED = "released"

_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,128}")


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """One try to have a key released."""

    time: datetime
    provider: str
    key: str
    request_id: str | None
    """The service's id for the request; the host may have made it up."""
    document_sha256: str | None
    """None where no document is sent, as with Cloud KMS."""
    ciphertext_sha256: str
    """Of the wrapped key."""
    context: Mapping[str, str]
    pcr0: str | None
    outcome: str
    """``released``, or the code of the refusal."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as it stands in boot reports and bundles."""
        return {
            "time": clock.format_rfc3339(self.time),
            "provider": self.provider,
            "key": self.key,
            "request_id": self.request_id,
            "document_sha256": self.document_sha256,
            "ciphertext_sha256": self.ciphertext_sha256,
            "context": dict(self.context),
            "pcr0": self.pcr0,
            "outcome": self.outcome,
        }


def record(
    wrapped: WrappedKey, *, at: datetime, document: bytes | None, request_id: object, outcome: str
) -> ReleaseRecord:
    """Make the record of one try; a request id that is none is left out."""
    pcr0 = document_pcr0(document)
    return ReleaseRecord(
        at,
        wrapped.provider,
        wrapped.key,
        checked_request_id(request_id),
        None if document is None else hashlib.sha256(document).hexdigest(),
        hashlib.sha256(wrapped.ciphertext).hexdigest(),
        dict(wrapped.context),
        None if pcr0 is None else pcr0.hex(),
        outcome,
    )


def checked_request_id(value: object) -> str | None:
    """Return a service's id for a request, or None for what is none."""
    return value if isinstance(value, str) and _REQUEST_ID.fullmatch(value) else None


def outcome_of(error: EphemeralError) -> str:
    """Return what a record says of a failed release: the error's code, or its class."""
    code = getattr(error, "code", None)
    return code if isinstance(code, str) else type(error).__name__


def document_pcr0(document: bytes | None) -> bytes | None:
    """Return the image register that a document states, unverified, or None where it does not parse."""
    if document is None:
        return None
    try:
        return nitro.parse(document).pcrs.get(0)
    except MalformedError:
        return None
