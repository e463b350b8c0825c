"""A BERT of a few kilobytes with random weights, seeded: every format and file of a real one."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ephemeralml.model.memory_file import LoadedFile, load_bytes
from ephemeralml.model.roles import role_of

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = "the a cat dog sat on mat and ran in sun rain red blue one two three hello world is not was it to of safe secret key"
_PIECES = (
    *SPECIALS,
    *_WORDS.split(),
    *"bcdefghijklmnopqrstuvwxyz0123456789.,!?'-[]é",
    *(f"##{piece}" for piece in (*"abcdefghijklmnopqrstuvwxyz", "ing", "ed", "er")),
)
VOCABULARY = tuple(dict.fromkeys(_PIECES))

Tensors = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Shape:
    hidden: int = 16
    layers: int = 2
    heads: int = 4
    intermediate: int = 32
    positions: int = 64
    max_tokens: int = 48
    normalize: bool = True
    pooling: str = "pooling_mode_mean_tokens"


DEFAULT = Shape()


def config(shape: Shape = DEFAULT) -> dict[str, object]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": shape.positions,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }


def tokenizer() -> dict[str, object]:
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    cls, sep = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    return {
        "version": "1.0",
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [{"id": index, "content": token, **special} for index, token in enumerate(SPECIALS)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [cls], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [sep], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: index for index, token in enumerate(VOCABULARY)},
        },
    }


def tensors(shape: Shape = DEFAULT, *, seed: int = 7) -> Tensors:
    random = np.random.default_rng(seed)

    def normal(*size: int) -> NDArray[np.float32]:
        return (random.standard_normal(size) * 0.2).astype(np.float32)

    hidden, wide = shape.hidden, shape.intermediate
    result: Tensors = {
        "embeddings.position_ids": np.arange(shape.positions, dtype=np.int64)[None],
        "embeddings.word_embeddings.weight": normal(len(VOCABULARY), hidden),
        "embeddings.position_embeddings.weight": normal(shape.positions, hidden),
        "embeddings.token_type_embeddings.weight": normal(2, hidden),
        "embeddings.LayerNorm.weight": 1 + normal(hidden),
        "embeddings.LayerNorm.bias": normal(hidden),
    }
    for index in range(shape.layers):
        layer = f"encoder.layer.{index}"
        for name, out, into in (
            *((f"attention.self.{part}", hidden, hidden) for part in ("query", "key", "value")),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", wide, hidden),
            ("output.dense", hidden, wide),
        ):
            result[f"{layer}.{name}.weight"] = normal(out, into)
            result[f"{layer}.{name}.bias"] = normal(out)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            result[f"{layer}.{name}.weight"] = 1 + normal(hidden)
            result[f"{layer}.{name}.bias"] = normal(hidden)
    return result


_DTYPES = {"float32": "F32", "float16": "F16", "int64": "I64", "float64": "F64", "int32": "I32", "uint8": "U8"}


def safetensors(values: Tensors, *, metadata: dict[str, str] | None = None, align: int = 8) -> bytes:
    """Write *values* as a safetensors file, uint16 arrays as BF16."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, array in values.items():
        dtype = "BF16" if array.dtype == np.uint16 else _DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % align)
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in values.values())


def contents(shape: Shape = DEFAULT, *, seed: int = 7) -> dict[str, bytes]:
    """Return the files of a tiny sentence encoder by path."""
    modules = ["Transformer", "Pooling"] + (["Normalize"] if shape.normalize else [])
    paths = ["", "1_Pooling", "2_Normalize"]
    documents: dict[str, object] = {
        "config.json": config(shape),
        "modules.json": [
            {"idx": index, "name": str(index), "path": paths[index], "type": f"sentence_transformers.models.{module}"}
            for index, module in enumerate(modules)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": shape.hidden, shape.pooling: True},
        "sentence_bert_config.json": {"max_seq_length": shape.max_tokens, "do_lower_case": False},
        "tokenizer.json": tokenizer(),
    }
    files = {path: json.dumps(document).encode() for path, document in documents.items()}
    return files | {"model.safetensors": safetensors(tensors(shape, seed=seed), metadata={"format": "pt"})}


def write(folder: Path, shape: Shape = DEFAULT, *, seed: int = 7) -> Path:
    """Write the files of a tiny sentence encoder below *folder* and return it."""
    for path, data in contents(shape, seed=seed).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def loaded(files: dict[str, bytes]) -> dict[str, LoadedFile]:
    """Return *files* in sealed memory, as an engine gets them; the caller closes them."""
    return {path: load_bytes(path, role_of(path), data) for path, data in files.items()}
