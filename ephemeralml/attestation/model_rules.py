"""Which models a policy accepts, and whose signature on them (attestation section 6, rule 9)."""

from dataclasses import dataclass
from enum import Enum

from ephemeralml.attestation.policy_fields import POLICY_EMPTY, Fields, invalid
from ephemeralml.attestation.verdict import Mismatch, printable
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.errors import MalformedError
from ephemeralml.semver import SemVer

MODEL_ID_MISMATCH = "MODEL_ID_MISMATCH"
MODEL_HASH_MISMATCH = "MODEL_HASH_MISMATCH"
MODEL_VERSION_REJECTED = "MODEL_VERSION_REJECTED"
MODEL_PUBLISHER_REJECTED = "MODEL_PUBLISHER_REJECTED"

SCHEMES = ("sha256-single", "sha256-concat", "sha256-manifest")
"""Names of model hash schemes (air-v1 section 6)."""


class ModelScope(Enum):
    """How far a constraint reaches."""

    NAMED = "named"
    """Only what the constraint names."""
    ANY = "any"
    """Every model; exists in code alone, no policy file can say it."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model that is accepted; what it leaves out is open, but its id."""

    model_id: str
    min_version: SemVer | None = None
    model_hash: bytes | None = None
    scheme: str | None = None

    def mismatches(self, model_id: str, version: str, model_hash: bytes, scheme: str | None) -> tuple[Mismatch, ...]:
        """Return in what a model differs from this entry."""
        found = []
        if model_id != self.model_id:
            found.append(Mismatch("MODEL", MODEL_ID_MISMATCH, "another model", self.model_id, printable(model_id)))
        if self.model_hash is not None and model_hash != self.model_hash:
            found.append(
                Mismatch("MHASH", MODEL_HASH_MISMATCH, "other weights", self.model_hash.hex(), model_hash.hex())
            )
        if self.scheme is not None and scheme != self.scheme:
            found.append(
                Mismatch(
                    "MHASH", MODEL_HASH_MISMATCH, "hashed by another scheme", self.scheme, printable(scheme or "none")
                )
            )
        if self.min_version is not None and not _at_least(version, self.min_version):
            found.append(
                Mismatch(
                    "MODEL_VERSION",
                    MODEL_VERSION_REJECTED,
                    "older than allowed, or no SemVer version",
                    f">= {self.min_version}",
                    printable(version),
                )
            )
        return tuple(found)


@dataclass(frozen=True, slots=True)
class ModelRules:
    """The `models` section: entries, publishers, or both."""

    publisher_keys: tuple[PublicKey, ...]
    allow: tuple[ModelEntry, ...]
    scope: ModelScope = ModelScope.NAMED

    def __post_init__(self) -> None:
        if self.scope is ModelScope.NAMED and not self.publisher_keys and not self.allow:
            raise MalformedError("the policy constrains no model", code=POLICY_EMPTY)

    @classmethod
    def parse(cls, fields: Fields) -> "ModelRules":
        """Read the section.

        Raises:
            MalformedError: Unknown or mistyped fields, or nothing constrained.
        """
        keys = tuple(PublicKey.parse(text) for text in fields.texts("publisher_keys", []))
        if any(key.small_order for key in keys):
            raise invalid(f"{fields.at('publisher_keys')} holds a key under which anything verifies")
        allow = tuple(_entry(item) for item in fields.objects("allow", []))
        fields.done()
        return cls(keys, allow)

    def check(self, model_id: str, version: str, model_hash: bytes, scheme: str | None) -> tuple[Mismatch, ...]:
        """Return why a model is refused: the nearest entry's mismatches, nothing if one entry fits."""
        if not self.allow:
            return ()
        return min((entry.mismatches(model_id, version, model_hash, scheme) for entry in self.allow), key=_distance)

    def check_publisher(self, key: PublicKey) -> tuple[Mismatch, ...]:
        """Return why the signer of a model's manifest is refused; nothing where none is named."""
        if not self.publisher_keys or key.raw in {allowed.raw for allowed in self.publisher_keys}:
            return ()
        wanted = ", ".join(str(allowed) for allowed in self.publisher_keys)
        return (Mismatch("MODEL_PUBLISHER", MODEL_PUBLISHER_REJECTED, "signed by another publisher", wanted, str(key)),)


ANY_MODEL = ModelRules((), (), ModelScope.ANY)
"""No constraint, for `--insecure-accept-local` alone."""


def _entry(fields: Fields) -> ModelEntry:
    model_id = fields.text("model_id")
    entry = ModelEntry(
        model_id,
        _version(fields) if "min_version" in fields else None,
        fields.hex("model_hash", 32) if "model_hash" in fields else None,
        fields.choice("scheme", SCHEMES) if "scheme" in fields else None,
    )
    fields.done()
    return entry


def _version(fields: Fields) -> SemVer:
    place = fields.at("min_version")
    try:
        return SemVer.parse(fields.text("min_version"))
    except ValueError as error:
        raise invalid(f"{place} is not a SemVer 2.0.0 version") from error


def _at_least(version: str, least: SemVer) -> bool:
    try:
        return SemVer.parse(version) >= least
    except ValueError:
        return False


def _distance(mismatches: tuple[Mismatch, ...]) -> tuple[bool, int]:
    """Nearest is the entry of the same model, then the one with fewest differences."""
    return (any(item.code == MODEL_ID_MISMATCH for item in mismatches), len(mismatches))
