"""Where evidence carries what it must be bound to (attestation section 1).

One function per format, used by the attester that asks for a document and by
the verifier that reads it, so that both sides agree by construction.
"""

import hashlib
from typing import NamedTuple

from ephemeralml.attestation.evidence import ExpectedBinding
from ephemeralml.crypto.transcript import lp

_CHANNEL_LABEL = b"ephemeralml/channel/1/binding"


class NitroFields(NamedTuple):
    """The three fields that a Nitro document takes from its requester."""

    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None


def nitro_fields(expected: ExpectedBinding) -> NitroFields:
    """Return what a Nitro or local document must carry: raw values, no wrapping."""
    return NitroFields(expected.receipt_key, expected.channel_binding, expected.nonce)


def channel_binding(
    *,
    client_hello: bytes,
    suite: int,
    session_id: bytes,
    kem_public_key: bytes,
    receipt_key: bytes,
    identity: bytes,
    limits: bytes,
) -> bytes:
    """Return the 32 bytes that tie evidence to one session (channel section 2).

    It stands here and not with the channel because archives recompute it from
    a sidecar's `binding_inputs`.
    """
    return hashlib.sha256(
        lp(_CHANNEL_LABEL, client_hello)
        + suite.to_bytes(2, "big")
        + lp(session_id, kem_public_key, receipt_key, hashlib.sha256(identity).digest(), limits)
    ).digest()
