"""Sentence embeddings from a BERT checkpoint on ONNX Runtime, float32.

Inputs of similar length run together and others apart, so padding costs little
and no request changes another's result beyond rounding (serving.md section 2).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Self, assert_never

import numpy as np
from numpy.typing import NDArray

from ephemeralml.enclave.engines import bert_graph
from ephemeralml.enclave.engines.base import Embeddings
from ephemeralml.enclave.engines.bert_config import (
    UNSUPPORTED,
    BertConfig,
    Pooling,
    SentenceConfig,
    parse_bert,
    parse_sentence,
)
from ephemeralml.enclave.engines.ort_session import OrtSession
from ephemeralml.enclave.engines.weights import Checkpoint, weight_files
from ephemeralml.enclave.engines.wordpiece import MAX_TOKENIZER_BYTES, WordPieceTokenizer
from ephemeralml.errors import MalformedError
from ephemeralml.model.memory_file import LoadedFile

MAX_RUN_TOKENS = 512
"""Padded tokens in one run of the graph: enough for its best throughput, and the bound on its working memory."""
MAX_SCORE_BYTES = 1 << 30
"""What the attention scores of one input may take; they grow with the square of its length."""
MAX_PADDING = 8
"""Inputs share a run when the shorter lacks at most 1/8 of the longer."""
_SPIN_MICROSECONDS = 200


class EncoderEngine:
    """A loaded encoder; see `EmbeddingEngine`."""

    def __init__(
        self,
        session: OrtSession,
        tokenizer: WordPieceTokenizer,
        bert: BertConfig,
        sentence: SentenceConfig,
    ) -> None:
        self._session: OrtSession | None = session
        self._tokenizer = tokenizer
        self._bert = bert
        self._sentence = sentence

    @classmethod
    def load(cls, files: Mapping[str, LoadedFile], *, threads: int | None = None) -> Self:
        """Build the graph of a verified model and hand its weights over.

        Args:
            files: The model's files by their manifest paths. They may be closed
                afterwards; the engine keeps the mappings that it uses.
            threads: Threads within one run; the cores this process may use by default.

        Raises:
            MalformedError: A file is missing or out of bounds, or the model is
                of a kind that is not supported (code MODEL_UNSUPPORTED).
            UnavailableError: ONNX Runtime cannot load the graph.
        """

        def read(path: str) -> bytes | None:
            return files[path].read(max_bytes=MAX_TOKENIZER_BYTES) if path in files else None

        bert = parse_bert(read)
        sentence = parse_sentence(read, bert)
        scores = 4 * bert.heads * sentence.max_tokens**2
        if scores > MAX_SCORE_BYTES:
            raise MalformedError(
                f"attention over {sentence.max_tokens} tokens and {bert.heads} heads takes {scores >> 20} MiB an input",
                code=UNSUPPORTED,
                hint=f"set max_seq_length so that it takes at most {MAX_SCORE_BYTES >> 20} MiB",
            )
        tokenizer = WordPieceTokenizer.read(
            read, vocabulary=bert.vocabulary, max_tokens=sentence.max_tokens, lowercase=sentence.lowercase
        )
        checkpoint = Checkpoint(weight_files(files))
        if checkpoint.layers() != bert.layers:
            raise MalformedError(f"the weights have {checkpoint.layers()} layers, config.json says {bert.layers}")
        built = bert_graph.build(bert, checkpoint.fetch)
        session = OrtSession(built.model, built.weights, threads=threads or len(os.sched_getaffinity(0)))
        return cls(session, tokenizer, bert, sentence)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._bert.hidden

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens, special ones included."""
        return self._sentence.max_tokens

    @property
    def vocabulary_size(self) -> int:
        """Token ids lie below this."""
        return self._bert.vocabulary

    @property
    def normalized(self) -> bool:
        """Whether embeddings have unit length, as the model's files ask for or not."""
        return self._sentence.normalize

    def tokenize(self, texts: Sequence[str], *, truncate: bool = True) -> list[list[int]]:
        """Return the token ids of each text, special ones included; see `EmbeddingEngine.tokenize`."""
        return self._tokenizer.encode(texts, truncate=truncate)

    def embed(self, batch: Sequence[Sequence[int]]) -> Embeddings:
        """Return the embeddings of *batch*, each the same as if it were alone (to 1e-6).

        Raises:
            MalformedError: An input is empty, longer than `max_tokens`, or has
                a token id outside the vocabulary.
        """
        if self._session is None:
            raise RuntimeError("the engine is closed")
        rows = [self._checked(tokens) for tokens in batch]
        result = np.empty((len(rows), self.dim), dtype=np.float32)
        for group in _runs([len(row) for row in rows]):
            result[group] = self._run([rows[index] for index in group])
        if self._sentence.normalize:
            norms = np.sqrt(np.einsum("ij,ij->i", result, result))[:, None]
            result /= np.maximum(norms, 1e-12)
        return result

    def close(self) -> None:
        """Let go of the weights; nothing may be called afterwards."""
        self._session = None

    def _checked(self, tokens: Sequence[int]) -> NDArray[np.int32]:
        if not 0 < len(tokens) <= self.max_tokens:
            raise MalformedError(f"an input of {len(tokens)} tokens, 1 to {self.max_tokens} are allowed")
        if not all(type(token) is int for token in tokens):
            raise MalformedError("a token id that is not an integer")
        if min(tokens) < 0 or max(tokens) >= self.vocabulary_size:
            raise MalformedError(f"a token id outside the vocabulary of {self.vocabulary_size}")
        return np.array(tokens, dtype=np.int32)

    def _run(self, rows: Sequence[NDArray[np.int32]]) -> Embeddings:
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        shape = (len(rows), int(lengths.max()))
        ids = np.zeros(shape, dtype=np.int32)
        pool = np.zeros((shape[0], 1, shape[1]), dtype=np.float32)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            _fill_pool(pool[index, 0], len(row), self._sentence.pooling)
        feeds = {
            bert_graph.INPUT_IDS: ids,
            bert_graph.SEGMENT_IDS: np.zeros(shape, dtype=np.int32),
            bert_graph.LENGTHS: lengths,
            bert_graph.POOL: pool,
        }
        session = self._session
        if session is None:
            raise RuntimeError("the engine is closed")
        return session.run(feeds)[:, 0]


def _fill_pool(weights: NDArray[np.float32], length: int, pooling: Pooling) -> None:
    match pooling:
        case Pooling.MEAN:
            weights[:length] = 1 / length
        case Pooling.MEAN_SQRT_LENGTH:
            weights[:length] = 1 / length**0.5
        case Pooling.CLS:
            weights[0] = 1
        case _:
            assert_never(pooling)


def _runs(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Group indices into runs of similar length, longest first, within `MAX_RUN_TOKENS`."""
    group: list[int] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        full = (len(group) + 1) * longest > MAX_RUN_TOKENS
        if group and (full or (longest - lengths[index]) * MAX_PADDING > longest):
            yield group
            group = []
        if not group:
            longest = lengths[index]
        group.append(index)
    if group:
        yield group
