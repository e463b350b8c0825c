import copy
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ephemeralml.enclave.engines.bert_config import UNSUPPORTED
from ephemeralml.enclave.engines.wordpiece import (
    MAX_CHARACTERS_PER_TOKEN,
    PREFIX_CHARACTERS_PER_TOKEN,
    WordPieceTokenizer,
)
from ephemeralml.errors import MalformedError
from tests.fakes import tiny_bert

MAX = 24
CLS, SEP = tiny_bert.VOCABULARY.index("[CLS]"), tiny_bert.VOCABULARY.index("[SEP]")


def make(document: object = None, *, lowercase: bool = False, max_tokens: int = MAX) -> WordPieceTokenizer:
    data = document if isinstance(document, bytes) else json.dumps(document or tiny_bert.tokenizer()).encode()
    return WordPieceTokenizer(data, vocabulary=len(tiny_bert.VOCABULARY), max_tokens=max_tokens, lowercase=lowercase)


def plain() -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(tiny_bert.tokenizer()))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


TOKENIZER, PLAIN = make(), plain()


def reference(text: str) -> list[int]:
    ids = PLAIN.encode(text).ids
    return ids if len(ids) <= MAX else [*ids[: MAX - 1], SEP]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "hello world", "Hello, WORLD!", "[CLS] hello [SEP]", "x" * 101, "x" * 500, "é è", "日本語 hello",
        "hello\u0000world\r\n\t", "👋 hello", "e\u0301" * 50, "a" * 23, "a " * 21, "a " * 22, "a " * 23, "##a", "[MASK]",
    ],
)  # fmt: skip
def test_tokens_are_the_libraries_own(text: str) -> None:
    assert TOKENIZER.encode([text]) == [reference(text)]


def test_padding_and_truncation_of_the_file_are_off() -> None:
    assert tiny_bert.tokenizer()["padding"] is not None
    (tokens,) = TOKENIZER.encode(["a b c d e f g h i j"])
    assert len(tokens) == 12


def test_truncation_keeps_the_closing_token() -> None:
    (tokens,) = TOKENIZER.encode(["a " * 100])
    assert (len(tokens), tokens[0], tokens[-1]) == (MAX, CLS, SEP)


def test_without_truncation_a_text_stays_whole() -> None:
    (tokens,) = TOKENIZER.encode(["a " * 100], truncate=False)
    assert len(tokens) == 102


WORDS = [
    "a",
    "cat",
    "x" * 150,
    "[CLS]",
    "[CL",
    "S]",
    "é",
    "e\u0301",
    "日",
    "\u0300" * 40,
    "\u0000",
    "runing",
    ".",
    "  ",
    "\t",
]


@pytest.mark.fuzz
@given(st.lists(st.sampled_from(WORDS), min_size=20, max_size=60), st.integers(1, 60), st.sampled_from(["", " "]))
def test_a_long_text_is_truncated_as_if_it_was_read_whole(words: list[str], times: int, glue: str) -> None:
    text = glue.join(words) * times
    assert TOKENIZER.encode([text]) == [reference(text)]


@pytest.mark.parametrize("filler", [" ", "\u0000", "\u0300", "x"])
def test_a_text_with_its_tokens_far_behind_is_read_far_enough(filler: str) -> None:
    text = filler * (MAX * PREFIX_CHARACTERS_PER_TOKEN * 5) + " hello world"
    assert TOKENIZER.encode([text]) == [reference(text)]


@pytest.mark.parametrize("filler", [" ", "\u0000", "\u0300", "x"])
def test_a_text_out_of_proportion_to_its_tokens_is_refused(filler: str) -> None:
    longest = MAX * MAX_CHARACTERS_PER_TOKEN
    assert TOKENIZER.encode([filler * longest]) == [reference(filler * longest)]
    for truncate in (True, False):
        with pytest.raises(MalformedError, match="few tokens"):
            TOKENIZER.encode(["hello", filler * (longest + 1)], truncate=truncate)


def test_only_the_beginning_of_a_huge_text_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Counting:
        def encode(self, text: str) -> Any:
            seen.append(len(text))
            return PLAIN.encode(text)

    tokenizer = make()
    monkeypatch.setattr(tokenizer, "_tokenizer", Counting())
    (tokens,) = tokenizer.encode(["the cat " * 1_000_000])
    assert len(tokens) == MAX
    assert max(seen) <= 4 * MAX * PREFIX_CHARACTERS_PER_TOKEN


def test_lone_surrogates_are_replaced() -> None:
    assert TOKENIZER.encode(["hello \ud800 world", "hello \ufffd world"]) == [reference("hello \ufffd world")] * 2


def broken(change: Any) -> dict[str, Any]:
    document = copy.deepcopy(tiny_bert.tokenizer())
    change(document)
    return document


UNSUPPORTED_FILES = {
    "regular expression": lambda d: d.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    ),
    "sequence": lambda d: d.update(pre_tokenizer={"type": "Sequence", "pretokenizers": []}),
    "replacing normalizer": lambda d: d.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "x"}, "content": "y"}
    ),
    "no normalizer": lambda d: d.update(normalizer=None),
    "another model": lambda d: d["model"].update(type="Unigram"),
    "no model": lambda d: d.pop("model"),
    "another post-processor": lambda d: d.update(post_processor={"type": "ByteLevel"}),
}
MALFORMED_FILES = {
    "id outside": lambda d: d["model"]["vocab"].update(zzz=len(tiny_bert.VOCABULARY)),
    "negative id": lambda d: d["model"]["vocab"].update(zzz=-1),
    "vocabulary list": lambda d: d["model"].update(vocab=[]),
    "added id outside": lambda d: d["added_tokens"][0].update(id=1 << 20),
    "added token too long": lambda d: d["added_tokens"][0].update(content="x" * 300),
    "added token empty": lambda d: d["added_tokens"][0].update(content=""),
    "added tokens no list": lambda d: d.update(added_tokens={}),
    "endless words": lambda d: d["model"].update(max_input_chars_per_word=1 << 40),
    "unreadable by the library": lambda d: d["model"].update(continuing_subword_prefix=5),
    "many special tokens": lambda d: d["post_processor"].update(
        single=[{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 17
    ),
    "second segment": lambda d: d["post_processor"]["single"][0]["SpecialToken"].update(type_id=1),
    "special tokens outside": lambda d: d["post_processor"]["special_tokens"]["[CLS]"].update(ids=[1 << 20]),
}


@pytest.mark.parametrize("fault", UNSUPPORTED_FILES)
def test_other_ways_to_tokenise_are_unsupported(fault: str) -> None:
    with pytest.raises(MalformedError) as caught:
        make(broken(UNSUPPORTED_FILES[fault]))
    assert caught.value.code == UNSUPPORTED


@pytest.mark.parametrize("fault", MALFORMED_FILES)
def test_broken_files_are_refused(fault: str) -> None:
    with pytest.raises(MalformedError):
        make(broken(MALFORMED_FILES[fault]))


def test_lower_case_must_be_what_the_file_does() -> None:
    make(lowercase=True)
    with pytest.raises(MalformedError, match="lower case"):
        make(broken(lambda d: d["normalizer"].update(lowercase=False)), lowercase=True)


@pytest.mark.fuzz
@given(st.data())
def test_only_our_errors_leave_a_damaged_file(data: st.DataObject) -> None:
    text = json.dumps(tiny_bert.tokenizer()).encode()
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start, min(len(text), start + 12)))
    with suppress(MalformedError):
        make(text[:start] + data.draw(st.binary(max_size=6)) + text[end:]).encode(["hello world [CLS]"])


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_the_two_files_must_agree(name: str) -> None:
    sound = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}

    def read(options: dict[str, Any]) -> WordPieceTokenizer:
        files = {
            "tokenizer.json": tiny_bert.contents()["tokenizer.json"],
            "tokenizer_config.json": json.dumps(options).encode(),
        }
        return WordPieceTokenizer.read(files.get, vocabulary=len(tiny_bert.VOCABULARY), max_tokens=MAX, lowercase=False)

    read(sound)
    read({key: value for key, value in sound.items() if key != name})
    with pytest.raises(MalformedError, match=name):
        read(sound | {name: False})
