"""From an HTTP request's parts to a response's: who asks, what for, the answer, the audit line.

No sockets here, and nothing runs beside anything else: requests are served one
after the other, so a policy that was put is in force for the next request.
"""

import base64
import json
import logging
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ephemeralml.errors import RejectedError
from ephemeralml.keyrelease.local import shapes, sigv4
from ephemeralml.keyrelease.local.audit_log import AuditLog
from ephemeralml.keyrelease.local.call import Call, Trail
from ephemeralml.keyrelease.local.desk import Desk
from ephemeralml.keyrelease.local.faults import ServiceFault
from ephemeralml.keyrelease.local.operations import OPERATIONS
from ephemeralml.keyrelease.local.records import Principal
from ephemeralml.keyrelease.local.sigv4 import SignedRequest
from ephemeralml.keyrelease.local.state import remember_head
from ephemeralml.keyrelease.local.state_key import UNSEALABLE

CONTENT_TYPE = "application/x-amz-json-1.1"
TARGET = "TrentService."
REMEMBER_EVERY, REMEMBER_AFTER = 4_096, timedelta(seconds=60)
"""Requests, and time at most, until the state remembers again how far the audit log goes."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """A request as the HTTP server read it."""

    request: SignedRequest
    source_ip: str | None = None
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A response."""

    status: int
    request_id: str
    body: bytes


class Service:
    """The key server behind its HTTP server.

    Args:
        desk: State and settings.
        audit: The log; a request that cannot be logged is not answered.
        clock: The time.
    """

    def __init__(self, desk: Desk, audit: AuditLog, clock: Callable[[], datetime]) -> None:
        self._desk = desk
        self._audit = audit
        self._clock = clock
        self._readers = shapes.readers(OPERATIONS)
        self._remembered, self._remembered_at = audit.head.count, clock()

    def answer(self, received: Received) -> Answer:
        """Serve one request."""
        trail = Trail(self._clock(), str(uuid.uuid4()))
        try:
            status, document = 200, self._perform(received, trail)
        except ServiceFault as fault:
            status, document = fault.status, _error(fault)
        except Exception as error:  # noqa: BLE001 - one request's fault must reach neither the others nor the client
            # A full disk, a bug: the type alone, a message could hold what a client sent. A changed row is named.
            reason = type(error).__name__
            if isinstance(error, RejectedError) and error.code == UNSEALABLE:
                reason, trail.notes["state"] = error.message, UNSEALABLE
            _log.error("an operation failed: %s", reason)
            status, document = 500, _error(_internal())
        if status != 200:
            trail.error = document["__type"]
        try:
            self._audit.append(trail.to_json())
        except OSError as error:
            _log.error("the audit log cannot be written: %s", error.strerror)
            status, document = 500, _error(_internal())
        self._remember(trail.time)
        return Answer(status, trail.request_id, _encoded(document))

    def close(self) -> None:
        """Have the state remember the audit log, and close that."""
        remember_head(self._desk.store, self._audit)
        self._audit.close()

    def _perform(self, received: Received, trail: Trail) -> Mapping[str, Any]:
        principal = self._caller(received, trail)
        name = self._operation(received.request)
        trail.operation = name
        fields = self._readers[name](received.request.body)
        call = Call(principal, fields, trail.time, trail, received.source_ip, received.tls)
        return OPERATIONS[name](self._desk, call)

    def _caller(self, received: Received, trail: Trail) -> Principal:
        found: list[Principal] = []

        def secret_of(access_key: str) -> str | None:
            known = self._desk.store.credentials(access_key)
            if known is None:
                return None
            found.append(known[0])
            return known[1]

        region = self._desk.names.region
        sigv4.verify(received.request, region=region, now=trail.time, secret_of=secret_of)
        trail.principal = found[0].arn
        return found[0]

    def _operation(self, request: SignedRequest) -> str:
        headers = {name.lower(): value for name, value in request.headers}
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().decode("latin-1")
        target = headers.get(b"x-amz-target", b"").decode("latin-1")
        name = target.removeprefix(TARGET)
        if request.method != "POST" or request.path != b"/" or kind != CONTENT_TYPE:
            raise ServiceFault("UnknownOperationException", f"requests are POST / with {CONTENT_TYPE}")
        if not target.startswith(TARGET) or name not in OPERATIONS:
            raise ServiceFault("UnknownOperationException", "there is no such operation here")
        return name

    def _remember(self, now: datetime) -> None:
        if self._audit.head.count - self._remembered >= REMEMBER_EVERY or now - self._remembered_at >= REMEMBER_AFTER:
            self._remembered, self._remembered_at = self._audit.head.count, now
            try:
                remember_head(self._desk.store, self._audit)
            except (OSError, sqlite3.Error) as error:
                _log.error("the state cannot be written: %s", type(error).__name__)


def _internal() -> ServiceFault:
    return ServiceFault("KMSInternalException", "the request could not be served", status=500)


def _error(fault: ServiceFault) -> dict[str, Any]:
    return {"__type": fault.code, "message": fault.message}


def refusal(name: str, message: str, status: int) -> Answer:
    """Return the answer to what is no request that could be served."""
    return Answer(status, str(uuid.uuid4()), _encoded({"__type": name, "message": message}))


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), default=_value).encode()


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.timestamp()
    raise TypeError(f"no JSON for {type(value).__name__}")
