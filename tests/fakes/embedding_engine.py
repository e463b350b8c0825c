"""A tiny engine of the production protocol: no weights, exact and repeatable."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ephemeralml.enclave.engines.base import Embeddings

if TYPE_CHECKING:
    import threading


class HashEngine:
    """Each input's vector is drawn from a hash of its token ids; one token per word, and two around them."""

    def __init__(self, *, dim: int = 8, max_tokens: int = 16, vocabulary_size: int = 1_000) -> None:
        self.dim = dim
        self.max_tokens = max_tokens
        self.vocabulary_size = vocabulary_size
        self.normalized = True
        self.closed = False
        self.batches: list[int] = []
        self.gate: threading.Event | None = None
        """Where set, `embed` waits for it."""
        self.fail: Exception | None = None

    def tokenize(self, texts: Sequence[str], *, truncate: bool = True) -> list[list[int]]:
        result = []
        for text in texts:
            words = [
                2 + int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % 900 for word in text.split()
            ]
            result.append([0, *words[: self.max_tokens - 2 if truncate else None], 1])
        return result

    def embed(self, batch: Sequence[Sequence[int]]) -> Embeddings:
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.fail is not None:
            raise self.fail
        self.batches.append(len(batch))
        rows = np.empty((len(batch), self.dim), dtype=np.float32)
        for row, ids in zip(rows, batch, strict=True):
            seed = int.from_bytes(hashlib.sha256(repr(list(ids)).encode()).digest()[:8], "big")
            row[:] = np.random.default_rng(seed).standard_normal(self.dim)
            row[:] /= np.linalg.norm(row)
        return rows

    def close(self) -> None:
        self.closed = True
