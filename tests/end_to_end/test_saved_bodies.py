"""Receipts of a real deployment, held against the very bytes that were asked and answered."""

from pathlib import Path

from tests.cli.runner import run_process
from tests.fakes.local_deployment import deployed
from tests.fakes.packages import signed_package


def test_what_infer_keeps_is_what_verify_checks(tmp_path: Path) -> None:
    package = signed_package(tmp_path)
    with deployed("--listen", "tcp://127.0.0.1:0", package=package) as running:
        policy = running.document["policy"]
        asked = run_process(
            "infer", "--target", running.document["endpoint"], "--policy", policy, "--text", "hello",
            "--receipt", "r.cbor", "--save-bodies", cwd=tmp_path,
        )  # fmt: skip
        assert asked.exit_code == 0, asked.stderr
        against = ("verify", "r.cbor", "--policy", policy, "--request", "r.cbor.request", "--response")
        checked = run_process(*against, "r.cbor.response", "--json", cwd=tmp_path)
        assert checked.exit_code == 0, checked.stderr
        rows = {row["id"]: row["status"] for row in checked.json["checks"]}
        assert (rows["RHASH"], rows["OHASH"]) == ("pass", "pass")
        with (tmp_path / "r.cbor.response").open("ab") as file:
            file.write(b" ")
        assert run_process(*against, "r.cbor.response", cwd=tmp_path).exit_code == 3
