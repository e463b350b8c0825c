"""Find the ways around the gate in a key policy (key-release.md section 5).

A policy without an error and without anything unproven admits no path to
plaintext without a document, save by a change of the policy itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from ephemeralml.keyrelease.policy.document import KeyPolicy, PolicyDocument
from ephemeralml.keyrelease.policy.evaluate import Grant
from ephemeralml.keyrelease.policy.findings import Finding, Severity
from ephemeralml.keyrelease.policy.key_facts import KeyFacts
from ephemeralml.keyrelease.policy.lint_actions import unknown_actions
from ephemeralml.keyrelease.policy.lint_around import grants, key_facts, policy_writers
from ephemeralml.keyrelease.policy.lint_conditions import (
    cross_products,
    missing_context,
    unknown_keys,
    useless_conditions,
    values,
    weak_operators,
)
from ephemeralml.keyrelease.policy.lint_gate import (
    anyone,
    denies,
    open_accounts,
    tuples,
    ungated,
    unproven,
    weak_registers,
)
from ephemeralml.keyrelease.policy.tuples import ReleaseTuple


def _none() -> Mapping[str, Sequence[PolicyDocument]]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Subject:
    """What is linted, and what is known beside it."""

    policy: KeyPolicy
    grants: tuple[Grant, ...] | None = None
    """None: not known."""
    key: KeyFacts | None = None
    identity_policies: Mapping[str, Sequence[PolicyDocument]] = field(default_factory=_none)
    tuples: tuple[ReleaseTuple, ...] = ()
    """The images that should get the key, and no others; empty: not said."""


_ORDER = (Severity.ERROR, Severity.UNPROVEN, Severity.WARNING, Severity.INFO)


def lint(subject: Subject) -> tuple[Finding, ...]:
    """Return every finding, the worst first, by rule."""
    policy = subject.policy
    found = [
        *ungated(policy),
        *open_accounts(policy),
        *anyone(policy),
        *unknown_keys(policy),
        *weak_operators(policy),
        *values(policy),
        *denies(policy),
        *tuples(policy, subject.tuples),
        *grants(policy, subject.grants or ()),
        *missing_context(policy),
        *cross_products(policy),
        *weak_registers(policy),
        *policy_writers(policy, subject.identity_policies),
        *key_facts(subject.key),
        *unproven(policy, subject.identity_policies),
        *useless_conditions(policy),
        *unknown_actions(policy),
    ]
    return tuple(sorted(found, key=lambda finding: (_ORDER.index(finding.severity), finding.rule.name)))


def worst(findings: Sequence[Finding]) -> Severity | None:
    """Return the severity that decides: an error, else what is unproven; None for warnings alone."""
    seen = {finding.severity for finding in findings}
    return next((severity for severity in (Severity.ERROR, Severity.UNPROVEN) if severity in seen), None)
