"""What a model is, read from its weights' headers and small JSON files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError
from ephemeralml.model.formats.gguf import GgufHeader
from ephemeralml.model.formats.safetensors import SafetensorsHeader
from ephemeralml.model.manifest import MAX_TEXT_BYTES, Format, Task
from ephemeralml.model.source_folder import WeightsHeader

MAX_CONFIG_BYTES = 4 << 20
UNKNOWN_ARCHITECTURE = "unknown"
_ENCODERS = frozenset({"bert", "nomic-bert", "jina-bert-v2", "roberta", "xlm-roberta", "distilbert", "mpnet"})


@dataclass(frozen=True, slots=True)
class Description:
    """What the manifest says of a model as a whole."""

    format: Format
    architecture: str
    task: Task | None
    """None where nothing tells."""


def describe(headers: Mapping[str, WeightsHeader], documents: Mapping[str, bytes]) -> Description:
    """Tell format, architecture and task of a model.

    Args:
        headers: The header of each weights file, by path.
        documents: ``config.json`` and ``modules.json``, where the model has them.

    Raises:
        MalformedError: Weights of two formats, or a document that does not parse.
    """
    kinds = {type(header) for header in headers.values()}
    if len(kinds) != 1:
        raise MalformedError("the weights are of more than one format", hint="package each format by itself")
    if kinds == {GgufHeader}:
        first = next(header for header in headers.values() if isinstance(header, GgufHeader))
        architecture, embedding = _of_gguf(first)
        return Description(Format.GGUF, architecture, Task.EMBEDDING if embedding else Task.GENERATION)
    architecture = _of_config(documents)
    embedding = "modules.json" in documents or architecture in _ENCODERS
    if not embedding and architecture == UNKNOWN_ARCHITECTURE:
        return Description(Format.SAFETENSORS, architecture, None)
    return Description(Format.SAFETENSORS, architecture, Task.EMBEDDING if embedding else Task.GENERATION)


def total_parameters(header: WeightsHeader) -> int:
    """Return how many numbers the tensors of *header* hold."""
    if isinstance(header, SafetensorsHeader):
        return sum(tensor.elements for tensor in header.tensors)
    total = 0
    for tensor in header.tensors:
        elements = 1
        for length in tensor.shape:
            elements *= length
        total += elements
    return total


def _of_gguf(header: GgufHeader) -> tuple[str, bool]:
    architecture = header.metadata.get("general.architecture")
    if not _is_name(architecture):
        raise MalformedError("the GGUF file has no general.architecture")
    pooled = header.metadata.get(f"{architecture}.pooling_type", 0)
    return str(architecture), architecture in _ENCODERS or pooled not in (0, None)


def _of_config(documents: Mapping[str, bytes]) -> str:
    if "config.json" not in documents:
        return UNKNOWN_ARCHITECTURE
    config = strict_json.parse_object(documents["config.json"], max_bytes=MAX_CONFIG_BYTES)
    kind = config.get("model_type")
    return str(kind) if _is_name(kind) else UNKNOWN_ARCHITECTURE


def _is_name(value: Any) -> bool:
    return type(value) is str and 0 < len(value.encode()) <= MAX_TEXT_BYTES and value.isprintable()
