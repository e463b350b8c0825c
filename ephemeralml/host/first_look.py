"""One look at what a host is to offer, before it says that it is ready.

A bucket that is not there, or credentials that are none, would else be found
by an enclave at its boot, which can say little about them.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping

from ephemeralml.errors import EphemeralError, UnavailableError
from ephemeralml.host.package_source import PackageSource

MANIFEST = "manifest.json"
SECONDS = 15.0
"""For all looks together, which go on at once; a store that takes longer is not fit to boot from."""
_MOST = 1 << 16
"""Bytes of a manifest that are read: that they come is all that is looked for."""


def look_at_package(source: PackageSource) -> None:
    """Read the beginning of a package's manifest.

    Raises:
        UnavailableError: There is none, or it cannot be read.
    """
    with contextlib.closing(source.open(MANIFEST)) as item:
        if not item.size:
            raise UnavailableError(f"{MANIFEST} is empty")
        item.read_into(0, memoryview(bytearray(min(item.size, _MOST))))


def all_within(seconds: float, looks: Mapping[str, Callable[[], None]]) -> None:
    """Do all *looks* at once, and wait for *seconds* at most.

    Each is a thread that nothing waits for: a name server or a library that
    hangs cannot keep the command from ending.

    Args:
        seconds: For all of them.
        looks: By what messages call them.

    Raises:
        EphemeralError: The first look's that failed, in their order.
        UnavailableError: One of them is not done.
    """
    failures: dict[str, EphemeralError] = {}
    crashes: list[BaseException] = []

    def look(name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except EphemeralError as error:
            failures[name] = error
        except BaseException as error:  # noqa: BLE001 - a bug is raised where the caller is
            crashes.append(error)

    threads = {
        name: threading.Thread(target=look, args=(name, action), name="first look", daemon=True)
        for name, action in looks.items()
    }
    end = time.monotonic() + seconds
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        thread.join(max(0.0, end - time.monotonic()))
        if crashes:
            raise crashes[0]
        if name in failures:
            raise failures[name]
        if thread.is_alive():
            raise UnavailableError(
                f"cannot look at {name}: no answer within {seconds:g} s", hint="check the network and the endpoint"
            )
