"""`ephemeralml verify --html`: one page that stands alone, shows everything and trusts nothing it prints."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ephemeralml.attestation.roots import RootKind
from tests.cli.runner import Result, run
from tests.fakes.receipts import RECEIPT_KEY, archive

KEY = RECEIPT_KEY.public.raw.hex()
AT_TEXT = "2026-01-15T12:00:10Z"


@pytest.fixture
def receipt(tmp_path: Path) -> Path:
    """A receipt of 2026-01-15 without anything beside it."""
    return archive().write(tmp_path, sidecars=False)


def verify(*args: object) -> Result:
    return run("verify", *args)


class _Page(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br", "col", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class TestPage:
    def page(self, tmp_path: Path, *options: object) -> tuple[str, _Page]:
        out = tmp_path / "out.html"
        verify(*options, "--html", out, "--force")
        text = out.read_text(encoding="utf-8")
        parsed = _Page()
        parsed.feed(text)
        assert parsed.open == []
        return text, parsed

    def test_it_stands_alone(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        text, page = self.page(tmp_path, path, *archive(RootKind.SOFTWARE).policy_options(tmp_path), "--at", AT_TEXT)
        assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
        assert not {"src", "href", "onclick", "onload", "srcset"} & {name for name, _ in page.attributes}
        assert "http://" not in text
        assert "https://" not in text.replace("https://spec.cyntrisec.com/air/v1", "")
        assert "url(" not in text
        assert "@import" not in text
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text
        assert 'lang="en"' in text

    def test_it_shows_verdict_ladder_checks_claims_evidence_and_limits(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        policy = archive(RootKind.SOFTWARE).policy_options(tmp_path)
        text, page = self.page(tmp_path, path, *policy, "--at", AT_TEXT, "--expect-model", "other")
        for part in (
            "rejected", "MODEL_ID_MISMATCH", "check --expect-model", "wanted", "Software TEE.", "receipt id",
            "minilm-l6-v2", "(unverified)", "nitro-public-key", "judged at", "What a receipt does not say",
            "Not established.", "WARN_SOFTWARE_TEE",
        ):  # fmt: skip
            assert part.lower() in text.lower(), part
        assert page.tags.count("h1") == 1

    def test_several_receipts_share_a_page(self, tmp_path: Path) -> None:
        archive().write(tmp_path, "a.cbor", sidecars=False)
        (tmp_path / "b.cbor").write_bytes(b"")
        text, page = self.page(tmp_path, tmp_path, tmp_path / "none.cbor", "--public-key", KEY)
        assert page.tags.count("article") == 3
        assert "Not read" in text
        assert "<title>1 of 3 receipts verified" in text
        summary = text[text.index("<section") : text.index("</section>")]
        assert '<div class="verdict unread"' in summary
        assert re.findall(r'<span class="tag (\w+)">([^<]+)</span>.*?href="#([^"]+)">([^<]+)<', summary) == [
            ("verified", "Verified", "receipt-1", str(tmp_path / "a.cbor")),
            ("malformed", "Malformed", "receipt-2", str(tmp_path / "b.cbor")),
            ("unread", "Not read", "receipt-3", str(tmp_path / "none.cbor")),
        ]
        anchors = {value for name, value in page.attributes if name == "id"}
        assert {f"#{anchor}" for anchor in anchors} == {value for name, value in page.attributes if name == "href"}
        assert ">verified<" not in text

    @pytest.mark.parametrize(
        ("options", "good", "verdict"),
        [((), 2, "verified"), (("--expect-model", "other"), 0, "rejected"), (("--nonce", "00"), 0, "rejected")],
    )
    def test_the_worst_verdict_colours_the_summary(
        self, tmp_path: Path, options: tuple[str, ...], good: int, verdict: str
    ) -> None:
        for name in ("a.cbor", "b.cbor"):
            archive().write(tmp_path, name, sidecars=False)
        text, _ = self.page(tmp_path, tmp_path, "--public-key", KEY, *options)
        summary = text[text.index("<section") : text.index("</section>")]
        assert f'<div class="verdict {verdict}" role="status">\n<strong>{good} of 2 receipts verified' in summary

    def test_the_head_names_the_evidence_and_when_it_was_checked(self, tmp_path: Path) -> None:
        path = archive(RootKind.SOFTWARE).write(tmp_path)
        text, _ = self.page(tmp_path, path, *archive(RootKind.SOFTWARE).policy_options(tmp_path))
        assert f'<th scope="row">Evidence</th><td class="value">{path}.att: local, software TEE' in text
        assert '<th scope="row">Checked at</th>' in text
        assert "Judged at 2026-01-15T12:00:00Z, the evidence" in text
        assert "<section" not in text

    def test_columns_stand_alike_and_names_never_break(self, receipt: Path, tmp_path: Path) -> None:
        text, page = self.page(tmp_path, receipt, "--public-key", KEY)
        tables = page.tags.count("table")
        assert page.tags.count("colgroup") == tables
        assert ".checks, .facts { table-layout: fixed; }" in text
        breaking = next(line for line in text.splitlines() if "overflow-wrap: anywhere" in line)
        assert not {"th", ".mono"} & set(re.split(r"[ ,{]+", breaking))

    def test_software_evidence_has_its_banner_whoever_is_asked(self, tmp_path: Path) -> None:
        made = archive(RootKind.SOFTWARE)
        path = made.write(tmp_path)
        text, _ = self.page(tmp_path, path)
        assert "Rejected" in text
        assert "<b>Software TEE.</b>" in text

    def test_nothing_is_overwritten_without_force_and_nothing_left_after_an_error(
        self, receipt: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.html"
        out.write_text("mine")
        assert verify(receipt, "--public-key", KEY, "--html", out).exit_code == 2
        assert out.read_text() == "mine"
        assert verify(receipt, "--html", tmp_path / "new.html").exit_code == 2
        assert not (tmp_path / "new.html").exists()
        assert verify(receipt, "--public-key", KEY, "--html", tmp_path / "none" / "new.html").exit_code == 2

    def test_json_and_page_go_together(self, receipt: Path, tmp_path: Path) -> None:
        result = verify(receipt, "--public-key", KEY, "--html", tmp_path / "o.html", "--json")
        assert result.json["verdict"] == "verified"
        assert (tmp_path / "o.html").stat().st_size > 4_000
