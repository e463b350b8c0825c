"""The codes of air-v1, section 9, with what each means and what to do about it.

Published names never change meaning. `docs/receipts.md` carries the same table
and a test compares the two.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from ephemeralml.attestation import fixes


class Code(StrEnum):
    """Why a check failed; some codes continue with ``:name``, ``:key``, ``:value`` or ``:slot``."""

    RECEIPT_TOO_LARGE = "RECEIPT_TOO_LARGE"
    COSE_DECODE_FAILED = "COSE_DECODE_FAILED"
    NON_EMPTY_UNPROTECTED = "NON_EMPTY_UNPROTECTED"
    BAD_ALG = "BAD_ALG"
    BAD_CONTENT_TYPE = "BAD_CONTENT_TYPE"
    EXTRA_PROTECTED_HEADER = "EXTRA_PROTECTED_HEADER"
    NON_CANONICAL = "NON_CANONICAL"
    MISSING_PAYLOAD = "MISSING_PAYLOAD"
    PAYLOAD_NOT_MAP = "PAYLOAD_NOT_MAP"
    DUPLICATE_KEY = "DUPLICATE_KEY"
    UNKNOWN_CLAIM = "UNKNOWN_CLAIM"
    UNKNOWN_MEASUREMENT = "UNKNOWN_MEASUREMENT"
    MISSING_CLAIM = "MISSING_CLAIM"
    WRONG_TYPE = "WRONG_TYPE"
    WRONG_PROFILE = "WRONG_PROFILE"

    BAD_SIG_LENGTH = "BAD_SIG_LENGTH"
    SIG_FAILED = "SIG_FAILED"

    BAD_CTI_LENGTH = "BAD_CTI_LENGTH"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    BAD_HASH_LENGTH = "BAD_HASH_LENGTH"
    ZERO_MODEL_HASH = "ZERO_MODEL_HASH"
    BAD_MEASUREMENT_LENGTH = "BAD_MEASUREMENT_LENGTH"
    TDX_PCR8_FORBIDDEN = "TDX_PCR8_FORBIDDEN"
    UNKNOWN_MTYPE = "UNKNOWN_MTYPE"
    UNKNOWN_MODEL_HASH_SCHEME = "UNKNOWN_MODEL_HASH_SCHEME"
    UNKNOWN_SECURITY_MODE = "UNKNOWN_SECURITY_MODE"

    TIMESTAMP_FUTURE = "TIMESTAMP_FUTURE"
    TIMESTAMP_STALE = "TIMESTAMP_STALE"
    CLOCK_ERROR = "CLOCK_ERROR"
    MODEL_HASH_MISMATCH = "MODEL_HASH_MISMATCH"
    REQUEST_HASH_MISMATCH = "REQUEST_HASH_MISMATCH"
    RESPONSE_HASH_MISMATCH = "RESPONSE_HASH_MISMATCH"
    ATTESTATION_DOC_HASH_MISMATCH = "ATTESTATION_DOC_HASH_MISMATCH"
    MODEL_ID_MISMATCH = "MODEL_ID_MISMATCH"
    SECURITY_MODE_MISMATCH = "SECURITY_MODE_MISMATCH"
    EVALUATION_MODE_REJECTED = "EVALUATION_MODE_REJECTED"
    PLATFORM_MISMATCH = "PLATFORM_MISMATCH"
    NONCE_MISMATCH = "NONCE_MISMATCH"
    NONCE_MISSING = "NONCE_MISSING"
    REPLAY_CTI = "REPLAY_CTI"

    EVIDENCE_FORMAT_UNKNOWN = "EVIDENCE_FORMAT_UNKNOWN"
    RECEIPT_MEASUREMENTS_MISMATCH = "RECEIPT_MEASUREMENTS_MISMATCH"


class LiveCode(StrEnum):
    """What only a live session can see (channel, section 4): never part of an offline result."""

    MODEL_VERSION_MISMATCH = "MODEL_VERSION_MISMATCH"
    MODEL_HASH_SCHEME_MISMATCH = "MODEL_HASH_SCHEME_MISMATCH"
    SEQUENCE_MISMATCH = "SEQUENCE_MISMATCH"


class Warn(StrEnum):
    """What a reader should weigh; never changes a verdict."""

    G0_KEY_ORDER = "WARN_G0_KEY_ORDER"
    FREE_SECURITY_MODE = "WARN_FREE_SECURITY_MODE"
    DOC_HASH_IS_KEY_HASH = "WARN_DOC_HASH_IS_KEY_HASH"
    MANIFEST_FILES_UNCHECKED = "WARN_MANIFEST_FILES_UNCHECKED"
    BINDING_NOT_RECOMPUTED = "WARN_BINDING_NOT_RECOMPUTED"
    SIDECAR_OF_ANOTHER_DOCUMENT = "WARN_SIDECAR_OF_ANOTHER_DOCUMENT"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, found by one check."""

    code: str
    """A `Code`, with its suffix if it has one."""
    detail: str
    """What is wrong, for people; values from the receipt are escaped."""
    expected: str | None = None
    actual: str | None = None


@dataclass(frozen=True, slots=True)
class CodeEntry:
    """A line of the table of section 9."""

    layer: str
    """``L1`` to ``L4``, or ``platform``."""
    meaning: str
    fix: str
    """What the reader can do."""
    own: bool = False
    """True for the nine codes that this project adds to the published ones."""


_EMITTER = "the emitter does not follow the format: report it to whoever issued the receipt"
_DAMAGED = "fetch the receipt again, in binary mode: it is damaged, or it is no AIR receipt"

CODES = MappingProxyType(
    {
        Code.RECEIPT_TOO_LARGE: CodeEntry(
            "L1", "more than 65,536 bytes", "check that this file is a receipt: real ones have about 600 bytes"
        ),
        Code.COSE_DECODE_FAILED: CodeEntry("L1", "not one COSE_Sign1 under CBOR tag 18", _DAMAGED),
        Code.NON_EMPTY_UNPROTECTED: CodeEntry("L1", "the unprotected header has entries", _EMITTER),
        Code.BAD_ALG: CodeEntry("L1", "the algorithm is not EdDSA (-8)", _EMITTER),
        Code.BAD_CONTENT_TYPE: CodeEntry("L1", "the content type is not 61, application/cwt", _EMITTER),
        Code.EXTRA_PROTECTED_HEADER: CodeEntry(
            "L1", "the protected header has a label other than 1 and 3", _EMITTER, own=True
        ),
        Code.NON_CANONICAL: CodeEntry(
            "L1",
            "the bytes are not the one deterministic encoding of what they say",
            "a receipt in the older key order verifies with --profile compat; any other was re-encoded on its way or "
            "by its emitter",
            own=True,
        ),
        Code.MISSING_PAYLOAD: CodeEntry(
            "L1",
            "the payload is nil or empty",
            "ask for the receipt with its payload inside; detached ones do not count",
        ),
        Code.PAYLOAD_NOT_MAP: CodeEntry("L1", "the payload is not exactly one well-formed map", _EMITTER),
        Code.DUPLICATE_KEY: CodeEntry("L1", "a key occurs twice, so the receipt has two readings", _EMITTER, own=True),
        Code.UNKNOWN_CLAIM: CodeEntry("L1", "a claim that version 1 does not have", _EMITTER, own=True),
        Code.UNKNOWN_MEASUREMENT: CodeEntry(
            "L1", "an entry of the measurement map that version 1 does not have", _EMITTER, own=True
        ),
        Code.MISSING_CLAIM: CodeEntry("L1", "a required claim or register is not there", _EMITTER),
        Code.WRONG_TYPE: CodeEntry("L1", "a claim or register has another CBOR type", _EMITTER),
        Code.WRONG_PROFILE: CodeEntry(
            "L1",
            "the receipt is of another profile than AIR v1",
            "verify it with the tool of the profile that it names",
        ),
        Code.BAD_SIG_LENGTH: CodeEntry("L2", "the signature has not 64 bytes", _DAMAGED),
        Code.SIG_FAILED: CodeEntry(
            "L2",
            "the signature does not hold under the given key, or the key or R has small order",
            "check that the key is the one of this session's evidence; if it is, the receipt was changed or forged",
        ),
        Code.BAD_CTI_LENGTH: CodeEntry("L3", "the receipt's id has not 16 bytes, or is all zero", _EMITTER),
        Code.OUT_OF_RANGE: CodeEntry("L3", "a text, the nonce or the time is outside its bounds", _EMITTER, own=True),
        Code.BAD_HASH_LENGTH: CodeEntry("L3", "a hash has not 32 bytes", _EMITTER),
        Code.ZERO_MODEL_HASH: CodeEntry("L3", "the model hash is all zero: no model is named", _EMITTER),
        Code.BAD_MEASUREMENT_LENGTH: CodeEntry("L3", "a register has not 48 bytes", _EMITTER),
        Code.TDX_PCR8_FORBIDDEN: CodeEntry("L3", "a TDX receipt has a pcr8", _EMITTER, own=True),
        Code.UNKNOWN_MTYPE: CodeEntry("L3", "the measurement type is neither of the two", _EMITTER),
        Code.UNKNOWN_MODEL_HASH_SCHEME: CodeEntry("L3", "the model hash scheme is none of the three", _EMITTER),
        Code.UNKNOWN_SECURITY_MODE: CodeEntry(
            "L3",
            "the security mode is neither production nor evaluation",
            "older receipts with a free-text mode verify with --profile compat",
        ),
        Code.TIMESTAMP_FUTURE: CodeEntry(
            "L4", "issued later than the clock allows", "check this machine's clock, and the time given with --at"
        ),
        Code.TIMESTAMP_STALE: CodeEntry(
            "L4", "older than the maximum age", "ask for a fresh receipt, or raise --max-age if old ones are acceptable"
        ),
        Code.CLOCK_ERROR: CodeEntry(
            "L4", "there is no usable clock", "set this machine's clock, or give a time with --at"
        ),
        Code.MODEL_HASH_MISMATCH: CodeEntry(
            "L4",
            "another model than the expected one",
            "compare with the model_hash of the manifest you trust; another hash means other model files",
        ),
        Code.REQUEST_HASH_MISMATCH: CodeEntry(
            "L4",
            "the receipt is about another request",
            "give the exact body bytes that were sent, before any re-encoding and without an added newline",
        ),
        Code.RESPONSE_HASH_MISMATCH: CodeEntry(
            "L4",
            "the receipt is about another response",
            "give the exact body bytes that were received; a response cut short differs, rightly",
        ),
        Code.ATTESTATION_DOC_HASH_MISMATCH: CodeEntry(
            "L4",
            "the document is not the one that the receipt names",
            "give the evidence of the very session that issued the receipt (the .att file saved beside it)",
        ),
        Code.MODEL_ID_MISMATCH: CodeEntry(
            "L4", "another model id than the expected one", "check --expect-model or the policy"
        ),
        Code.SECURITY_MODE_MISMATCH: CodeEntry(
            "L4",
            "another security mode than the policy asks for",
            "use a policy that allows this mode, or do not accept it",
        ),
        Code.EVALUATION_MODE_REJECTED: CodeEntry(
            "L4",
            "the workload ran in evaluation mode",
            "accept it knowingly with --allow-evaluation; evaluation protects nothing from the machine's owner",
        ),
        Code.PLATFORM_MISMATCH: CodeEntry(
            "L4", "measured on another platform than expected", "check --expect-platform"
        ),
        Code.NONCE_MISMATCH: CodeEntry(
            "L4",
            "the receipt answers another challenge",
            "give the nonce sent with this request; it may be a replayed receipt",
        ),
        Code.NONCE_MISSING: CodeEntry(
            "L4", "the receipt carries no nonce", "send a nonce with the request, and ask for its receipt"
        ),
        Code.REPLAY_CTI: CodeEntry(
            "L4",
            "this receipt was accepted before",
            "a receipt counts once per replay store; ask for the receipt of this request",
        ),
        Code.EVIDENCE_FORMAT_UNKNOWN: CodeEntry(
            "platform",
            "the evidence is no known document",
            "give the raw document: a Nitro document, a TDX quote or a Confidential Space token",
            own=True,
        ),
        Code.RECEIPT_MEASUREMENTS_MISMATCH: CodeEntry(
            "platform",
            "a register of the receipt differs from the evidence's, or from --expect-pcr",
            "the receipt was not issued by the measured workload: do not accept it",
            own=True,
        ),
    }
)
"""Every code of section 9, in its order."""

_OTHER_RECEIPT = "do not use the reply: its receipt is about something else than this session offered; connect again"

LIVE_FIXES = MappingProxyType(
    {
        LiveCode.MODEL_VERSION_MISMATCH: _OTHER_RECEIPT,
        LiveCode.MODEL_HASH_SCHEME_MISMATCH: _OTHER_RECEIPT,
        LiveCode.SEQUENCE_MISMATCH: "do not use the reply: a receipt is missing or repeated; connect again",
    }
)
"""What to do about the codes of a live session."""

WARNINGS = MappingProxyType(
    {
        Warn.G0_KEY_ORDER: "the claims are in the key order of older receipts",
        Warn.FREE_SECURITY_MODE: "the security mode is free text of an older receipt and says nothing certain",
        Warn.DOC_HASH_IS_KEY_HASH: "attestation_doc_hash is the hash of the key: the receipt names no document",
        Warn.MANIFEST_FILES_UNCHECKED: "the manifest was checked, the model files it lists were not",
        "WARN_COMPAT_BINDING": "the evidence binds the key in the form of earlier deployments",
        "WARN_REVOCATION_UNCHECKED": "no revocation list was consulted",
        "WARN_REVOKED_LATER": "a certificate was revoked after the time in question, at the date shown",
        "WARN_MEASUREMENT_PINNING_BYPASSED": "a development policy pins no measurement",
        "WARN_AUDIENCE_PINNING_SKIPPED": "no audience is pinned",
        "WARN_TRAILING_BYTES": "the quote carries unsigned bytes behind it",
        "WARN_TIME_UNPROVEN": "the time rests on the receipt's own word",
        "WARN_SOFTWARE_TEE": "software TEE: not protected from the machine it ran on, and no proof of any hardware",
        "WARN_DEBUG_EVIDENCE": "the enclave runs in debug mode: its host reads everything",
        "WARN_CHANNEL_BINDING_UNCHECKED": "no channel binding was given, so the evidence is tied to no session",
        Warn.BINDING_NOT_RECOMPUTED: "the channel binding was compared as stated, not recomputed from its inputs",
        "WARN_NONCE_UNCHECKED": "the nonce of the session was not given, so the evidence's was not compared",
        "WARN_INSTANCE_ID_MISMATCH": "PCR4 is not that of the instance that the document names",
        "WARN_POLICY_UNSIGNED": "the policy is not signed: whoever can change the file decides what is accepted",
        "WARN_MODEL_UNPINNED": "the policy pins neither publisher nor hash of a model, only its name",
        Warn.SIDECAR_OF_ANOTHER_DOCUMENT: "the .json beside the receipt describes another document and was not used",
    }
)


def base(code: str) -> str:
    """Return *code* without its suffix."""
    return code.partition(":")[0]


def fix(code: str) -> str | None:
    """Return what to do about *code*, with or without suffix; None for an unknown one."""
    name = base(code)
    if name in CODES:
        return CODES[Code(name)].fix
    if name in LIVE_FIXES:
        return LIVE_FIXES[LiveCode(name)]
    return fixes.fix(name)


def explain_warning(warning: str) -> str:
    """Return what *warning* means, or the warning itself where it explains itself."""
    return WARNINGS.get(base(warning), warning)
