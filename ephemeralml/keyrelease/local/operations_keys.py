"""Operations on keys themselves: make, describe, enable, end, rotate."""

import logging
from datetime import UTC, datetime
from typing import Any

from ephemeralml.keyrelease.local.call import Call
from ephemeralml.keyrelease.local.desk import Desk
from ephemeralml.keyrelease.local.faults import ServiceFault, invalid
from ephemeralml.keyrelease.local.names import default_policy, new_key_id
from ephemeralml.keyrelease.local.operations_policy import checked_policy
from ephemeralml.keyrelease.local.operations_tags import checked_tags
from ephemeralml.keyrelease.local.paging import page
from ephemeralml.keyrelease.local.records import KeyRecord, KeyState
from ephemeralml.keyrelease.local.store import DAY

_log = logging.getLogger(__name__)
_OPEN = "made without a policy: whatever the account's own policies allow opens it"

DEFAULT_PENDING_DAYS, LEAST_PENDING_DAYS, MOST_PENDING_DAYS = 30, 7, 30
DEFAULT_ROTATION_DAYS = 365
MAX_ON_DEMAND_ROTATIONS = 25
"""Beyond AWS's ten, for tests; versions are kept for ever."""


def create_key(desk: Desk, call: Call) -> dict[str, Any]:
    """CreateKey: SYMMETRIC_DEFAULT for ENCRYPT_DECRYPT with material of ours, and nothing else."""
    _supported(call)
    tags = checked_tags(call)
    desk.authorize(call, "CreateKey", None)
    key_id = new_key_id()
    policy = call.get("Policy")
    if policy is None:
        policy = default_policy(desk.names.account)
        call.trail.notes["warning"] = _OPEN
        _log.warning("key %s was %s", key_id, _OPEN)
    else:
        checked_policy(desk, call, desk.names.arn(key_id), policy)
    record = KeyRecord(
        id=key_id,
        created=call.timestamp,
        description=call.get("Description", ""),
        state=KeyState.ENABLED,
        deletion=None,
        deletion_days=None,
        policy=policy,
        version=1,
        rotation_days=None,
        next_rotation=None,
        tags=tags,
    )
    desk.store.create_key(record)
    call.trail.key = desk.names.arn(key_id)
    return {"KeyMetadata": _metadata(desk, record)}


def describe_key(desk: Desk, call: Call) -> dict[str, Any]:
    """DescribeKey."""
    key = desk.key(call)
    desk.authorize(call, "DescribeKey", key)
    return {"KeyMetadata": _metadata(desk, key)}


def list_keys(desk: Desk, call: Call) -> dict[str, Any]:
    """ListKeys, all of them; the caller's own policies decide."""
    desk.authorize(call, "ListKeys", None)
    desk.store.purge(call.timestamp)
    return page(
        desk,
        call,
        "Keys",
        scope="keys",
        default=100,
        after=lambda last, limit: [
            (key_id, {"KeyId": key_id, "KeyArn": desk.names.arn(key_id)})
            for key_id in desk.store.keys_after(last, limit)
        ],
    )


def enable_key(desk: Desk, call: Call) -> dict[str, Any]:
    """EnableKey."""
    return _switch(desk, call, "EnableKey", KeyState.ENABLED)


def disable_key(desk: Desk, call: Call) -> dict[str, Any]:
    """DisableKey."""
    return _switch(desk, call, "DisableKey", KeyState.DISABLED)


def schedule_key_deletion(desk: Desk, call: Call) -> dict[str, Any]:
    """ScheduleKeyDeletion: after 7 to 30 days the material is gone for good."""
    days = call.get("PendingWindowInDays", DEFAULT_PENDING_DAYS)
    if not LEAST_PENDING_DAYS <= days <= MOST_PENDING_DAYS:
        raise invalid(f"PendingWindowInDays must be {LEAST_PENDING_DAYS} to {MOST_PENDING_DAYS}")
    key = desk.key(call, aliases=False)
    desk.authorize(call, "ScheduleKeyDeletion", key, more={"kms:ScheduleKeyDeletionPendingWindowInDays": (str(days),)})
    desk.not_pending(key)
    end = call.timestamp + days * DAY
    desk.store.set_state(key.id, KeyState.PENDING_DELETION, end, days)
    return {
        "KeyId": desk.names.arn(key.id),
        "DeletionDate": _date(end),
        "KeyState": KeyState.PENDING_DELETION.value,
        "PendingWindowInDays": days,
    }


def cancel_key_deletion(desk: Desk, call: Call) -> dict[str, Any]:
    """CancelKeyDeletion: the key is disabled then, as AWS leaves it."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "CancelKeyDeletion", key)
    if key.state is not KeyState.PENDING_DELETION:
        raise ServiceFault("KMSInvalidStateException", f"{desk.names.arn(key.id)} is not pending deletion")
    desk.store.set_state(key.id, KeyState.DISABLED)
    return {"KeyId": desk.names.arn(key.id)}


def enable_key_rotation(desk: Desk, call: Call) -> dict[str, Any]:
    """EnableKeyRotation; the first use after each period makes the next version."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "EnableKeyRotation", key)
    desk.usable(key)
    days = call.get("RotationPeriodInDays", DEFAULT_ROTATION_DAYS)
    desk.store.set_rotation(key.id, days, call.timestamp + days * DAY)
    return {}


def disable_key_rotation(desk: Desk, call: Call) -> dict[str, Any]:
    """DisableKeyRotation."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "DisableKeyRotation", key)
    desk.usable(key)
    desk.store.set_rotation(key.id, None, None)
    return {}


def get_key_rotation_status(desk: Desk, call: Call) -> dict[str, Any]:
    """GetKeyRotationStatus."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "GetKeyRotationStatus", key)
    desk.not_pending(key)
    response: dict[str, Any] = {
        "KeyId": desk.names.arn(key.id),
        "KeyRotationEnabled": key.rotation_days is not None,
    }
    if key.next_rotation is not None:
        response |= {"RotationPeriodInDays": key.rotation_days, "NextRotationDate": _date(key.next_rotation)}
    return response


def rotate_key_on_demand(desk: Desk, call: Call) -> dict[str, Any]:
    """RotateKeyOnDemand: a new version at once; ciphertexts of older ones stay valid."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "RotateKeyOnDemand", key)
    desk.usable(key)
    if key.version > MAX_ON_DEMAND_ROTATIONS:
        raise ServiceFault("LimitExceededException", f"a key is rotated on demand {MAX_ON_DEMAND_ROTATIONS} times")
    desk.store.rotate(key.id, call.timestamp)
    return {"KeyId": desk.names.arn(key.id)}


def _switch(desk: Desk, call: Call, action: str, state: KeyState) -> dict[str, Any]:
    key = desk.key(call, aliases=False)
    desk.authorize(call, action, key)
    desk.not_pending(key)
    desk.store.set_state(key.id, state)
    return {}


def _supported(call: Call) -> None:
    for name, only in (
        ("KeyUsage", "ENCRYPT_DECRYPT"),
        ("KeySpec", "SYMMETRIC_DEFAULT"),
        ("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"),
        ("Origin", "AWS_KMS"),
    ):
        if call.get(name, only) != only:
            raise ServiceFault("UnsupportedOperationException", f"{name} is {only} here")
    if call.get("MultiRegion") or "CustomKeyStoreId" in call.fields or "XksKeyId" in call.fields:
        raise ServiceFault("UnsupportedOperationException", "there are no multi-Region keys or custom key stores here")


def _date(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)


def _metadata(desk: Desk, key: KeyRecord) -> dict[str, Any]:
    metadata = {
        "AWSAccountId": desk.names.account,
        "KeyId": key.id,
        "Arn": desk.names.arn(key.id),
        "CreationDate": _date(key.created),
        "Enabled": key.state is KeyState.ENABLED,
        "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": key.state.value,
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
    }
    if key.deletion is not None:
        metadata["DeletionDate"] = _date(key.deletion)
    return metadata
