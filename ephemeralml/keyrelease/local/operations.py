"""Every operation that the key server knows, by AWS's names (key-release.md section 8)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ephemeralml.keyrelease.local import (
    operations_data,
    operations_grants,
    operations_keys,
    operations_policy,
    operations_tags,
)
from ephemeralml.keyrelease.local.call import Call
from ephemeralml.keyrelease.local.desk import Desk

Operation = Callable[[Desk, Call], dict[str, Any]]

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "CreateKey": operations_keys.create_key,
        "DescribeKey": operations_keys.describe_key,
        "ListKeys": operations_keys.list_keys,
        "EnableKey": operations_keys.enable_key,
        "DisableKey": operations_keys.disable_key,
        "ScheduleKeyDeletion": operations_keys.schedule_key_deletion,
        "CancelKeyDeletion": operations_keys.cancel_key_deletion,
        "EnableKeyRotation": operations_keys.enable_key_rotation,
        "DisableKeyRotation": operations_keys.disable_key_rotation,
        "GetKeyRotationStatus": operations_keys.get_key_rotation_status,
        "RotateKeyOnDemand": operations_keys.rotate_key_on_demand,
        "CreateAlias": operations_tags.create_alias,
        "DeleteAlias": operations_tags.delete_alias,
        "ListAliases": operations_tags.list_aliases,
        "ListResourceTags": operations_tags.list_resource_tags,
        "TagResource": operations_tags.tag_resource,
        "UntagResource": operations_tags.untag_resource,
        "Encrypt": operations_data.encrypt,
        "Decrypt": operations_data.decrypt,
        "ReEncrypt": operations_data.re_encrypt,
        "GenerateDataKey": operations_data.generate_data_key,
        "GenerateDataKeyWithoutPlaintext": operations_data.generate_data_key_without_plaintext,
        "GenerateRandom": operations_data.generate_random,
        "GetKeyPolicy": operations_policy.get_key_policy,
        "PutKeyPolicy": operations_policy.put_key_policy,
        "ListKeyPolicies": operations_policy.list_key_policies,
        "CreateGrant": operations_grants.create_grant,
        "ListGrants": operations_grants.list_grants,
        "RevokeGrant": operations_grants.revoke_grant,
    }
)
