"""Which condition keys KMS requests can carry; lint calls the others unproven."""

from ephemeralml.keyrelease.policy.reach import is_context, register_of

_GLOBAL = (
    *("CurrentTime", "EpochTime", "SecureTransport", "SourceIp", "UserAgent", "Referer", "RequestedRegion"),
    *(
        "PrincipalArn",
        "PrincipalAccount",
        "PrincipalOrgID",
        "PrincipalOrgPaths",
        "PrincipalType",
        "PrincipalIsAWSService",
    ),
    *("PrincipalServiceName", "PrincipalServiceNamesList", "userid", "username", "ViaAWSService", "CalledVia"),
    *("CalledViaFirst", "CalledViaLast", "SourceAccount", "SourceArn", "SourceOrgID", "SourceOrgPaths", "SourceVpc"),
    *("SourceVpce", "SourceVpcArn", "VpcSourceIp", "VpceAccount", "VpceOrgID", "VpceOrgPaths", "TagKeys"),
    *("MultiFactorAuthPresent", "MultiFactorAuthAge", "FederatedProvider", "TokenIssueTime", "SourceIdentity"),
    *("Ec2InstanceSourceVpc", "Ec2InstanceSourcePrivateIPv4"),
)
_KMS = (
    *("BypassPolicyLockoutSafetyCheck", "CallerAccount", "CustomerMasterKeySpec", "CustomerMasterKeyUsage"),
    *("DataKeyPairSpec", "EncryptionAlgorithm", "EncryptionContextKeys", "ExpirationModel", "GrantConstraintType"),
    *("GrantIsForAWSResource", "GrantOperations", "GranteePrincipal", "KeyAgreementAlgorithm", "KeyOrigin", "KeySpec"),
    *("KeyUsage", "MacAlgorithm", "MessageType", "MultiRegion", "MultiRegionKeyType", "PrimaryRegion"),
    *("ReEncryptOnSameKey", "ReplicaRegion", "RequestAlias", "ResourceAliases", "RetiringPrincipal"),
    *("RotationPeriodInDays", "ScheduleKeyDeletionPendingWindowInDays", "SigningAlgorithm", "ValidTo", "ViaService"),
    *("WrappingAlgorithm", "WrappingKeySpec"),
)
_NAMES = frozenset(
    f"{service}:{name}".lower() for service, names in (("aws", _GLOBAL), ("kms", _KMS)) for name in names
)
_TAGS = tuple(f"aws:{name}/".lower() for name in ("PrincipalTag", "RequestTag", "ResourceTag"))


def is_known(key: str) -> bool:
    """Return whether a KMS request can carry the condition key."""
    return key.lower() in _NAMES or key.lower().startswith(_TAGS) or is_context(key) or register_of(key) is not None
