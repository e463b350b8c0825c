"""Revocation of Nitro certificates, where a policy asks for it (attestation section 2, N8)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ephemeralml.attestation.collateral import MAX_CRL_BYTES
from ephemeralml.clock import format_rfc3339
from ephemeralml.errors import RejectedError

REVOKED = "NITRO_CERT_REVOKED"
UNAVAILABLE = "REVOCATION_CHECK_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Findings:
    """What the lists at hand say of a chain in which no certificate was revoked at the time."""

    gap: str | None
    """Why not every certificate could be looked up, or None."""
    later: tuple[datetime, ...]
    """When a certificate was revoked, after the time in question."""


def check(chain: Sequence[x509.Certificate], crls: Mapping[bytes, bytes], at: datetime) -> Findings:
    """Look every certificate below the root up in its issuer's list.

    A list of a later time proves a revocation, before *at* or after it, but
    not that there was none: expired certificates leave the lists.

    Raises:
        RejectedError: A certificate was revoked at *at*.
    """
    gap: str | None = None
    later: list[datetime] = []
    for issuer, certificate in pairwise(chain):
        name = _name_of(issuer)
        try:
            crl = _list_of(issuer, crls.get(name))
            entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        except ValueError as error:
            gap = gap or f"the revocation list {name.hex()}.crl {error}"
            continue
        if entry is not None and entry.revocation_date_utc <= at:
            raise RejectedError(
                f"certificate {certificate.serial_number:x} was revoked on {format_rfc3339(entry.revocation_date_utc)}",
                code=REVOKED,
            )
        if entry is not None:
            later.append(entry.revocation_date_utc)
        end = crl.next_update_utc
        if end is None or not crl.last_update_utc <= at <= end:
            gap = gap or f"the revocation list {name.hex()}.crl is not of {format_rfc3339(at)}"
    return Findings(gap, tuple(later))


def _name_of(issuer: x509.Certificate) -> bytes:
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def _list_of(issuer: x509.Certificate, der: bytes | None) -> x509.CertificateRevocationList:
    """Return the issuer's list; a `ValueError` says why it does not count."""
    if der is None:
        raise ValueError("is not at hand")
    if len(der) > MAX_CRL_BYTES:
        raise ValueError("is too large")
    key = issuer.public_key()
    try:
        crl = x509.load_der_x509_crl(der)
        fits = (
            isinstance(key, ec.EllipticCurvePublicKey)
            and crl.issuer == issuer.subject
            and isinstance(crl.signature_hash_algorithm, hashes.SHA384)
            and crl.is_signature_valid(key)
        )
        _ = crl.last_update_utc, crl.next_update_utc
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("does not parse") from error
    if not fits:
        raise ValueError("is not signed by the issuer")
    return crl
