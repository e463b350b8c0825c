"""A fake Nitro platform: real chains and signatures below a test root, and policies that fit its documents.

`Workshop` is the whole vendor: it makes a root (of either kind), CAs, a leaf,
and documents whose payload a test may change field by field before signing.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ephemeralml.attestation.appraisal import Appraisal
from ephemeralml.attestation.collateral import NO_COLLATERAL, Collateral
from ephemeralml.attestation.evidence import AppraisalTime, Evidence, ExpectedBinding, Format
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.certificates import Issuer, make_cas, make_leaf, make_root, name
from ephemeralml.attestation.local.documents import DocumentFields
from ephemeralml.attestation.policy import PAYLOAD_TYPE, Policy
from ephemeralml.attestation.roots import RootKind, TrustRoots
from ephemeralml.attestation.verdict import Status
from ephemeralml.attestation.verify import verify_evidence
from ephemeralml.crypto import cbor, cose, dsse
from ephemeralml.crypto.keys import PrivateKey, PublicKey

AT = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
"""When the documents of this platform are made."""

POLICY_KEY = PrivateKey.from_seed(b"\x17" * 32)
"""Signs the policies that name the fake vendor's root: unsigned ones may not."""

RECEIPT_KEY = b"\x22" * 32
BINDING = b"\x44" * 32
NONCE = b"\x33" * 32
EXPECTED = ExpectedBinding(RECEIPT_KEY, BINDING, NONCE)

INSTANCE = "i-0de38b2b6853cc9e8"
MODULE_ID = f"{INSTANCE}-enc0123456789abcdef"
PCRS = {
    **{index: bytes(48) for index in range(16)},
    **{index: bytes([0xA0 + index]) * 48 for index in (0, 1, 2, 3)},
    4: hashlib.sha384(bytes(48) + INSTANCE.encode()).digest(),
    8: b"\xa8" * 48,
}
FIELDS = DocumentFields(MODULE_ID, PCRS, RECEIPT_KEY, BINDING, NONCE)


@dataclass(frozen=True)
class Workshop:
    """A root with everything below it."""

    root: Issuer
    cas: tuple[Issuer, ...]
    leaf: Issuer
    kind: RootKind

    @property
    def roots(self) -> TrustRoots:
        """Trust in this root, with an empty link cache."""
        return TrustRoots(self.kind, frozenset({hashlib.sha256(self.root.der).digest()}))

    @property
    def format(self) -> Format:
        """What an attester on this platform declares."""
        return Format.NITRO if self.kind is RootKind.VENDOR else Format.LOCAL

    @property
    def authority(self) -> Authority:
        """The same root behind the software TEE's interface."""
        return Authority(self.root)

    def payload(self, **changes: Any) -> dict[str, Any]:
        """The payload of a faultless document, with *changes*; a field given as ``...`` is left out."""
        values: dict[str, Any] = {
            "module_id": MODULE_ID,
            "digest": "SHA384",
            "timestamp": int(AT.timestamp()) * 1000,
            "pcrs": PCRS,
            "certificate": self.leaf.der,
            "cabundle": [self.root.der, *(ca.der for ca in self.cas)],
            "public_key": RECEIPT_KEY,
            "user_data": BINDING,
            "nonce": NONCE,
            **changes,
        }
        return {key: value for key, value in values.items() if value is not ...}

    def sign(self, payload: bytes, *, tagged: bool = False) -> bytes:
        """A document around any payload."""
        signature = cose.sign_es384(self.leaf.key, cose.PROTECTED_ES384, payload)
        return cose.encode(cose.PROTECTED_ES384, payload, signature, tagged=tagged)

    def document(self, **changes: Any) -> bytes:
        """A document with *changes* to its payload."""
        return self.sign(cbor.encode(self.payload(**changes)))

    def with_leaf(self, leaf: Issuer) -> "Workshop":
        """The same CAs with another leaf."""
        return replace(self, leaf=leaf)

    def with_chain(self, certificates: Sequence[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> "Workshop":
        """Another chain, root first, whose last certificate's key signs documents."""
        issuers = [Issuer(certificate, key) for certificate in certificates]
        return replace(self, root=issuers[0], cas=tuple(issuers[1:-1]), leaf=issuers[-1])


def workshop(kind: RootKind = RootKind.VENDOR) -> Workshop:
    """The platform of a kind; the same for the rest of the process."""
    return _workshop(kind)


@cache
def _workshop(kind: RootKind) -> Workshop:
    root = make_root(AT, name("test.nitro-enclaves", "Test vendor") if kind is RootKind.VENDOR else None)
    cas = make_cas(root, INSTANCE, AT)
    leaf = make_leaf(cas[-1], MODULE_ID, begin=AT - timedelta(seconds=2), end=AT + timedelta(hours=3))
    return Workshop(root, cas, leaf, kind)


def entry(pcrs: Mapping[int, bytes] = PCRS, *, indices: Sequence[int] = (0, 1, 2), **changes: Any) -> dict[str, Any]:
    """One entry of `allow` that fits *pcrs*."""
    return {"name": "runtime 1.0.0", **{f"pcr{index}": pcrs[index].hex() for index in indices}, **changes}


def policy_document(
    kind: RootKind = RootKind.VENDOR, roots: TrustRoots | None = None, **changes: Any
) -> dict[str, Any]:
    """The JSON of a policy that accepts the faultless document; a field given as ``...`` is left out."""
    local = kind is RootKind.SOFTWARE
    pinned = sorted(f"sha256:{digest.hex()}" for digest in (roots or workshop(kind).roots).digests)
    section = {"roots": pinned, "allow": [entry()]}
    values = {
        "schema": "ephemeralml.policy/1",
        "policy_id": "test",
        "version": 7,
        "created_at": "2026-01-01T00:00:00Z",
        "expires_at": "2027-01-01T00:00:00Z",
        "formats": ["local" if local else "nitro"],
        "min_assurance": "document" if local else "tee",
        "security_modes": ["evaluation" if local else "production"],
        "allow_local": local,
        "local" if local else "nitro": section,
        "models": {"allow": [{"model_id": "minilm-l6-v2", "model_hash": "5a" * 32}]},
        **changes,
    }
    return {key: value for key, value in values.items() if value is not ...}


def policy_bytes(document: Mapping[str, Any]) -> bytes:
    """A policy document as a file's bytes."""
    return json.dumps(document).encode()


def policy_file(kind: RootKind, document: Mapping[str, Any]) -> tuple[bytes, PublicKey | None]:
    """A policy document as it is handed out, and the key to read it with: a vendor's is signed by `POLICY_KEY`."""
    data = policy_bytes(document)
    if kind is RootKind.SOFTWARE:
        return data, None
    return dsse.seal(PAYLOAD_TYPE, data, POLICY_KEY), POLICY_KEY.public


def policy(
    kind: RootKind = RootKind.VENDOR, *, now: datetime = AT, allow_expired: bool = False, **changes: Any
) -> Policy:
    """A loaded policy, made by the production parser; see `policy_file`."""
    data, key = policy_file(kind, policy_document(kind, **changes))
    return Policy.parse(data, key=key, now=now, allow_expired=allow_expired)


@dataclass(frozen=True)
class Check:
    """One verification; the defaults are those of a faultless live session."""

    document: bytes
    platform: Workshop = field(default_factory=workshop)
    expected: ExpectedBinding | None = EXPECTED
    policy: Policy | None = None
    roots: TrustRoots | None = None
    collateral: Collateral = NO_COLLATERAL
    at: AppraisalTime = field(default_factory=lambda: AppraisalTime.now(AT))
    live: bool = True
    declared: Format | None = None

    def but(self, **changes: Any) -> "Check":
        """The same with *changes*."""
        return replace(self, **changes)

    def run(self) -> Appraisal:
        """Verify, by the production verifier."""
        return verify_evidence(
            Evidence(self.declared or self.platform.format, self.document),
            expected=self.expected,
            policy=self.policy,
            roots=self.roots if self.roots is not None else self.platform.roots,
            collateral=self.collateral,
            at=self.at,
            live=self.live,
        )


def check(document: bytes | None = None, kind: RootKind = RootKind.VENDOR, **changes: Any) -> Check:
    """A verification of the faultless document, or of another, under a policy that fits."""
    platform = changes.pop("platform", workshop(kind))
    given = changes.pop("policy", ...)
    fitting = policy(kind, roots=platform.roots) if given is ... else given
    return Check(document or platform.document(), platform=platform, policy=fitting, **changes)


def failures(appraisal: Appraisal) -> list[tuple[str, str | None]]:
    """Row and code of every failure, in order."""
    return [(row.id, row.code) for row in appraisal.rows if row.status is Status.FAIL]


def row(appraisal: Appraisal, step: str) -> Any:
    """The row of a step; the first, where it has several."""
    return next(row for row in appraisal.rows if row.id == step)


def crl(
    issuer: Issuer,
    revoked: Sequence[int] = (),
    *,
    at: datetime = AT,
    key: Any = None,
    since: timedelta = timedelta(minutes=1),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> tuple[bytes, bytes]:
    """A revocation list of *issuer*, of one hour around *at*: SHA-256 of the issuer's key, and the list.

    *extensions* come with whether they are critical.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(at - timedelta(hours=1))
        .next_update(at + timedelta(hours=1))
    )
    for serial in revoked:
        item = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at - since).build()
        builder = builder.add_revoked_certificate(item)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki = issuer.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    der = builder.sign(key or issuer.key, hashes.SHA384()).public_bytes(Encoding.DER)
    return hashlib.sha256(spki).digest(), der
