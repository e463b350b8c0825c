import threading

import pytest

from ephemeralml.client.load import LoadReport, run_load
from ephemeralml.client.reply import Reply
from ephemeralml.client.session import connect
from ephemeralml.errors import RejectedError
from tests.client.conftest import Start
from tests.fakes.runtime import FakeRuntime
from tests.fakes.runtime import RuntimeFault as F

ASKED = {"model": "minilm", "input": "a"}


def test_every_receipt_is_verified(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy()) as session:
        report = run_load(lambda: session.post("/v1/embeddings", json=ASKED), count=40, concurrency=5)
    assert (len(report.latencies), report.receipts, report.errors) == (40, 40, 0)
    assert report.throughput > 0
    document = report.to_json()
    assert document["receipts_verified"] == 40
    assert document["latency_ms"]["p50"] <= document["latency_ms"]["p95"] <= document["latency_ms"]["p99"]


def test_one_refused_receipt_ends_the_test_without_figures(start: Start) -> None:
    runtime = start(F.RECEIPT_OTHER_RESPONSE)
    with connect(runtime.target, policy=runtime.policy()) as session, pytest.raises(RejectedError):
        run_load(lambda: session.post("/v1/embeddings", json=ASKED), count=5, concurrency=1)
    assert len(runtime.prompts) == 1


def test_percentiles_are_nearest_ranks() -> None:
    report = LoadReport(1.0, tuple(float(n) for n in range(1, 101)), 1, {200: 100}, 100)
    assert [report.percentile(share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)] == [1, 50, 95, 99, 100]
    assert LoadReport(1.0, (7.0,), 1, {200: 1}, 1).percentile(0.99) == 7


def test_errors_are_counted() -> None:
    statuses = iter([200, 429, 503, 200])
    lock = threading.Lock()

    def ask() -> Reply:
        with lock:
            return Reply(next(statuses))

    report = run_load(ask, count=4, concurrency=2)
    assert (report.errors, report.receipts) == (2, 0)
    assert report.statuses == {200: 2, 429: 1, 503: 1}


@pytest.mark.parametrize(("count", "concurrency"), [(0, 1), (1, 0)])
def test_nothing_to_do(count: int, concurrency: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        run_load(lambda: Reply(200), count=count, concurrency=concurrency)
