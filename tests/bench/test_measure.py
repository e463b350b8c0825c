"""How a bench takes and reports its figures; the figures themselves are nobody's test."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ephemeralml.bench import evidence, receipts, records, startup
from ephemeralml.bench.measure import Row, Section, Target, interleaved, quantile, row
from ephemeralml.bench.report import Report

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 3.0), (0.95, 5.0), (1.0, 5.0)])
def test_quantile(share: float, expected: float) -> None:
    assert quantile([5.0, 1.0, 3.0, 2.0, 4.0], share) == expected


def test_subjects_take_turns() -> None:
    calls: list[str] = []
    samples = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert "".join(calls) == "abababab"
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}


def test_a_row_quotes_the_median() -> None:
    made = row("x", [0.001, 0.002, 0.009], scale=1e3, unit="ms")
    assert (made.value, made.p50, made.p95, made.n) == (2.0, 2.0, 9.0, 3)


@pytest.mark.parametrize(
    ("value", "at_most", "met"), [(1.0, True, True), (1.01, True, False), (1.0, False, True), (0.99, False, False)]
)
def test_a_target_is_met_on_its_own_side(value: float, at_most: bool, met: bool) -> None:
    assert Target("x", value, 1.0, "ms", at_most=at_most).met is met


def test_what_was_not_measured_is_not_met() -> None:
    assert not Target("x", None, 1.0, "ms", at_most=True).met


@pytest.fixture(scope="module")
def report() -> Report:
    return Report.of("core", {"cpu": "<a & b>"}, [part.measure(quick=True) for part in (records, receipts, evidence)])


def test_every_target_is_in_the_document_met_or_not(report: Report) -> None:
    document = report.to_json()
    assert document["schema"] == "ephemeralml.bench/1"
    assert {entry["name"] for entry in document["targets"]} >= {"receipt issue", "receipt verify", "Nitro verification"}
    assert all(entry["value"] > 0 and type(entry["met"]) is bool for entry in document["targets"])
    assert all(entry["p50"] is not None and entry["n"] > 0 for entry in document["rows"])


def test_the_drawing_has_a_bar_for_each_target_and_escapes_what_it_shows(report: Report) -> None:
    drawing = ET.fromstring(report.to_svg())
    assert len(drawing.findall(f"{SVG}rect")) == 1 + len(report.targets)
    assert "&lt;a &amp; b&gt;" in report.to_svg()


def test_the_page_holds_every_row_and_loads_nothing(report: Report) -> None:
    page = report.to_html()
    assert page.count("<tr>") == len(report.rows) + 1
    assert "<script" not in page
    assert "src=" not in page


def test_an_unmeasured_figure_says_so() -> None:
    section = Section(
        (Row("peer", None, "ms", note="not installed"),), (Target("peer", None, 1.0, "ms", at_most=True),)
    )
    report = Report.of("core", {}, [section])
    assert "not measured" in report.to_svg()
    assert report.to_json()["targets"][0] == {"name": "peer", "value": None, "target": 1.0, "unit": "ms", "met": False}


def test_what_is_timed_imports_nothing_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tomllib.py").write_text("raise SystemExit(77)")
    monkeypatch.chdir(tmp_path)
    startup._run("-c", "import tomllib")
