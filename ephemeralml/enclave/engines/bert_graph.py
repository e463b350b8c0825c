"""A BERT encoder as a fused ONNX graph, and the weights it wants by name.

The operators are ONNX Runtime's own fusions (EmbedLayerNormalization, Attention,
SkipLayerNormalization, BiasGelu; domain com.microsoft), placed directly instead
of found by its optimiser. Dense layers are `FusedMatMul` with ``transB``, since
checkpoints store them as (out, in): so all weights but the packed Q, K, V reach
the runtime where they lie, in the mapped file.

Pooling is a product with a (batch, 1, sequence) matrix given as an input: 1/n
over an input's own tokens is the mean, a single 1 is CLS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ephemeralml.enclave.engines.bert_config import BertConfig
from ephemeralml.enclave.engines.onnx_graph import ElementType, Graph

Weight = NDArray[np.float32]
Fetch = Callable[[str, tuple[int, ...]], Weight]
"""Gives a tensor of the checkpoint, which must have the given shape."""

INPUT_IDS, SEGMENT_IDS, LENGTHS, POOL, OUTPUT = "input_ids", "segment_ids", "lengths", "pool", "pooled"
_QKV = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """A weightless graph and its initialisers."""

    model: bytes
    weights: Mapping[str, Weight]


class _Builder:
    """Graph and weights while they grow together."""

    def __init__(self, config: BertConfig, fetch: Fetch) -> None:
        self.config = config
        self.fetch = fetch
        self.graph = Graph("bert")
        self.weights: dict[str, Weight] = {}

    def tensor(self, name: str, *shape: int) -> str:
        return self.packed(name, self.fetch(name, shape))

    def packed(self, name: str, values: Weight) -> str:
        self.weights[name] = values
        return self.graph.weight(name, values.shape)

    def norm(self, prefix: str) -> list[str]:
        return [self.tensor(f"{prefix}.{part}", self.config.hidden) for part in ("weight", "bias")]

    def dense(self, value: str, name: str, size_in: int, size_out: int) -> str:
        weight = self.tensor(f"{name}.weight", size_out, size_in)
        return self.graph.node("FusedMatMul", [value, weight], attributes={"transB": 1})

    def residual(self, value: str, skip: str, dense: str, norm: str) -> str:
        bias = self.tensor(f"{dense}.bias", self.config.hidden)
        return self.graph.node(
            "SkipLayerNormalization",
            [value, skip, *self.norm(norm), bias],
            attributes={"epsilon": self.config.epsilon},
        )


def build(config: BertConfig, fetch: Fetch) -> BuiltGraph:
    """Return the graph of *config* over the tensors that *fetch* gives."""
    builder = _Builder(config, fetch)
    graph = builder.graph
    graph.input(INPUT_IDS, ElementType.INT32, ("batch", "sequence"))
    graph.input(SEGMENT_IDS, ElementType.INT32, ("batch", "sequence"))
    graph.input(LENGTHS, ElementType.INT32, ("batch",))
    graph.input(POOL, ElementType.FLOAT, ("batch", 1, "sequence"))
    hidden = _embeddings(builder)
    for index in range(config.layers):
        hidden = _layer(builder, f"encoder.layer.{index}", hidden)
    pooled = graph.node("MatMul", [POOL, hidden], domain="")
    graph.output(pooled, ElementType.FLOAT, ("batch", 1, config.hidden))
    return BuiltGraph(graph.to_bytes(), builder.weights)


def _embeddings(builder: _Builder) -> str:
    config = builder.config
    tables = [
        builder.tensor("embeddings.word_embeddings.weight", config.vocabulary, config.hidden),
        builder.tensor("embeddings.position_embeddings.weight", config.positions, config.hidden),
        builder.tensor("embeddings.token_type_embeddings.weight", config.token_types, config.hidden),
    ]
    return builder.graph.node(
        "EmbedLayerNormalization",
        [INPUT_IDS, SEGMENT_IDS, *tables, *builder.norm("embeddings.LayerNorm")],
        attributes={"epsilon": config.epsilon},
        outputs=2,
    )


def _layer(builder: _Builder, prefix: str, hidden: str) -> str:
    config, graph = builder.config, builder.graph
    attended = _attention(builder, f"{prefix}.attention", hidden)
    projected = builder.dense(attended, f"{prefix}.attention.output.dense", config.hidden, config.hidden)
    middle = builder.residual(
        projected, hidden, f"{prefix}.attention.output.dense", f"{prefix}.attention.output.LayerNorm"
    )
    wide = builder.dense(middle, f"{prefix}.intermediate.dense", config.hidden, config.intermediate)
    wide = graph.node("BiasGelu", [wide, builder.tensor(f"{prefix}.intermediate.dense.bias", config.intermediate)])
    narrow = builder.dense(wide, f"{prefix}.output.dense", config.intermediate, config.hidden)
    return builder.residual(narrow, middle, f"{prefix}.output.dense", f"{prefix}.output.LayerNorm")


def _attention(builder: _Builder, prefix: str, hidden: str) -> str:
    size = builder.config.hidden
    matrices = [builder.fetch(f"{prefix}.self.{part}.weight", (size, size)).T for part in _QKV]
    biases = [builder.fetch(f"{prefix}.self.{part}.bias", (size,)) for part in _QKV]
    # Row by row, or the runtime would make its own copy and refuse it as an external one.
    joined = np.ascontiguousarray(np.concatenate(matrices, axis=1))
    weight = builder.packed(f"{prefix}.self.qkv.weight", joined)
    bias = builder.packed(f"{prefix}.self.qkv.bias", np.concatenate(biases))
    # LENGTHS is the operator's mask_index: padding lies right of each input and is not attended to.
    return builder.graph.node(
        "Attention", [hidden, weight, bias, LENGTHS], attributes={"num_heads": builder.config.heads}
    )
