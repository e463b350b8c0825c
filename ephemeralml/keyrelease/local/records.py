"""What a key server remembers: keys, aliases, grants."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self


class KeyState(Enum):
    """A key's state, by AWS's names."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key without its material. Times are seconds since 1970."""

    id: str
    created: float
    description: str
    state: KeyState
    deletion: float | None
    deletion_days: int | None
    policy: str
    version: int
    """The newest; data is encrypted under it."""
    rotation_days: int | None
    """None where no rotation is on."""
    next_rotation: float | None

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Self:
        """Read the columns in the order of `KEY_COLUMNS`."""
        key_id, created, description, state, *others = row
        return cls(key_id, created, description, KeyState(state), *others)


KEY_COLUMNS = "id, created, description, state, deletion, deletion_days, policy, version, rotation_days, next_rotation"


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for a key, ``alias/…``."""

    name: str
    key_id: str
    created: float


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """A grant as it was asked for."""

    id: str
    key_id: str
    token: str
    created: float
    grantee: str
    operations: tuple[str, ...]
    issuer: str
    retiring: str | None = None
    name: str | None = None
    context_equals: Mapping[str, str] | None = None
    context_subset: Mapping[str, str] | None = None

    def to_json(self) -> str:
        """Return the columns that nobody searches for."""
        return json.dumps(
            {
                "grantee": self.grantee,
                "operations": self.operations,
                "issuer": self.issuer,
                "retiring": self.retiring,
                "name": self.name,
                "context_equals": self.context_equals,
                "context_subset": self.context_subset,
            }
        )

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Self:
        """Read ``id, key_id, token, created, document``."""
        *fixed, document = row
        fields = json.loads(document)
        fields["operations"] = tuple(fields["operations"])
        return cls(*fixed, **fields)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody with an access key."""

    name: str
    arn: str
    access_key: str
    policies: tuple[str, ...]
    """Identity policies, JSON texts."""
    created: float
