"""`bench kms`: every target of key-release.md section 8 has its entry."""

import pytest

from ephemeralml.bench import kms
from ephemeralml.progress import Silent


def test_a_quick_run() -> None:
    report = kms.run(Silent(), quick=True).to_json()
    assert report["what"] == "kms"
    assert [(one["target"], one["unit"]) for one in report["targets"]] == [(400.0, "1/s"), (15.0, "ms"), (1.1, "×")]
    assert all(one["value"] > 0 for one in report["targets"])
    slow = next(row for row in report["rows"] if row["name"] == "attested Decrypt, 256 keys")
    said = float(slow["note"].removeprefix("p99 ").partition(" ms")[0])
    assert slow["p50"] <= slow["p95"] <= said * 1.01
    assert said == pytest.approx(report["targets"][1]["value"], rel=0.01)
    assert all(row["value"] is not None and row["n"] for row in report["rows"])
