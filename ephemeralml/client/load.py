"""A load test: the same request many times, every receipt verified."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ephemeralml.client.reply import Reply
from ephemeralml.progress import Progress, Silent


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load test measured; a reply whose receipt failed would have ended it."""

    seconds: float
    """From the first request to the last reply."""
    latencies: tuple[float, ...]
    """Seconds per reply, sorted."""
    concurrency: int
    statuses: Mapping[int, int]
    """How many replies had which status."""
    receipts: int
    """Receipts that were verified."""

    def percentile(self, share: float) -> float:
        """Return the latency in seconds that *share* (0..1) of the replies did not exceed."""
        # The nearest rank; the products of shares and counts are rounded, 0.95 * 100 being a little too much.
        rank = math.ceil(round(share * len(self.latencies), 6))
        return self.latencies[max(rank, 1) - 1]

    @property
    def throughput(self) -> float:
        """Replies per second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        """Replies with an error status."""
        return sum(number for status, number in self.statuses.items() if status >= 400)

    def to_json(self) -> dict[str, Any]:
        """Return the report as the command line prints it, times in milliseconds."""
        milliseconds = {name: round(1e3 * self.percentile(share), 3) for name, share in _SHARES.items()}
        return {
            "requests": len(self.latencies),
            "concurrency": self.concurrency,
            "seconds": round(self.seconds, 3),
            "throughput_per_second": round(self.throughput, 2),
            "latency_ms": milliseconds,
            "receipts_verified": self.receipts,
            "statuses": {str(status): number for status, number in sorted(self.statuses.items())},
        }


_SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class _Run:
    """The state that the workers of one load test share."""

    def __init__(self, ask: Callable[[], Reply], count: int, progress: Progress) -> None:
        self._ask = ask
        self._count = count
        self._started = 0
        self._progress = progress
        self._lock = threading.Lock()
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.receipts = 0
        self.failure: BaseException | None = None

    def work(self) -> None:
        """Ask until enough was asked, or something failed anywhere."""
        while self._take():
            begin = time.perf_counter()
            try:
                reply = self._ask()
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
                with self._lock:
                    self.failure = self.failure or error
                return
            self._count_reply(time.perf_counter() - begin, reply)

    def _take(self) -> bool:
        with self._lock:
            if self.failure is not None or self._started >= self._count:
                return False
            self._started += 1
            return True

    def _count_reply(self, seconds: float, reply: Reply) -> None:
        with self._lock:
            self.latencies.append(seconds)
            self.statuses[reply.status] += 1
            self.receipts += reply.receipted is not None
            self._progress.advance(len(self.latencies), self._count, unit="replies")


def run_load(ask: Callable[[], Reply], *, count: int, concurrency: int, progress: Progress | None = None) -> LoadReport:
    """Call *ask* *count* times from *concurrency* threads and measure.

    The first exception stops every worker and is raised here, so that a load
    test never reports figures over replies that were not verified.
    """
    if count < 1 or concurrency < 1:
        raise ValueError("a load test asks at least once, from at least one thread")
    run = _Run(ask, count, progress or Silent())
    workers = [threading.Thread(target=run.work, name=f"load-{n}") for n in range(min(concurrency, count))]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begin
    if run.failure is not None:
        raise run.failure
    return LoadReport(seconds, tuple(sorted(run.latencies)), len(workers), dict(run.statuses), run.receipts)
