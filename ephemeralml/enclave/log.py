"""The runtime's log, which cannot carry a request.

A line is an event of a closed list with numbers and enum values, nothing else;
text has no way in, so neither a prompt, a response, a header nor an exception
message can be logged (serving section 1).
"""

import json
import logging
from enum import Enum

_LOGGER = logging.getLogger("ephemeralml.enclave")


class Event(Enum):
    """What may be logged."""

    LISTENING = "listening"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_CLOSED = "connection_closed"
    HANDSHAKE_FAILED = "handshake_failed"
    ESTABLISHED = "established"
    EVIDENCE_FAILED = "evidence_failed"
    REQUEST_FINISHED = "request_finished"
    REQUEST_FAILED = "request_failed"
    TASK_FAILED = "task_failed"
    DRAINING = "draining"
    STOPPED = "stopped"


_WARNINGS = frozenset({Event.EVIDENCE_FAILED, Event.REQUEST_FAILED, Event.TASK_FAILED})

FIELDS = frozenset({"connection", "reason", "status", "outcome", "count", "milliseconds", "bytes", "suite", "fault"})
"""The names a line's fields may have."""


def note(event: Event, **fields: int | Enum) -> None:
    """Log *event* with typed fields.

    Raises:
        RuntimeError: A field is not on the list, or is neither an integer nor
            an enum member; that is a bug in the caller.
    """
    level = logging.WARNING if event in _WARNINGS else logging.INFO
    if not _LOGGER.isEnabledFor(level):
        return
    line: dict[str, int | str] = {"event": event.value}
    for name, value in fields.items():
        if name not in FIELDS or not isinstance(value, (int, Enum)):
            raise RuntimeError(f"the log takes no field {name}")
        line[name] = value.name.lower() if isinstance(value, Enum) else int(value)
    _LOGGER.log(level, "%s", json.dumps(line))


class Fault(Enum):
    """Kinds of unexpected failure, by the class of the exception alone."""

    MEMORY = "memory"
    OS = "os"
    VALUE = "value"
    RUNTIME = "runtime"
    OTHER = "other"

    @classmethod
    def of(cls, error: BaseException) -> "Fault":
        """Return the kind of *error*; its message may hold what nobody may log."""
        kinds = ((MemoryError, cls.MEMORY), (OSError, cls.OS), (ValueError, cls.VALUE), (RuntimeError, cls.RUNTIME))
        return next((kind for family, kind in kinds if isinstance(error, family)), cls.OTHER)
