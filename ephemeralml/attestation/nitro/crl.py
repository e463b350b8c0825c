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
    not that there was none: expired certificates leave the lists. Nor does one
    prove it that is not about the certificate, or says what we do not know.

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
        if (limit := _limit(crl, certificate)) is not None:
            gap = gap or f"the revocation list {name.hex()}.crl {limit}"
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


def _limit(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> str | None:
    """Return why *certificate* need not be on the list although it is revoked, or None (RFC 5280, 5.2 and 6.3.3)."""
    try:
        extensions = list(crl.extensions)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return "has extensions that do not parse"
    for extension in extensions:
        match extension.value:
            case x509.IssuingDistributionPoint() as point:
                if not _covers(point, certificate):
                    return "is about other certificates alone"
            case x509.DeltaCRLIndicator():
                return "lists only what changed since another"
            case x509.AuthorityKeyIdentifier() | x509.CRLNumber():
                continue
            case _ if extension.critical:
                return f"has the critical extension {extension.oid.dotted_string}, which is unknown here"
            case _:
                continue
    return None


def _covers(point: x509.IssuingDistributionPoint, certificate: x509.Certificate) -> bool:
    """Return whether a list of this distribution point is about *certificate*, whatever its kind and for any reason."""
    narrowed = (
        point.only_contains_user_certs
        or point.only_contains_ca_certs
        or point.only_contains_attribute_certs
        or point.indirect_crl
        or point.only_some_reasons is not None
        or point.relative_name is not None
    )
    if narrowed or point.full_name is None:
        return not narrowed
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    return any(name in point.full_name for own in points for name in own.full_name or ())
