"""Lint: whether the gate holds for everyone (K01 to K03, K08, K09, K12, K14, K18)."""

from collections.abc import Iterator, Mapping, Sequence

from ephemeralml.keyrelease.policy import globs
from ephemeralml.keyrelease.policy.condition_keys import is_known
from ephemeralml.keyrelease.policy.document import Clause, Effect, KeyPolicy, PolicyDocument, Statement
from ephemeralml.keyrelease.policy.findings import Finding, Rule, Severity
from ephemeralml.keyrelease.policy.lint_around import working_roles
from ephemeralml.keyrelease.policy.lint_conditions import resembles_ours
from ephemeralml.keyrelease.policy.operators import Quantifier
from ephemeralml.keyrelease.policy.reach import (
    DECRYPT,
    PUT_POLICY,
    WAYS_OUT,
    Denial,
    accounts,
    closed,
    denial,
    denies_debug,
    fixes,
    gated,
    people,
    pins,
    reaching,
    register_of,
    registers,
)
from ephemeralml.keyrelease.policy.tuples import ZERO, ReleaseTuple

_WHO = ("aws:principalarn", "aws:principalaccount", "kms:calleraccount", "aws:userid")
_GATE = "gate it on ImageSha384, and deny kms:Decrypt to every other image as `kms policy render` does"
_CLOSE = "deny it to * as the statement NoOtherWayOut of `kms policy render` does"


def _sealed(policy: KeyPolicy) -> bool:
    """Return whether Denies alone keep Decrypt to listed registers, or to nobody."""
    return closed(policy) or any(True for _ in pins(policy))


def _releases(policy: KeyPolicy) -> list[Statement]:
    return reaching(policy, DECRYPT)


def ungated(policy: KeyPolicy) -> Iterator[Finding]:
    """K01."""
    if _sealed(policy):
        return
    for statement in _releases(policy):
        if people(statement) and not gated(statement):
            who = ", ".join(people(statement))[:200]
            yield Finding(
                Rule.K01,
                Severity.ERROR,
                statement.name,
                f"{who} may call kms:Decrypt without an attestation document of a listed image and read the data key",
                f"remove kms:Decrypt from the statement, or {_GATE}",
            )


def open_accounts(policy: KeyPolicy) -> Iterator[Finding]:
    """K02."""
    for statement in policy.of(Effect.ALLOW):
        open_actions = _opened_to_accounts(policy, statement)
        if open_actions:
            yield Finding(
                Rule.K02,
                Severity.ERROR,
                statement.name,
                f"any identity policy of {accounts(statement)[0]} that gives {', '.join(open_actions)} opens the key",
                "leave key use and its ways out of the account's statement, and deny them to *",
            )


def _opened_to_accounts(policy: KeyPolicy, statement: Statement) -> list[str]:
    if not accounts(statement):
        return []
    found = [
        action for action in WAYS_OUT[:3] if statement.covers_action(action) and not denial(policy, action).stops()
    ]
    if statement.covers_action(DECRYPT) and not gated(statement) and not _sealed(policy):
        found.insert(0, DECRYPT)
    return found


def anyone(policy: KeyPolicy) -> Iterator[Finding]:
    """K03."""
    for statement in policy.of(Effect.ALLOW):
        named = any(one.anyone for one in statement.principals)
        if named and not any(_fixes_who(clause) for clause in statement.clauses):
            yield Finding(
                Rule.K03,
                Severity.ERROR,
                statement.name,
                "every principal of this account, and of others that allow it to themselves, is named",
                "name the roles that are meant",
            )


def _fixes_who(clause: Clause) -> bool:
    """Return whether a clause admits listed callers or accounts only."""
    operator = clause.operator
    if clause.key.lower() not in _WHO:
        return False
    if fixes(clause):
        return True
    arn = operator.name in ("ArnEquals", "ArnLike") and not operator.if_exists and bool(clause.values)
    return arn and operator.quantifier is not Quantifier.ALL and all(map(_fixed_account, clause.values))


def _fixed_account(arn: str) -> bool:
    parts = arn.split(":", 5)
    return len(parts) == 6 and bool(parts[4]) and not globs.has_wildcard(parts[4]) and "${" not in arn


def denies(policy: KeyPolicy) -> Iterator[Finding]:
    """K08 and K12."""
    findings = [*_decrypt_denies(policy), *_way_out_denies(policy)]
    any_deny = any(denial(policy, action) != Denial((), None, ()) for action in (DECRYPT, *WAYS_OUT))
    if any_deny:
        yield from findings
        return
    open_ways = [action for action in WAYS_OUT if any(people(statement) for statement in reaching(policy, action))]
    for action in open_ways:
        statement = next(statement for statement in reaching(policy, action) if people(statement))
        yield _way_out(statement.name, action, "nothing denies it")
    if not open_ways and not any(ungated(policy)) and not any(open_accounts(policy)):
        yield _no_deny("")


def _decrypt_denies(policy: KeyPolicy) -> Iterator[Finding]:
    found = denial(policy, DECRYPT)
    if found.complete:
        loose = not _keeps_to_images(policy) and not any(ungated(policy)) and not any(open_accounts(policy))
        if loose and not any(finding.severity is Severity.ERROR for finding in weak_registers(policy)):
            yield Finding(
                Rule.K08,
                Severity.ERROR,
                found.complete[0].name,
                "the Deny asks for a document and not for yours: a grant opens the key to anyone's enclave",
                "deny kms:Decrypt with StringNotEqualsIgnoreCase on kms:RecipientAttestation:ImageSha384",
            )
        return
    gaps = [(statement, gap) for statement, gap in found.gaps if not _about_debug(statement)]
    for statement, gap in gaps:
        yield Finding(
            Rule.K08,
            Severity.ERROR,
            statement.name,
            f"kms:Decrypt without a document is not denied to everyone: {gap}",
            'deny it to "Principal": "*" with StringNotEqualsIgnoreCase on kms:RecipientAttestation:ImageSha384',
        )
    if not gaps and not any(ungated(policy)) and not any(open_accounts(policy)):
        yield _no_deny("of kms:Decrypt ")


def _keeps_to_images(policy: KeyPolicy) -> bool:
    """Return whether the Denies of Decrypt alone keep it to listed images or certificates."""
    listed = {index: values for _, index, values in pins(policy)}
    parts = all(len(listed.get(index, ())) == 1 for index in (1, 2))
    return closed(policy) or 0 in listed or parts or (8 in listed and denies_debug(policy))


def _about_debug(statement: Statement) -> bool:
    """Return whether a Deny is about debug launches, and not meant to stop an absent document."""
    return any(register_of(clause.key) == 0 and set(clause.values) == {ZERO} for clause in statement.clauses)


def _no_deny(what: str) -> Finding:
    return Finding(
        Rule.K12,
        Severity.WARNING,
        "",
        f"no Deny {what}stands behind the conditions: a grant or the next Allow opens the key",
        "add the statements OnlyAttested and NoOtherWayOut that `kms policy render` writes",
    )


def _way_out_denies(policy: KeyPolicy) -> Iterator[Finding]:
    for action in WAYS_OUT:
        found = denial(policy, action)
        if found.complete:
            continue
        if found.excepted is not None:
            yield Finding(
                Rule.K08,
                Severity.WARNING,
                next(iter(_excepting(policy, action)), ""),
                f"{found.excepted} alone may call {action}: it can move every data key under a key with another policy",
                "keep this role for rewrapping, and watch its use",
            )
            continue
        statement, gap = found.gaps[0] if found.gaps else (None, "no Deny names it")
        if statement is None and any(True for _ in _excepting(policy, action)):
            gap = "the Denies leave different principals out"
        yield _way_out(statement.name if statement is not None else "", action, gap)


def _excepting(policy: KeyPolicy, action: str) -> Iterator[str]:
    return (statement.name for statement in policy.of(Effect.DENY) if statement.covers_action(action))


_MEANING = {
    "kms:ReEncryptFrom": "moves a data key under another key, and takes no document",
    "kms:CreateGrant": "gives Decrypt beside the policy",
    "kms:ReplicateKey": "makes a copy of the key with a policy of its own",
    "kms:ImportKeyMaterial": "puts known key material in place",
    "kms:DeriveSharedSecret": "derives secrets from the key",
}


def _way_out(statement: str, action: str, gap: str) -> Finding:
    return Finding(
        Rule.K08,
        Severity.ERROR,
        statement,
        f"{action} is not denied to everyone ({gap}): it {_MEANING[action]}",
        _CLOSE,
    )


def tuples(policy: KeyPolicy, wanted: Sequence[ReleaseTuple]) -> Iterator[Finding]:
    """K09."""
    releases = [registers(statement) for statement in _releases(policy) if registers(statement)]
    loose = [statement for statement in _releases(policy) if not registers(statement)]
    if closed(policy) and (releases or loose):
        name = next(iter(_excepting(policy, DECRYPT)), "")
        yield _differ(name, "a Deny without a condition refuses every image that Release statements list")
    for statement, index, listed in pins(policy):
        released = set().union(*(release.get(index, set()) for release in releases))
        partly = bool(loose) or any(index not in release for release in releases)
        for value in sorted(released - listed):
            yield _differ(statement.name, f"the image with PCR{index} {value[:16]}… is released and denied")
        for value in sorted(listed - released if not partly else ()):
            yield _differ(statement.name, f"PCR{index} {value[:16]}… stays in the Deny's list, and nothing releases it")
    if wanted:
        yield from _against(policy, wanted)


def _against(policy: KeyPolicy, wanted: Sequence[ReleaseTuple]) -> Iterator[Finding]:
    """Compare the policy with the images that should get the key."""
    releases = [(statement, registers(statement)) for statement in _releases(policy)]
    for one in wanted:
        held = {index: value.hex() for index, value in one.registers.items()}
        fits = any(release and _within(release, held) for _, release in releases)
        stopped = any(index in held and held[index] not in listed for _, index, listed in pins(policy))
        if not fits or stopped or closed(policy):
            yield _differ("", f"the image {one.name!a} should get the key and does not")
    for statement, release in releases:
        if release and not any(
            _within(release, {index: value.hex() for index, value in one.registers.items()}) for one in wanted
        ):
            yield _differ(statement.name, "it releases the key to an image that is not among those given")


def _within(release: Mapping[int, set[str]], held: Mapping[int, str]) -> bool:
    return all(held.get(index) in listed for index, listed in release.items())


def _differ(statement: str, path: str) -> Finding:
    return Finding(Rule.K09, Severity.ERROR, statement, path, "let `kms policy apply` write both from the same tuples")


def weak_registers(policy: KeyPolicy) -> Iterator[Finding]:
    """K14."""
    denied = {index for _, index, _ in pins(policy)}
    for statement in _releases(policy):
        own = {
            index for clause in statement.clauses if (index := register_of(clause.key)) is not None and fixes(clause)
        }
        fixed = denied | own
        if not fixed or closed(policy) or 0 in fixed or {1, 2} <= own:
            continue  # nothing fixed is K01's; PCR1 and PCR2 are the image in two parts, if of one tuple
        names = ", ".join(f"PCR{index}" for index in sorted(fixed))
        if 8 not in fixed:
            yield Finding(
                Rule.K14,
                Severity.ERROR,
                statement.name,
                f"{names} say nothing about the whole image: an image with other code in it gets the key",
                "add kms:RecipientAttestation:ImageSha384",
            )
        elif not denies_debug(policy):
            yield Finding(
                Rule.K14,
                Severity.ERROR,
                statement.name,
                "PCR8 alone: a signed image launched in debug mode gets the key, and the host reads its memory",
                "deny kms:Decrypt where ImageSha384 is 96 zeros",
            )
        else:
            yield Finding(
                Rule.K14,
                Severity.WARNING,
                statement.name,
                "any image ever signed with this certificate gets the key, old ones with known faults too",
                "pin the image (PCR0 to PCR2), or rotate the certificate with every release",
            )


def unproven(policy: KeyPolicy, identity_policies: Mapping[str, Sequence[PolicyDocument]]) -> Iterator[Finding]:
    """K18."""
    for statement in policy.of(Effect.ALLOW):
        if not any(statement.covers_action(action) for action in (DECRYPT, *WAYS_OUT)):
            continue
        for reason in _open_questions(statement):
            yield Finding(
                Rule.K18,
                Severity.UNPROVEN,
                statement.name,
                f"whether the statement reaches {DECRYPT} or a way out cannot be proven: {reason}",
                "name actions, principals and conditions plainly",
            )
    yield from _unknown_identity_policies(policy, identity_policies)


def _open_questions(statement: Statement) -> Iterator[str]:
    for field, present in (
        ("NotAction", statement.not_actions),
        ("NotPrincipal", statement.not_principals),
        ("NotResource", statement.not_resources),
    ):
        if present:
            yield f"it has {field}"
    for clause in statement.clauses:
        if not clause.operator.known:
            yield f"the operator {clause.operator.text[:64]!a} is unknown"
        elif any("${" in value for value in clause.values):
            yield f"the value of {clause.key[:64]!a} is a policy variable"
        elif not is_known(clause.key) and not resembles_ours(clause.key):
            yield f"the condition key {clause.key[:64]!a} is unknown"
    if any("${" in resource for resource in statement.resources):
        yield "its resource is a policy variable"


def _unknown_identity_policies(
    policy: KeyPolicy, identity_policies: Mapping[str, Sequence[PolicyDocument]]
) -> Iterator[Finding]:
    for statement in policy.of(Effect.ALLOW):
        if not accounts(statement) or _opened_to_accounts(policy, statement):
            continue
        delegated = [
            action
            for action in (PUT_POLICY, *WAYS_OUT, DECRYPT)
            if statement.covers_action(action) and not denial(policy, action).stops()
        ]
        missing = sorted(working_roles(policy) - set(identity_policies))
        if delegated and missing:
            yield Finding(
                Rule.K18,
                Severity.UNPROVEN,
                statement.name,
                f"it leaves {delegated[0]} to identity policies, and those of {missing[0]} were not given",
                f"give them with --identity-policy {missing[0]}=FILE",
            )
