"""Operations on key policies."""

from typing import Any

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.local.call import Call
from ephemeralml.keyrelease.local.desk import Desk, parsed_policy
from ephemeralml.keyrelease.local.faults import ServiceFault, not_found
from ephemeralml.keyrelease.local.paging import page
from ephemeralml.keyrelease.policy.document import MAX_POLICY_BYTES

NAME = "default"
"""The one name that a key's policy has."""


def get_key_policy(desk: Desk, call: Call) -> dict[str, Any]:
    """GetKeyPolicy."""
    _named(call)
    key = desk.key(call, aliases=False)
    desk.authorize(call, "GetKeyPolicy", key)
    return {"Policy": key.policy, "PolicyName": NAME}


def put_key_policy(desk: Desk, call: Call) -> dict[str, Any]:
    """PutKeyPolicy: only what parses, and under which the caller could put the next one."""
    _named(call)
    key = desk.key(call, aliases=False)
    bypass = call.get("BypassPolicyLockoutSafetyCheck", False)
    more = {"kms:BypassPolicyLockoutSafetyCheck": ("true" if bypass else "false",)}
    desk.authorize(call, "PutKeyPolicy", key, more=more)
    desk.not_pending(key)
    policy = call.fields["Policy"]
    checked_policy(desk, call, desk.names.arn(key.id), policy)
    desk.store.set_policy(key.id, policy)
    return {}


def list_key_policies(desk: Desk, call: Call) -> dict[str, Any]:
    """ListKeyPolicies: there is one."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "ListKeyPolicies", key)
    return page(
        desk,
        call,
        "PolicyNames",
        scope=f"policies/{key.id}",
        default=100,
        after=lambda last, _: [(NAME, NAME)] if last < NAME else [],
    )


def checked_policy(desk: Desk, call: Call, arn: str, policy: str) -> None:
    """Refuse a policy that does not parse, has operators that KMS does not know, or locks the caller out.

    Raises:
        ServiceFault: LimitExceededException or MalformedPolicyDocumentException.
    """
    if len(policy.encode()) > MAX_POLICY_BYTES:
        raise ServiceFault("LimitExceededException", f"a key policy has at most {MAX_POLICY_BYTES} bytes")
    try:
        unknown = parsed_policy(policy).unknown_operators
    except MalformedError as error:
        raise ServiceFault("MalformedPolicyDocumentException", error.message) from error
    if unknown:
        raise ServiceFault("MalformedPolicyDocumentException", f"there is no operator {unknown[0][:64]!a}")
    if call.get("BypassPolicyLockoutSafetyCheck"):
        return
    more = {"kms:BypassPolicyLockoutSafetyCheck": ("false",)}
    if not desk.decide(call, "kms:PutKeyPolicy", arn, policy, more=more).allowed:
        raise ServiceFault(
            "MalformedPolicyDocumentException",
            "the new key policy will not allow you to update the key policy in the future",
        )


def _named(call: Call) -> None:
    if call.get("PolicyName", NAME) != NAME:
        raise not_found("a policy of that name")
