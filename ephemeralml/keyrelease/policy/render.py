"""Write the key policy of a model key (key-release.md section 4).

What comes out was read back and linted, so a policy with a way around the gate
is never written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from ephemeralml import clock
from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy.conditions import IMAGE, register_key
from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.findings import Severity
from ephemeralml.keyrelease.policy.lint import Subject, lint
from ephemeralml.keyrelease.policy.principals import identity
from ephemeralml.keyrelease.policy.reach import WAYS_OUT
from ephemeralml.keyrelease.policy.tuples import ZERO, ReleaseTuple

ADMINISTER = tuple(
    f"kms:{name}"
    for name in (
        *("DescribeKey", "GetKeyPolicy", "PutKeyPolicy", "ListResourceTags", "TagResource", "UntagResource"),
        *("EnableKey", "DisableKey", "EnableKeyRotation", "GetKeyRotationStatus", "ListGrants", "RevokeGrant"),
        *("ScheduleKeyDeletion", "CancelKeyDeletion", "CreateAlias", "DeleteAlias"),
    )
)
"""What an administrator may: everything but the key's use and its ways out."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Who stands in a policy."""

    administrators: tuple[str, ...]
    publishers: tuple[str, ...]
    parents: tuple[str, ...]
    rewrap: str | None = None
    """The one role that may move data keys from this key under another, and from another under this one."""
    delegate_to: str | None = None
    """ARN of the account root, if identity policies may give administration."""


def render(roles: Roles, models: Sequence[str], tuples: Sequence[ReleaseTuple], template: str) -> KeyPolicy:
    """Return the policy; without tuples it is closed: nothing is released yet.

    Args:
        roles: Whom it names.
        models: Model ids whose packages the key wraps.
        tuples: The images that get the key.
        template: Text of ``templates/kms-policy.json.j2``.

    Raises:
        MalformedError: A principal that is no ARN of a user or role, roles
            that overlap, tuples of both kinds, no model, or a result that is
            too long or that lint refuses.
    """
    _check(roles, models, tuples)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - JSON, no HTML
    text = environment.from_string(template).render(_values(roles, models, tuples))
    policy = KeyPolicy.parse(text + "\n")
    bad = [finding for finding in lint(Subject(policy, tuples=tuple(tuples))) if finding.severity is Severity.ERROR]
    if bad:
        raise MalformedError(f"the policy would not be safe: {bad[0].rule.name}: {bad[0].path}", hint=bad[0].fix)
    return policy


def release_conditions(one: ReleaseTuple) -> dict[str, str]:
    """Return a tuple's registers under their condition keys."""
    keys = {index: IMAGE if index == 0 else register_key(index) for index in sorted(one.registers)}
    return {key: one.value(index) for index, key in keys.items()}


def only_attested(tuples: Sequence[ReleaseTuple]) -> dict[str, list[str]]:
    """Return what the Deny compares: every tuple's image, or every certificate."""
    register, key = (8, register_key(8)) if tuples[0].signer_only else (0, IMAGE)
    return {key: sorted({one.value(register) for one in tuples})}


def _values(roles: Roles, models: Sequence[str], tuples: Sequence[ReleaseTuple]) -> Mapping[str, Any]:
    releases = [
        {
            "sid": f"Release{number}",
            "registers": release_conditions(one),
            "until": clock.format_rfc3339(one.until) if one.until is not None else None,
        }
        for number, one in enumerate(tuples, 1)
    ]
    return {
        "administrators": _one_or_list(roles.administrators),
        "administer": list(ADMINISTER),
        "delegate": roles.delegate_to,
        "lookers": _one_or_list((*roles.publishers, *roles.parents, *([roles.rewrap] if roles.rewrap else []))),
        "publishers": _one_or_list(roles.publishers),
        "parents": _one_or_list(roles.parents),
        "rewrap": roles.rewrap,
        "models": _one_or_list(tuple(models)),
        "releases": releases,
        "only": only_attested(tuples) if tuples else {},
        "signer_only": bool(tuples) and tuples[0].signer_only,
        "zero": ZERO,
        "ways_out": [action for action in WAYS_OUT if action != "kms:ReEncryptFrom" or roles.rewrap is None],
    }


def _one_or_list(items: tuple[str, ...]) -> str | list[str]:
    return items[0] if len(items) == 1 else list(items)


def _check(roles: Roles, models: Sequence[str], tuples: Sequence[ReleaseTuple]) -> None:
    groups = (roles.administrators, roles.publishers, roles.parents, (roles.rewrap,) if roles.rewrap else ())
    if not all(groups[:3]) or not models:
        raise MalformedError("an administrator, a publisher, a parent role and a model id are needed")
    named = [arn for group in groups for arn in group]
    for arn in named:
        who = identity(arn)
        if who is None or who.kind not in ("role", "user") or who.session is not None:
            raise MalformedError(f"{arn[:200]!a} is no ARN of a role or user")
    if len(set(named)) != len(named):
        raise MalformedError(
            "one principal has two roles", hint="who administers, publishes, hosts or rewraps are four different people"
        )
    if any("${" in model or len(model) > 256 or not model for model in models):
        raise MalformedError("a model id is a text of 1 to 256 characters without policy variables")
    if len({one.signer_only for one in tuples}) > 1:
        raise MalformedError("tuples of images and of certificates in one policy", hint="use one kind")
