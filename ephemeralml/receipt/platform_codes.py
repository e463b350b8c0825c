"""What to do about the codes of an evidence appraisal (attestation-codes)."""

from types import MappingProxyType

_BROKEN = "give the document exactly as the session delivered it; a changed or truncated one proves nothing"
_DO_NOT_TRUST = "do not accept the receipt: the evidence is not of a workload that you allow"

PLATFORM_FIXES = MappingProxyType(
    {
        "NITRO_DOC_PARSE_FAILED": _BROKEN,
        "NITRO_DOC_UNSUPPORTED": "this is no document of a Nitro Secure Module; emulators emit unsigned ones",
        "NITRO_FIELD_INVALID": _BROKEN,
        "NITRO_DOC_SIG_INVALID": _BROKEN,
        "NITRO_CERT_CHAIN_INVALID": (
            "the chain does not end at a root you trust; a software TEE needs --policy with allow_local and its root"
        ),
        "NITRO_CERT_TIME_INVALID": "a Nitro certificate lives 3 hours: judge an archived document with --at document",
        "NITRO_CERT_REVOKED": _DO_NOT_TRUST,
        "NITRO_PUBKEY_BINDING_MISMATCH": "give the evidence of the very session that issued the receipt",
        "NITRO_USERDATA_BINDING_MISMATCH": "the evidence belongs to another channel session; give that of this one",
        "NITRO_NONCE_MISMATCH": "the evidence answers another challenge; give that of this session",
        "NITRO_DOC_STALE": "connect again, so that fresh evidence is made",
        "NITRO_DOC_TIME_INVALID": "check this machine's clock",
        "NITRO_DEBUG_REJECTED": "the enclave runs in debug mode and is open to its host: do not accept it",
        "NITRO_MEASUREMENT_MISMATCH": (
            "compare them with your build (eif describe, enclave measure); if they are right, change the policy"
        ),
        "TRUST_ANCHOR_MISSING": "give --policy that names the trust root of this platform",
        "REVOCATION_CHECK_UNAVAILABLE": "give --collateral with the revocation lists that the policy requires",
        "COLLATERAL_ALTERED": "a file of the collateral folder is not the one its index lists: fetch the folder again",
        "POLICY_MEASUREMENT_PINNING_DISABLED": "add an allowed tuple of measurements to the policy",
        "POLICY_AUDIENCE_PIN_REQUIRED": "name the audience in the policy",
        "POLICY_EXPIRED": "get the policy's current version from whoever signs it",
        "EVIDENCE_FORMAT_REJECTED": (
            "the policy does not allow evidence of this format; a software TEE takes a policy with allow_local"
        ),
        "ASSURANCE_TOO_LOW": "the evidence cannot carry as far as the policy asks",
        "MODEL_VERSION_REJECTED": "the policy asks for a newer model version",
        "MODEL_PUBLISHER_REJECTED": "give --manifest, signed by a publisher key of the policy",
    }
)
"""Code without suffix to the advice for it."""
