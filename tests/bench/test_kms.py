"""`bench kms`: every target of key-release.md section 8 has its entry."""

from ephemeralml.bench import kms
from ephemeralml.progress import Silent


def test_a_quick_run() -> None:
    report = kms.run(Silent(), quick=True).to_json()
    assert report["what"] == "kms"
    assert [(one["target"], one["unit"]) for one in report["targets"]] == [(400.0, "1/s"), (15.0, "ms"), (1.1, "×")]
    assert all(one["value"] > 0 for one in report["targets"])
    assert all(row["value"] is not None and row["n"] for row in report["rows"])
