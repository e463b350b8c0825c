"""Whether a key's policy, grants and the caller's own policies allow a request (key-release.md section 5).

The local KMS and the simulator ask this one function.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ephemeralml.keyrelease.policy.conditions import CONTEXT, CONTEXT_KEYS, GRANT_OPERATIONS
from ephemeralml.keyrelease.policy.document import Effect, KeyPolicy, Named, PolicyDocument, Statement
from ephemeralml.keyrelease.policy.principals import account_of, identity, same

_NOBODY: Mapping[str, Sequence[PolicyDocument]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant: operations for one principal, beside the key policy."""

    id: str
    grantee: str
    operations: tuple[str, ...]
    """Bare names, such as ``Decrypt``."""
    context_equals: Mapping[str, str] | None = None
    context_subset: Mapping[str, str] | None = None
    retiring: str | None = None
    name: str = ""

    def allows(self, request: "Request", context: Mapping[str, str]) -> bool:
        """Return whether it allows *request*; its constraint has to hold for *context*.

        Who makes grants by a grant gives away nothing that the grant has not.
        """
        if request.action.removeprefix("kms:") not in self.operations or not same(self.grantee, request.principal):
            return False
        if not set(request.conditions.get(GRANT_OPERATIONS.lower(), ())) <= set(self.operations):
            return False
        if self.context_equals is not None and dict(context) != dict(self.context_equals):
            return False
        return self.context_subset is None or self.context_subset.items() <= context.items()


@dataclass(frozen=True, slots=True)
class Request:
    """What someone asks of a key."""

    principal: str
    action: str
    """With its service: ``kms:Decrypt``."""
    resource: str
    """The key's ARN."""
    conditions: Mapping[str, tuple[str, ...]]
    """From `conditions.build`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and what decided."""

    allowed: bool
    statement: str
    """Name of the deciding statement or grant; empty where none speaks of the request."""
    reason: str
    """One sentence, for an audit log or a person."""


def evaluate(
    request: Request,
    *,
    policy: KeyPolicy,
    grants: Sequence[Grant] = (),
    identity_policies: Mapping[str, Sequence[PolicyDocument]] = _NOBODY,
    scps: Sequence[PolicyDocument] = (),
    account: str,
) -> Decision:
    """Decide a request as AWS does.

    1. A Deny of the key policy, of the caller's identity policies or of a
       service control policy that matches: denied.
    2. A key-policy Allow that names the caller; a grant; or a key-policy Allow
       for the account together with an identity-policy Allow: allowed. A caller
       of another account needs an identity-policy Allow in every case.
    3. Else denied.

    Of a service control policy only its Denies count here.
    """
    asked = _Asked(request, {name.lower(): values for name, values in request.conditions.items()})
    own = [document for arn, items in identity_policies.items() if same(arn, request.principal) for document in items]
    # 1.
    for where, statement in _denies(request.principal, policy, own, scps, account):
        if asked.matches(statement):
            return Decision(False, statement.name, f"{where} statement {statement.name} denies {request.action}")
    # 2. and 3.
    allowing = next((one for document in own for one in document.of(Effect.ALLOW) if asked.matches(one)), None)
    if _is_foreign(request.principal, account) and allowing is None:
        return Decision(False, "", f"another account, and no identity policy allows {request.action}")
    return _allowed(asked, policy, grants, allowing)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request with its condition keys in lower case."""

    request: Request
    conditions: Mapping[str, tuple[str, ...]]

    def matches(self, statement: Statement) -> bool:
        """Return whether actions, resource and conditions match; principals are the caller's business."""
        return (
            statement.covers_action(self.request.action)
            and statement.covers_resource(self.request.resource)
            and statement.conditions_hold(self.conditions)
        )


def _allowed(asked: _Asked, policy: KeyPolicy, grants: Sequence[Grant], allowing: Statement | None) -> Decision:
    request = asked.request
    matching = [statement for statement in policy.of(Effect.ALLOW) if asked.matches(statement)]
    for statement in matching:
        if _names_directly(statement, request.principal):
            return Decision(True, statement.name, f"key policy statement {statement.name} allows {request.action}")
    delegating = next((statement for statement in matching if _names_account(statement, request.principal)), None)
    if delegating is not None and allowing is not None:
        reason = f"{delegating.name} leaves it to the account, whose {allowing.name} allows it"
        return Decision(True, delegating.name, reason)
    context = context_of(asked.conditions) if grants else {}
    for grant in grants:
        if grant.allows(request, context):
            return Decision(True, f"grant {grant.name or grant.id}", f"a grant allows {request.action}")
    if delegating is not None:
        return Decision(False, "", f"{delegating.name} leaves it to the account, and no identity policy allows it")
    return Decision(False, "", f"nothing allows {request.action} to this principal under these conditions")


def _denies(
    principal: str,
    policy: KeyPolicy,
    own: Sequence[PolicyDocument],
    scps: Sequence[PolicyDocument],
    account: str,
) -> Iterator[tuple[str, Statement]]:
    for statement in policy.of(Effect.DENY):
        if _denial_names(statement, principal):
            yield "key policy", statement
    for document in own:
        yield from (("identity policy", statement) for statement in document.of(Effect.DENY))
    if not _is_foreign(principal, account):
        for document in scps:
            yield from (("service control policy", statement) for statement in document.of(Effect.DENY))


def _is_foreign(principal: str, account: str) -> bool:
    who = identity(principal)
    return who is not None and who.account != account


def _is(one: Named, principal: str) -> bool:
    return one.anyone or (one.value == principal if one.kind != "AWS" else same(one.value, principal))


def _of_account(one: Named, principal: str) -> bool:
    who = identity(principal)
    return one.kind == "AWS" and who is not None and account_of(one.value) == who.account


def _names_directly(statement: Statement, principal: str) -> bool:
    if statement.not_principals:
        return not any(_is(one, principal) or _of_account(one, principal) for one in statement.not_principals)
    return any(_is(one, principal) for one in statement.principals)


def _names_account(statement: Statement, principal: str) -> bool:
    return any(_of_account(one, principal) for one in statement.principals)


def _denial_names(statement: Statement, principal: str) -> bool:
    """Return whether a Deny is about *principal*: an account it names is everyone in it."""
    if statement.not_principals:
        return not any(_is(one, principal) for one in statement.not_principals)
    return any(_is(one, principal) or _of_account(one, principal) for one in statement.principals)


def context_of(conditions: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the encryption context that lower-case *conditions* carry, with its own letter case."""
    context: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for name in conditions.get(CONTEXT_KEYS.lower(), ()):
        key = f"{CONTEXT}{name}".lower()
        context[name] = conditions[key][taken[key]]
        taken[key] += 1
    return context
