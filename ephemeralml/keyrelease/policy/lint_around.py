"""Lint of what stands around a policy: grants, the key, who may change the policy (K10, K15 to K17)."""

from collections.abc import Iterator, Mapping, Sequence

from ephemeralml.keyrelease.policy.document import Effect, KeyPolicy, PolicyDocument, Statement
from ephemeralml.keyrelease.policy.evaluate import Grant
from ephemeralml.keyrelease.policy.findings import Finding, Rule, Severity
from ephemeralml.keyrelease.policy.key_facts import KeyFacts
from ephemeralml.keyrelease.policy.principals import account_of, identity, same
from ephemeralml.keyrelease.policy.reach import (
    DECRYPT,
    PUT_POLICY,
    REWRAP,
    accounts,
    denial,
    people,
    reaching,
    registers,
)

_PUBLISHING = ("kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:Encrypt")
_FORBIDDEN = (PUT_POLICY, REWRAP, "kms:CreateGrant", "kms:ReplicateKey")
_GRANTED = ("Decrypt", "ReEncryptFrom", "CreateGrant")


def grants(policy: KeyPolicy, given: Sequence[Grant]) -> Iterator[Finding]:
    """K10."""
    for grant in given:
        for operation in _GRANTED:
            if operation in grant.operations:
                covered = denial(policy, f"kms:{operation}").stops(grant.grantee)
                yield Finding(
                    Rule.K10,
                    Severity.WARNING if covered else Severity.ERROR,
                    f"grant {grant.name or grant.id}",
                    f"{grant.grantee} has {operation} by a grant, beside the policy's conditions"
                    + (", and a Deny stops it without a document" if covered else ""),
                    f"revoke the grant {grant.id}",
                )


def working_roles(policy: KeyPolicy) -> set[str]:
    """Return the principals that publish or host: whom an Allow of Decrypt or of wrapping names."""
    return {
        one.value
        for action in (DECRYPT, *_PUBLISHING)
        for statement in reaching(policy, action)
        for one in statement.principals
        if one.kind == "AWS" and not one.anyone and account_of(one.value) is None
    }


def _is_about(statement: Statement, role: str) -> bool:
    if statement.not_principals:
        return not any(same(one.value, role) for one in statement.not_principals)
    return any(
        one.anyone or (one.kind == "AWS" and (same(one.value, role) or same(role, one.value)))
        for one in statement.principals
    )


def policy_writers(policy: KeyPolicy, own: Mapping[str, Sequence[PolicyDocument]]) -> Iterator[Finding]:
    """K15 and K17."""
    for role in sorted(working_roles(policy)):
        for action in _FORBIDDEN:
            via = None if denial(policy, action).stops(role) else _reached(policy, own, role, action)
            if via is not None:
                yield Finding(
                    Rule.K15,
                    Severity.ERROR,
                    via,
                    f"{role} works with the key and may call {action}: who takes over that machine opens the key",
                    f"leave {action} to an administrator's role",
                )
    yield _who_and_when(policy)


def _reached(policy: KeyPolicy, own: Mapping[str, Sequence[PolicyDocument]], role: str, action: str) -> str | None:
    who = identity(role)
    for statement in reaching(policy, action):
        if _is_about(statement, role):
            return statement.name
        if who is not None and any(account_of(account) == who.account for account in accounts(statement)):
            documents = [one for arn, items in own.items() if same(arn, role) or same(role, arn) for one in items]
            if any(allow.covers_action(action) for one in documents for allow in one.of(Effect.ALLOW)):
                return statement.name
    return None


def _who_and_when(policy: KeyPolicy) -> Finding:
    writing = reaching(policy, PUT_POLICY)
    named = sorted({who for statement in writing for who in people(statement)})
    delegated = sorted({account for statement in writing for account in accounts(statement)})
    who = [*named, *(f"whoever identity policies of {account} allow it" for account in delegated)]
    ends = [
        f"{statement.name} ends {clause.values[0]}"
        for statement in reaching(policy, DECRYPT)
        for clause in statement.clauses
        if clause.operator.name.startswith("DateLess") and registers(statement) and clause.values
    ]
    text = f"the policy can be changed by {', '.join(who)}" if who else "nobody can change the policy"
    alone = not delegated and len(named) < 2
    fix = (
        "if that one role is lost, nobody can change it any more (on AWS: ask AWS support): consider a second one"
        if alone
        else "watch PutKeyPolicy"
    )
    return Finding(Rule.K17, Severity.INFO, "", "; ".join([text, *ends]), fix)


def key_facts(key: KeyFacts | None) -> Iterator[Finding]:
    """K16."""
    if key is None:
        return
    wrong = [
        ("MultiRegion", key.multi_region in (None, False), "a replica has a policy of its own"),
        ("Origin", key.origin in (None, "AWS_KMS"), "the key's material is known or kept outside KMS"),
        ("KeySpec", key.spec in (None, "SYMMETRIC_DEFAULT"), "it does not wrap data keys with a context"),
        ("KeyUsage", key.usage in (None, "ENCRYPT_DECRYPT"), "it does not wrap data keys"),
    ]
    for name, right, meaning in wrong:
        if not right:
            fix = "make a single-Region symmetric key with origin AWS_KMS, and rewrap the packages"
            yield Finding(Rule.K16, Severity.ERROR, name, f"{name} is not as it must be: {meaning}", fix)
    if key.rotation is False:
        yield Finding(
            Rule.K16, Severity.WARNING, "rotation", "rotation is off: one key wraps for ever", "kms enable-key-rotation"
        )
