"""What the runtime asks of an engine.

An engine is loaded from verified files only and knows nothing of requests,
receipts or the network. Its methods block; the runtime calls them in threads.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float32]
"""One row for each input, in the order given."""


class EmbeddingEngine(Protocol):
    """Turns token ids into vectors. Safe to call from several threads."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens, special ones included."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids lie below this."""

    @property
    def normalized(self) -> bool:
        """Whether embeddings have unit length, as the model's files ask for or not."""

    def tokenize(self, texts: Sequence[str], *, truncate: bool = True) -> list[list[int]]:
        """Return the token ids of each text, special ones included.

        With *truncate* (what the reference implementation does) an input ends
        at `max_tokens`; without it, it may be longer than `embed` takes.

        Raises:
            MalformedError: A text is out of all proportion to its tokens.
        """

    def embed(self, batch: Sequence[Sequence[int]]) -> Embeddings:
        """Return the embeddings of *batch*, each the same as if it were alone (to 1e-6).

        Raises:
            MalformedError: An input is empty, longer than `max_tokens`, or has
                a token id outside the vocabulary.
        """

    def close(self) -> None:
        """Let go of the weights; nothing may be called afterwards."""
