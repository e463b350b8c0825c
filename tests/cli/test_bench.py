"""`ephemeralml bench`: the options and what is written where."""

from pathlib import Path

import pytest

from ephemeralml.bench import core, model
from ephemeralml.bench.measure import Row, Section, Target
from tests.cli.runner import run


@pytest.fixture
def quick_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part whose figure is known, so that output can be compared."""
    section = Section((Row("thing", 2.0, "ms", 2.0, 3.0, 7, "note"),), (Target("thing", 2.0, 1.0, "ms", at_most=True),))
    for bench in (core, model):
        monkeypatch.setattr(bench, "_PARTS", (("thing", lambda *, quick: section),))


@pytest.mark.usefixtures("quick_parts")
@pytest.mark.parametrize("what", ["core", "model"])
def test_each_bench_says_what_it_measured(what: str) -> None:
    assert run("bench", what, "--json").json["what"] == what


@pytest.mark.usefixtures("quick_parts")
def test_a_missed_target_is_shown_and_is_no_failure() -> None:
    result = run("bench", "core")
    assert result.exit_code == 0
    assert "✗ thing" in result.stdout
    assert "≤ 1 ms" in result.stdout


@pytest.mark.usefixtures("quick_parts")
def test_json_is_one_document() -> None:
    document = run("bench", "core", "--json").json
    assert document["targets"] == [{"name": "thing", "value": 2.0, "target": 1.0, "unit": "ms", "met": False}]
    assert document["machine"]["cores"] > 0


@pytest.mark.usefixtures("quick_parts")
@pytest.mark.parametrize(("name", "begins"), [("c.svg", "<svg"), ("c.html", "<!doctype html>")])
def test_a_chart_is_written_once(tmp_path: Path, name: str, begins: str) -> None:
    assert run("bench", "core", "--chart", tmp_path / name).exit_code == 0
    assert (tmp_path / name).read_text().startswith(begins)
    assert run("bench", "core", "--chart", tmp_path / name).exit_code == 2
    assert run("bench", "core", "--chart", tmp_path / name, "--force").exit_code == 0


@pytest.mark.parametrize("name", ["chart.png", "chart"])
def test_another_kind_of_chart_is_a_usage_error_before_anything_is_measured(tmp_path: Path, name: str) -> None:
    result = run("bench", "core", "--chart", tmp_path / name)
    assert result.exit_code == 2
    assert "hint: name a file that ends in .svg or .html" in result.stderr


@pytest.mark.usefixtures("quick_parts")
def test_a_chart_that_cannot_be_written_is_found_before_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "_PARTS", (("thing", lambda *, quick: pytest.fail("it measured")),))
    result = run("bench", "core", "--chart", "/proc/chart.svg")
    assert result.exit_code == 5
    assert "cannot write '/proc/chart.svg'" in result.stderr
