"""What KMS says of a key beside its policy: metadata, rotation, grants."""

from dataclasses import dataclass
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy.evaluate import Grant

MAX_BYTES = 4 * 1024 * 1024
_EQUALS, _SUBSET = "EncryptionContextEquals", "EncryptionContextSubset"


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A key's metadata as far as lint asks for it; None is not known."""

    arn: str
    multi_region: bool | None
    origin: str | None
    spec: str | None
    usage: str | None
    rotation: bool | None

    @classmethod
    def of(cls, metadata: dict[str, Any], rotation: bool | None) -> "KeyFacts":  # noqa: FBT001 - three states
        """Take the facts from `KeyMetadata`.

        Raises:
            MalformedError: A field of another type.
        """
        texts = {name: metadata.get(name) for name in ("Arn", "Origin", "KeySpec", "KeyUsage")}
        region = metadata.get("MultiRegion")
        if any(type(value) not in (str, type(None)) for value in texts.values()) or type(region) not in (
            bool,
            type(None),
        ):
            raise MalformedError("key: not what DescribeKey answers")
        return cls(texts["Arn"] or "", region, texts["Origin"], texts["KeySpec"], texts["KeyUsage"], rotation)


def parse_key(data: bytes) -> KeyFacts:
    """Read what ``aws kms describe-key`` printed, with ``KeyRotationEnabled`` beside it where it is known.

    Raises:
        MalformedError: It is no such document.
    """
    document = strict_json.parse_object(data, max_bytes=MAX_BYTES)
    metadata = document.get("KeyMetadata", document)
    rotation = document.get("KeyRotationEnabled")
    if type(metadata) is not dict or type(rotation) not in (bool, type(None)):
        raise MalformedError("key: not what DescribeKey answers")
    return KeyFacts.of(metadata, rotation)


def parse_grants(data: bytes) -> tuple[Grant, ...]:
    """Read what ``aws kms list-grants`` printed.

    Raises:
        MalformedError: It is no such document.
    """
    document = strict_json.parse_object(data, max_bytes=MAX_BYTES)
    items = document.get("Grants")
    if type(items) is not list:
        raise MalformedError("grants: not what ListGrants answers")
    return tuple(grant_of(item) for item in items)


def grant_of(item: Any) -> Grant:
    """Return one entry of `Grants`.

    Raises:
        MalformedError: It is none.
    """
    if type(item) is not dict:
        raise MalformedError("grants: an entry is no object")
    operations, constraints = item.get("Operations"), item.get("Constraints") or {}
    texts = (item.get("GrantId"), item.get("GranteePrincipal"), item.get("Name", ""), item.get("RetiringPrincipal", ""))
    if (
        type(operations) is not list
        or type(constraints) is not dict
        or any(type(text) is not str for text in (*operations, *texts))
        or not all(map(_is_context, (constraints.get(name) for name in (_EQUALS, _SUBSET))))
    ):
        raise MalformedError("grants: an entry is not what ListGrants answers")
    identifier, grantee, name, retiring = texts
    return Grant(
        str(identifier),
        str(grantee),
        tuple(operations),
        constraints.get(_EQUALS),
        constraints.get(_SUBSET),
        retiring or None,
        str(name),
    )


def _is_context(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(type(item) is str for item in value.values()))
