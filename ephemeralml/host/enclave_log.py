"""The enclave's log as it reaches its host: typed fields of a closed list, with the host's own time.

The runtime's log cannot carry text (`ephemeralml.enclave.log`); this side
checks the same once more, so that not even a broken enclave writes a prompt to
the host's disk.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from ephemeralml.errors import MalformedError

log = logging.getLogger(__name__)

FIELDS = frozenset(
    {
        *("connection", "reason", "status", "outcome", "count", "milliseconds", "bytes", "suite", "fault"),
        *("step", "kind", "code"),
    }
)
"""Besides ``event``: the names that a line may have."""
MAX_LINES = 512
LINES_PER_SECOND, BURST = 50.0, 1_000
_WORD = re.compile(r"[a-z0-9_]{1,48}")
_MAX_NUMBER = 1 << 53


class LogDesk:
    """``POST /log``: one JSON object per line.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._allowance = float(BURST)
        self._since = clock()

    def handle(self, body: bytes) -> tuple[int, bytes]:
        """Write the lines of *body*, all of them or none; return status and JSON of the answer."""
        lines = body.splitlines()
        try:
            events = [_event(line) for line in lines[:MAX_LINES]]
        except MalformedError as error:
            return 400, json.dumps({"error": error.message}).encode()
        if len(lines) > MAX_LINES or not self._take(len(lines)):
            return 429, b'{"error": "too many lines"}'
        for event in events:
            log.info("enclave %s", json.dumps(event))
        return 200, b'{"ok": true}'

    def _take(self, count: int) -> bool:
        with self._lock:
            now = self._clock()
            self._allowance = min(BURST, self._allowance + (now - self._since) * LINES_PER_SECOND)
            self._since = now
            if count > self._allowance:
                return False
            self._allowance -= count
            return True


def _event(line: bytes) -> dict[str, Any]:
    """Read one line.

    Raises:
        MalformedError: It is none of the kind that the runtime writes.
    """
    try:
        fields = json.loads(line.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise MalformedError("a line is no JSON") from error
    if type(fields) is not dict or not _is_word(fields.get("event")):
        raise MalformedError("a line without an event")
    for name, value in fields.items():
        if name != "event" and name not in FIELDS:
            raise MalformedError("a line has a field that no log has")
        if not _is_word(value) and not (type(value) is int and abs(value) < _MAX_NUMBER):
            raise MalformedError("a field is neither a number nor a word of the log")
    return fields


def _is_word(value: object) -> bool:
    return type(value) is str and _WORD.fullmatch(value) is not None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a repeated name")
    return found
