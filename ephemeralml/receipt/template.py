"""The receipts of one session about one model: air-v1, sections 2 and 11, fast.

After an inference the processor's caches hold weights, and every line of code
costs. Of a session's receipts all but eight claims are the same, so those are
checked and encoded once; writing and reading the others are mirror images. The
bytes are those of `issue`, and what `read` takes is what the full verifier
takes: tests compare both.
"""

from typing import NamedTuple

from ephemeralml.crypto import cbor
from ephemeralml.crypto.keys import SIGNATURE_BYTES, PrivateKey, PublicKey
from ephemeralml.errors import MalformedError
from ephemeralml.receipt.claims import CLAIMS, CTI_BYTES, HASH_BYTES, AirClaims
from ephemeralml.receipt.envelope import PROTECTED
from ephemeralml.receipt.issue import check


class Variable(NamedTuple):
    """The claims that differ from one receipt of a session to the next."""

    iat: int
    cti: bytes
    eat_nonce: bytes | None
    request_hash: bytes
    response_hash: bytes
    sequence_number: int
    execution_time_ms: int
    memory_peak_mb: int


NONCE_LOW, NONCE_HIGH = 8, 64

_MAX_UINT = (1 << 64) - 1
_UINT, _BYTES, _MAP = 0x00, 0x40, 0xA0
_SIGNED_HEAD = b"\x84\x6aSignature1" + cbor.encode(PROTECTED) + b"\x40"
_RECEIPT_HEAD = b"\xd2\x84" + cbor.encode(PROTECTED) + b"\xa0"
_SIGNATURE_HEAD = b"\x58\x40"
_TAIL_BYTES = len(_SIGNATURE_HEAD) + SIGNATURE_BYTES


class ReceiptTemplate:
    """The claims that all receipts of a session about one model share.

    Args:
        claims: One such receipt's claims; what `Variable` names is not kept.

    Raises:
        MalformedError: A claim breaks a rule; as `issue`.
    """

    __slots__ = ("_before", "_count")

    def __init__(self, claims: AirClaims) -> None:
        check(claims)
        self._before: dict[str, bytes] = {}
        """Variable claim to what stands before its value: shared claims, and its own key; "" to the rest."""
        self._count = 0
        before = b""
        for spec in CLAIMS:
            if spec.name in Variable._fields:
                self._before[spec.name] = before + cbor.encode(spec.key)
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
        self._before[""] = before

    def write(self, values: Variable, key: PrivateKey) -> bytes:
        """Return the signed receipt.

        Raises:
            MalformedError: A value breaks its claim's rule.
        """
        if not _keeps_rules(values):
            raise _refused()
        before, nonce = self._before, b""
        if values.eat_nonce is not None:
            nonce = before["eat_nonce"] + _head(_BYTES, len(values.eat_nonce)) + values.eat_nonce
        payload = b"".join(
            (
                bytes((_MAP | (self._count + bool(nonce)),)),
                before["iat"] + _head(_UINT, values.iat),
                before["cti"] + b"\x50" + values.cti,
                nonce,
                before["request_hash"] + b"\x58\x20" + values.request_hash,
                before["response_hash"] + b"\x58\x20" + values.response_hash,
                before["sequence_number"] + _head(_UINT, values.sequence_number),
                before["execution_time_ms"] + _head(_UINT, values.execution_time_ms),
                before["memory_peak_mb"] + _head(_UINT, values.memory_peak_mb),
                before[""],
            )
        )
        wrapped = _head(_BYTES, len(payload)) + payload
        return _RECEIPT_HEAD + wrapped + _SIGNATURE_HEAD + key.sign(_SIGNED_HEAD + wrapped)

    def read(self, receipt: bytes, key: PublicKey) -> Variable | None:
        """Return what an authentic receipt of this shape says, or None.

        None means only that this is not the place to judge: the receipt may
        differ in a shared claim, break a rule, or be signed by another. What a
        value must be, beyond the rules of section 3, is the caller's to compare.
        """
        wrapped = receipt[len(_RECEIPT_HEAD) : -_TAIL_BYTES]
        tail = receipt[-_TAIL_BYTES:]
        if not receipt.startswith(_RECEIPT_HEAD) or not tail.startswith(_SIGNATURE_HEAD):
            return None
        if not key.verify(tail[len(_SIGNATURE_HEAD) :], _SIGNED_HEAD + wrapped):
            return None
        try:
            values = self._read(_Cursor(wrapped))
        except _OtherShape:
            return None
        return values if _keeps_rules(values) else None

    def _read(self, at: "_Cursor") -> Variable:
        before = self._before
        if at.head(_BYTES) != at.left:
            raise _OtherShape
        with_nonce = at.head(_MAP) - self._count
        if with_nonce not in (0, 1):
            raise _OtherShape
        values = Variable(
            iat=at.after(before["iat"]).head(_UINT),
            cti=at.after(before["cti"]).bytes(CTI_BYTES),
            eat_nonce=at.after(before["eat_nonce"]).bytes() if with_nonce else None,
            request_hash=at.after(before["request_hash"]).bytes(HASH_BYTES),
            response_hash=at.after(before["response_hash"]).bytes(HASH_BYTES),
            sequence_number=at.after(before["sequence_number"]).head(_UINT),
            execution_time_ms=at.after(before["execution_time_ms"]).head(_UINT),
            memory_peak_mb=at.after(before["memory_peak_mb"]).head(_UINT),
        )
        if at.after(before[""]).left:
            raise _OtherShape
        return values


class _OtherShape(Exception):  # noqa: N818 - never leaves this module
    """The bytes are not those that the template would have."""


class _Cursor:
    """Reads what `ReceiptTemplate.write` writes."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._offset

    def after(self, expected: bytes) -> "_Cursor":
        """Pass over exactly *expected*."""
        if not self._data.startswith(expected, self._offset):
            raise _OtherShape
        self._offset += len(expected)
        return self

    def head(self, major: int) -> int:
        """Read one head of *major*, shortest form."""
        if not self.left:
            raise _OtherShape
        first = self._data[self._offset] - major
        self._offset += 1
        if 0 <= first < 24:
            return first
        if not 24 <= first < 28 or self.left < (size := 1 << (first - 24)):
            raise _OtherShape
        argument = int.from_bytes(self._data[self._offset : self._offset + size], "big")
        self._offset += size
        if argument < (24 if size == 1 else 1 << (4 * size)):
            raise _OtherShape
        return argument

    def bytes(self, length: int | None = None) -> bytes:
        """Read a byte string, of *length* if given."""
        size = self.head(_BYTES)
        if size > self.left or (length is not None and size != length):
            raise _OtherShape
        self._offset += size
        return self._data[self._offset - size : self._offset]


def _keeps_rules(values: Variable) -> bool:
    """Return whether the variable claims keep section 3."""
    nonce = values.eat_nonce
    return (
        values.iat >= 1
        and len(values.cti) == CTI_BYTES
        and any(values.cti)
        and len(values.request_hash) == HASH_BYTES
        and len(values.response_hash) == HASH_BYTES
        and (nonce is None or NONCE_LOW <= len(nonce) <= NONCE_HIGH)
    )


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
