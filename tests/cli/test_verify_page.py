"""`ephemeralml verify --html`: one page that stands alone, shows everything and trusts nothing it prints."""

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
        if tag not in ("meta", "br", "link", "img"):
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
        assert "Not verified" in text

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
