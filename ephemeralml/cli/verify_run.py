"""One receipt of `ephemeralml verify`: where key and evidence come from, then the library's verdict."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeralml.cli import console, verify_inputs
from ephemeralml.cli.exit_codes import ExitCode, of_error, of_verdict
from ephemeralml.cli.verify_inputs import Request
from ephemeralml.crypto import cose
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.errors import EphemeralError, MalformedError
from ephemeralml.receipt.claims import MAX_RECEIPT_BYTES
from ephemeralml.receipt.codes import Warn
from ephemeralml.receipt.model_policy import ManifestAtHand
from ephemeralml.receipt.platform import PlatformFindings, appraiser
from ephemeralml.receipt.result import ReceiptResult
from ephemeralml.receipt.verify import verify_receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeralml.attestation.appraisal import Appraisal
    from ephemeralml.attestation.evidence import Evidence
    from ephemeralml.attestation.sidecar import Sidecar
    from ephemeralml.receipt.claims import AirClaims


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one file: a result, or why there is none."""

    path: Path
    result: ReceiptResult | None
    error: EphemeralError | None = None
    key_source: str = ""
    evidence_source: str = ""
    manifest_source: str = ""
    evidence_format: str = ""
    """The evidence's format by its bytes, whether it came to be judged or not; empty where it is of none known."""

    @property
    def code(self) -> ExitCode:
        """The exit code that this file alone would give."""
        if self.result is not None:
            return of_verdict(self.result.verdict)
        assert self.error is not None
        return of_error(self.error)


@dataclass(slots=True)
class _Sources:
    """Key, evidence and manifest of one receipt, and where they come from."""

    public_key: bytes | None = None
    document: bytes | None = None
    evidence: "Evidence | None" = None
    sidecar: "Sidecar | None" = None
    manifest: ManifestAtHand | None = None
    key_name: str = "--public-key"
    document_name: str = ""
    manifest_name: str = ""
    warnings: tuple[str, ...] = ()


def judge_file(path: Path, request: Request) -> Outcome:
    """Verify one receipt; an error that concerns this file alone becomes its outcome."""
    try:
        receipt = verify_inputs.read_receipt(path)
        sources = _sources(path, receipt, request)
        result = _judge(receipt, sources, request)
    except EphemeralError as error:
        return Outcome(path, None, error)
    known = sources.evidence.format.value if sources.evidence is not None else ""
    return Outcome(path, result, None, sources.key_name, sources.document_name, sources.manifest_name, known)


def _sources(path: Path, receipt: bytes, request: Request) -> _Sources:
    found = _Sources(request.public_key, request.document, document_name=request.document_name)
    found.manifest = request.manifest
    beside = request.public_key is None and request.document is None
    if beside:
        _take_document(path, found)
    if found.public_key is None:
        _take_sidecar(path, found)
    if found.document is not None:
        _recognise(found, receipt)
    wants_manifest = beside or bool(request.policy is not None and request.policy.models.publisher_keys)
    manifest_path = _beside(path, ".manifest.json")
    if found.manifest is None and wants_manifest and verify_inputs.is_there(manifest_path):
        found.manifest = verify_inputs.load_manifest(manifest_path)
        found.manifest_name = str(manifest_path)
    return found


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _take_document(path: Path, found: _Sources) -> None:
    """Take RECEIPT.att."""
    document_path = _beside(path, ".att")
    if not verify_inputs.is_there(document_path):
        raise console.usage(
            f"there is nothing to verify {str(path)!r} with",
            hint=f"give --public-key or --attestation, or keep {document_path.name!r} beside the receipt",
        )
    found.document = verify_inputs.read_document(document_path)
    found.document_name = str(document_path)


def _take_sidecar(path: Path, found: _Sources) -> None:
    """Take what RECEIPT.json says of the document at hand: the key, and what the session was bound to."""
    json_path = _beside(path, ".json")
    if found.document is None or not verify_inputs.is_there(json_path):
        return
    from ephemeralml.attestation import sidecar

    data = console.read_file(json_path, max_bytes=sidecar.MAX_SIDECAR_BYTES, what="sidecar")
    stated = sidecar.parse(data)
    if stated.document_sha256 != hashlib.sha256(found.document).digest():
        found.warnings = (Warn.SIDECAR_OF_ANOTHER_DOCUMENT,)
        return
    found.sidecar = stated
    found.public_key = stated.receipt_public_key
    found.key_name = str(json_path)


def _recognise(found: _Sources, receipt: bytes) -> None:
    """Tell the evidence's format by its bytes, and take the key that it names where there is no other."""
    from ephemeralml.attestation.recognise import evidence_of
    from ephemeralml.attestation.verify import yielded_receipt_keys

    assert found.document is not None
    try:
        found.evidence = evidence_of(found.document)
    except MalformedError:
        return  # its row says so
    if found.public_key is None:
        found.public_key = _signing(receipt, yielded_receipt_keys(found.evidence))
        found.key_name = found.document_name


def _signing(receipt: bytes, keys: tuple[bytes, ...]) -> bytes | None:
    """Return the one of *keys* that signed the receipt, or the first where none did: SIG says so."""
    if len(keys) > 1:
        with suppress(MalformedError):
            envelope = cose.parse(receipt, max_bytes=MAX_RECEIPT_BYTES)
            signed = (envelope.protected, envelope.payload or b"", envelope.signature)
            return next((key for key in keys if cose.verify_eddsa(PublicKey(key), *signed)), keys[0])
    return keys[0] if keys else None


def _judge(receipt: bytes, sources: _Sources, request: Request) -> ReceiptResult:
    demands = request.demands
    if sources.document is not None:
        demands = replace(demands, document_hash=hashlib.sha256(sources.document).digest())
    if sources.manifest is not None:
        demands = verify_inputs.with_manifest(demands, sources.manifest, request.policy)
    replay = None
    if request.replay_store is not None:
        from ephemeralml.receipt.replay import SqliteReplayStore

        replay = SqliteReplayStore(request.replay_store)
    result = verify_receipt(
        receipt,
        sources.public_key,
        policy=demands,
        profile=request.profile,
        now=request.now,
        replay=replay,
        appraise=_appraiser(sources, request) if sources.document is not None else None,
        time_basis=request.time_basis,
    )
    warnings = (*result.warnings, *sources.warnings)
    if sources.manifest is not None and result.claims is not None:
        warnings = (*warnings, Warn.MANIFEST_FILES_UNCHECKED)
    if request.policy is not None and result.appraisal is None:
        warnings = (*request.policy.warnings, *warnings)
    return replace(result, warnings=tuple(dict.fromkeys(str(warning) for warning in warnings)))


def _appraiser(sources: _Sources, request: Request) -> "Callable[[AirClaims], PlatformFindings]":
    from ephemeralml.attestation.collateral import NO_COLLATERAL
    from ephemeralml.attestation.evidence import ExpectedBinding
    from ephemeralml.attestation.recognise import evidence_of
    from ephemeralml.attestation.roots import AWS_NITRO
    from ephemeralml.attestation.verify import verify_evidence

    assert sources.document is not None
    document, policy, sidecar = sources.document, request.policy, sources.sidecar
    expected = None
    if sidecar is not None:
        expected = sidecar.expected()
        if expected.channel_binding is not None and not sidecar.recomputed:
            sources.warnings = (*sources.warnings, Warn.BINDING_NOT_RECOMPUTED)
    elif sources.public_key is not None:
        expected = ExpectedBinding(sources.public_key)

    def appraise(_: "AirClaims") -> "Appraisal":
        evidence = evidence_of(document)
        roots = policy.trust_roots(evidence.format) if policy is not None else AWS_NITRO
        return verify_evidence(
            evidence,
            expected=expected,
            policy=policy,
            roots=roots,
            collateral=request.collateral or NO_COLLATERAL,
            at=request.at,
            live=False,
        )

    return appraiser(appraise, time_basis=request.at.basis.value)
