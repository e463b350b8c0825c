"""A throw-away PKI: root, intermediates and leaf, each with any fault a test asks for.

Keys are made once per kind and reused, so that a chain costs a few signatures.
`Spec` describes one certificate; `chain` issues a list of them, root first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
"""The instant at which an untouched chain is valid."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@cache
def key(name: str, kind: str = "p384") -> PrivateKey:
    """The key called *name*; the same for the rest of the process."""
    del name
    if kind == "rsa":
        return rsa.generate_private_key(65_537, 2_048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if kind == "p256" else ec.SECP384R1())


def name(common_name: str) -> x509.Name:
    """A subject or issuer."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def usage(*, cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    """A key usage extension."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Spec:
    """One certificate; the defaults of `ca` and `leaf` are faultless."""

    subject: str
    kind: str = "p384"
    """Kind of the certificate's own key: p384, p256, rsa, ed25519."""
    ca: bool | None = True
    """basicConstraints CA; None leaves the extension out."""
    path_length: int | None = None
    constraints_critical: bool = True
    key_usage: x509.KeyUsage | None = field(default_factory=lambda: usage(cert_sign=True))
    begin: datetime = NOW - timedelta(days=1)
    end: datetime = NOW + timedelta(days=1)
    issuer: str | None = None
    """Another issuer name than the real issuer's subject."""
    signed_by: str | None = None
    """Name of another key than the issuer's."""
    hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)
    extra: tuple[tuple[str, bytes, bool], ...] = ()
    """Further extensions: object identifier, DER value, critical."""
    serial: int | None = None

    def but(self, **changes: object) -> "Spec":
        """The same with *changes*."""
        return replace(self, **changes)  # type: ignore[arg-type]


def ca(subject: str, **changes: object) -> Spec:
    """A faultless CA."""
    return Spec(subject).but(**changes)


def leaf(subject: str = "leaf", **changes: object) -> Spec:
    """A faultless leaf: not a CA, digitalSignature."""
    return Spec(subject, ca=False, key_usage=usage(digital_signature=True)).but(**changes)


def nitro_like() -> list[Spec]:
    """Root, regional, zonal, instance and leaf, with the path lengths of real chains."""
    return [
        ca("root"),
        ca("regional", path_length=2),
        ca("zonal", path_length=1),
        ca("instance", path_length=0),
        leaf(),
    ]


def issue(spec: Spec, issuer: Spec) -> x509.Certificate:
    """Make the certificate that *spec* describes, signed by *issuer*'s key."""
    public = key(spec.subject, spec.kind).public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(spec.subject))
        .issuer_name(name(spec.issuer or issuer.subject))
        .public_key(public)
        .serial_number(spec.serial or x509.random_serial_number())
        .not_valid_before(spec.begin)
        .not_valid_after(spec.end)
    )
    if spec.ca is not None:
        constraints = x509.BasicConstraints(ca=spec.ca, path_length=spec.path_length if spec.ca else None)
        builder = builder.add_extension(constraints, critical=spec.constraints_critical)
    if spec.key_usage is not None:
        builder = builder.add_extension(spec.key_usage, critical=False)
    for identifier, value, critical in spec.extra:
        extension = x509.UnrecognizedExtension(ObjectIdentifier(identifier), value)
        builder = builder.add_extension(extension, critical=critical)
    signer = key(spec.signed_by or issuer.subject, issuer.kind)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else spec.hash
    return builder.sign(signer, algorithm)


def chain(specs: Sequence[Spec]) -> list[x509.Certificate]:
    """Issue *specs*, root first; the root signs itself."""
    issuers = [specs[0], *specs]
    return [issue(spec, issuer) for spec, issuer in zip(specs, issuers, strict=False)]


def der(certificate: x509.Certificate) -> bytes:
    """The certificate as bytes."""
    return certificate.public_bytes(Encoding.DER)
