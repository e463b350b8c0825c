"""WordPiece tokenisation as the reference implementation does it, with bounds.

`tokenizers` does the work. Its file may ask for regular expressions, padding
and truncation of its own: only the parts BERT uses are accepted, and padding
and truncation are switched off, since MiniLM's file asks for 128 where the
model takes 256 tokens.

A text that contains ``[CLS]`` or another special token is read as that token,
as the reference does; the embeddings would differ otherwise.
"""

from collections.abc import Sequence
from typing import Any, Self

from tokenizers import Encoding, Tokenizer

from ephemeralml.crypto import strict_json
from ephemeralml.enclave.engines.bert_config import MAX_CONFIG_BYTES, UNSUPPORTED, Read
from ephemeralml.errors import MalformedError

MAX_TOKENIZER_BYTES = 64 << 20
MAX_SPECIAL_TOKENS = 16
"""Tokens put around a text; BERT has two."""
MAX_ADDED_TOKEN_CHARACTERS = 256
PREFIX_CHARACTERS_PER_TOKEN = 32
"""A text is first read this far for each token that the model takes; English has 4 to 5 characters per token."""
MAX_CHARACTERS_PER_TOKEN = 2_048
"""A text whose tokens lie further apart is refused: reading 16 MB of spaces would take a gigabyte."""

_PARTS = {
    "model": {"WordPiece"},
    "normalizer": {"BertNormalizer"},
    "pre_tokenizer": {"BertPreTokenizer"},
    "post_processor": {"TemplateProcessing", "BertProcessing"},
}


_NORMALIZATION = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Options of ``tokenizer_config.json`` and what ``tokenizer.json`` calls them."""


class WordPieceTokenizer:
    """A tokenizer whose every id lies below the model's vocabulary. Safe to call from several threads."""

    def __init__(self, data: bytes, *, vocabulary: int, max_tokens: int, lowercase: bool) -> None:
        """Read ``tokenizer.json``.

        Raises:
            MalformedError: It does not parse, knows tokens outside *vocabulary*,
                or works in another way than BERT's (code MODEL_UNSUPPORTED).
        """
        _check_document(strict_json.parse_object(data, max_bytes=MAX_TOKENIZER_BYTES), vocabulary, lowercase=lowercase)
        self._max_tokens = max_tokens
        self._tokenizer = _load(data)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        around = self._tokenizer.encode("")
        bare = self._tokenizer.encode("", add_special_tokens=False)
        if bare.ids or len(around.ids) > min(MAX_SPECIAL_TOKENS, max_tokens - 1) or any(around.type_ids):
            raise MalformedError("tokenizer.json: special tokens around a text that BERT does not have")
        if max(around.ids, default=0) >= vocabulary:
            raise MalformedError("tokenizer.json: a special token lies outside the model's vocabulary")
        probe = self._tokenizer.encode("a")
        leading = probe.special_tokens_mask.index(0) if 0 in probe.special_tokens_mask else len(around.ids)
        self._suffix = list(around.ids[leading:])

    @classmethod
    def read(cls, read: Read, *, vocabulary: int, max_tokens: int, lowercase: bool) -> Self:
        """Read the tokenizer of a model's files.

        Raises:
            MalformedError: ``tokenizer.json`` is missing or refused, or
                ``tokenizer_config.json`` says something else about normalisation.
        """
        data = read("tokenizer.json")
        if data is None:
            raise MalformedError("the model has no tokenizer.json")
        tokenizer = cls(data, vocabulary=vocabulary, max_tokens=max_tokens, lowercase=lowercase)
        _check_agreement(data, read("tokenizer_config.json"))
        return tokenizer

    def encode(self, texts: Sequence[str], *, truncate: bool = True) -> list[list[int]]:
        """Return the token ids of each text with special tokens; see `EmbeddingEngine.tokenize`.

        Raises:
            MalformedError: A text is so long that reading it is not worth its few
                tokens; with *truncate* only where its beginning does not suffice.
        """
        return [self._encode(text, truncate=truncate) for text in texts]

    def _encode(self, text: str, *, truncate: bool) -> list[int]:
        if not truncate:
            self._check_length(text)
            return list(self._tokenizer.encode(_scalar_values(text)).ids)
        ids = self._prefix_ids(_scalar_values(text))
        if len(ids) <= self._max_tokens:
            return ids
        return ids[: self._max_tokens - len(self._suffix)] + self._suffix

    def _prefix_ids(self, text: str) -> list[int]:
        """Return the ids of *text*, or of enough of its beginning that truncation gives the same.

        Reading a whole long text to keep 256 tokens costs a caller's megabytes a
        seventyfold in memory. WordPiece works word by word, so the tokens of a
        beginning stand, save those of its last word and of its last characters,
        where a special token may have been cut in two.
        """
        end = self._max_tokens * PREFIX_CHARACTERS_PER_TOKEN
        while end < len(text):
            encoding = self._tokenizer.encode(text[:end])
            if _settled(encoding, end - MAX_ADDED_TOKEN_CHARACTERS) > self._max_tokens:
                return list(encoding.ids)
            if end >= self._max_tokens * MAX_CHARACTERS_PER_TOKEN:
                self._check_length(text)
            end *= 4
        return list(self._tokenizer.encode(text).ids)

    def _check_length(self, text: str) -> None:
        longest = self._max_tokens * MAX_CHARACTERS_PER_TOKEN
        if len(text) > longest:
            raise MalformedError(f"a text of {len(text)} characters with few tokens, at most {longest} are read")


def _settled(encoding: Encoding, before: int) -> int:
    """Return how many leading tokens more text could not change."""
    words = [word for word in encoding.word_ids if word is not None]
    last = words[-1] if words else None
    for index, (word, offsets) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
        if offsets[1] > before or (word is not None and word == last):
            return index
    return len(encoding.ids)


def _scalar_values(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and UTF-8 cannot, as decoders do."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _load(data: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(data)
    except Exception as error:  # the library has no class of its own for a file that it cannot read
        raise MalformedError("tokenizer.json is not a tokenizer") from error


def _check_document(document: dict[str, Any], vocabulary: int, *, lowercase: bool) -> None:
    for name, kinds in _PARTS.items():
        part = document.get(name)
        kind = part.get("type") if type(part) is dict else None
        if kind not in kinds:
            raise MalformedError(
                f"tokenizer.json: {name} {ascii(kind)[:40]} is not supported",
                code=UNSUPPORTED,
                hint=f"the encoder engine takes {' or '.join(sorted(kinds))}",
            )
    if lowercase and document["normalizer"].get("lowercase") is not True:
        raise MalformedError("sentence_bert_config.json asks for lower case and tokenizer.json does not")
    pieces = document["model"].get("vocab")
    if type(pieces) is not dict or not all(_is_id(index, vocabulary) for index in pieces.values()):
        raise MalformedError("tokenizer.json: a token lies outside the model's vocabulary")
    longest = document["model"].get("max_input_chars_per_word", 100)
    if type(longest) is not int or not 0 < longest <= 1_000:
        raise MalformedError("tokenizer.json: max_input_chars_per_word is not between 1 and 1,000")
    _check_added(document.get("added_tokens", []), vocabulary)


def _check_agreement(tokenizer: bytes, config: bytes | None) -> None:
    """Refuse a ``tokenizer_config.json`` that the reference would obey and ``tokenizer.json`` contradicts."""
    if config is None:
        return
    normalizer = strict_json.parse_object(tokenizer, max_bytes=MAX_TOKENIZER_BYTES)["normalizer"]
    options = strict_json.parse_object(config, max_bytes=MAX_CONFIG_BYTES)
    for name, meant in _NORMALIZATION.items():
        if name in options and options[name] != normalizer.get(meant):
            raise MalformedError(f"tokenizer_config.json: {name} contradicts tokenizer.json")


def _check_added(added: Any, vocabulary: int) -> None:
    if type(added) is not list:
        raise MalformedError("tokenizer.json: added_tokens is not a list")
    for token in added:
        content = token.get("content") if type(token) is dict else None
        if type(content) is not str or not 0 < len(content) <= MAX_ADDED_TOKEN_CHARACTERS:
            raise MalformedError("tokenizer.json: an added token without a short text")
        if not _is_id(token.get("id"), vocabulary):
            raise MalformedError("tokenizer.json: an added token lies outside the model's vocabulary")


def _is_id(value: Any, vocabulary: int) -> bool:
    return type(value) is int and 0 <= value < vocabulary
