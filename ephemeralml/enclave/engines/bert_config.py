"""What a sentence encoder's folder says about itself, read strictly.

Four small JSON files decide what the weights mean. Each is checked against
bounds before it sizes anything, and a setting that the engine does not
implement is refused: ignoring it would give other vectors than the publisher's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError

MAX_CONFIG_BYTES = 1 << 20
UNSUPPORTED = "MODEL_UNSUPPORTED"

Read = Callable[[str], bytes | None]
"""Gives the contents of a file of the model by its path, or None where there is none."""


class Pooling(Enum):
    """How token vectors become one vector."""

    MEAN = "mean"
    CLS = "cls"
    MEAN_SQRT_LENGTH = "mean_sqrt_len"


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The shape of a BERT encoder (`config.json`)."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class SentenceConfig:
    """How the encoder's output is used (`modules.json` and what it names)."""

    pooling: Pooling
    normalize: bool
    max_tokens: int
    lowercase: bool
    """Whether texts are lower-cased before the tokenizer sees them."""


_BOUNDS = {
    "hidden_size": (1, 8_192),
    "num_hidden_layers": (1, 128),
    "num_attention_heads": (1, 256),
    "intermediate_size": (1, 65_536),
    "vocab_size": (1, 1_000_000),
    "max_position_embeddings": (2, 65_536),
    "type_vocab_size": (1, 16),
}

_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "hidden_act": ("gelu",),
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
}
"""Settings that change the mathematics, with the values that are implemented; None stands for absent."""

_POOLING_FLAGS = {
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LENGTH,
}


def parse_bert(read: Read) -> BertConfig:
    """Read ``config.json``.

    Raises:
        MalformedError: It is missing, out of bounds, or describes another kind
            of model (code MODEL_UNSUPPORTED).
    """
    document = _required(read, "config.json")
    for name, supported in _SUPPORTED.items():
        if not any(document.get(name) == value and type(document.get(name)) is type(value) for value in supported):
            raise _unsupported(f"config.json: {name} {_shown(document.get(name))}", f"{name} {supported[-1]!r}")
    sizes = {name: _size(document, name, *bounds) for name, bounds in _BOUNDS.items()}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise MalformedError("config.json: hidden_size is no multiple of num_attention_heads")
    epsilon = document.get("layer_norm_eps")
    if type(epsilon) is not float or not 0 < epsilon <= 1e-2:
        raise MalformedError("config.json: layer_norm_eps is no number between 0 and 0.01")
    return BertConfig(
        hidden=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        intermediate=sizes["intermediate_size"],
        vocabulary=sizes["vocab_size"],
        positions=sizes["max_position_embeddings"],
        token_types=sizes["type_vocab_size"],
        epsilon=epsilon,
    )


def parse_sentence(read: Read, bert: BertConfig) -> SentenceConfig:
    """Read ``modules.json``, the pooling it names, ``sentence_bert_config.json`` and the default prompt.

    Raises:
        MalformedError: One is missing or inconsistent, or asks for something
            that is not implemented (code MODEL_UNSUPPORTED).
    """
    kinds, pooling_path = _modules(read)
    pooling = _pooling(_required(read, f"{pooling_path}/config.json"), bert.hidden)
    limits = _optional(read, "sentence_bert_config.json")
    prompt = _optional(read, "config_sentence_transformers.json").get("default_prompt_name")
    if prompt is not None:
        raise _unsupported(f"default prompt {_shown(prompt)}", "a model that takes texts as they are")
    longest = bert.positions
    if limits.get("max_seq_length") is not None:
        longest = min(longest, _size(limits, "max_seq_length", 2, _BOUNDS["max_position_embeddings"][1]))
    lowercase = limits.get("do_lower_case", False)
    if type(lowercase) is not bool:
        raise MalformedError("sentence_bert_config.json: do_lower_case is not a boolean")
    return SentenceConfig(pooling, kinds[2:] == ["Normalize"], longest, lowercase)


def _modules(read: Read) -> tuple[list[str], str]:
    """Return the kinds of the modules in order, and the path of the pooling."""
    data = read("modules.json")
    if data is None:
        raise _unsupported("the model has no modules.json, which says how token vectors become one", "a full model")
    modules = strict_json.parse(data, max_bytes=MAX_CONFIG_BYTES)
    if type(modules) is not list or not all(
        type(module) is dict and type(module.get("type")) is str and type(module.get("path")) is str
        for module in modules
    ):
        raise MalformedError("modules.json is not a list of modules with type and path")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or modules[0]["path"]:
        raise _unsupported(f"modules.json: {_shown(kinds)}", "Transformer (at the root), Pooling, Normalize")
    return kinds, modules[1]["path"]


def _pooling(document: dict[str, Any], hidden: int) -> Pooling:
    if document.get("word_embedding_dimension", hidden) != hidden:
        raise MalformedError("the pooling's word_embedding_dimension is not the model's hidden_size")
    if "pooling_mode" in document:
        chosen = [document["pooling_mode"]]
        known = {pooling.value: pooling for pooling in Pooling}
    else:
        chosen = [name for name, value in document.items() if name.startswith("pooling_mode_") and value is not False]
        known = {name: pooling for name, pooling in _POOLING_FLAGS.items() if document.get(name) is True}
    if len(chosen) != 1 or type(chosen[0]) is not str or chosen[0] not in known:
        raise _unsupported(f"pooling {_shown(chosen)}", "exactly one of mean, cls and mean_sqrt_len")
    return known[chosen[0]]


def _required(read: Read, path: str) -> dict[str, Any]:
    data = read(path)
    if data is None:
        raise MalformedError(f"the model has no {path}")
    return strict_json.parse_object(data, max_bytes=MAX_CONFIG_BYTES)


def _optional(read: Read, path: str) -> dict[str, Any]:
    data = read(path)
    return {} if data is None else strict_json.parse_object(data, max_bytes=MAX_CONFIG_BYTES)


def _size(document: dict[str, Any], name: str, low: int, high: int) -> int:
    value = document.get(name)
    if type(value) is not int or not low <= value <= high:
        raise MalformedError(f"{name} is {_shown(value)}, {low} to {high} are allowed")
    return value


def _unsupported(what: str, wanted: str) -> MalformedError:
    return MalformedError(f"{what} is not supported", code=UNSUPPORTED, hint=f"the encoder engine takes {wanted}")


def _shown(value: Any) -> str:
    return ascii(value)[:80]
