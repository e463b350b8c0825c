"""MHASH, MODEL and what a policy file's `models` section adds (attestation section 6, rule 9)."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeralml.attestation.verdict import Mismatch, Status, printable
from ephemeralml.crypto import dsse, strict_json
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.receipt.claims import AirClaims
from ephemeralml.receipt.codes import Code, Fault
from ephemeralml.receipt.trail import POLICY, Trail

if TYPE_CHECKING:
    from ephemeralml.attestation.model_rules import ModelRules

MANIFEST_TYPE = "application/vnd.ephemeralml.model-manifest+json"
MANIFEST_SCHEMA = "ephemeralml.model/1"
MANIFEST_SCHEME = "sha256-manifest"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

MODEL_PUBLISHER_REJECTED = "MODEL_PUBLISHER_REJECTED"


@dataclass(frozen=True, slots=True)
class ManifestAtHand:
    """A signed manifest, as far as a receipt's verifier needs it: bytes, signature, and whose it says it is."""

    payload_hash: bytes
    """SHA-256 of the payload as shipped, what `sha256-manifest` names."""
    envelope: dsse.Envelope
    model_id: str
    version: str

    @classmethod
    def parse(cls, data: bytes) -> "ManifestAtHand":
        """Read the DSSE envelope, and of its payload which model it is of; nobody has vouched for that yet.

        Raises:
            MalformedError: No envelope, or one around something else.
        """
        envelope = dsse.parse(data, max_bytes=MAX_MANIFEST_BYTES)
        if envelope.payload_type != MANIFEST_TYPE:
            raise MalformedError(f"the envelope holds {printable(envelope.payload_type)!r}, not a model manifest")
        payload = strict_json.parse_object(envelope.payload, max_bytes=MAX_MANIFEST_BYTES)
        model_id, version = payload.get("model_id"), payload.get("version")
        if payload.get("schema") != MANIFEST_SCHEMA or type(model_id) is not str or type(version) is not str:
            raise MalformedError(f"the envelope holds no manifest of schema {MANIFEST_SCHEMA}")
        return cls(hashlib.sha256(envelope.payload).digest(), envelope, model_id, version)

    def proof(self, keys: tuple[PublicKey, ...]) -> "PublisherProof":
        """Return which of *keys* signed the manifest."""
        try:
            return PublisherProof(self, self.envelope.verify(keys, payload_type=MANIFEST_TYPE))
        except RejectedError as error:
            return PublisherProof(self, None, error.message)

    def faults(self, claims: AirClaims) -> list[Fault]:
        """Return why this is not the manifest of the receipt's model; empty where it is (air-v1, section 6).

        A signature says something about the model that the receipt names only
        if the receipt names this very manifest, and both call the model the same.
        """
        faults = []
        if claims.model_hash_scheme != MANIFEST_SCHEME:
            scheme = printable(claims.model_hash_scheme or "none")
            detail = "the receipt's model hash is of no manifest"
            faults.append(Fault(Code.MODEL_HASH_MISMATCH, detail, MANIFEST_SCHEME, scheme))
        elif not hmac.compare_digest(self.payload_hash, claims.model_hash):
            detail = "the receipt names another manifest"
            faults.append(Fault(Code.MODEL_HASH_MISMATCH, detail, self.payload_hash.hex(), claims.model_hash.hex()))
        own, stated = (self.model_id, self.version), (claims.model_id, claims.model_version)
        if own != stated:
            both = (printable(" ".join(names)) for names in (own, stated))
            faults.append(Fault(Code.MODEL_ID_MISMATCH, "the manifest is of another model or version", *both))
        return faults


@dataclass(frozen=True, slots=True)
class PublisherProof:
    """Whether a key of the policy signed the manifest at hand."""

    manifest: ManifestAtHand
    signer: PublicKey | None
    fault: str = ""
    """Why there is no signer."""


@dataclass(frozen=True, slots=True)
class ModelFindings:
    """What the `models` section says of a receipt."""

    mismatches: tuple[Mismatch, ...] = ()
    names_model: bool = False
    """Whether there are entries, so that the model's id was compared."""
    pins_hash: bool = False
    """Whether the entry that fits pins the model's hash."""
    bounds_version: bool = False

    def faults(self, check: str) -> list[Fault]:
        """Return the faults of one check."""
        return [
            Fault(item.code, item.detail, item.expected, item.actual) for item in self.mismatches if item.id == check
        ]


def model_findings(claims: AirClaims, models: "ModelRules | None") -> ModelFindings:
    """Compare the receipt's model with the policy's entries."""
    if models is None or not models.allow:
        return ModelFindings()
    named = (claims.model_id, claims.model_version, claims.model_hash, claims.model_hash_scheme)
    fitting = [entry for entry in models.allow if not entry.mismatches(*named)]
    return ModelFindings(
        mismatches=models.check(*named),
        names_model=True,
        pins_hash=any(entry.model_hash is not None for entry in fitting),
        bounds_version=any(entry.min_version is not None for entry in fitting),
    )


def check_model_hash(claims: AirClaims, wanted: Sequence[bytes | None], models: ModelFindings, trail: Trail) -> None:
    """MHASH: the expected hash, the manifest's, and the policy's."""
    faults = models.faults("MHASH")
    for value, source in zip(wanted, ("the expected one", "the manifest's"), strict=True):
        if value is not None and not hmac.compare_digest(value, claims.model_hash):
            detail = f"the model hash is not {source}"
            faults.append(Fault(Code.MODEL_HASH_MISMATCH, detail, value.hex(), claims.model_hash.hex()))
    if not faults and not models.pins_hash and all(value is None for value in wanted):
        trail.skip("MHASH", POLICY, "no model hash or manifest was given")
        return
    trail.check("MHASH", POLICY, faults, passed="the model hash is the expected one")


def check_model(claims: AirClaims, wanted: str | None, models: ModelFindings, trail: Trail) -> None:
    """MODEL, and the least version where the policy states one."""
    if wanted is None and not models.names_model:
        trail.skip("MODEL", POLICY, "no model was asked for")
        return
    faults = models.faults("MODEL")
    if wanted is not None and claims.model_id != wanted:
        faults.append(Fault(Code.MODEL_ID_MISMATCH, "another model", printable(wanted), printable(claims.model_id)))
    trail.check("MODEL", POLICY, faults, passed=printable(f"{claims.model_id} {claims.model_version}"))
    too_old = models.faults("MODEL_VERSION")
    if too_old or models.bounds_version:
        trail.check("MODEL_VERSION", POLICY, too_old, passed=printable(claims.model_version))


def check_publisher(claims: AirClaims, models: "ModelRules | None", proof: PublisherProof | None, trail: Trail) -> None:
    """MODEL_PUBLISHER, where the policy names publisher keys: one of them signed the manifest of this model."""
    if models is None or not models.publisher_keys:
        return
    if proof is None:
        why = "the policy names publisher keys, and no manifest was given (--manifest)"
        trail.skip("MODEL_PUBLISHER", POLICY, why, required=True)
        return
    found = proof.manifest.faults(claims)
    if proof.signer is None:
        keys = ", ".join(str(key) for key in models.publisher_keys)
        found.append(Fault(MODEL_PUBLISHER_REJECTED, f"the manifest: {proof.fault}", keys, "no signature by these"))
    faults = [fault for fault in found if not _reported(fault, trail)]
    if found and not faults:
        trail.skip(
            "MODEL_PUBLISHER", POLICY, "not judged: the manifest is of another model, MHASH failed", required=True
        )
        return
    trail.check("MODEL_PUBLISHER", POLICY, faults, passed=f"signed by {proof.signer}")


def _reported(fault: Fault, trail: Trail) -> bool:
    """Return whether MHASH has failed over these very values: one fault is told once."""
    return any(
        row.status is Status.FAIL and (row.code, row.expected, row.actual) == (fault.code, fault.expected, fault.actual)
        for row in trail.rows
        if row.id == "MHASH"
    )
