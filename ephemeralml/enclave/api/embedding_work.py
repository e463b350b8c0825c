"""Embeddings in slices, in the engine's thread."""

from collections.abc import Iterator, Sequence

import numpy as np

from ephemeralml.enclave.api.embeddings import (
    EmbeddingsRequest,
    check_dimensions,
    check_token_ids,
    embeddings_response,
)
from ephemeralml.enclave.api.errors import bad_parameter
from ephemeralml.enclave.api.messages import ApiResponse
from ephemeralml.enclave.models import ServedModel
from ephemeralml.errors import MalformedError

SLICE_TOKENS = 1_024
"""Padded tokens that one slice puts through the engine."""
SLICE_SEQUENCES = 32
SLICE_CHARACTERS = 65_536
"""Text that one slice tokenises before others get their turn."""


class EmbeddingWork:
    """One request: tokenise, embed, write the response."""

    def __init__(self, model: ServedModel, request: EmbeddingsRequest, name: str) -> None:
        self._model = model
        self._request = request
        self._name = name
        self._ids: list[Sequence[int]] = []
        self._slices: Iterator[list[int]] | None = None
        self._vectors = np.empty((0, 0), dtype=np.float32)
        self._left = 0

    def advance(self) -> ApiResponse | None:
        """Do one slice; errors as `worker.Work.advance`."""
        try:
            return self._advance()
        except MalformedError as error:
            # The engine's word on the caller's input; it names sizes and never quotes.
            raise bad_parameter("input", error.message) from error

    def _advance(self) -> ApiResponse | None:
        if self._slices is None:
            if not self._tokenised():
                return None
            self._slices = iter(slices([len(ids) for ids in self._ids]))
            self._left = len(self._ids)
            self._vectors = np.empty((self._left, self._model.engine.dim), dtype=np.float32)
        chosen = next(self._slices)
        self._vectors[chosen] = self._model.engine.embed([self._ids[index] for index in chosen])
        self._left -= len(chosen)
        if self._left:
            return None
        tokens = sum(map(len, self._ids))
        return embeddings_response(self._vectors, self._request.encoding, model=self._name, tokens=tokens)

    def _tokenised(self) -> bool:
        """Tokenise some more; return whether all inputs are token ids now."""
        engine, request = self._model.engine, self._request
        if not self._ids:
            check_dimensions(request.dimensions, engine.dim)
        if request.token_ids is not None:
            check_token_ids(request.token_ids, vocabulary=engine.vocabulary_size, max_tokens=engine.max_tokens)
            self._ids = list(request.token_ids)
            return True
        assert request.texts is not None
        begin = end = len(self._ids)
        characters = 0
        while end < len(request.texts) and (end == begin or characters + len(request.texts[end]) <= SLICE_CHARACTERS):
            characters += len(request.texts[end])
            end += 1
        self._ids += engine.tokenize(request.texts[begin:end])
        return end == len(request.texts)


def slices(lengths: Sequence[int]) -> list[list[int]]:
    """Group inputs of like length, longest first, so that little is padding.

    Returns:
        Lists of positions; each holds at most `SLICE_SEQUENCES` inputs and
        `SLICE_TOKENS` padded tokens, or one input.
    """
    groups: list[list[int]] = []
    room = 0
    for position in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if room == 0:
            groups.append([])
            room = min(SLICE_SEQUENCES, max(1, SLICE_TOKENS // max(1, lengths[position])))
        groups[-1].append(position)
        room -= 1
    return groups
