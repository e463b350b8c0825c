"""A key of a real KMS, as far as its policy goes: AWS, or a server with its protocol."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ephemeralml.errors import EphemeralError, RejectedError, UnavailableError
from ephemeralml.keyrelease import faults
from ephemeralml.keyrelease.faults import Asked
from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.evaluate import Grant
from ephemeralml.keyrelease.policy.key_facts import KeyFacts, grant_of
from ephemeralml.keyrelease.policy.plan import REFUSED
from ephemeralml.keyrelease.providers import require_endpoint
from ephemeralml.keyrelease.retries import RetryRules

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

MAX_GRANTS = 50_000
_NAME = re.compile(
    r"(?:(?:aws-kms|(local)):)?(arn:aws[a-z-]*:kms:([a-z0-9-]+):(\d{12}):(?:key|alias)/[A-Za-z0-9/_-]{1,256})"
    r"|(alias/[A-Za-z0-9/_-]{1,250})"
    r"|([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})",
    re.ASCII,
)


def names_key(text: str) -> bool:
    """Return whether *text* is how a key is called: URI, ARN, alias or id."""
    return _NAME.fullmatch(text) is not None


class LiveKey:
    """A key and its policy, with the credentials this machine has.

    Args:
        name: Its URI, ARN, alias or id.
        endpoint: Where the service is; None for what the SDK is configured for.
        client: A boto3 client instead of one made here.
        retries: How often a failing service is asked.
    """

    def __init__(
        self,
        name: str,
        *,
        endpoint: str | None = None,
        client: "KMSClient | None" = None,
        retries: RetryRules | None = None,
    ) -> None:
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"no name of a key: {name[:80]!a}")
        self._name = next(group for group in (found[2], found[5], found[6]) if group)
        self._own = found[1] is not None
        """Whether it is a key of a server of one's own, which AWS knows nothing of."""
        self._region = found[3]
        self._endpoint = endpoint
        self._client = client
        self._retries = retries or RetryRules()
        self._facts: KeyFacts | None = None

    @property
    def arn(self) -> str:
        """The key's ARN, an alias resolved."""
        return self.facts().arn

    @property
    def account(self) -> str:
        """The key's account."""
        return self.arn.split(":")[4]

    def facts(self) -> KeyFacts:
        """Return the key's metadata and whether it rotates.

        Raises:
            UnavailableError: The key, the service, credentials or a permission is missing.
        """
        if self._facts is None:
            metadata = self._ask("describe_key", "DescribeKey", KeyId=self._name).get("KeyMetadata", {})
            arn = str(metadata.get("Arn", ""))
            rotation = None
            if metadata.get("KeySpec") == "SYMMETRIC_DEFAULT":
                answer = self._ask("get_key_rotation_status", "GetKeyRotationStatus", KeyId=arn)
                rotation = answer.get("KeyRotationEnabled")
            self._facts = KeyFacts.of(metadata, rotation)
        return self._facts

    def policy(self) -> KeyPolicy:
        """Return the key's policy.

        Raises:
            MalformedError: It is not as KMS stores them.
            UnavailableError: As `facts`.
        """
        answer = self._ask("get_key_policy", "GetKeyPolicy", KeyId=self.arn, PolicyName="default")
        return KeyPolicy.parse(str(answer.get("Policy", "")))

    def put(self, policy: str) -> None:
        """Replace the key's policy.

        Raises:
            RejectedError: The service does not take it (KEY_POLICY_REFUSED).
            UnavailableError: As `facts`.
        """
        self._ask("put_key_policy", "PutKeyPolicy", KeyId=self.arn, PolicyName="default", Policy=policy)

    def grants(self) -> tuple[Grant, ...]:
        """Return the key's grants.

        Raises:
            UnavailableError: As `facts`.
        """
        found: list[Grant] = []
        more: dict[str, str] = {}
        while True:
            answer = self._ask("list_grants", "ListGrants", KeyId=self.arn, **more)
            found += [grant_of(item) for item in answer.get("Grants", [])]
            marker = answer.get("NextMarker")
            if not answer.get("Truncated") or not marker or len(found) > MAX_GRANTS:
                return tuple(found)
            more = {"Marker": marker}

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask(self, operation: str, action: str, **fields: Any) -> Mapping[str, Any]:
        from ephemeralml.keyrelease import aws_client

        asked = Asked(action, self._name)
        if self._client is None:
            if self._own:
                require_endpoint(f"local:{self._name}", self._endpoint)
            self._client = aws_client.connect(self._where(), self._endpoint, asked, connect=3, read=7)
        client = self._client
        try:
            return self._retries.run(lambda: aws_client.call(client, operation, asked, fields))
        except EphemeralError as error:
            raise in_our_terms(error, asked) from error

    def _where(self) -> str:
        region = self._region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not region:
            raise UnavailableError(f"no region for the key {self._name}", hint="give the key's ARN, or set AWS_REGION")
        return region


def in_our_terms(error: EphemeralError, asked: Asked) -> EphemeralError:
    """Return what an operator of policies is told: a missing permission is no verdict on the key."""
    name = getattr(error, "kms_error", None)
    if name in ("MalformedPolicyDocumentException", "LimitExceededException", "UnsupportedOperationException"):
        return RejectedError(
            f"the key service does not take the policy for {asked.key}: {name}",
            code=REFUSED,
            hint="would these credentials still be able to change it?",
        )
    if isinstance(error, faults.KeyRejectedError):
        return UnavailableError(
            f"kms:{asked.action} on {asked.key} is not allowed to these credentials",
            hint="use an administrator's credentials (AWS_PROFILE)",
        )
    return error
