"""The policy file: what a client accepts (attestation section 6).

A policy is required, never empty, and says everything at once; a field left
out means its strict default. Reading one checks the signature first, then the
document, then that it does not contradict itself.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.evidence import Format
from ephemeralml.attestation.model_rules import ANY_MODEL, ModelRules
from ephemeralml.attestation.nitro.policy import NitroSection, parse_local, parse_nitro
from ephemeralml.attestation.policy_fields import POLICY_CONTRADICTION, POLICY_EMPTY, Fields, invalid
from ephemeralml.attestation.roots import ANY_SOFTWARE_ROOT, NO_ROOTS, VENDOR_DIGESTS, RootKind, TrustRoots
from ephemeralml.attestation.verdict import Assurance
from ephemeralml.crypto import dsse, strict_json
from ephemeralml.crypto.keys import PrivateKey, PublicKey
from ephemeralml.errors import IncompleteError, RejectedError, UnavailableError

SCHEMA = "ephemeralml.policy/1"
PAYLOAD_TYPE = "application/vnd.ephemeralml.policy+json"
MAX_POLICY_BYTES = 1_048_576
MAX_AGE_SECONDS = 86_400
MAX_SKEW_SECONDS = 3_600

POLICY_EXPIRED = "POLICY_EXPIRED"
POLICY_ROOT_UNSIGNED = "POLICY_ROOT_UNSIGNED"
WARN_POLICY_UNSIGNED = "WARN_POLICY_UNSIGNED"
WARN_MODEL_UNPINNED = "WARN_MODEL_UNPINNED"


class DebugRule(Enum):
    """What becomes of evidence from a debug enclave."""

    REFUSE = "refuse"
    EVALUATION_ONLY = "evaluation-only"


class NonceRule(Enum):
    """Whether evidence and receipts must carry the caller's nonce."""

    REQUIRED = "required"
    OPTIONAL = "optional"


Section = NitroSection
"""What a format's part of a policy is parsed to; a union once there are several."""

_SECTIONS: Mapping[Format, Callable[[Fields], Section]] = MappingProxyType(
    {Format.NITRO: parse_nitro, Format.LOCAL: parse_local}
)
# A further format adds its line here, and its module.


@dataclass(frozen=True, slots=True)
class Policy:
    """What a client accepts; holding one means it is consistent and not empty."""

    policy_id: str
    version: int
    expires_at: datetime | None
    """None only for a policy made in code."""
    formats: tuple[Format, ...]
    sections: Mapping[Format, Section]
    models: ModelRules
    min_assurance: Assurance = Assurance.TEE
    security_modes: tuple[str, ...] = ("production",)
    debug: DebugRule = DebugRule.REFUSE
    nonce: NonceRule = NonceRule.REQUIRED
    max_age_seconds: int = 300
    max_skew_seconds: int = 60
    allow_local: bool = False
    created_at: datetime | None = None
    signer: PublicKey | None = None
    """The key whose signature on the file was checked."""
    loaded_at: datetime | None = None
    """When the file was read; its expiry is judged no earlier."""
    warnings: tuple[str, ...] = ()
    document: bytes = field(default=b"", repr=False)
    """The JSON as shipped, which a signature covers."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of the JSON document, signed or not."""
        return hashlib.sha256(self.document).digest()

    @property
    def nitro(self) -> NitroSection | None:
        """The `nitro` section, or None."""
        return self.sections.get(Format.NITRO)

    @property
    def local(self) -> NitroSection | None:
        """The `local` section, or None."""
        return self.sections.get(Format.LOCAL)

    def trust_roots(self, declared: Format) -> TrustRoots:
        """Return the roots for evidence declared as of that format.

        A document of Nitro's structure is the software TEE's if its root is,
        so both names ask for the roots of whichever of the two is allowed.
        """
        nitro_structure = declared in (Format.NITRO, Format.LOCAL)
        section = (self.nitro or self.local) if nitro_structure else self.sections.get(declared)
        return section.roots if section is not None else NO_ROOTS

    def expired(self, at: datetime | None = None) -> bool:
        """Return whether the policy has expired, at *at* or when it was loaded, whichever is later."""
        instants = [instant for instant in (at, self.loaded_at) if instant is not None]
        return self.expires_at is not None and bool(instants) and max(instants) >= self.expires_at

    def sign(self, key: PrivateKey) -> bytes:
        """Return the DSSE envelope around this policy's document."""
        if not self.document:
            raise ValueError("a policy made in code has no document to sign")
        return dsse.seal(PAYLOAD_TYPE, self.document, key)

    @classmethod
    def load(cls, path: Path | str, *, key: PublicKey | None = None, allow_expired: bool = False) -> "Policy":
        """Read a policy file, judging its expiry by the clock; see `parse`.

        Raises:
            UnavailableError: The file cannot be read.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(2 * MAX_POLICY_BYTES + 1)
        except OSError as error:
            raise UnavailableError(f"cannot read policy {path}: {error.strerror}") from error
        return cls.parse(data, key=key, now=clock.now(), allow_expired=allow_expired)

    @classmethod
    def parse(
        cls, data: bytes, *, key: PublicKey | None = None, now: datetime, allow_expired: bool = False
    ) -> "Policy":
        """Read a policy, bare or in a DSSE envelope.

        1. With *key*: an envelope with its signature (rule 7). Without: bare JSON, with a warning.
        2. UTF-8 JSON of at most 1 MiB, known fields only.
        3. Not empty, no contradiction (rules 2 to 5).
        4. Unsigned: no vendor's root but those pinned in this package (section 3).
        5. Not expired at *now*, unless the caller reports that itself.

        Raises:
            MalformedError: It does not parse, is empty (POLICY_EMPTY),
                contradicts itself (POLICY_CONTRADICTION) or names a vendor's
                root that nobody signed for (POLICY_ROOT_UNSIGNED).
            RejectedError: Unsigned or wrongly signed although *key* is given, or POLICY_EXPIRED.
            IncompleteError: An envelope, and no *key* to check it with.
        """
        payload, warnings = _unseal(data, key)
        policy = _parse_document(payload, signer=key, now=now, warnings=warnings)
        if policy.expired() and not allow_expired:
            assert policy.expires_at is not None
            raise RejectedError(
                f"policy {policy.policy_id!a} has expired",
                code=POLICY_EXPIRED,
                expected=f"before {clock.format_rfc3339(policy.expires_at)}",
                actual=clock.format_rfc3339(now),
                hint="ask its publisher for the current one",
            )
        return policy

    @classmethod
    def accept_local(cls, *, roots: TrustRoots = ANY_SOFTWARE_ROOT) -> "Policy":
        """Return the policy behind `--insecure-accept-local`: any software TEE, any model, nothing else.

        It names no production format, so it cannot accept evidence of one.
        """
        return cls(
            policy_id="insecure-accept-local",
            version=0,
            expires_at=None,
            formats=(Format.LOCAL,),
            sections=MappingProxyType({Format.LOCAL: NitroSection(roots, ())}),
            models=ANY_MODEL,
            min_assurance=Assurance.DOCUMENT,
            security_modes=("evaluation",),
            allow_local=True,
        )


def seal_policy(document: bytes, key: PrivateKey, *, now: datetime) -> tuple[Policy, bytes]:
    """Sign a policy's JSON, and return what a client with the key reads of it, and the envelope.

    Raises:
        MalformedError: As `Policy.parse`; also for a policy that is in an envelope already.
        RejectedError: It has expired.
    """
    if dsse.looks_like_envelope(strict_json.parse_object(document, max_bytes=MAX_POLICY_BYTES)):
        raise invalid("it is signed already", hint="sign the JSON that it was made from")
    envelope = dsse.seal(PAYLOAD_TYPE, document, key)
    return Policy.parse(envelope, key=key.public, now=now), envelope


def _unseal(data: bytes, key: PublicKey | None) -> tuple[bytes, tuple[str, ...]]:
    """Return the policy's JSON, its signature checked as far as there is a key."""
    outer = strict_json.parse_object(data, max_bytes=2 * MAX_POLICY_BYTES)
    if dsse.looks_like_envelope(outer):
        envelope = dsse.parse(data, max_bytes=MAX_POLICY_BYTES)
        if key is None:
            raise IncompleteError(
                f"the policy is signed by key {envelope.keyid} and there is no key to check it with",
                code="POLICY_KEY_MISSING",
                hint="give --policy-key",
            )
        envelope.verify((key,), payload_type=PAYLOAD_TYPE)
        return envelope.payload, ()
    if key is not None:
        raise RejectedError(
            "the policy is not signed, and a policy key is configured",
            code="UNSIGNED",
            hint="sign it with: ephemeralml policy sign",
        )
    return data, (WARN_POLICY_UNSIGNED,)


def _parse_document(payload: bytes, *, signer: PublicKey | None, now: datetime, warnings: tuple[str, ...]) -> Policy:
    fields = Fields(strict_json.parse(payload, max_bytes=MAX_POLICY_BYTES), "")
    fields.choice("schema", (SCHEMA,))
    formats = _formats(fields)
    allow_local = fields.boolean("allow_local", default=False)
    local_only = formats == (Format.LOCAL,)
    policy = Policy(
        policy_id=fields.text("policy_id"),
        version=fields.integer("version", 0, 2**53),
        created_at=fields.instant("created_at", None),
        expires_at=fields.instant("expires_at"),
        formats=formats,
        sections=MappingProxyType(_sections(fields, formats)),
        models=_models(fields),
        min_assurance=_assurance(fields, "document" if local_only else "tee"),
        security_modes=_security_modes(fields),
        debug=DebugRule(fields.choice("debug", ("refuse", "evaluation-only"), "refuse")),
        nonce=NonceRule(fields.choice("nonce", ("required", "optional"), "required")),
        max_age_seconds=fields.integer("max_age_seconds", 1, MAX_AGE_SECONDS, 300),
        max_skew_seconds=fields.integer("max_skew_seconds", 0, MAX_SKEW_SECONDS, 60),
        allow_local=allow_local,
        signer=signer,
        loaded_at=now,
        warnings=warnings,
        document=payload,
    )
    _transparency(fields)
    fields.done()
    _refuse_contradictions(policy, now)
    _refuse_unsigned_roots(policy)
    unpinned = not policy.models.publisher_keys and any(entry.model_hash is None for entry in policy.models.allow)
    return replace(policy, warnings=(*warnings, WARN_MODEL_UNPINNED)) if unpinned else policy


def _formats(fields: Fields) -> tuple[Format, ...]:
    names = fields.texts("formats", [])
    if not names:
        raise invalid(
            "formats is empty, so nothing could be accepted",
            code=POLICY_EMPTY,
            hint='list the evidence that you accept, such as "formats": ["nitro"], with a section for each',
        )
    known = {item.value: item for item in Format}
    for name in names:
        if name not in known:
            raise invalid(f"formats names {name[:64]!a}, which is no evidence format")
        if known[name] not in _SECTIONS:
            raise invalid(f"this version cannot verify evidence of format {name}")
    return tuple(known[name] for name in names)


def section_name(name: Format) -> str:
    """Return what a format's section is called in the file."""
    return name.value.replace("-", "_")


def _sections(fields: Fields, formats: tuple[Format, ...]) -> dict[Format, Section]:
    for item in Format:
        if section_name(item) in fields and item not in formats:
            raise invalid(
                f"there is a section {section_name(item)}, and formats does not list {item.value}",
                code=POLICY_CONTRADICTION,
            )
    found = {}
    for item in formats:
        name = section_name(item)
        if name not in fields:
            raise invalid(f"formats lists {item.value}, and there is no section {name}", code=POLICY_EMPTY)
        found[item] = _SECTIONS[item](Fields(fields.take(name), name))
    return found


def _models(fields: Fields) -> ModelRules:
    if "models" not in fields:
        raise invalid("there is no models section, so any model would do", code=POLICY_EMPTY)
    return ModelRules.parse(Fields(fields.take("models"), "models"))


def _assurance(fields: Fields, default: str) -> Assurance:
    return Assurance[fields.choice("min_assurance", ("document", "platform", "tee"), default).upper()]


def _security_modes(fields: Fields) -> tuple[str, ...]:
    modes = fields.texts("security_modes", ["production"])
    if not modes:
        raise invalid("security_modes is empty", code=POLICY_EMPTY)
    if unknown := sorted(set(modes) - {"production", "evaluation"}):
        raise invalid(f"security_modes names {unknown[0][:64]!a}, not production or evaluation")
    return modes


def _transparency(fields: Fields) -> None:
    """Read the `transparency` section, which this version cannot enforce and so takes only when it asks nothing."""
    section = Fields(fields.take("transparency", {}), "transparency")
    keys: Any = section.texts("log_keys", [])
    witnesses = section.integer("witnesses", 0, 64, 0)
    section.done()
    if keys or witnesses:
        raise invalid("this version cannot check transparency logs, which the policy requires")


def _refuse_contradictions(policy: Policy, now: datetime) -> None:
    if Format.LOCAL in policy.formats and len(policy.formats) > 1:
        raise invalid("local stands beside production formats", code=POLICY_CONTRADICTION)
    if policy.allow_local is not (Format.LOCAL in policy.formats):
        raise invalid(
            "allow_local is true exactly where formats is local alone",
            code=POLICY_CONTRADICTION,
            hint="a policy for production evidence never accepts a software TEE",
        )
    if policy.allow_local and policy.min_assurance is not Assurance.DOCUMENT:
        raise invalid("a software TEE reaches assurance document and no more", code=POLICY_CONTRADICTION)
    if policy.debug is DebugRule.EVALUATION_ONLY and policy.security_modes != ("evaluation",):
        raise invalid('debug evidence goes with security_modes ["evaluation"] alone', code=POLICY_CONTRADICTION)
    for item, section in policy.sections.items():
        if item is not Format.LOCAL and not section.has_live_entry(now):
            raise invalid(
                f"{section_name(item)}.allow has no entry that has not ended, so nothing could be accepted",
                code=POLICY_EMPTY,
            )
    if policy.local is not None and policy.local.allow and not policy.local.has_live_entry(now):
        raise invalid("every entry of local.allow has ended", code=POLICY_EMPTY)


def _refuse_unsigned_roots(policy: Policy) -> None:
    """Refuse another vendor root than the package's where nobody signed for it (section 3).

    Whoever can change an unsigned file could otherwise make a root of their
    own and have it believed as hardware.
    """
    if policy.signer is not None:
        return
    for item, section in policy.sections.items():
        unknown = section.roots.digests - VENDOR_DIGESTS
        if section.roots.kind is RootKind.VENDOR and unknown:
            raise invalid(
                f"{section_name(item)}.roots names sha256:{min(unknown).hex()}, which only a signed policy may",
                code=POLICY_ROOT_UNSIGNED,
                hint="sign it (ephemeralml policy sign) and give the key with --policy-key",
            )
