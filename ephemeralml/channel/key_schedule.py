"""Transcripts and keys of the channel (channel sections 2 and 3).

Every value that both sides must agree on is computed here, once, for both.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from ephemeralml.attestation.binding import channel_binding
from ephemeralml.channel.suites import SESSION_SECRET_BYTES
from ephemeralml.crypto.transcript import lp

KEY_BYTES = 32
IV_BYTES = 12

_TRANSCRIPT = b"ephemeralml/channel/1/transcript"
_TRANSCRIPT2 = b"ephemeralml/channel/1/transcript2"
_HPKE = b"ephemeralml/channel/1/hpke"
_KEY_C2S = b"ephemeralml/channel/1/key c2s"
_KEY_S2C = b"ephemeralml/channel/1/key s2c"
_IV_C2S = b"ephemeralml/channel/1/iv c2s"
_IV_S2C = b"ephemeralml/channel/1/iv s2c"
_CONFIRM_CLIENT = b"ephemeralml/channel/1/confirm client"
_CONFIRM_SERVER = b"ephemeralml/channel/1/confirm server"
_REKEY = b"ephemeralml/channel/1/rekey"


@dataclass(frozen=True, slots=True, repr=False)
class DirectionKey:
    """Key and base IV of one direction, for one key generation."""

    key: bytes
    iv: bytes


@dataclass(frozen=True, slots=True, repr=False)
class SessionKeys:
    """All that a session secret gives."""

    c2s: DirectionKey
    s2c: DirectionKey
    confirm_client: bytes
    confirm_server: bytes


@dataclass(frozen=True, slots=True)
class BindingInputs:
    """What the binding covers, kept so that an archive can recompute it (attestation section 1)."""

    client_hello: bytes = field(repr=False)
    """The frame's payload as sent."""
    suite: int
    session_id: bytes
    kem_public_key: bytes = field(repr=False)
    receipt_key: bytes
    identity: bytes = field(repr=False)
    """The encoded identity map."""
    limits: bytes = field(repr=False)
    """The encoded limits map."""

    def binding(self) -> bytes:
        """Return what evidence must carry so that it speaks for this session (channel section 2)."""
        return channel_binding(
            client_hello=self.client_hello,
            suite=self.suite,
            session_id=self.session_id,
            kem_public_key=self.kem_public_key,
            receipt_key=self.receipt_key,
            identity=self.identity,
            limits=self.limits,
        )


def transcript(client_hello: bytes, server_hello: bytes) -> bytes:
    """Return th1, over both hellos' payloads."""
    return hashlib.sha256(lp(_TRANSCRIPT, client_hello, server_hello)).digest()


def hpke_info(th1: bytes) -> bytes:
    """Return HPKE's info string of client_finish."""
    return lp(_HPKE) + th1


def transcript2(th1: bytes, sealed: bytes) -> bytes:
    """Return th2, which adds the sealed session secret."""
    return hashlib.sha256(lp(_TRANSCRIPT2) + th1 + lp(sealed)).digest()


def derive(session_secret: bytes, th2: bytes) -> SessionKeys:
    """Return both directions' first keys and both confirmations.

    Raises:
        ValueError: The session secret has another length.
    """
    if len(session_secret) != SESSION_SECRET_BYTES:
        raise ValueError(f"a session secret has {SESSION_SECRET_BYTES} bytes, not {len(session_secret)}")
    prk = HKDF.extract(SHA256(), th2, session_secret)
    return SessionKeys(
        c2s=DirectionKey(_expand(prk, _KEY_C2S, KEY_BYTES), _expand(prk, _IV_C2S, IV_BYTES)),
        s2c=DirectionKey(_expand(prk, _KEY_S2C, KEY_BYTES), _expand(prk, _IV_S2C, IV_BYTES)),
        confirm_client=_confirmation(prk, _CONFIRM_CLIENT, th2),
        confirm_server=_confirmation(prk, _CONFIRM_SERVER, th2),
    )


def next_generation(current: DirectionKey) -> DirectionKey:
    """Return the keys of the next generation of a direction (channel section 3)."""
    prk = HKDF.extract(SHA256(), _REKEY, current.key + current.iv)
    return DirectionKey(_expand(prk, b"key", KEY_BYTES), _expand(prk, b"iv", IV_BYTES))


def confirmed(received: bytes, expected: bytes) -> bool:
    """Compare a confirmation in constant time."""
    return hmac.compare_digest(received, expected)


def _confirmation(prk: bytes, label: bytes, th2: bytes) -> bytes:
    return hmac.digest(_expand(prk, label, KEY_BYTES), th2, "sha256")


def _expand(prk: bytes, label: bytes, length: int) -> bytes:
    return HKDFExpand(algorithm=SHA256(), length=length, info=label).derive(prk)
