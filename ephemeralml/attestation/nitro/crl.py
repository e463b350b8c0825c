"""Revocation of Nitro certificates, where a policy asks for it (attestation section 2, N8)."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ephemeralml.attestation.collateral import MAX_CRL_BYTES
from ephemeralml.errors import IncompleteError, RejectedError

REVOKED = "NITRO_CERT_REVOKED"
UNAVAILABLE = "REVOCATION_CHECK_UNAVAILABLE"


def check(chain: Sequence[x509.Certificate], crls: Mapping[bytes, bytes], at: datetime) -> None:
    """Check every certificate below the root against its issuer's list.

    All lists are looked at before a missing one is reported, so that a
    revocation is never hidden behind a gap.

    Raises:
        RejectedError: A certificate is listed.
        IncompleteError: A list is missing, does not verify, or is not of the time *at*.
    """
    gap: IncompleteError | None = None
    for issuer, certificate in pairwise(chain):
        try:
            revoked = _list_of(issuer, crls, at).get_revoked_certificate_by_serial_number(certificate.serial_number)
        except IncompleteError as error:
            gap = gap or error
            continue
        if revoked is not None and revoked.revocation_date_utc <= at:
            raise RejectedError(
                f"certificate {certificate.serial_number:x} was revoked on {revoked.revocation_date_utc.isoformat()}",
                code=REVOKED,
            )
    if gap is not None:
        raise gap


def _list_of(issuer: x509.Certificate, crls: Mapping[bytes, bytes], at: datetime) -> x509.CertificateRevocationList:
    key = issuer.public_key()
    name = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    der = crls.get(name)
    if der is None or len(der) > MAX_CRL_BYTES:
        raise _unusable(name, "is not at hand")
    try:
        crl = x509.load_der_x509_crl(der)
        fits = (
            isinstance(key, ec.EllipticCurvePublicKey)
            and crl.issuer == issuer.subject
            and isinstance(crl.signature_hash_algorithm, hashes.SHA384)
            and crl.is_signature_valid(key)
        )
        begin, end = crl.last_update_utc, crl.next_update_utc
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(name, "does not parse") from error
    if not fits:
        raise _unusable(name, "is not signed by the issuer")
    if end is None or not begin <= at <= end:
        raise _unusable(name, f"is not of {at.isoformat()}")
    return crl


def _unusable(name: bytes, why: str) -> IncompleteError:
    return IncompleteError(f"the revocation list {name.hex()}.crl {why}", code=UNAVAILABLE)
