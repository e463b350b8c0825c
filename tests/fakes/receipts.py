"""A receipt with everything beside it, as a session of the fake Nitro platform would leave it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ephemeralml.attestation.appraisal import Appraisal
from ephemeralml.attestation.evidence import AppraisalTime, ExpectedBinding, Format, TimeBasis
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.recognise import evidence_of
from ephemeralml.attestation.roots import RootKind, TrustRoots
from ephemeralml.attestation.sidecar import BindingInputs, Sidecar
from ephemeralml.attestation.verify import verify_evidence
from ephemeralml.crypto import dsse
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.receipt import AirClaims, ReceiptPolicy, ReceiptResult, issue, verify_receipt
from ephemeralml.receipt.model_policy import MANIFEST_TYPE, ManifestAtHand
from ephemeralml.receipt.platform import appraiser
from ephemeralml.receipt.policy import of_policy_file
from tests.fakes.nitro import AT, NONCE, PCRS, Workshop, policy, policy_document, policy_file, workshop
from tests.vectors.receipt import lab

RECEIPT_KEY = lab.KEY
PUBLISHER = PrivateKey.from_seed(b"\x07" * 32)
INPUTS = BindingInputs(b"client hello", 2, b"s" * 16, b"k" * 1216, b"identity", b"limits")
BINDING = INPUTS.channel_binding(RECEIPT_KEY.public.raw)
NOW = int(AT.timestamp()) + 10
MANIFEST_PAYLOAD = json.dumps(
    {"schema": "ephemeralml.model/1", "model_id": "minilm-l6-v2", "version": "1.0.0"}
).encode()
MANIFEST = dsse.seal(MANIFEST_TYPE, MANIFEST_PAYLOAD, PUBLISHER)
MODEL_HASH = hashlib.sha256(MANIFEST_PAYLOAD).digest()
MODELS = {"allow": [{"model_id": "minilm-l6-v2", "model_hash": MODEL_HASH.hex()}]}


@dataclass(frozen=True)
class Archive:
    """What one request left behind."""

    platform: Workshop
    document: bytes
    claims: AirClaims
    receipt: bytes
    sidecar: Sidecar

    def write(self, folder: Path, name: str = "r.cbor", *, sidecars: bool = True) -> Path:
        """Write the files as `infer --receipt` does, and return the receipt's path."""
        path = folder / name
        path.write_bytes(self.receipt)
        if sidecars:
            (folder / f"{name}.att").write_bytes(self.document)
            (folder / f"{name}.json").write_bytes(self.sidecar.encode())
        return path

    def policy_document(self, **changes: Any) -> dict[str, Any]:
        """The JSON of a policy that accepts this archive."""
        return policy_document(self.platform.kind, self.platform.roots, **{"models": MODELS, **changes})

    def policy_options(self, folder: Path, **changes: Any) -> tuple[str, ...]:
        """Write such a policy, a vendor's signed, and return the options that `verify` needs to take it."""
        path = folder / "policy.json"
        data, key = policy_file(self.platform.kind, self.policy_document(**changes))
        path.write_bytes(data)
        return ("--policy", str(path), *(("--policy-key", str(key)) if key is not None else ()))


def archive(kind: RootKind = RootKind.VENDOR, *, fields: Mapping[str, Any] | None = None, **claims: Any) -> Archive:
    """A faultless archive; *fields* change the document's payload, *claims* the receipt."""
    platform = workshop(kind)
    values = {"public_key": RECEIPT_KEY.public.raw, "user_data": BINDING, "nonce": NONCE, **(fields or {})}
    document = platform.document(**values)
    stated = lab.claims(
        **{
            "iat": NOW - 5,
            "model_hash": MODEL_HASH,
            "attestation_doc_hash": hashlib.sha256(document).digest(),
            "security_mode": "production" if kind is RootKind.VENDOR else "evaluation",
            **{f"pcr{index}": PCRS[index] for index in (0, 1, 2, 3, 4, 8)},
            **claims,
        }
    )
    sidecar = Sidecar(
        Format.NITRO if kind is RootKind.VENDOR else Format.LOCAL,
        hashlib.sha256(document).digest(),
        RECEIPT_KEY.public.raw,
        BINDING,
        NONCE,
        INPUTS,
        verdict="verified",
    )
    return Archive(platform, document, stated, issue(stated, RECEIPT_KEY), sidecar)


@dataclass(frozen=True)
class Judgement:
    """One offline verification with evidence; the defaults are those of a faultless archive."""

    archive: Archive
    file: Policy | None
    expected: ExpectedBinding | None = field(
        default_factory=lambda: ExpectedBinding(RECEIPT_KEY.public.raw, BINDING, NONCE)
    )
    document: bytes | None = None
    roots: TrustRoots | None = None
    at: AppraisalTime = field(default_factory=lambda: AppraisalTime(TimeBasis.DOCUMENT, None, "document"))
    demands: ReceiptPolicy = field(default_factory=ReceiptPolicy)
    manifest: bytes | None = None
    receipt: bytes | None = None

    def run(self) -> ReceiptResult:
        """Verify, by the production verifier."""
        document = self.archive.document if self.document is None else self.document
        roots = self.roots or self.archive.platform.roots

        def appraise(_: AirClaims) -> Appraisal:
            evidence = evidence_of(document)
            return verify_evidence(
                evidence, expected=self.expected, policy=self.file, roots=roots, at=self.at, live=False
            )

        demands = of_policy_file(self.file, self.demands) if self.file is not None else self.demands
        return verify_receipt(
            self.archive.receipt if self.receipt is None else self.receipt,
            RECEIPT_KEY.public.raw,
            policy=replace(demands, document_hash=hashlib.sha256(document).digest(), **self._manifest(demands)),
            now=NOW,
            appraise=appraiser(appraise, time_basis=self.at.basis.value),
        )

    def _manifest(self, demands: ReceiptPolicy) -> dict[str, Any]:
        if self.manifest is None:
            return {}
        found = ManifestAtHand.parse(self.manifest)
        keys = demands.models.publisher_keys if demands.models is not None else ()
        return {"manifest_hash": found.payload_hash, "publisher": found.proof(keys) if keys else None}


def judge(made: Archive, file: Any = ..., **settings: Any) -> ReceiptResult:
    """Verify *made* under a policy that accepts it, or another."""
    fitting = accepting(made) if file is ... else file
    assert fitting is None or isinstance(fitting, Policy)
    return Judgement(made, fitting, **settings).run()


def accepting(made: Archive, **changes: Any) -> Policy:
    """A policy that accepts *made*, with *changes*."""
    return policy(made.platform.kind, roots=made.platform.roots, **{"models": MODELS, **changes})


def collateral(folder: Path, lists: list[tuple[bytes, bytes]]) -> Path:
    """Write a collateral folder of revocation lists, as `tests.fakes.nitro.crl` makes them."""
    items = []
    (folder / "nitro").mkdir(parents=True)
    for name, data in lists:
        path = f"nitro/{name.hex()}.crl"
        (folder / path).write_bytes(data)
        items.append({"path": path, "kind": "crl", "sha256": hashlib.sha256(data).hexdigest(), "source": "test"})
    index = {"schema": "ephemeralml.collateral/1", "fetched_at": "2026-01-15T12:00:00Z", "items": items}
    (folder / "index.json").write_text(json.dumps(index))
    return folder
