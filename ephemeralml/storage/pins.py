"""The version of each object that was seen first.

A package is read in many ranges. If one of them came from another version of the
object, the reader would only see a digest fail; the pin says what happened.
"""

import threading
from dataclasses import dataclass

from ephemeralml.errors import RejectedError


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one version of an object from the next."""

    size: int
    """Its length."""
    tag: str | None
    """The store's name for it (strong ETag, generation, inode and time), or None where it has none."""


class Pins:
    """The `Version` that each key had at first; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pinned: dict[str, Version] = {}

    def get(self, key: str) -> Version | None:
        """Return the pinned version of *key*, or None before the first look."""
        with self._lock:
            return self._pinned.get(key)

    def note(self, key: str, found: Version) -> Version:
        """Pin *found*, or compare it with what is pinned.

        Raises:
            RejectedError: Another version is pinned (code OBJECT_CHANGED).
        """
        with self._lock:
            pinned = self._pinned.setdefault(key, found)
        if pinned != found:
            raise changed(key, pinned, found)
        return pinned

    def forget(self, key: str) -> None:
        """Let the next look at *key* pin it anew, because we replaced it ourselves."""
        with self._lock:
            self._pinned.pop(key, None)


def changed(key: str, pinned: Version | None = None, found: Version | None = None) -> RejectedError:
    """Return the error for object *key* that is not what it was."""
    return RejectedError(
        f"{key} changed while it was being read",
        code="OBJECT_CHANGED",
        expected=pinned and (pinned.tag or pinned.size),
        actual=found and (found.tag or found.size),
        hint="someone writes to the store; start again when they are done",
    )
