"""What a host does for its enclave: package bytes, key release, a log (nitro-platform section 7).

A small HTTP/1.1 server for one client, the enclave, which believes none of its
answers. One thread per connection, since every route waits for a disk, a
bucket or a KMS, and files go from disk to socket inside the kernel.
"""

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from ephemeralml.errors import UnavailableError
from ephemeralml.host.http_request import Request, RequestError
from ephemeralml.host.package_source import PackageSource
from ephemeralml.host.services_connection import ServicesConnection
from ephemeralml.transport import unix, vsock
from ephemeralml.transport.address import Address, Scheme
from ephemeralml.transport.faults import unlistenable

log = logging.getLogger(__name__)

_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Bounds of the services."""

    connections: int = 64
    """At once; more wait in the kernel's queue."""
    idle_seconds: float = 75.0
    """Between two requests of one connection."""
    request_seconds: float = 10.0
    """From a request's first byte to its last."""
    stall_seconds: float = 30.0
    """The enclave takes none of an answer's bytes."""


class Desk(Protocol):
    """A route that takes a body: key release, or the log."""

    def handle(self, body: bytes) -> tuple[int, bytes]:
        """Return status and JSON of the answer to *body*."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the host's own configuration lets its enclave have, and nothing else."""

    packages: Mapping[str, PackageSource]
    """By name; the empty name is the package without one."""
    desks: Mapping[str, Desk]
    """By path, for POST."""


class Services:
    """The server.

    Args:
        address: A vsock, unix or loopback tcp address.
        offer: What is served.
        limits: Bounds.
        cid: The only peer on vsock: the enclave that this host launched. None lets every peer in.
    """

    def __init__(
        self, address: Address, offer: Offer, limits: ServiceLimits | None = None, *, cid: int | None = None
    ) -> None:
        self._address = address
        self._offer = offer
        self._limits = limits or ServiceLimits()
        self._cid = cid
        self._slots = threading.Semaphore(self._limits.connections)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._stopping = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._listener: socket.socket | None = None
        self._file: unix.BoundPath | None = None
        self._accepting: threading.Thread | None = None

    def start(self) -> Address:
        """Listen, and return the address as bound.

        Raises:
            UnavailableError: It cannot be bound.
        """
        try:
            self._listener, bound = self._bind()
            self._listener.listen(_BACKLOG)
        except BaseException:
            self.stop()
            raise
        self._accepting = threading.Thread(target=self._accept_forever, name="services accept", daemon=True)
        self._accepting.start()
        return bound

    def stop(self) -> None:
        """Listen no more, cut what is open, and wait for its threads; harmless twice."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if self._accepting is not None:
            self._accepting.join()
            self._accepting = None
        with self._lock:
            threads = tuple(self._threads)
            for peer in self._open:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._file is not None:
            self._file.remove()
            self._file = None
        self._wake.close()
        self._woken.close()

    def _bind(self) -> tuple[socket.socket, Address]:
        match self._address.scheme:
            case Scheme.UNIX:
                sock, self._file = unix.listen(self._address)
                return sock, self._address
            case Scheme.VSOCK:
                sock = vsock.listen(self._address)
                return sock, Address(Scheme.VSOCK, port=sock.getsockname()[1], cid=self._address.cid)
            case Scheme.TCP if self._address.loopback:
                return self._bind_tcp()
            case _:
                raise UnavailableError(
                    f"the services do not listen on {self._address}", hint="listen on vsock, unix or a loopback port"
                )

    def _bind_tcp(self) -> tuple[socket.socket, Address]:
        family = socket.AF_INET6 if ":" in self._address.host else socket.AF_INET
        try:
            sock = socket.create_server((self._address.host, self._address.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise unlistenable(self._address, error) from error
        return sock, Address(Scheme.TCP, self._address.host, sock.getsockname()[1])

    def _accept_forever(self) -> None:
        listener = self._listener
        assert listener is not None
        poll = select.poll()
        for sock in (listener, self._woken):
            poll.register(sock, select.POLLIN)
        while not self._stopping.is_set():
            if self._woken.fileno() in dict(poll.poll()):
                return
            if not self._slots.acquire(timeout=0.25):
                continue
            if not self._admit(listener):
                self._slots.release()

    def _admit(self, listener: socket.socket) -> bool:
        try:
            peer, name = listener.accept()
        except OSError as error:
            log.warning("accepting failed: %s", error.strerror)
            self._stopping.wait(0.25)
            return False
        if self._cid is not None and listener.family != socket.AF_UNIX and name[0] != self._cid:
            log.warning("a connection of another enclave was refused")
            peer.close()
            return False
        thread = threading.Thread(target=self._serve, args=(peer,), name="services", daemon=True)
        with self._lock:
            self._open.add(peer)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            log.warning("a connection was refused: no more threads")
            with self._lock:
                self._open.discard(peer)
                self._threads.discard(thread)
            peer.close()
            return False
        return True

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                if peer.family in (socket.AF_INET, socket.AF_INET6):
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = ServicesConnection(peer, self._limits)
                while not self._stopping.is_set() and self._one(connection):
                    pass
        except OSError as error:
            log.debug("a connection ended: %s", type(error).__name__)
        except Exception as error:  # noqa: BLE001 - one connection's fault must not reach the others
            # The type alone: a traceback could hold what the enclave sent.
            log.error("a connection failed: %s", type(error).__name__)  # noqa: TRY400 - see above
        finally:
            with self._lock:
                self._open.discard(peer)
                self._threads.discard(threading.current_thread())
            self._slots.release()

    def _one(self, connection: ServicesConnection) -> bool:
        """Serve one request; return whether another may follow."""
        try:
            request = connection.next_request()
            if request is None:
                return False
            begun = time.monotonic()
            status = self._route(connection, request)
        except RequestError as error:
            connection.refuse(error.status, error.message, close=True)
            log.warning("a request was refused: %d, %s", error.status, error.message)
            return False
        took = time.monotonic() - begun
        reason = f": {_printable(connection.reason)}" if connection.reason else ""
        log.log(
            _level(request, status), "%s %s %d after %.3f s%s", request.method, request.target, status, took, reason
        )
        return request.keep_alive

    def _route(self, connection: ServicesConnection, request: Request) -> int:
        body = connection.body(request)
        package = request.target.startswith("/package/")
        desk = self._offer.desks.get(request.target)
        if not package and desk is None and request.target != "/healthz":
            return connection.refuse(404, "no such route")
        if request.method not in (("POST",) if desk is not None else ("GET", "HEAD")):
            return connection.refuse(405, "another method is possible here")
        if package:
            return connection.send_package(request, self._offer.packages)
        if desk is None:
            return connection.send(200, b'{"ok": true}')
        return connection.send(*desk.handle(body))


def _level(request: Request, status: int) -> int:
    """Return how loud a request's line is: what only this host's operator can mend is heard with --quiet too."""
    if status == HTTPStatus.FAILED_DEPENDENCY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return logging.WARNING
    return logging.DEBUG if status < HTTPStatus.BAD_REQUEST and request.method != "POST" else logging.INFO


def _printable(text: str) -> str:
    """Return *text* with everything escaped that could break a line of the log."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
