"""Make the key that wraps models: symmetric, rotating, under a policy from its first moment."""

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease import aws_client, faults
from ephemeralml.keyrelease.faults import Asked
from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.findings import Severity
from ephemeralml.keyrelease.policy.lint import Subject, lint
from ephemeralml.keyrelease.policy.live import in_our_terms
from ephemeralml.keyrelease.retries import RetryRules

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

POLICY_UNSAFE = "KEY_POLICY_UNSAFE"
_ALIAS = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}", re.ASCII)


def create_key(
    client: "KMSClient",
    policy: KeyPolicy,
    *,
    description: str,
    alias: str | None = None,
    retries: RetryRules | None = None,
) -> str:
    """Make a key that rotates once a year and return its ARN.

    Args:
        client: Calls as an administrator.
        policy: In force from the first moment, so the key is never open.
        description: Shown by the service; no secret.
        alias: ``alias/NAME``, or None.
        retries: How often a failing service is asked.

    Raises:
        MalformedError: No such alias.
        RejectedError: Lint finds a way around the gate (KEY_POLICY_UNSAFE), or
            the service does not take the policy (KEY_POLICY_REFUSED).
        UnavailableError: The service or a permission is missing. A key that was
            made before that is named, and stays.
    """
    if alias is not None:
        _check_alias(alias)
    if bad := [finding for finding in lint(Subject(policy)) if finding.severity is Severity.ERROR]:
        raise RejectedError(
            f"the policy has a way around the gate: {bad[0].rule.name}: {bad[0].path}",
            code=POLICY_UNSAFE,
            hint=bad[0].fix,
        )
    again = retries or RetryRules()
    # Not tried again: an answer that was lost may have been a key.
    made = RetryRules(tries=1).run(lambda: _call(client, "create_key", Policy=policy.text, Description=description))
    arn = str(made["KeyMetadata"]["Arn"])
    try:
        again.run(lambda: _call(client, "enable_key_rotation", KeyId=arn))
        if alias is not None:
            again.run(lambda: _call(client, "create_alias", AliasName=alias, TargetKeyId=arn))
    except EphemeralError as error:
        raise UnavailableError(f"{arn} was made, but: {error.message}", hint=error.hint) from error
    return arn


def alias_target(client: "KMSClient", alias: str, retries: RetryRules | None = None) -> str | None:
    """Return what *alias* is a name of already; None where it is free, or these credentials may not ask.

    Raises:
        MalformedError: No such alias.
        UnavailableError: The service does not answer.
    """
    _check_alias(alias)
    again = retries or RetryRules()
    try:
        return str(again.run(lambda: _asked(client, "describe_key", KeyId=alias))["KeyMetadata"]["Arn"])
    except faults.KeyUnavailableError as error:
        if error.kms_error == "NotFoundException":
            return None
        raise
    except faults.KeyRejectedError:
        pass  # there may be one whose key is not for these credentials to look at
    more: dict[str, str] = {}
    try:
        while True:
            page = again.run(partial(_asked, client, "list_aliases", **more))
            for entry in page["Aliases"]:
                if entry["AliasName"] == alias:
                    return str(entry.get("TargetKeyId", "a key"))
            if not page.get("Truncated"):
                return None
            more = {"Marker": page["NextMarker"]}
    except faults.KeyRejectedError:
        return None


def _check_alias(alias: str) -> None:
    if _ALIAS.fullmatch(alias) is None or alias.startswith("alias/aws/"):
        raise MalformedError(f"no name for an alias: {alias[:80]!a}", hint="alias/ and letters, digits, '/', '_', '-'")


def _asked(client: "KMSClient", operation: str, **fields: Any) -> dict[str, Any]:
    asked = Asked(client.meta.method_to_api_mapping[operation], str(fields.get("KeyId", "the account's aliases")))
    return aws_client.call(client, operation, asked, fields)


def _call(client: "KMSClient", operation: str, **fields: Any) -> dict[str, Any]:
    asked = Asked(client.meta.method_to_api_mapping[operation], str(fields.get("KeyId", "a new key")))
    try:
        return aws_client.call(client, operation, asked, fields)
    except EphemeralError as error:
        raise in_our_terms(error, asked) from error
