"""One connection of the host services: requests in, answers out, each in its time."""

import contextlib
import json
import os
import queue
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Protocol

from ephemeralml.errors import UnavailableError
from ephemeralml.host.http_request import MAX_HEAD_BYTES, ByteRange, Request, RequestError, parse_head, parse_range
from ephemeralml.host.package_source import (
    ChangedError,
    MissingError,
    OpenObject,
    PackageSource,
    RefusedError,
    split_path,
)

MAX_BODY_BYTES = 65_536
PIECE_BYTES = 4 << 20
"""What is read of a bucket's object before it is sent on: little enough that nobody takes the wait for a stall."""
_POOLED = 16
_RECEIVE_BYTES = 65_536
_SEND_BYTES = 16 << 20


class _Times(Protocol):
    """The bounds that a connection keeps."""

    @property
    def idle_seconds(self) -> float: ...
    @property
    def request_seconds(self) -> float: ...
    @property
    def stall_seconds(self) -> float: ...


class _Pieces:
    """A few large buffers that all connections share: the memory that buckets' bytes may take."""

    def __init__(self) -> None:
        self._free: queue.LifoQueue[bytearray] = queue.LifoQueue()
        for _ in range(_POOLED):
            self._free.put(bytearray())

    @contextmanager
    def one(self, size: int) -> Iterator[memoryview]:
        """Lend a buffer of *size* bytes, at most `PIECE_BYTES`."""
        piece = self._free.get()
        try:
            if len(piece) < size:
                piece = bytearray(size)
            yield memoryview(piece)[:size]
        finally:
            self._free.put(piece)


_PIECES = _Pieces()


class ServicesConnection:
    """Reads requests from *peer* and writes their answers; the caller closes it.

    Raises:
        OSError: From every method: the peer is gone, or too slow.
    """

    def __init__(self, peer: socket.socket, times: _Times) -> None:
        self._peer = peer
        self._times = times
        self._buffer = b""
        self._deadline = 0.0
        self._bodiless = False
        self.reason = ""
        """Why the request at hand was refused, in our own words; for the log."""

    def next_request(self) -> Request | None:
        """Return the next request's head, or None where the peer has no more.

        Raises:
            RequestError: It is not one that is served here.
        """
        if not self._buffer:
            self._peer.settimeout(self._times.idle_seconds)
            with contextlib.suppress(TimeoutError):
                self._buffer = self._peer.recv(_RECEIVE_BYTES)
            if not self._buffer:
                return None
        self._bodiless, self.reason = False, ""
        self._deadline = time.monotonic() + self._times.request_seconds
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise RequestError(431, "a request head without an end")
            if not self._receive():
                return None
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        request = parse_head(head)
        self._bodiless = request.method == "HEAD"
        return request

    def body(self, request: Request) -> bytes:
        """Return the body of *request*.

        Raises:
            RequestError: It is too long; it was not read.
        """
        if request.length > MAX_BODY_BYTES:
            raise RequestError(413, f"a body of {request.length} bytes")
        while len(self._buffer) < request.length:
            if not self._receive():
                raise ConnectionError("the peer went away within a body")
        body, self._buffer = self._buffer[: request.length], self._buffer[request.length :]
        return body

    def _receive(self) -> bool:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._peer.settimeout(left)
        data = self._peer.recv(_RECEIVE_BYTES)
        self._buffer += data
        return bool(data)

    def refuse(self, status: int, message: str, *, close: bool = False) -> int:
        """Answer with an error."""
        self.reason = message
        return self.send(status, json.dumps({"error": message}).encode(), close=close)

    def send(self, status: int, body: bytes, *, close: bool = False) -> int:
        """Answer with a JSON document, to HEAD with its head alone; return *status*."""
        fields = {"content-type": "application/json", "content-length": str(len(body))}
        if close:
            fields["connection"] = "close"
        self._send(_head(status, fields) + (b"" if self._bodiless else body))
        return status

    def send_package(self, request: Request, packages: Mapping[str, PackageSource]) -> int:
        """Answer with an object of a package, or a part of it; return the status."""
        found = split_path(request.target.removeprefix("/package/"))
        source = packages.get(found[0]) if found is not None else None
        if found is None or source is None:
            return self.refuse(404, "no such object")
        try:
            with contextlib.closing(source.open(found[1])) as item:
                return self._send_object(request, item)
        except MissingError as error:
            return self.refuse(404, error.message)
        except ChangedError as error:
            return self.refuse(412, error.message)
        except RefusedError as error:
            # Not 502: whoever reads this one asks again.
            return self.refuse(424, error.message)
        except UnavailableError as error:
            return self.refuse(502, error.message)

    def _send_object(self, request: Request, item: OpenObject) -> int:
        wanted = request.fields.get("if-match", "*")
        if wanted != "*" and item.etag not in [tag.strip() for tag in wanted.split(",")]:
            return self.refuse(412, "the object is another now")
        part, status = ByteRange(0, item.size), 200
        fields = {"content-type": "application/octet-stream", "etag": item.etag, "accept-ranges": "bytes"}
        asked = request.fields.get("range") if request.method == "GET" else None
        if asked is not None and request.fields.get("if-range", item.etag) == item.etag:
            try:
                found = parse_range(asked, item.size)
            except RequestError as error:
                return self._unsatisfiable(item, error)
            if found is not None:
                part, status = found, 206
                fields["content-range"] = f"bytes {part.start}-{part.end - 1}/{item.size}"
        fields["content-length"] = str(part.end - part.start)
        head = _head(status, fields)
        if self._bodiless:
            self._send(head)
        elif item.file is not None:
            self._send(head)
            self._send_file(item, part)
        else:
            self._send_pieces(head, item, part)
        return status

    def _unsatisfiable(self, item: OpenObject, error: RequestError) -> int:
        fields = {"content-range": f"bytes */{item.size}", "content-length": "0", "etag": item.etag}
        self._send(_head(error.status, fields))
        return error.status

    def _send_file(self, item: OpenObject, part: ByteRange) -> None:
        """Let the kernel send; whoever gets fewer bytes than announced asks again."""
        assert item.file is not None
        # A blocking call with the kernel's own timeout: with Python's, each socket buffer's worth would be a call.
        self._peer.settimeout(None)
        self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(self._times.stall_seconds))
        at = part.start
        while at < part.end:
            try:
                sent = os.sendfile(self._peer.fileno(), item.file.fileno(), at, min(part.end - at, _SEND_BYTES))
            except BlockingIOError as error:
                raise TimeoutError("the enclave takes nothing") from error
            if not sent:
                raise ConnectionError("the file became shorter while it was sent")
            at += sent

    def _send_pieces(self, head: bytes, item: OpenObject, part: ByteRange) -> None:
        """Read piece by piece and send; the head goes with the first, so that a failure has a status."""
        for start in range(part.start, max(part.end, part.start + 1), PIECE_BYTES):
            size = min(PIECE_BYTES, part.end - start)
            with _PIECES.one(size) as piece:
                try:
                    item.read_into(start, piece)
                except UnavailableError as error:
                    if head:
                        raise
                    raise ConnectionError("the object became unreachable while it was sent") from error
                if head:
                    self._send(head)
                    head = b""
                self._send(piece)

    def _send(self, data: bytes | memoryview) -> None:
        self._peer.settimeout(self._times.stall_seconds)
        view = memoryview(data)
        while view:
            view = view[self._peer.send(view) :]


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("ll", whole, int((seconds - whole) * 1_000_000))


def _head(status: int, fields: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
