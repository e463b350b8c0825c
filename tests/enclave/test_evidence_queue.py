"""Bounds on evidence making (channel sections 2 and 7)."""

import asyncio
import threading
import time

import pytest

from ephemeralml.attestation.evidence import Evidence, ExpectedBinding, Format, MeasurementType
from ephemeralml.enclave.attesters.base import SessionEvidence
from ephemeralml.enclave.evidence_queue import EvidenceQueue
from ephemeralml.errors import UnavailableError

BINDING = ExpectedBinding(b"k" * 32, b"b" * 32, b"n" * 32)


def evidence() -> SessionEvidence:
    return SessionEvidence(Evidence(Format.LOCAL, b"document"), {}, MeasurementType.NITRO_PCR, debug=False)


class Attester:
    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate = gate
        self.running = self.most = self.calls = 0
        self.lock = threading.Lock()

    def __call__(self, binding: ExpectedBinding) -> SessionEvidence:
        with self.lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
        if self.gate is not None:
            assert self.gate.wait(10)
        with self.lock:
            self.running -= 1
        return evidence()


async def test_so_many_at_once() -> None:
    attester = Attester(threading.Event())
    queue = EvidenceQueue(attester, at_once=3, per_second=1_000)
    calls = [asyncio.create_task(queue.make(BINDING)) for _ in range(10)]
    await asyncio.sleep(0.1)
    assert attester.calls == 3
    assert attester.gate is not None
    attester.gate.set()
    assert len(await asyncio.gather(*calls)) == 10
    assert attester.most == 3
    queue.close()


async def test_so_many_per_second() -> None:
    attester = Attester()
    queue = EvidenceQueue(attester, at_once=8, per_second=20)
    begun = time.monotonic()
    await asyncio.gather(*[queue.make(BINDING) for _ in range(26)])
    assert time.monotonic() - begun >= 0.25  # a second's worth at once, six more at 50 ms each
    queue.close()


async def test_a_cancelled_wait_costs_nothing() -> None:
    attester = Attester(threading.Event())
    queue = EvidenceQueue(attester, at_once=1, per_second=1_000)
    first = asyncio.create_task(queue.make(BINDING))
    waiting = [asyncio.create_task(queue.make(BINDING)) for _ in range(50)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert attester.gate is not None
    attester.gate.set()
    await first
    await queue.make(BINDING)
    assert attester.calls == 2
    queue.close()


async def test_a_turn_is_held_until_its_thread_is_done() -> None:
    attester = Attester(threading.Event())
    queue = EvidenceQueue(attester, at_once=1, per_second=1_000)
    abandoned = asyncio.create_task(queue.make(BINDING))
    await asyncio.sleep(0.05)
    abandoned.cancel()
    await asyncio.gather(abandoned, return_exceptions=True)
    following = asyncio.create_task(queue.make(BINDING))
    await asyncio.sleep(0.05)
    assert attester.calls == 1
    assert attester.gate is not None
    attester.gate.set()
    await following
    assert attester.most == 1
    queue.close()


async def test_a_failure_frees_its_turn() -> None:
    def failing(binding: ExpectedBinding) -> SessionEvidence:
        raise UnavailableError("no device")

    queue = EvidenceQueue(failing, at_once=1, per_second=1_000)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(queue.make(BINDING), 5)
    queue.close()
