"""Accepting a receipt in a live session: channel, section 4, last but one paragraph."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ephemeralml.attestation.evidence import MeasurementType
from ephemeralml.attestation.verdict import Assurance, Status, printable
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.errors import RejectedError
from ephemeralml.receipt import codes
from ephemeralml.receipt.claims import AirClaims
from ephemeralml.receipt.codes import Code, Fault, LiveCode
from ephemeralml.receipt.envelope import open_receipt
from ephemeralml.receipt.platform import registers_faults
from ephemeralml.receipt.policy import DEFAULT_SKEW_SECONDS, ReceiptPolicy, check_policy
from ephemeralml.receipt.result import VerifiedReceipt
from ephemeralml.receipt.rules import Profile
from ephemeralml.receipt.template import ReceiptTemplate
from ephemeralml.receipt.trail import PLATFORM, POLICY, Trail
from ephemeralml.receipt.verify import check_claims, check_signature


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """The identity entry that the request named."""

    model_id: str
    model_version: str
    model_hash: bytes
    scheme: str


@dataclass(frozen=True, slots=True)
class LiveReceipts:
    """Accepts one session's receipts; the facts of the session are its fields.

    The first receipt about a model is judged by `verify_live`. It states all
    that the later ones must repeat byte for byte, so of those only what varies
    is read and compared; whatever is not exactly as expected goes to
    `verify_live` again, which accepts it or says what is wrong.
    """

    session_key: bytes
    document_digest: bytes
    measurement_type: MeasurementType | None
    registers: Mapping[str, bytes]
    security_mode: str
    assurance: Assurance = Assurance.RECEIPT
    _known: dict[ModelEntry, tuple[ReceiptTemplate, VerifiedReceipt]] = field(default_factory=dict, repr=False)

    def accept(
        self,
        receipt: bytes,
        *,
        model: ModelEntry,
        request_hash: bytes,
        response_hash: bytes,
        nonce: bytes | None,
        expected_sequence: int,
        now: int | None,
    ) -> VerifiedReceipt:
        """Accept a receipt of this request, or refuse it; as `verify_live`."""
        known = self._known.get(model)
        if known is not None and now is not None and now >= 0:
            template, first = known
            found = template.read(receipt, PublicKey(self.session_key))
            if found is not None and found.iat <= now + DEFAULT_SKEW_SECONDS:
                expected = found._replace(
                    request_hash=request_hash,
                    response_hash=response_hash,
                    eat_nonce=nonce,
                    sequence_number=expected_sequence,
                )
                if found == expected:
                    return replace(first, claims=replace(first.claims, **found._asdict()), receipt=receipt)
        verified = verify_live(
            receipt,
            session_key=self.session_key,
            document_digest=self.document_digest,
            measurement_type=self.measurement_type,
            registers=self.registers,
            security_mode=self.security_mode,
            model=model,
            request_hash=request_hash,
            response_hash=response_hash,
            nonce=nonce,
            expected_sequence=expected_sequence,
            now=now,
            assurance=self.assurance,
        )
        self._known[model] = ReceiptTemplate(verified.claims), verified
        return verified


def verify_live(  # noqa: PLR0913 - one argument per thing that is compared
    receipt: bytes,
    *,
    session_key: bytes,
    document_digest: bytes,
    measurement_type: MeasurementType | None,
    registers: Mapping[str, bytes],
    security_mode: str,
    model: ModelEntry,
    request_hash: bytes,
    response_hash: bytes,
    nonce: bytes | None,
    expected_sequence: int,
    now: int | None,
    assurance: Assurance = Assurance.RECEIPT,
) -> VerifiedReceipt:
    """Accept a receipt of this very session and request, or refuse it.

    1. air-v1 strict L1 to L3, and FRESH's bound on the future.
    2. `attestation_doc_hash` names this session's document; registers are the document's.
    3. `security_mode` is the identity's.
    4. Model id, version, hash and scheme are the identity entry's.
    5. Request hash, response hash, nonce (absent where none was sent).
    6. The sequence number is the expected one.

    That the policy allows the model was decided before the request was sent;
    that the evidence holds, when the session began. *assurance* is what that
    appraisal reached.

    Raises:
        RejectedError: A check failed; code, expected and actual are those of the first.
    """
    trail = Trail()
    opened = open_receipt(receipt, Profile.STRICT, trail)
    if opened is None:
        raise _refusal(trail)
    envelope, claims = opened
    check_signature(envelope, session_key, trail)
    check_claims(claims, Profile.STRICT, trail)
    policy = ReceiptPolicy(
        model_id=model.model_id,
        model_hash=model.model_hash,
        request_hash=request_hash,
        response_hash=response_hash,
        document_hash=document_digest,
        security_modes=frozenset((security_mode,)),
        nonce=nonce,
    )
    check_policy(claims, policy, now, trail)
    trail.check("SESSION", POLICY, _session(claims, model, nonce, expected_sequence), passed="of this session")
    trail.check("REGISTERS", PLATFORM, registers_faults(claims, measurement_type, registers), passed="the document's")
    if trail.failed:
        raise _refusal(trail)
    return VerifiedReceipt(claims, receipt, session_key, assurance, tuple(trail.warnings))


def _session(claims: AirClaims, model: ModelEntry, nonce: bytes | None, expected_sequence: int) -> Iterator[Fault]:
    if claims.model_version != model.model_version:
        yield Fault(
            LiveCode.MODEL_VERSION_MISMATCH,
            "another model version",
            model.model_version,
            printable(claims.model_version),
        )
    if claims.model_hash_scheme != model.scheme:
        yield Fault(
            LiveCode.MODEL_HASH_SCHEME_MISMATCH,
            "another model hash scheme",
            model.scheme,
            claims.model_hash_scheme or "absent",
        )
    if nonce is None and claims.eat_nonce is not None:
        yield Fault(Code.NONCE_MISMATCH, "a nonce that nobody sent", "none", claims.eat_nonce.hex())
    if claims.sequence_number != expected_sequence:
        yield Fault(
            LiveCode.SEQUENCE_MISMATCH,
            "another place in the session",
            str(expected_sequence),
            str(claims.sequence_number),
        )


def _refusal(trail: Trail) -> RejectedError:
    row = next(row for row in trail.rows if row.status is Status.FAIL)
    code = row.code or row.id
    return RejectedError(
        f"the receipt is refused: {row.detail}",
        code=code,
        expected=row.expected,
        actual=row.actual,
        hint=codes.fix(code),
    )
