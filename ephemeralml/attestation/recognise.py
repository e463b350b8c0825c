"""Which format a document is of, told from its bytes alone (attestation section 1).

A recogniser only guesses; the format's parser decides. Nitro and local have
one structure and are told apart by their root, so both are NITRO here.
"""

from collections.abc import Callable

from ephemeralml.attestation.evidence import Evidence, Format
from ephemeralml.attestation.nitro.document import PREFIXES
from ephemeralml.errors import MalformedError

FORMAT_UNKNOWN = "EVIDENCE_FORMAT_UNKNOWN"

_AIR_PREFIX = bytes.fromhex("d284") + b"\x46" + bytes.fromhex("a2012703183d")

_RECOGNISERS: tuple[tuple[Format, Callable[[bytes], bool]], ...] = (
    (Format.NITRO, lambda document: document.startswith(PREFIXES)),
)
# A further format adds its line here.


def recognise(document: bytes) -> Format:
    """Return the format that *document* begins like.

    Raises:
        MalformedError: With code EVIDENCE_FORMAT_UNKNOWN; a receipt is named as one.
    """
    if document.startswith(_AIR_PREFIX):
        raise MalformedError(
            "this is an AIR receipt, not an evidence document",
            code=FORMAT_UNKNOWN,
            hint="the evidence lies beside it, in RECEIPT.att",
        )
    for candidate, begins_like in _RECOGNISERS:
        if begins_like(document):
            return candidate
    raise MalformedError("no known evidence format begins like this", code=FORMAT_UNKNOWN)


def evidence_of(document: bytes) -> Evidence:
    """Return *document* as evidence of the format that its bytes show.

    Raises:
        MalformedError: As `recognise`.
    """
    return Evidence(recognise(document), document)
