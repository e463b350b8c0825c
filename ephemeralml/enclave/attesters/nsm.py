"""The Nitro Secure Module: its device, its CBOR protocol (nitro-platform section 1)."""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any, Protocol

from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError, UnavailableError

DEVICE = Path("/dev/nsm")
IOCTL_REQUEST = 0xC020_0A00
"""``_IOWR(0x0A, 0, 32 bytes)``."""
MAX_REQUEST_BYTES = 4_096
RESPONSE_BUFFER_BYTES = 12_288
"""The module cuts longer answers silently, so a full buffer is an error."""
DEADLINE_SECONDS = 5.0
PCR_COUNT = 32
PCR_BYTES = 48

_ERRORS = frozenset(
    {
        "InvalidArgument",
        "InvalidIndex",
        "InvalidResponse",
        "ReadOnlyIndex",
        "InvalidOperation",
        "BufferTooSmall",
        "InputTooLarge",
        "InternalError",
    }
)

Ioctl = Callable[[int, int, bytearray], int]
"""``fcntl.ioctl`` on a buffer that the driver changes; tests hand in a fake of the layer below it."""


class NsmTransport(Protocol):
    """Carries one request to the module and its answer back."""

    def exchange(self, request: bytes) -> bytes:
        """Return the module's answer.

        Raises:
            UnavailableError: No answer, in time or at all.
        """

    def close(self) -> None:
        """Release whatever was opened."""


def _ioctl(descriptor: int, number: int, argument: bytearray) -> int:
    result: int = fcntl.ioctl(descriptor, number, argument, True)
    return result


class NsmDevice:
    """``/dev/nsm``, opened once and called from one worker thread.

    The driver serialises callers and may wait for two minutes, so a caller
    here waits for its own shorter deadline. A call that overran it still holds
    the driver; later ones queue behind it and time out in their turn.
    """

    def __init__(
        self,
        path: Path = DEVICE,
        *,
        ioctl: Ioctl = _ioctl,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        """Open the device.

        Raises:
            UnavailableError: There is none, or no permission for it.
        """
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise UnavailableError(
                f"cannot open {path}: {error.strerror}",
                hint="run inside a Nitro enclave whose kernel has the nsm driver",
            ) from error
        self._ioctl = ioctl
        self._deadline = deadline
        self._calls: SimpleQueue[tuple[bytes, Future[bytes]] | None] = SimpleQueue()
        # A daemon: a driver that never answers must not keep a stopping process.
        self._worker = threading.Thread(target=self._work, name="nsm", daemon=True)
        self._worker.start()

    def exchange(self, request: bytes) -> bytes:
        """Hand *request* to the driver; errors as `NsmTransport.exchange`."""
        if len(request) > MAX_REQUEST_BYTES:
            raise RuntimeError(f"an NSM request of {len(request)} bytes")
        pending: Future[bytes] = Future()
        self._calls.put((request, pending))
        try:
            return pending.result(self._deadline)
        except FutureTimeoutError as error:
            pending.cancel()
            raise UnavailableError(f"the NSM gave no answer within {self._deadline:g} s") from error
        except OSError as error:
            raise UnavailableError(f"the NSM driver refused: {error.strerror}") from error

    def _work(self) -> None:
        """Make one call after the other, until `close`."""
        while (call := self._calls.get()) is not None:
            request, pending = call
            if not pending.set_running_or_notify_cancel():
                continue  # nobody waits any more
            try:
                pending.set_result(self._call(request))
            except (OSError, UnavailableError) as error:
                pending.set_exception(error)
        os.close(self._descriptor)

    def _call(self, request: bytes) -> bytes:
        """Make the one ioctl: two pairs of address and length, request then response."""
        sent = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(RESPONSE_BUFFER_BYTES)
        argument = bytearray(
            struct.pack("@4Q", ctypes.addressof(sent), len(request), ctypes.addressof(answer), RESPONSE_BUFFER_BYTES)
        )
        while True:
            try:
                self._ioctl(self._descriptor, IOCTL_REQUEST, argument)
                break
            except InterruptedError:
                continue
        length = struct.unpack_from("@Q", argument, 24)[0]
        if length >= RESPONSE_BUFFER_BYTES:
            raise UnavailableError("the NSM filled its whole answer buffer, so the answer may be cut")
        return answer.raw[:length]

    def close(self) -> None:
        """Close the device once a call in progress has ended; does not wait for it."""
        self._calls.put(None)


class NsmSocket:
    """The same requests over a unix stream socket, each message prefixed by its u32be length.

    One connection per exchange: the software module is local and a broken
    connection then spoils nothing but its own request.
    """

    def __init__(self, path: str, *, deadline: float = DEADLINE_SECONDS) -> None:
        self._path = path
        self._deadline = deadline

    def exchange(self, request: bytes) -> bytes:
        """Send *request*, read the answer; errors as `NsmTransport.exchange`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(self._deadline)
            try:
                peer.connect(self._path)
                peer.sendall(struct.pack(">I", len(request)) + request)
                length = struct.unpack(">I", _exactly(peer, 4))[0]
                if length >= RESPONSE_BUFFER_BYTES:
                    raise UnavailableError(f"the software NSM announces an answer of {length} bytes")
                return _exactly(peer, length)
            except OSError as error:
                raise UnavailableError(
                    f"no software NSM at {self._path}: {error.strerror or 'no answer in time'}",
                    hint="start it, or name an authority folder with --authority",
                ) from error

    def close(self) -> None:
        """Nothing stays open between exchanges."""


def _exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = peer.recv(count - len(data))
        if not piece:
            raise UnavailableError("the software NSM closed before its answer was complete")
        data += piece
    return data


class NsmDirect:
    """A software module in this process, called as a function."""

    def __init__(self, handle: Callable[[bytes], bytes]) -> None:
        self._handle = handle

    def exchange(self, request: bytes) -> bytes:
        """Call the module."""
        return self._handle(request)

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class NsmDescription:
    """What the module says of itself."""

    module_id: str
    digest: str
    max_pcrs: int
    locked_pcrs: frozenset[int]
    version: tuple[int, int, int]


class NsmClient:
    """The module's requests, with strict reading of its answers."""

    def __init__(self, transport: NsmTransport) -> None:
        self._transport = transport

    def describe(self) -> NsmDescription:
        """Ask what the module is (``DescribeNSM``)."""
        fields = self._ask("DescribeNSM", None)
        locked = fields.get("locked_pcrs")
        if type(locked) is not tuple or not all(type(index) is int and 0 <= index < PCR_COUNT for index in locked):
            raise _odd("DescribeNSM", "locked_pcrs")
        version = tuple(_field(fields, "DescribeNSM", f"version_{part}", int) for part in ("major", "minor", "patch"))
        return NsmDescription(
            module_id=_field(fields, "DescribeNSM", "module_id", str),
            digest=_field(fields, "DescribeNSM", "digest", str),
            max_pcrs=_field(fields, "DescribeNSM", "max_pcrs", int),
            locked_pcrs=frozenset(locked),
            version=(version[0], version[1], version[2]),
        )

    def pcr(self, index: int) -> bytes:
        """Read a register (``DescribePCR``)."""
        fields = self._ask("DescribePCR", {"index": index})
        _field(fields, "DescribePCR", "lock", bool)
        data: bytes = _field(fields, "DescribePCR", "data", bytes)
        if len(data) != PCR_BYTES:
            raise _odd("DescribePCR", "data")
        return data

    def attestation(self, *, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None) -> bytes:
        """Ask for a signed document that carries the three values (``Attestation``)."""
        fields = self._ask("Attestation", {"user_data": user_data, "nonce": nonce, "public_key": public_key})
        document: bytes = _field(fields, "Attestation", "document", bytes)
        return document

    def random(self) -> bytes:
        """Ask for up to 256 random bytes (``GetRandom``)."""
        data: bytes = _field(self._ask("GetRandom", None), "GetRandom", "random", bytes)
        if not 1 <= len(data) <= 256:
            raise _odd("GetRandom", "random")
        return data

    def close(self) -> None:
        """Release the transport."""
        self._transport.close()

    def _ask(self, name: str, arguments: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Make one exchange and return the answer's inner map.

        Raises:
            UnavailableError: The module reports an error, or cannot be reached.
            MalformedError: The answer is not one to this request.
        """
        answer = self._transport.exchange(cbor.encode(name if arguments is None else {name: arguments}))
        outer = _map(cbor.decode_wellformed(answer, max_bytes=RESPONSE_BUFFER_BYTES, max_depth=6, max_items=256), name)
        if set(outer) == {"Error"}:
            fault = outer["Error"]
            known = fault if isinstance(fault, str) and fault in _ERRORS else "an unknown error"
            raise UnavailableError(f"the NSM answers {name} with {known}")
        if set(outer) != {name}:
            raise MalformedError(f"the NSM's answer is not one to {name}", code="NSM_ANSWER_INVALID")
        return _map(outer[name], name)


def _map(item: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(item, cbor.Pairs):
        raise MalformedError(f"the NSM's answer to {name} is not a map", code="NSM_ANSWER_INVALID")
    with contextlib.suppress(TypeError):  # an unhashable key
        return MappingProxyType(item.unique())
    raise MalformedError(f"the NSM's answer to {name} has an odd key", code="NSM_ANSWER_INVALID")


def _field(fields: Mapping[str, Any], name: str, field: str, kind: type) -> Any:
    value = fields.get(field)
    if type(value) is not kind:
        raise _odd(name, field)
    return value


def _odd(name: str, field: str) -> MalformedError:
    return MalformedError(f"the NSM's answer to {name} has no proper {field}", code="NSM_ANSWER_INVALID")
