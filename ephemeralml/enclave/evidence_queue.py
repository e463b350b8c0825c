"""Who gets evidence made, and when (channel sections 2 and 7).

Evidence is the costly step of a handshake. At most so many are in the making
at once and so many begin per second; a handshake that ends while it waits
costs nothing, so hellos cannot starve established sessions.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ephemeralml.attestation.evidence import ExpectedBinding
from ephemeralml.enclave.attesters.base import SessionEvidence


class EvidenceQueue:
    """Makes evidence in threads, bounded in number and rate; lives on one event loop."""

    def __init__(
        self,
        attest: Callable[[ExpectedBinding], SessionEvidence],
        *,
        at_once: int,
        per_second: float,
    ) -> None:
        self._attest = attest
        self._slots = asyncio.Semaphore(at_once)
        self._threads = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="evidence")
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._tokens = self._burst
        self._counted_at: float | None = None

    async def make(self, binding: ExpectedBinding) -> SessionEvidence:
        """Wait for a turn and make evidence; cancel the call to give the turn up.

        A turn that has begun is held until its thread is done, even where the
        caller was cancelled: the bound is on work, not on waiting.

        Raises:
            UnavailableError: The attester does not answer.
            MalformedError: The attester's answer is not evidence.
        """
        await self._slots.acquire()
        try:
            await self._paced()
        except BaseException:
            self._slots.release()
            raise
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, self._attest, binding)
        running.add_done_callback(self._over)
        return await asyncio.shield(running)

    def _over(self, finished: "asyncio.Future[SessionEvidence]") -> None:
        self._slots.release()
        if not finished.cancelled():
            finished.exception()  # marks it as seen where the handshake is gone

    async def _paced(self) -> None:
        """Take one token of a bucket that holds one second's worth."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            since = 0.0 if self._counted_at is None else now - self._counted_at
            self._counted_at = now
            self._tokens = min(self._burst, self._tokens + since * self._per_second)
            if self._tokens >= 1:
                self._tokens -= 1
                return
            await asyncio.sleep((1 - self._tokens) / self._per_second)

    def close(self) -> None:
        """Start nothing further; evidence in the making ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
