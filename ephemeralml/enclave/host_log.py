"""The runtime's log on its way to the host (nitro-platform section 7, ``POST /log``).

An enclave in production has no console: without this nobody would learn why a
boot failed. What is sent is what `ephemeralml.enclave.log` writes, which cannot
carry a request. The host may lose it, so nothing ever waits for it.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from ephemeralml.enclave import log
from ephemeralml.enclave.config import ServiceRules
from ephemeralml.enclave.host_services import ServicesConnection
from ephemeralml.errors import EphemeralError, IncompleteError, MalformedError, RejectedError, UnavailableError
from ephemeralml.transport.address import Address

MAX_WAITING = 1_000
"""Lines that wait for the host; beyond that the newest are lost."""
BATCH = 256
PAUSE_SECONDS = 0.5
_ANSWER_SECONDS = 3.0


class HostLog(logging.Handler):
    """A handler that hands lines to the host in the background. Close it: that sends the last ones.

    Args:
        rules: Where the services are.
    """

    def __init__(self, rules: ServiceRules) -> None:
        super().__init__(logging.INFO)
        self._address = Address.parse(rules.address)
        self._lines: queue.Queue[bytes] = queue.Queue(MAX_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_forever, name="host log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or lose it."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(record.getMessage().encode())

    def close(self) -> None:
        """Send what waits, for a few seconds at most; harmless twice."""
        self._closing.set()
        self._thread.join(2 * _ANSWER_SECONDS)
        super().close()

    def _send_forever(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(PAUSE_SECONDS)
            while lines := self._take():
                if not self._send(b"\n".join(lines)):
                    break

    def _take(self) -> list[bytes]:
        lines: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            while len(lines) < BATCH:
                lines.append(self._lines.get_nowait())
        return lines

    def _send(self, body: bytes) -> bool:
        """Post *body*; what cannot be sent is lost, and this log says nothing of that."""
        connection = ServicesConnection(self._address)
        connection.timeout = _ANSWER_SECONDS
        begun = time.monotonic()
        try:
            connection.request("POST", "/log", body, {"content-type": "application/jsonl"})
            connection.sock.settimeout(max(0.1, _ANSWER_SECONDS - (time.monotonic() - begun)))
            return connection.getresponse().status == 200
        except Exception:  # noqa: BLE001 - whatever the host does, the runtime goes on
            return False
        finally:
            connection.close()


@contextmanager
def to_host(rules: ServiceRules | None) -> Iterator[None]:
    """Send the boot's steps, its failure and every warning to the host while the block runs.

    Args:
        rules: Where the services are; without any nothing is sent.
    """
    if rules is None:
        yield
        return
    handler = HostLog(rules)
    boot, rest = logging.getLogger(log.BOOT_LOGGER), logging.getLogger(log.LOGGER)
    boot.setLevel(logging.INFO)
    boot.propagate = False
    boot.addHandler(handler)
    warnings = _WarningsTo(handler)
    rest.addHandler(warnings)
    try:
        yield
    except EphemeralError as error:
        _note_failure(error)
        raise
    finally:
        boot.removeHandler(handler)
        rest.removeHandler(warnings)
        handler.close()


class _Kind(Enum):
    """What an error means, for a log whose reader sees no message."""

    REJECTED = RejectedError
    MALFORMED = MalformedError
    UNAVAILABLE = UnavailableError
    INCOMPLETE = IncompleteError


def _note_failure(error: EphemeralError) -> None:
    """Log the kind of *error*, and its code if it has one."""
    fields: dict[str, Enum | log.Code] = {}
    code = log.Code.of(error)
    if code is not None:
        fields["code"] = code
    for kind in _Kind:
        if isinstance(error, kind.value):
            fields["kind"] = kind
    log.note(log.Event.BOOT_FAILED, **fields)


class _WarningsTo(logging.Handler):
    """Passes warnings on to another handler, which takes more from elsewhere."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__(logging.WARNING)
        self._handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        self._handler.emit(record)
