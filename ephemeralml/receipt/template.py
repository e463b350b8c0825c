"""Issuing many receipts that differ in a few claims: air-v1, section 11, fast.

After an inference the processor's caches hold weights, and every line of code
costs. Of a session's receipts all but eight claims are the same, so those are
checked and encoded once. The bytes are those of `issue`, which a test compares.
"""

from ephemeralml.crypto import cbor
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import MalformedError
from ephemeralml.receipt.claims import CLAIMS, CTI_BYTES, HASH_BYTES, AirClaims
from ephemeralml.receipt.envelope import PROTECTED
from ephemeralml.receipt.issue import issue

VARIABLE = frozenset(
    (
        "iat",
        "cti",
        "eat_nonce",
        "request_hash",
        "response_hash",
        "sequence_number",
        "execution_time_ms",
        "memory_peak_mb",
    )
)
"""The claims that differ from one receipt of a session to the next."""

_MAX_UINT = (1 << 64) - 1
_UINT, _BYTES = 0x00, 0x40
_MAP = 0xA0
_SIGNED_HEAD = b"\x84\x6aSignature1" + cbor.encode(PROTECTED) + b"\x40"
_RECEIPT_HEAD = b"\xd2\x84" + cbor.encode(PROTECTED) + b"\xa0"
_SIGNATURE_HEAD = b"\x58\x40"


class ReceiptTemplate:
    """The claims that all receipts of a session about one model share.

    Args:
        claims: One such receipt's claims; what `VARIABLE` names is not kept.
        key: Signs the receipts.

    Raises:
        MalformedError: A claim breaks a rule; as `issue`.
    """

    __slots__ = ("_count", "_key", "_parts")

    def __init__(self, claims: AirClaims, key: PrivateKey) -> None:
        issue(claims, key)
        self._key = key
        self._parts: dict[str, bytes] = {}
        """Variable claim to what stands before its value: static claims, and its own key; "" to the rest."""
        before = b""
        self._count = 0
        for spec in CLAIMS:
            if spec.name in VARIABLE:
                self._parts[spec.name] = before + cbor.encode(spec.key)
                self._count += spec.required
                before = b""
                continue
            value = getattr(claims, spec.name)
            if value is None:
                continue
            if spec.kind is dict:
                value = {**value.registers(), "measurement_type": value.measurement_type}
            before += cbor.encode(spec.key) + cbor.encode(value)
            self._count += 1
        self._parts[""] = before

    def issue(
        self,
        *,
        iat: int,
        cti: bytes,
        request_hash: bytes,
        response_hash: bytes,
        sequence_number: int,
        execution_time_ms: int,
        memory_peak_mb: int,
        eat_nonce: bytes | None,
    ) -> bytes:
        """Return the signed receipt.

        Raises:
            MalformedError: A value breaks its claim's rule.
        """
        if len(cti) != CTI_BYTES or not any(cti) or iat < 1:
            raise _refused()
        if len(request_hash) != HASH_BYTES or len(response_hash) != HASH_BYTES:
            raise _refused()
        if eat_nonce is not None and not 8 <= len(eat_nonce) <= 64:
            raise _refused()
        parts = self._parts
        nonce = b"" if eat_nonce is None else parts["eat_nonce"] + _head(_BYTES, len(eat_nonce)) + eat_nonce
        payload = b"".join(
            (
                bytes((_MAP | (self._count + (eat_nonce is not None)),)),
                parts["iat"],
                _head(_UINT, iat),
                parts["cti"],
                b"\x50",
                cti,
                nonce,
                parts["request_hash"],
                b"\x58\x20",
                request_hash,
                parts["response_hash"],
                b"\x58\x20",
                response_hash,
                parts["sequence_number"],
                _head(_UINT, sequence_number),
                parts["execution_time_ms"],
                _head(_UINT, execution_time_ms),
                parts["memory_peak_mb"],
                _head(_UINT, memory_peak_mb),
                parts[""],
            )
        )
        wrapped = _head(_BYTES, len(payload)) + payload
        signature = self._key.sign(_SIGNED_HEAD + wrapped)
        return _RECEIPT_HEAD + wrapped + _SIGNATURE_HEAD + signature


def _head(major: int, argument: int) -> bytes:
    """Return the shortest CBOR head."""
    if 0 <= argument < 24:
        return bytes((major | argument,))
    if not 0 <= argument <= _MAX_UINT:
        raise _refused()
    size = 1 if argument < 256 else 2 if argument < 65_536 else 4 if argument < 1 << 32 else 8
    return bytes((major | (23 + size.bit_length()),)) + argument.to_bytes(size, "big")


def _refused() -> MalformedError:
    return MalformedError("no receipt can state this: a claim is out of bounds", code="OUT_OF_RANGE")
