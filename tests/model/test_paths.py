import unicodedata
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError
from ephemeralml.model.paths import check_distinct, check_path


@pytest.mark.parametrize(
    "path",
    [
        "model.safetensors",
        "1_Pooling/config.json",
        ".gitattributes",
        "a b",
        "…",
        "é",
        "..a",
        "a..",
        "x" * 1_024,
        "é" * 512,
    ],
)
def test_plain_paths_are_taken(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/etc/passwd", "a/", "a//b", ".", "..", "./a", "../a", "a/../b", "a/..", "a/./b", "a\\b", "..\\a",
        "a\0b", "a\nb", "a\x7fb", "a\x85b", "e\u0301", "\ud800", "x" * 1_025, "é" * 513,
    ],
)  # fmt: skip
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(MalformedError) as caught:
        check_path(path)
    assert caught.value.code == "PATH_NOT_ALLOWED"


@pytest.mark.parametrize(
    "pair", [("a", "a"), ("a", "A"), ("straße", "STRASSE"), ("K", "\u212a"), ("x/y", "X/Y"), ("é", "É")]
)
def test_paths_that_some_file_system_merges_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(MalformedError, match="differ in case only"):
        check_distinct(["other", *pair])


def test_distinct_paths_are_taken() -> None:
    check_distinct(["a", "b", "a/b", "ab", ""])


@pytest.mark.fuzz
@given(st.text())
def test_a_path_that_is_taken_stays_below_its_folder(path: str) -> None:
    with suppress(MalformedError):
        check_path(path)
        segments = path.split("/")
        assert all(segment not in ("", ".", "..") for segment in segments)
        assert len(path.encode()) <= 1_024
        assert path == unicodedata.normalize("NFC", path)
        assert not any(unicodedata.category(letter) == "Cc" or letter == "\\" for letter in path)


@pytest.mark.fuzz
@given(st.lists(st.text(max_size=3), max_size=6))
def test_distinctness_is_that_of_folded_paths(paths: list[str]) -> None:
    folded = {unicodedata.normalize("NFC", path.casefold()) for path in paths}
    if len(folded) == len(paths):
        check_distinct(paths)
    else:
        with pytest.raises(MalformedError):
            check_distinct(paths)
