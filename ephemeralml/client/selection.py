"""Which model a request names, and whether the policy lets it have the prompt.

The runtime resolves a bare id to the highest version it serves, ``id@version``
to that one, and an alias to what its measured config says (serving section 1).
The client resolves the same way, because the receipt must state the entry that
the request named (channel section 4). Aliases are the attested runtime's word;
what they lead to is an entry of its identity, which the policy judges.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.verdict import Mismatch, printable
from ephemeralml.channel.hello import ModelEntry
from ephemeralml.errors import RejectedError
from ephemeralml.semver import SemVer

MODEL_ID_MISMATCH = "MODEL_ID_MISMATCH"
INFO_PATH = "/v1/ephemeralml/info"
MAX_INFO_BYTES = 1 << 20
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class UnknownModelError(RejectedError):
    """The identity names no such model."""

    def __init__(self, name: str, models: Iterable[ModelEntry]) -> None:
        served = ", ".join(printable(f"{entry.id}@{entry.version}") for entry in models) or "none"
        super().__init__(
            f"the runtime does not serve model '{printable(name)}'",
            code=MODEL_ID_MISMATCH,
            expected=printable(name),
            actual=served,
            hint=f"it serves: {served}",
        )


class ModelRejectedError(RejectedError):
    """The policy does not accept a model; carries every mismatch."""

    def __init__(self, entry: ModelEntry, mismatches: tuple[Mismatch, ...]) -> None:
        text = "; ".join(f"{item.code}: {item.detail}" for item in mismatches)
        super().__init__(
            f"the policy refuses model '{printable(entry.id)}' version '{printable(entry.version)}': {text}",
            code=mismatches[0].code,
            expected=mismatches[0].expected,
            actual=mismatches[0].actual,
            hint="models.allow of the policy says what is accepted",
        )
        self.mismatches = mismatches
        """All of them, the first one's code is this error's."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a request may lead to."""

    entry: ModelEntry | None
    """The identity entry that the request names, or None where it names none."""
    receipt_required: bool
    """Whether a success without a receipt must be refused."""


def select(
    method: str,
    body: bytes | None,
    models: tuple[ModelEntry, ...],
    policy: Policy,
    aliases: Mapping[str, str] = MappingProxyType({}),
    allowed: dict[str, ModelEntry] | None = None,
) -> Selection:
    """Decide about a request before a byte of it is sent.

    1. A request that only reads names no model and needs no receipt.
    2. Any other is taken for a prompt: the entry that it names must exist and
       be allowed by *policy*.
    3. A body that names no model will be an error of the runtime's; it may
       still be a prompt, so every model of the identity must be allowed.

    Args:
        method: HTTP's method.
        body: The request's body.
        models: The session's identity.
        policy: What is accepted.
        aliases: The runtime's other names for its models.
        allowed: Names that led to an allowed entry before, in this session and
            under this policy; kept up to date here.

    Raises:
        UnknownModelError: A model that the identity does not name.
        ModelRejectedError: A model that the policy refuses.
    """
    if method in _READS and not body:  # 1
        return Selection(None, receipt_required=False)
    name = model_named(body or b"")
    if name is not None:  # 2
        entry = allowed.get(name) if allowed is not None else None
        if entry is None:
            entry = find(aliases.get(name, name), models)
            check_allowed(entry, policy)
            if allowed is not None:
                allowed[name] = entry
        return Selection(entry, receipt_required=True)
    for entry in models:  # 3
        check_allowed(entry, policy)
    return Selection(None, receipt_required=True)


def find(name: str, models: Iterable[ModelEntry]) -> ModelEntry:
    """Return the entry that *name* means: an id, for its highest version, or ``id@version``.

    Raises:
        UnknownModelError: The identity names no such model.
    """
    models = tuple(models)
    exact = [entry for entry in models if f"{entry.id}@{entry.version}" == name]
    found = exact or [entry for entry in models if entry.id == name]
    if not found:
        raise UnknownModelError(name, models)
    return max(found, key=_precedence)


def check_allowed(entry: ModelEntry, policy: Policy) -> None:
    """Refuse a model that *policy* does not accept.

    Raises:
        ModelRejectedError: With every mismatch.
    """
    mismatches = policy.models.check(entry.id, entry.version, entry.hash, entry.scheme)
    if mismatches:
        raise ModelRejectedError(entry, mismatches)


def model_named(body: bytes) -> str | None:
    """Return the text at ``model`` of a JSON body, or None where there is none.

    Our own body, so nothing is refused here; the runtime reads repeated names
    the same way, the last one counts, and the receipt shows what it took.
    """
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    name = document.get("model") if isinstance(document, dict) else None
    return name if isinstance(name, str) else None


def aliases_named(info: bytes) -> Mapping[str, str]:
    """Return the aliases that the runtime's info states; none where it is no such document."""
    if len(info) > MAX_INFO_BYTES:
        return {}
    try:
        document: Any = json.loads(info)
    except (ValueError, RecursionError):
        return {}
    aliases = document.get("aliases") if isinstance(document, dict) else None
    if not isinstance(aliases, dict):
        return {}
    return {alias: name for alias, name in aliases.items() if isinstance(name, str)}


def _precedence(entry: ModelEntry) -> tuple[bool, Any]:
    try:
        return True, SemVer.parse(entry.version).precedence
    except ValueError:
        return False, ()
