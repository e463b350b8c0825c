"""What the runtime of the tests can get wrong."""

import hashlib
from enum import Enum, auto
from typing import Any

from ephemeralml.receipt.claims import Measurements

PCRS = {number: hashlib.sha384(b"fake runtime pcr %d" % number).digest() for number in range(4)}
PCRS[4] = hashlib.sha384(bytes(48) + b"i-fake").digest()


class RuntimeFault(Enum):
    """What a runtime can get wrong; everything else stays right."""

    EVIDENCE_WRONG_NONCE = auto()
    EVIDENCE_OTHER_SESSION = auto()
    EVIDENCE_OTHER_KEY = auto()
    EVIDENCE_GARBAGE = auto()
    EVIDENCE_STALE = auto()
    EVIDENCE_CALLED_NITRO = auto()
    EVIDENCE_DEBUG = auto()
    IDENTITY_PRODUCTION = auto()
    IDENTITY_OTHER_HASH = auto()
    ALERT = auto()
    SILENT = auto()
    HANGS_UP = auto()
    GARBAGE_FRAME = auto()
    BAD_CONFIRMATION = auto()
    RECEIPT_OTHER_KEY = auto()
    RECEIPT_OTHER_REQUEST = auto()
    RECEIPT_OTHER_RESPONSE = auto()
    RECEIPT_OTHER_DOCUMENT = auto()
    RECEIPT_OTHER_REGISTERS = auto()
    RECEIPT_OTHER_MODE = auto()
    RECEIPT_OTHER_MODEL = auto()
    RECEIPT_OTHER_VERSION = auto()
    RECEIPT_OTHER_HASH = auto()
    RECEIPT_OTHER_SCHEME = auto()
    RECEIPT_OTHER_NONCE = auto()
    RECEIPT_NO_NONCE = auto()
    RECEIPT_WRONG_SEQUENCE = auto()
    RECEIPT_FUTURE = auto()
    RECEIPT_GARBAGE = auto()
    RECEIPT_MISSING = auto()
    RECEIPT_UNASKED = auto()
    BODY_EDITED = auto()
    RECORD_FLIPPED = auto()
    RECORD_DROPPED = auto()
    MESSAGE_MALFORMED = auto()
    TRUNCATED = auto()
    NO_END = auto()
    CLOSED_MID_REPLY = auto()
    ABORTED = auto()
    FAILED_LATE = auto()
    NEVER_ANSWERS = auto()
    MANIFEST_MISSING = auto()
    MANIFEST_UNSIGNED = auto()
    MANIFEST_OTHER_PUBLISHER = auto()
    MANIFEST_OTHER_MODEL = auto()
    MANIFEST_GARBAGE = auto()


CLAIM_FAULTS: dict[RuntimeFault, dict[str, Any]] = {
    RuntimeFault.RECEIPT_OTHER_REQUEST: {"request_hash": b"\x31" * 32},
    RuntimeFault.RECEIPT_OTHER_RESPONSE: {"response_hash": b"\x32" * 32},
    RuntimeFault.RECEIPT_OTHER_DOCUMENT: {"attestation_doc_hash": b"\x33" * 32},
    RuntimeFault.RECEIPT_OTHER_REGISTERS: {
        "enclave_measurements": Measurements("nitro-pcr", PCRS[0], PCRS[1], b"\x34" * 48, PCRS[3], PCRS[4])
    },
    RuntimeFault.RECEIPT_OTHER_MODE: {"security_mode": "production"},
    RuntimeFault.RECEIPT_OTHER_MODEL: {"model_id": "another"},
    RuntimeFault.RECEIPT_OTHER_VERSION: {"model_version": "9.9.9"},
    RuntimeFault.RECEIPT_OTHER_HASH: {"model_hash": b"\x35" * 32},
    RuntimeFault.RECEIPT_OTHER_SCHEME: {"model_hash_scheme": "sha256-single"},
    RuntimeFault.RECEIPT_OTHER_NONCE: {"eat_nonce": b"\x36" * 32},
    RuntimeFault.RECEIPT_NO_NONCE: {"eat_nonce": None},
    RuntimeFault.RECEIPT_WRONG_SEQUENCE: {"sequence_number": 41},
    RuntimeFault.RECEIPT_FUTURE: {"iat": 1 << 40},
}
"""Claims that a fault puts in place of the true ones."""
