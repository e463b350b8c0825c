"""DSSE envelopes with one Ed25519 signature (secure-systems-lab/dsse, v1.0.2).

The signature is checked over the payload's bytes as shipped before anyone
parses them. Envelopes here carry exactly one signature whose ``keyid`` names
the verifying key; unknown fields and non-canonical base64 are refused.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.crypto.keys import PrivateKey, PublicKey
from ephemeralml.errors import MalformedError, RejectedError

MAX_TYPE_CHARACTERS = 255
_KEYID = re.compile(r"[0-9a-f]{16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope; nothing about its signature has been checked."""

    payload_type: str
    payload: bytes
    """The payload as shipped, decoded from base64."""
    keyid: str | None
    signature: bytes | None
    """None for an envelope that nobody has signed yet."""

    def verify(self, keys: tuple[PublicKey, ...], *, payload_type: str) -> PublicKey:
        """Return the key of *keys* that signed the envelope.

        Raises:
            RejectedError: Unsigned (code UNSIGNED), another payload type
                (PAYLOAD_TYPE_MISMATCH), a keyid that names none of *keys*
                (SIGNER_UNKNOWN), or a bad signature (SIGNATURE_INVALID).
        """
        if self.payload_type != payload_type:
            raise RejectedError(
                "the envelope holds another kind of document",
                code="PAYLOAD_TYPE_MISMATCH",
                expected=payload_type,
                actual=self.payload_type,
            )
        if self.signature is None:
            raise RejectedError("the document is not signed", code="UNSIGNED", hint="sign it, or ask its publisher to")
        candidates = [key for key in keys if key.keyid == self.keyid]
        if not candidates:
            raise RejectedError(
                f"signed by key {self.keyid}, which is not among the keys given",
                code="SIGNER_UNKNOWN",
                expected=[key.keyid for key in keys],
                actual=self.keyid,
            )
        message = pae(self.payload_type, self.payload)
        for key in candidates:
            if key.verify(self.signature, message):
                return key
        raise RejectedError("the signature does not fit the document", code="SIGNATURE_INVALID")


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding that is signed (DSSE protocol, section 2)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key: PrivateKey | None) -> bytes:
    """Return the envelope around *payload* as JSON, unsigned where *key* is None."""
    signatures = []
    if key is not None:
        signature = key.sign(pae(payload_type, payload))
        signatures.append({"keyid": key.public.keyid, "sig": base64.b64encode(signature).decode()})
    envelope = {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": signatures,
    }
    return json.dumps(envelope, indent=1).encode() + b"\n"


def looks_like_envelope(document: dict[str, Any]) -> bool:
    """Return whether a JSON object is meant as an envelope rather than a bare document."""
    return "payloadType" in document or "signatures" in document


def parse(data: bytes, *, max_bytes: int) -> Envelope:
    """Read an envelope.

    Args:
        data: The JSON document.
        max_bytes: Bound on the decoded payload.

    Raises:
        MalformedError: Not such an envelope, over the limit, base64 that is not
            canonical, an unknown field, or more than one signature.
    """
    document = strict_json.parse_object(data, max_bytes=max_bytes * 4 // 3 + 65_536)
    _exact_names(document, {"payloadType", "payload", "signatures"})
    payload_type, signatures = document["payloadType"], document["signatures"]
    if type(payload_type) is not str or type(signatures) is not list:
        raise MalformedError("a DSSE envelope has a text payloadType and a list of signatures")
    if len(payload_type) > MAX_TYPE_CHARACTERS or not (payload_type.isascii() and payload_type.isprintable()):
        raise MalformedError("the payloadType of a DSSE envelope is not a short printable ASCII text")
    if len(signatures) > 1:
        raise MalformedError("a DSSE envelope with more than one signature")
    payload = _base64(document["payload"], "payload")
    if len(payload) > max_bytes:
        raise MalformedError(f"a DSSE payload of {len(payload)} bytes, at most {max_bytes} are allowed")
    if not signatures:
        return Envelope(payload_type, payload, None, None)
    entry = signatures[0]
    if type(entry) is not dict:
        raise MalformedError("a DSSE signature is not an object")
    _exact_names(entry, {"keyid", "sig"})
    keyid = entry["keyid"]
    if type(keyid) is not str or _KEYID.fullmatch(keyid) is None:
        raise MalformedError("a DSSE keyid is 16 lower-case hex digits")
    return Envelope(payload_type, payload, keyid, _base64(entry["sig"], "sig"))


def _exact_names(document: dict[str, Any], names: set[str]) -> None:
    if set(document) != names:
        odd = min(set(document) ^ names)
        raise MalformedError(f"a DSSE envelope has the fields {sorted(names)}; look at {odd[:64]!a}")


def _base64(text: Any, name: str) -> bytes:
    if type(text) is not str:
        raise MalformedError(f"the {name} of a DSSE envelope is not text")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"the {name} of a DSSE envelope is not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise MalformedError(f"the {name} of a DSSE envelope is not canonical base64")
    return raw
