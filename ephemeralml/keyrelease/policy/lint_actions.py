"""Lint of actions: those that KMS does not have (K19: the statement can never speak of anything)."""

import difflib
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec

from ephemeralml.keyrelease.policy import globs
from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.findings import Finding, Rule, Severity

_SERVICE = "kms:"
_NO_PERMISSIONS = frozenset({"ReEncrypt"})
"""Operations without a permission of their name."""
_NO_OPERATIONS = frozenset({"ReEncryptFrom", "ReEncryptTo", "SynchronizeMultiRegionKey"})
"""Permissions without an operation of their name."""


@lru_cache(maxsize=1)
def permissions() -> frozenset[str]:
    """Return KMS's permissions by the SDK's description of the service; empty where the SDK is not installed."""
    if find_spec("botocore") is None:
        return frozenset()
    from botocore.loaders import Loader

    operations = Loader().load_service_model("kms", "service-2")["operations"]
    return frozenset(f"{_SERVICE}{name}" for name in ({*operations} - _NO_PERMISSIONS) | _NO_OPERATIONS)


def unknown_actions(policy: KeyPolicy) -> Iterator[Finding]:
    """K19, of actions that no request has."""
    known = permissions()
    for statement in policy.statements if known else ():
        for action in (*statement.actions, *statement.not_actions):
            if action.lower().startswith(_SERVICE) and not any(globs.matches_name(action, name) for name in known):
                yield Finding(
                    Rule.K19,
                    Severity.WARNING,
                    statement.name,
                    f"KMS has no action {action}: the statement neither allows nor denies anything by it",
                    _closest(action, known),
                )


def _closest(action: str, known: frozenset[str]) -> str:
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(action.lower(), sorted(lower), n=2, cutoff=0.7)
    if near:
        return f"is {' or '.join(lower[name] for name in near)} meant?"
    return "take it out, or name an action of KMS"
