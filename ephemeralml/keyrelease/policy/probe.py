"""Ask the real key what section 3 of key-release.md asks, and compare with what its policy says.

Nothing here needs the data key: an answer for a recipient is sealed to whoever
made the document, and is thrown away. A key that answers in the clear has it
wiped and is the worst finding there is.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ephemeralml.attestation.nitro.document import parse as parse_document
from ephemeralml.keyrelease.policy.reach import DECRYPT
from ephemeralml.keyrelease.policy.simulate import Call, Ciphertext, Recipient, World, predict

ALGORITHM = "RSAES_OAEP_SHA_256"
PLAINTEXT = "plaintext"

Decrypt = Callable[[Mapping[str, Any]], str]
"""Sends one Decrypt and returns ``success``, ``plaintext`` or AWS's name of the error."""


class Outcome(Enum):
    """How a row ended."""

    OK = "ok"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Row:
    """One request and its answer."""

    id: str
    what: str
    expected: str
    actual: str
    outcome: Outcome

    def to_json(self) -> dict[str, str]:
        """Return the row for `--json`."""
        return {
            "id": self.id,
            "what": self.what,
            "expected": self.expected,
            "actual": self.actual,
            "outcome": self.outcome.value,
        }


@dataclass(frozen=True, slots=True)
class Probe:
    """What the requests are made of."""

    ciphertext: bytes
    context: Mapping[str, str]
    principal: str
    """Whose credentials ask, for the prediction."""
    documents: tuple[bytes, ...] = ()
    """Genuine attestation documents, of any images; old ones serve while their certificates are valid."""


def run(probe: Probe, world: World, decrypt: Decrypt) -> list[Row]:
    """Make every request that *probe* has the means for.

    Raises:
        MalformedError: A document that is none.
        UnavailableError: The service does not answer.
    """
    rows = [_asked(probe, world, decrypt, "A3", "no document", Recipient.NONE, None)]
    rows.append(_asked(probe, world, decrypt, "A4", "random bytes", Recipient.RANDOM, secrets.token_bytes(4_096)))
    images = [parse_document(document).pcrs for document in probe.documents]
    right: bytes | None = None
    for document, pcrs in zip(probe.documents, images, strict=True):
        fits = _predicted(probe, world, Recipient.DOCUMENT, pcrs) == "success"
        debug = not any(any(pcrs[index]) for index in (0, 1, 2))
        name = "A1" if fits else "A7" if debug else "A2"
        what = f"document of PCR0 {pcrs[0].hex()[:16]}…"
        rows.append(_asked(probe, world, decrypt, name, what, Recipient.DOCUMENT, document, pcrs))
        right = document if fits and right is None else right
    if right is not None:
        rows.append(_asked(probe, world, decrypt, "A5", "one bit flipped", Recipient.FLIPPED, _flipped(right)))
        rows.append(_other_context(probe, world, decrypt, right, images[probe.documents.index(right)]))
    done = {row.id for row in rows}
    missing = {"A1": "no document of a released image", "A2": "no document of another image"}
    missing |= {"A5": missing["A1"], "A7": "no document of a debug launch", "A8": missing["A1"]}
    rows += [Row(name, why, "", "", Outcome.SKIPPED) for name, why in missing.items() if name not in done]
    return sorted(rows, key=lambda row: row.id)


def skipped(why: str) -> list[Row]:
    """Return the table where nothing can be asked."""
    return [Row(name, why, "", "", Outcome.SKIPPED) for name in ("A1", "A2", "A3", "A4", "A5", "A7", "A8")]


def failed(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that are not as the policy says."""
    return [row for row in rows if row.outcome is Outcome.WRONG]


def _asked(
    probe: Probe,
    world: World,
    decrypt: Decrypt,
    name: str,
    what: str,
    recipient: Recipient,
    document: bytes | None,
    pcrs: Mapping[int, bytes] | None = None,
) -> Row:
    # What has no document is refused, whatever the policy allows: that is what the gate is.
    expected = "AccessDeniedException" if recipient is Recipient.NONE else _predicted(probe, world, recipient, pcrs)
    return _row(name, what, expected, decrypt(_fields(probe, world, document, probe.context)))


def _other_context(probe: Probe, world: World, decrypt: Decrypt, document: bytes, pcrs: Mapping[int, bytes]) -> Row:
    context = dict(probe.context) | {"model_id": "ephemeralml-no-such-model"}
    call = Call(DECRYPT, Recipient.DOCUMENT, pcrs, Ciphertext.OTHER_CONTEXT, context)
    expected = predict(call, probe.principal, world).name
    return _row("A8", "another context", expected, decrypt(_fields(probe, world, document, context)))


def _predicted(probe: Probe, world: World, recipient: Recipient, pcrs: Mapping[int, bytes] | None) -> str:
    return predict(Call(DECRYPT, recipient, pcrs, Ciphertext.FITS, probe.context), probe.principal, world).name


def _row(name: str, what: str, expected: str, actual: str) -> Row:
    return Row(name, what, expected, actual, Outcome.OK if actual == expected else Outcome.WRONG)


def _fields(probe: Probe, world: World, document: bytes | None, context: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "KeyId": world.key,
        "CiphertextBlob": probe.ciphertext,
        "EncryptionContext": dict(context),
    }
    if document is not None:
        fields["Recipient"] = {"KeyEncryptionAlgorithm": ALGORITHM, "AttestationDocument": document}
    return fields


def _flipped(document: bytes) -> bytes:
    """Return the document with a bit of its signature changed: it still parses."""
    return document[:-1] + bytes([document[-1] ^ 1])
