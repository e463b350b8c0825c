"""What a verifier is handed beside the evidence: revocation lists, later TCB info and keys.

Collateral is the verifier's own input, never the peer's. Nothing here fetches;
what is missing is reported as missing (attestation section 8).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

MAX_CRL_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Collateral:
    """Vendor-signed items, by what they are about."""

    crls: Mapping[bytes, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """SHA-256 of an issuer's SubjectPublicKeyInfo to the DER of its revocation list."""


NO_COLLATERAL = Collateral()
"""Nothing at hand; rows that need something report that."""
