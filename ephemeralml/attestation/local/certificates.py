"""Certificates with the shape and lifetimes of Nitro's, for the software TEE (attestation section 3).

Root, regional, zonal, instance, leaf; all P-384 with SHA-384. The leaf's key
usage is not critical and names no host, as the real ones are.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ephemeralml.attestation.roots import SOFTWARE_COMMON_NAME, SOFTWARE_ORGANISATION

ROOT_LIFETIME = timedelta(days=365 * 30)
REGIONAL_LIFETIME = timedelta(days=20)
ZONAL_LIFETIME = timedelta(days=6)
INSTANCE_LIFETIME = timedelta(hours=24)
LEAF_LIFETIME = timedelta(hours=3)

_BACKDATED = timedelta(minutes=5)
"""How long before its making a CA certificate begins to be valid."""

_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=True,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        """The certificate as bytes."""
        return self.certificate.public_bytes(Encoding.DER)

    def __repr__(self) -> str:
        return f"Issuer({self.certificate.subject.rfc4514_string()})"


def name(common_name: str, organisation: str = SOFTWARE_ORGANISATION) -> x509.Name:
    """Return a subject; every certificate of the software TEE says in it what it is."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def make_root(at: datetime, subject: x509.Name | None = None) -> Issuer:
    """Make a self-signed root; without *subject* the software TEE's."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = subject or name(SOFTWARE_COMMON_NAME)
    certificate = (
        _builder(subject, subject, key.public_key(), at - _BACKDATED, at + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .sign(key, hashes.SHA384())
    )
    return Issuer(certificate, key)


def make_ca(issuer: Issuer, common_name: str, *, path_length: int, at: datetime, lifetime: timedelta) -> Issuer:
    """Make an intermediate CA below *issuer*."""
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = (
        _builder(
            name(common_name), issuer.certificate.subject, key.public_key(), at - _BACKDATED, at + lifetime - _BACKDATED
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .sign(issuer.key, hashes.SHA384())
    )
    return Issuer(certificate, key)


def make_leaf(
    issuer: Issuer, common_name: str, *, begin: datetime, end: datetime, issuer_name: x509.Name | None = None
) -> Issuer:
    """Make a certificate that signs documents; *issuer_name* names another issuer than the one that signs."""
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = (
        _builder(name(common_name), issuer_name or issuer.certificate.subject, key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USAGE, critical=False)
        .sign(issuer.key, hashes.SHA384())
    )
    return Issuer(certificate, key)


def make_cas(root: Issuer, authority_id: str, at: datetime) -> tuple[Issuer, Issuer, Issuer]:
    """Make the regional, zonal and instance CAs below *root*, with Nitro's path lengths and lifetimes."""
    regional = make_ca(root, f"regional.{authority_id}", path_length=2, at=at, lifetime=REGIONAL_LIFETIME)
    zonal = make_ca(regional, f"zonal.{authority_id}", path_length=1, at=at, lifetime=ZONAL_LIFETIME)
    instance = make_ca(zonal, authority_id, path_length=0, at=at, lifetime=INSTANCE_LIFETIME)
    return regional, zonal, instance


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin.replace(microsecond=0))
        .not_valid_after(end.replace(microsecond=0))
    )
