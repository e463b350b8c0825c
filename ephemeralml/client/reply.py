"""What a caller gets back: replies, and receipts with what it takes to verify them again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ephemeralml.receipt.result import VerifiedReceipt

if TYPE_CHECKING:
    from ephemeralml.attestation.evidence import Evidence
    from ephemeralml.client.attested import Attested


@dataclass(frozen=True, slots=True)
class Receipted:
    """A verified receipt, with everything an offline verifier will ask for."""

    receipt: VerifiedReceipt
    """The claims; every rule of channel section 4 held when the reply arrived."""
    receipt_bytes: bytes = field(repr=False)
    """The receipt as the runtime signed it."""
    attested: "Attested" = field(repr=False)
    """The session it was issued in: its evidence, key, binding and verdict."""
    request_hash: bytes
    response_hash: bytes
    manifest: bytes | None = field(default=None, repr=False)
    """The model's signed manifest, where the session fetched it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply whose receipt, where there is one, has been verified.

    An error status is a reply too: the runtime signs those once a model was
    selected, and `receipted` is None where none had been.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: bytes = field(default=b"", repr=False)
    receipted: Receipted | None = None
    usage: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """What the runtime reported beside the receipt: ``execution_ms``, ``prompt_tokens``, ``output_tokens``."""

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    @property
    def receipt(self) -> VerifiedReceipt | None:
        """The verified receipt, or None where no model had been selected."""
        return self.receipted.receipt if self.receipted else None

    @property
    def receipt_bytes(self) -> bytes | None:
        """The receipt as signed."""
        return self.receipted.receipt_bytes if self.receipted else None

    @property
    def evidence(self) -> "Evidence | None":
        """The evidence document that binds the receipt's key."""
        return self.receipted.attested.evidence if self.receipted else None

    @property
    def manifest(self) -> bytes | None:
        """The model's signed manifest, where the session fetched it."""
        return self.receipted.manifest if self.receipted else None
