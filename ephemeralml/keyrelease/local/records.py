"""What a key server remembers: keys, aliases, grants."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    tags: Mapping[str, str] = field(default_factory=dict)
    revision: int = 1
    """Counts what was taken from the key: an alias or a grant of an earlier one is none any more."""

    def to_row(self) -> tuple[str | float | None, ...]:
        """Return the columns in the order of `KEY_COLUMNS`."""
        return (
            *(self.id, self.created, self.description, self.state.value, self.deletion, self.deletion_days),
            *(self.policy, self.version, self.rotation_days, self.next_rotation, json.dumps(dict(self.tags))),
            self.revision,
        )

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Self:
        """Read what `to_row` gives."""
        fields: list[Any] = [*row[:3], KeyState(row[3]), *row[4:-2], json.loads(row[-2]), row[-1]]
        return cls(*fields)


KEY_COLUMNS = (
    "id, created, description, state, deletion, deletion_days, policy, version, rotation_days, next_rotation, tags,"
    " revision"
)


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

    def to_row(self) -> tuple[str | float, ...]:
        """Return ``id, key_id, token, created, document``: the last holds what nobody searches for."""
        document = {
            "grantee": self.grantee,
            "operations": self.operations,
            "issuer": self.issuer,
            "retiring": self.retiring,
            "name": self.name,
            "context_equals": self.context_equals,
            "context_subset": self.context_subset,
        }
        return self.id, self.key_id, self.token, self.created, json.dumps(document)

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Self:
        """Read what `to_row` gives."""
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
