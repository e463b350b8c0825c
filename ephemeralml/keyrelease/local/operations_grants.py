"""Operations on grants. A grant here is in force as soon as it is acknowledged."""

import secrets
from itertools import islice
from typing import Any

from ephemeralml.keyrelease.local.call import Call
from ephemeralml.keyrelease.local.desk import Desk, dry_run, grant_tokens
from ephemeralml.keyrelease.local.faults import ServiceFault, invalid
from ephemeralml.keyrelease.local.paging import page
from ephemeralml.keyrelease.local.records import GrantRecord
from ephemeralml.keyrelease.policy.conditions import GRANT_OPERATIONS
from ephemeralml.keyrelease.policy.principals import last_name

MAX_GRANTS = 50_000
"""Of one key, as AWS bounds them."""
SUPPORTED = frozenset(
    {
        *("Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"),
        *("ReEncryptFrom", "ReEncryptTo", "CreateGrant", "RetireGrant", "DescribeKey"),
    }
)
"""Operations of symmetric keys that a grant can give."""


def create_grant(desk: Desk, call: Call) -> dict[str, Any]:
    """CreateGrant; one that is asked for again under its name is the one that is there."""
    operations = tuple(call.fields["Operations"])
    if not operations or not set(operations) <= SUPPORTED:
        raise invalid("Operations must be operations that a grant of a symmetric key can give, and one at least")
    if any(name in call.fields for name in ("GranteeServicePrincipal", "RetiringServicePrincipal")):
        raise invalid("there are no service principals here")
    if "GranteePrincipal" not in call.fields:
        raise invalid("GranteePrincipal is missing")
    constraints = call.get("Constraints", {})
    equals, subset = constraints.get("EncryptionContextEquals"), constraints.get("EncryptionContextSubset")
    if "SourceArn" in constraints:
        raise invalid("there are no constraints on sources here")
    key = desk.key(call, aliases=False)
    grant_tokens(desk, call)
    desk.authorize(call, "CreateGrant", key, more=_conditions(call, operations, equals, subset))
    desk.usable(key)
    grant = GrantRecord(
        id=secrets.token_hex(32),
        key_id=key.id,
        token=secrets.token_urlsafe(64),
        created=call.timestamp,
        grantee=call.fields["GranteePrincipal"],
        operations=operations,
        issuer=call.principal.arn,
        retiring=call.get("RetiringPrincipal"),
        name=call.get("Name"),
        context_equals=equals,
        context_subset=subset,
    )
    for other in desk.store.grants_naming(key.id, last_name(grant.grantee)) if grant.name is not None else ():
        if _wish(other) == _wish(grant):
            return {"GrantId": other.id, "GrantToken": other.token}
    if desk.store.count_grants(key.id) >= MAX_GRANTS:
        raise ServiceFault("LimitExceededException", f"a key has at most {MAX_GRANTS} grants")
    dry_run(call)
    desk.store.add_grant(grant)
    return {"GrantId": grant.id, "GrantToken": grant.token}


def list_grants(desk: Desk, call: Call) -> dict[str, Any]:
    """ListGrants, all of a key, or those of one grantee or id."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "ListGrants", key)
    desk.not_pending(key)
    wanted, grantee = call.get("GrantId"), call.get("GranteePrincipal")

    def after(last: str, limit: int) -> list[tuple[str, Any]]:
        found = desk.store.grants(key.id, last)
        chosen = (
            grant
            for grant in found
            if (wanted is None or grant.id == wanted) and (grantee is None or grant.grantee == grantee)
        )
        return [(grant.id, _rendered(desk, grant)) for grant in islice(chosen, limit)]

    if wanted is not None and not after("", 1):
        raise ServiceFault("InvalidGrantIdException", "the key has no grant of that id")
    return page(
        desk,
        call,
        "Grants",
        scope=f"grants/{key.id}/{wanted or ''}/{grantee or ''}",
        default=50,
        most=100,
        after=after,
    )


def revoke_grant(desk: Desk, call: Call) -> dict[str, Any]:
    """RevokeGrant."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "RevokeGrant", key)
    desk.not_pending(key)
    if not any(grant.id == call.fields["GrantId"] for grant in desk.store.grants(key.id)):
        raise ServiceFault("InvalidGrantIdException", "the key has no grant of that id")
    dry_run(call)
    desk.store.remove_grant(key.id, call.fields["GrantId"])
    return {}


def _conditions(call: Call, operations: tuple[str, ...], equals: Any, subset: Any) -> dict[str, tuple[str, ...]]:
    more = {
        GRANT_OPERATIONS: operations,
        "kms:GranteePrincipal": (call.fields["GranteePrincipal"],),
        "kms:GrantIsForAWSResource": ("false",),
    }
    if "RetiringPrincipal" in call.fields:
        more["kms:RetiringPrincipal"] = (call.fields["RetiringPrincipal"],)
    if equals is not None:
        more["kms:GrantConstraintType"] = ("EncryptionContextEquals",)
    elif subset is not None:
        more["kms:GrantConstraintType"] = ("EncryptionContextSubset",)
    return more


def _wish(grant: GrantRecord) -> tuple[Any, ...]:
    return (
        *(grant.name, grant.grantee, set(grant.operations), grant.retiring),
        *(grant.context_equals, grant.context_subset),
    )


def _rendered(desk: Desk, grant: GrantRecord) -> dict[str, Any]:
    constraints = {
        name: dict(value)
        for name, value in (
            ("EncryptionContextEquals", grant.context_equals),
            ("EncryptionContextSubset", grant.context_subset),
        )
        if value is not None
    }
    rendered = {
        "KeyId": desk.names.arn(grant.key_id),
        "GrantId": grant.id,
        "Name": grant.name or "",
        "CreationDate": grant.created,
        "GranteePrincipal": grant.grantee,
        "IssuingAccount": grant.issuer,
        "Operations": list(grant.operations),
    }
    if grant.retiring is not None:
        rendered["RetiringPrincipal"] = grant.retiring
    return rendered | ({"Constraints": constraints} if constraints else {})
