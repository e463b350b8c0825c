"""Names of wrapping keys: ``aws-kms:ARN``, ``gcp-kms:projects/…``, ``local:ARN`` (key-release.md section 1).

A URI says which key, never where its service is: endpoints do not come from a
package.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from ephemeralml.errors import MalformedError

MAX_CHARACTERS = 512

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ARN = re.compile(
    r"arn:(?P<partition>aws|aws-cn|aws-us-gov|aws-iso[a-z-]{0,8}|aws-eusc):kms:"
    r"(?P<region>[a-z][a-z0-9-]{0,31}):(?P<account>[0-9]{12}):"
    rf"(?:key/(?P<id>{_UUID}|mrk-[0-9a-f]{{32}})|alias/(?P<alias>[A-Za-z0-9/_-]{{1,250}}))"
)
_GCP = re.compile(
    r"projects/(?P<project>(?:[a-z0-9.-]{1,63}:)?[a-z0-9-]{1,63})/locations/(?P<location>[a-z0-9-]{1,63})/"
    r"keyRings/(?P<ring>[A-Za-z0-9_-]{1,63})/cryptoKeys/(?P<key>[A-Za-z0-9_-]{1,63})"
)


class Provider(StrEnum):
    """The services that wrap keys; the values stand in ``keys.json``."""

    AWS_KMS = "aws-kms"
    GCP_KMS = "gcp-kms"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class KeyUri:
    """A wrapping key's full name."""

    provider: Provider
    resource: str
    """The key's ARN, or its resource name at Google."""
    region: str
    """AWS region, or Google's location."""
    account: str
    """AWS account, or Google's project."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the URI of one key, as packages and measured configurations name it.

        Raises:
            MalformedError: Not such a URI; aliases are none, they can be moved
                to another key.
        """
        uri = cls.parse_operator(text)
        if uri.alias:
            raise MalformedError(f"{text} names an alias, not a key", hint="give the key's ARN: aws kms describe-key")
        return uri

    @classmethod
    def parse_operator(cls, text: str) -> Self:
        """Read the URI of a key, or of an alias that the service is yet to resolve.

        Raises:
            MalformedError: Neither.
        """
        name, colon, resource = text[: MAX_CHARACTERS + 1].partition(":")
        if not colon or name not in set(Provider) or len(text) > MAX_CHARACTERS:
            raise _malformed(text)
        provider = Provider(name)
        if provider is Provider.GCP_KMS:
            found = _GCP.fullmatch(resource)
            if found is None:
                raise _malformed(text)
            return cls(provider, resource, found["location"], found["project"])
        found = _ARN.fullmatch(resource)
        if found is None:
            raise _malformed(text)
        return cls(provider, resource, found["region"], found["account"])

    @property
    def alias(self) -> bool:
        """Whether this names an alias and not a key."""
        return self.provider is not Provider.GCP_KMS and ":alias/" in self.resource

    def __str__(self) -> str:
        return f"{self.provider}:{self.resource}"


def _malformed(text: str) -> MalformedError:
    return MalformedError(
        f"not a key's URI: {text[:80]!a}",
        hint="aws-kms:arn:aws:kms:REGION:ACCOUNT:key/ID, gcp-kms:projects/…/cryptoKeys/NAME, or local:ARN",
    )
