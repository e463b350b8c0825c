"""Several threads on one list of work, and what stops them."""

import contextlib
import mmap
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from ephemeralml.errors import UnavailableError

Lane = Callable[[threading.Event], None]
"""Works until there is nothing left to do, or the event is set."""


def run(lanes: Sequence[Lane], *, name: str, on_stop: Callable[[], None] | None = None) -> None:
    """Run all *lanes* at once, each on a thread; return when the last of them ended.

    The first error sets the event, calls *on_stop*, which wakes whoever waits
    for another lane, and is raised once all have ended: nobody writes to the
    caller's memory after that.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(len(lanes), thread_name_prefix=name) as pool:
        futures = [pool.submit(lane, stop) for lane in lanes]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            stop.set()
            if on_stop is not None:
                on_stop()
            raise


def scratch(size: int) -> memoryview:
    """Return *size* bytes of private memory, whose pages are taken as they are first used.

    Raises:
        UnavailableError: There is no such memory.
    """
    try:
        memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError) as error:
        raise UnavailableError(f"no memory for a buffer of {size} bytes") from error
    # To take new pages is much of the cost of a load; a kernel without huge ones says so, and small ones do.
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[:size]
