"""BERT in float64 and plain numpy, as the paper has it: an oracle that shares nothing with the engine."""

from math import erf

import numpy as np

from tests.fakes.tiny_bert import Shape, Tensors

_erf = np.vectorize(erf)


def _norm(values: np.ndarray, tensors: Tensors, name: str) -> np.ndarray:
    centred = values - values.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return centred / scale * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def _dense(values: np.ndarray, tensors: Tensors, name: str) -> np.ndarray:
    return values @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def _attention(values: np.ndarray, tensors: Tensors, layer: str, heads: int) -> np.ndarray:
    query, key, value = (
        _dense(values, tensors, f"{layer}.attention.self.{part}").reshape(len(values), heads, -1).swapaxes(0, 1)
        for part in ("query", "key", "value")
    )
    scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ value).swapaxes(0, 1).reshape(len(values), -1)


def hidden_states(tensors: Tensors, shape: Shape, tokens: list[int]) -> np.ndarray:
    wide = {name: array.astype(np.float64) for name, array in tensors.items()}
    values = wide["embeddings.word_embeddings.weight"][tokens]
    values = values + wide["embeddings.position_embeddings.weight"][: len(tokens)]
    values = _norm(values + wide["embeddings.token_type_embeddings.weight"][0], wide, "embeddings.LayerNorm")
    for index in range(shape.layers):
        layer = f"encoder.layer.{index}"
        attended = _dense(_attention(values, wide, layer, shape.heads), wide, f"{layer}.attention.output.dense")
        values = _norm(values + attended, wide, f"{layer}.attention.output.LayerNorm")
        inner = _dense(values, wide, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + _erf(inner / np.sqrt(2)))
        values = _norm(values + _dense(inner, wide, f"{layer}.output.dense"), wide, f"{layer}.output.LayerNorm")
    return values


def embed(tensors: Tensors, shape: Shape, tokens: list[int]) -> np.ndarray:
    pooled = hidden_states(tensors, shape, tokens).mean(axis=0)
    return pooled / np.linalg.norm(pooled)
