"""What a request says of itself: the condition keys a policy can ask for (key-release.md section 4).

One builder for the local KMS and the simulator, so that they cannot differ.
"""

from collections.abc import Mapping
from datetime import datetime

from ephemeralml import clock
from ephemeralml.keyrelease.policy.principals import identity

ATTESTATION = "kms:RecipientAttestation:"
IMAGE = f"{ATTESTATION}ImageSha384"
"""The same register as PCR0."""
CONTEXT = "kms:EncryptionContext:"
CONTEXT_KEYS = "kms:EncryptionContextKeys"
GRANT_OPERATIONS = "kms:GrantOperations"

ATTESTED_ACTIONS = frozenset(
    f"kms:{name}"
    for name in ("Decrypt", "DeriveSharedSecret", "GenerateDataKey", "GenerateDataKeyPair", "GenerateRandom")
)
"""Actions that carry a recipient's registers."""

CONTEXT_ACTIONS = frozenset(
    f"kms:{name}"
    for name in (
        *("Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "CreateGrant", "RetireGrant"),
        *("GenerateDataKey", "GenerateDataKeyWithoutPlaintext"),
        *("GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"),
    )
)
"""Actions that carry an encryption context."""


def register_key(index: int) -> str:
    """Return the condition key of PCR *index*."""
    return f"{ATTESTATION}PCR{index}"


def build(  # noqa: PLR0913 - one argument for each thing a request says of itself
    *,
    principal: str,
    account: str,
    context: Mapping[str, str] | None,
    pcrs: Mapping[int, bytes] | None,
    now: datetime,
    source_ip: str | None = None,
    secure_transport: bool = True,
    action: str | None = None,
    more: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Return the condition keys of one request, under lower-case names.

    Args:
        principal: ARN of who asks.
        account: The key's account; an asker whose ARN names none counts as of it.
        context: The encryption context of the request.
        pcrs: Registers of a *verified* attestation document; None without one.
        now: The instant of the request.
        source_ip: Where it came from, if that is an address.
        secure_transport: Whether it came over TLS.
        action: ``kms:Decrypt`` and so on; with it, only keys that this action carries.
        more: Keys that this builder does not make, such as `GRANT_OPERATIONS`.
    """
    who = identity(principal)
    values: dict[str, tuple[str, ...]] = {
        "aws:PrincipalArn": (who.role_arn if who is not None else principal,),
        "aws:PrincipalAccount": (who.account if who is not None else account,),
        "kms:CallerAccount": (who.account if who is not None else account,),
        "aws:CurrentTime": (clock.format_rfc3339(now),),
        "aws:EpochTime": (str(int(now.timestamp())),),
        "aws:SecureTransport": ("true" if secure_transport else "false",),
    }
    if source_ip is not None:
        values["aws:SourceIp"] = (source_ip,)
    if context and (action is None or action in CONTEXT_ACTIONS):
        values[CONTEXT_KEYS] = tuple(context)
        for name, value in context.items():
            # Names of condition keys know no letter case, names of a context do: two may meet here.
            key = f"{CONTEXT}{name}".lower()
            values[key] = (*values.get(key, ()), value)
    if pcrs is not None and (action is None or action in ATTESTED_ACTIONS):
        values |= {register_key(index): (value.hex(),) for index, value in pcrs.items()}
        if 0 in pcrs:
            values[IMAGE] = (pcrs[0].hex(),)
    return {name.lower(): value for name, value in (values | dict(more or {})).items()}
