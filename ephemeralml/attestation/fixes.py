"""What to do about the codes of an evidence appraisal (attestation-codes), in a session and offline alike."""

from types import MappingProxyType

_BROKEN = "give the document exactly as the session delivered it; a changed or truncated one proves nothing"
_DO_NOT_TRUST = "do not accept the receipt: the evidence is not of a workload that you allow"

# Advice that takes more than the code; a row carries it as its hint.
SOFTWARE_OF_ANOTHER_ROOT = (
    "this is a software TEE of another deployment: give the policy that this deployment printed (deploy local)"
)
SOFTWARE_UNDER_VENDOR_ROOTS = (
    "this is a software TEE, which production evidence never is; for tests, give the policy that its deployment "
    "printed (deploy local)"
)
VENDOR_UNDER_LOCAL_POLICY = "the policy is for a software TEE alone: give one that lists this format"

EVIDENCE_FIXES = MappingProxyType(
    {
        "NITRO_DOC_PARSE_FAILED": _BROKEN,
        "NITRO_DOC_UNSUPPORTED": "this is no document of a Nitro Secure Module; emulators emit unsigned ones",
        "NITRO_FIELD_INVALID": _BROKEN,
        "NITRO_DOC_SIG_INVALID": _BROKEN,
        "NITRO_CERT_CHAIN_INVALID": (
            "the chain does not end at a root you trust: give the policy that is meant for this deployment, or do not "
            "accept the evidence"
        ),
        "NITRO_CERT_TIME_INVALID": (
            "a Nitro certificate lives 3 hours: judge an archived document with --at document; in a session, look at "
            "this machine's clock"
        ),
        "NITRO_CERT_REVOKED": _DO_NOT_TRUST,
        "NITRO_PUBKEY_BINDING_MISMATCH": (
            "the evidence is of another session: give that of the very one that issued the receipt"
        ),
        "NITRO_USERDATA_BINDING_MISMATCH": "the evidence belongs to another channel session; give that of this one",
        "NITRO_NONCE_MISMATCH": "the evidence answers another challenge; give that of this session",
        "NITRO_DOC_STALE": "connect again, so that fresh evidence is made",
        "NITRO_DOC_TIME_INVALID": "check this machine's clock",
        "NITRO_DEBUG_REJECTED": "the enclave runs in debug mode and is open to its host: do not accept it",
        "NITRO_MEASUREMENT_MISMATCH": (
            "compare them with your own build (enclave measure); if the image is yours, add an entry to the policy"
        ),
        "TRUST_ANCHOR_MISSING": "give --policy that names the trust root of this platform",
        "REVOCATION_CHECK_UNAVAILABLE": "give --collateral with the revocation lists that the policy requires",
        "COLLATERAL_ALTERED": "a file of the collateral folder is not the one its index lists: fetch the folder again",
        "POLICY_MEASUREMENT_PINNING_DISABLED": "add an allowed tuple of measurements to the policy",
        "POLICY_AUDIENCE_PIN_REQUIRED": "name the audience in the policy",
        "POLICY_EXPIRED": "get the policy's current version from whoever signs it",
        "EVIDENCE_FORMAT_REJECTED": (
            "the policy is for other evidence than this: give the one that is meant for this deployment"
        ),
        "ASSURANCE_TOO_LOW": "the evidence cannot carry as far as the policy asks",
        "MODEL_VERSION_REJECTED": "the policy asks for a newer model version",
        "MODEL_PUBLISHER_REJECTED": "give --manifest, signed by a publisher key of the policy",
    }
)
"""Code without suffix to the advice for it."""


def fix(code: str) -> str | None:
    """Return what to do about *code*, with or without its suffix; None for an unknown one."""
    return EVIDENCE_FIXES.get(code.partition(":")[0])
