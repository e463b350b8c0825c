"""A Nitro Secure Module in software: the same requests, limits and errors (nitro-platform section 1).

`SoftwareNsm.handle` takes one request and gives one response, as the device's
ioctl does; `nsm_server` carries both over a unix socket.
"""

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from threading import Lock
from typing import Any

from ephemeralml import clock as edge_clock
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.documents import DocumentFields
from ephemeralml.attestation.local.measure import extend
from ephemeralml.attestation.nitro.document import (
    MAX_NONCE_BYTES,
    MAX_PCRS,
    MAX_PUBLIC_KEY_BYTES,
    MAX_USER_DATA_BYTES,
    PCR_BYTES,
)
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError

MAX_REQUEST_BYTES = 4_096
MAX_RESPONSE_BYTES = 12_288
RANDOM_BYTES = 256
ALWAYS_LOCKED = 16
"""PCR0 to PCR15 are locked from the start."""


class _NsmError(Exception):
    """One of the module's error names; never leaves `SoftwareNsm`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class SoftwareNsm:
    """The module's protocol over registers in memory.

    Args:
        authority: Signs the documents.
        pcrs: Registers that are not zero, by index.
        module_id: By default the authority's id and a random enclave number.
        clock: Gives a document's timestamp.
    """

    def __init__(
        self,
        authority: Authority,
        pcrs: Mapping[int, bytes],
        module_id: str | None = None,
        clock: Callable[[], datetime] = edge_clock.now,
    ) -> None:
        if any(not 0 <= index < MAX_PCRS or len(value) != PCR_BYTES for index, value in pcrs.items()):
            raise ValueError("registers are 48 bytes under an index below 32")
        self._authority = authority
        self._pcrs = [pcrs.get(index, bytes(PCR_BYTES)) for index in range(MAX_PCRS)]
        self._locked = [index < ALWAYS_LOCKED for index in range(MAX_PCRS)]
        self._clock = clock
        self._lock = Lock()
        self.module_id = module_id or f"{authority.id}-enc{os.urandom(8).hex()}"
        """As documents state it."""

    def handle(self, request: bytes) -> bytes:
        """Answer one request; whatever is wrong with it is an answer too."""
        try:
            with self._lock:
                response = cbor.encode(self._answer(request))
        except _NsmError as error:
            return _error(error.name)
        return response if len(response) < MAX_RESPONSE_BYTES else _error("BufferTooSmall")

    def _answer(self, request: bytes) -> Any:
        if len(request) > MAX_REQUEST_BYTES:
            raise _NsmError("InputTooLarge")
        try:
            item = cbor.decode_wellformed(request, max_bytes=MAX_REQUEST_BYTES, max_depth=4)
        except MalformedError as error:
            raise _NsmError("InvalidArgument") from error
        if item == "DescribeNSM":
            return {"DescribeNSM": self._describe()}
        if item == "GetRandom":
            return {"GetRandom": {"random": os.urandom(RANDOM_BYTES)}}
        if not isinstance(item, cbor.Pairs) or len(item) != 1:
            raise _NsmError("InvalidOperation")
        name, arguments = item.items[0]
        operation = {
            "DescribePCR": self._describe_pcr,
            "ExtendPCR": self._extend_pcr,
            "LockPCR": self._lock_pcr,
            "LockPCRs": self._lock_pcrs,
            "Attestation": self._attestation,
        }.get(name if type(name) is str else "")
        if operation is None:
            raise _NsmError("InvalidOperation")
        return operation(_arguments(arguments))

    def _describe(self) -> dict[str, Any]:
        return {
            "digest": "SHA384",
            "max_pcrs": MAX_PCRS,
            "module_id": self.module_id,
            "locked_pcrs": [index for index in range(MAX_PCRS) if self._locked[index]],
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
        }

    def _describe_pcr(self, arguments: dict[Any, Any]) -> Any:
        index = _index(arguments, "index")
        return {"DescribePCR": {"lock": self._locked[index], "data": self._pcrs[index]}}

    def _extend_pcr(self, arguments: dict[Any, Any]) -> Any:
        index = _index(arguments, "index")
        data = arguments.get("data")
        if type(data) is not bytes:
            raise _NsmError("InvalidArgument")
        if self._locked[index]:
            raise _NsmError("ReadOnlyIndex")
        self._pcrs[index] = extend(data, self._pcrs[index])
        return {"ExtendPCR": {"data": self._pcrs[index]}}

    def _lock_pcr(self, arguments: dict[Any, Any]) -> Any:
        index = _index(arguments, "index")
        if self._locked[index]:
            raise _NsmError("ReadOnlyIndex")
        self._locked[index] = True
        return "LockPCR"

    def _lock_pcrs(self, arguments: dict[Any, Any]) -> Any:
        count = arguments.get("range")
        if type(count) is not int:
            raise _NsmError("InvalidArgument")
        if not 0 <= count <= MAX_PCRS:
            raise _NsmError("InvalidIndex")
        self._locked[:count] = [True] * count
        return "LockPCRs"

    def _attestation(self, arguments: dict[Any, Any]) -> Any:
        fields = DocumentFields(
            module_id=self.module_id,
            pcrs={index: self._pcrs[index] for index in range(MAX_PCRS) if self._locked[index]},
            public_key=_optional(arguments, "public_key", 1, MAX_PUBLIC_KEY_BYTES),
            user_data=_optional(arguments, "user_data", 0, MAX_USER_DATA_BYTES),
            nonce=_optional(arguments, "nonce", 0, MAX_NONCE_BYTES),
        )
        if not arguments.keys() <= {"public_key", "user_data", "nonce"}:
            raise _NsmError("InvalidArgument")
        return {"Attestation": {"document": self._authority.issue_document(fields, self._clock())}}


def _error(name: str) -> bytes:
    return cbor.encode({"Error": name})


def _arguments(value: Any) -> dict[Any, Any]:
    try:
        if isinstance(value, cbor.Pairs):
            return value.unique()
    except MalformedError as error:
        raise _NsmError("InvalidArgument") from error
    raise _NsmError("InvalidArgument")


def _index(arguments: dict[Any, Any], name: str) -> int:
    index = arguments.get(name)
    if type(index) is not int:
        raise _NsmError("InvalidArgument")
    if not 0 <= index < MAX_PCRS:
        raise _NsmError("InvalidIndex")
    return index


def _optional(arguments: dict[Any, Any], name: str, least: int, most: int) -> bytes | None:
    value = arguments.get(name)
    if value is None:
        return None
    if type(value) is not bytes or len(value) < least:
        raise _NsmError("InvalidArgument")
    if len(value) > most:
        raise _NsmError("InputTooLarge")
    return value
