"""The runtime's log, which cannot carry a request.

A line is an event of a closed list with numbers and enum values, nothing else;
text has no way in, so neither a prompt, a response, a header nor an exception
message can be logged (serving section 1).
"""

import json
import logging
import re
from dataclasses import dataclass
from enum import Enum

from ephemeralml.errors import EphemeralError

LOGGER = "ephemeralml.enclave"
BOOT_LOGGER = "ephemeralml.enclave.boot"
"""The boot's own, so that it can go where nobody sees a console."""


class Event(Enum):
    """What may be logged."""

    BOOT_STEP = "boot_step"
    BOOT_FAILED = "boot_failed"
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


_LOGGER, _BOOT = logging.getLogger(LOGGER), logging.getLogger(BOOT_LOGGER)
_BOOT_EVENTS = frozenset({Event.BOOT_STEP, Event.BOOT_FAILED})
_WARNINGS = frozenset({Event.BOOT_FAILED, Event.EVIDENCE_FAILED, Event.REQUEST_FAILED, Event.TASK_FAILED})

FIELDS = frozenset(
    {
        *("connection", "reason", "status", "outcome", "count", "milliseconds", "bytes", "suite", "fault"),
        *("step", "kind", "code"),
    }
)
"""The names a line's fields may have."""

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,47}")


@dataclass(frozen=True, slots=True)
class Code:
    """The code of one of our errors: a name that stands in this program, never one that came in."""

    name: str

    @classmethod
    def of(cls, error: EphemeralError) -> "Code | None":
        """Return the code of *error*, or None where it has none of ours."""
        code = getattr(error, "code", None)
        return cls(code) if isinstance(code, str) and _CODE.fullmatch(code) else None


def note(event: Event, **fields: int | Enum | Code) -> None:
    """Log *event* with typed fields.

    Raises:
        RuntimeError: A field is not on the list, or is neither an integer, an
            enum member nor a code; that is a bug in the caller.
    """
    level = logging.WARNING if event in _WARNINGS else logging.INFO
    logger = _BOOT if event in _BOOT_EVENTS else _LOGGER
    if not logger.isEnabledFor(level):
        return
    line: dict[str, int | str] = {"event": event.value}
    for name, value in fields.items():
        if name not in FIELDS or not isinstance(value, (int, Enum, Code)):
            raise RuntimeError(f"the log takes no field {name}")
        line[name] = int(value) if isinstance(value, int) else value.name.lower()
    logger.log(level, "%s", json.dumps(line))


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
