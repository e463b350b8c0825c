"""A manifest's DSSE envelope: made unsigned, then signed (model-package.md section 1)."""

from ephemeralml.crypto import dsse
from ephemeralml.crypto.dsse import Envelope
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import MalformedError
from ephemeralml.model.manifest import MAX_MANIFEST_BYTES

PAYLOAD_TYPE = "application/vnd.ephemeralml.model-manifest+json"
MAX_ENVELOPE_BYTES = MAX_MANIFEST_BYTES * 4 // 3 + 65_536


def parse(data: bytes) -> Envelope:
    """Read ``manifest.json``; errors as `ephemeralml.crypto.dsse.parse`. Checks no signature."""
    return dsse.parse(data, max_bytes=MAX_MANIFEST_BYTES)


def unsigned(payload: bytes) -> bytes:
    """Return an envelope that nobody has signed; it counts as unsigned everywhere."""
    return dsse.seal(PAYLOAD_TYPE, payload, None)


def signed(data: bytes, key: PrivateKey) -> bytes:
    """Return the envelope *data* with *key*'s signature in place of any other.

    The payload stays as it was, byte for byte. What it says is not checked
    here; who signs has looked at the package first.

    Raises:
        MalformedError: *data* is no envelope of a manifest.
    """
    envelope = parse(data)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise MalformedError(f"the envelope holds {ascii(envelope.payload_type)[:64]}, not a model manifest")
    return dsse.seal(PAYLOAD_TYPE, envelope.payload, key)
