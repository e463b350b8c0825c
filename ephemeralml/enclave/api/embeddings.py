"""``POST /v1/embeddings`` (serving section 3).

Parameters are those of OpenAI's API that this runtime can honour: ``model``,
``input``, ``encoding_format`` and, where it equals the model's own size,
``dimensions``. Any other, ``user`` included, is a 400 that names it: accepting
a parameter means acting on it.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ephemeralml.crypto import strict_json
from ephemeralml.enclave.api.errors import ApiError, bad_parameter, unsupported_parameter
from ephemeralml.enclave.api.messages import ApiResponse, Usage
from ephemeralml.errors import MalformedError
from ephemeralml.model.manifest import Task

MAX_VALUES = 1 << 19
"""Texts, numbers and lists in one body; 2,048 inputs of 256 tokens are as many."""
STRICT_BODY_BYTES = 65_536
"""A body with inner objects or repeated names, which no good request has, is read this far to say what is wrong."""

# A text, or what is left of the body where one does not end: so no byte is looked at twice.
_TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_PARAMETERS = frozenset({"model", "input", "encoding_format", "dimensions"})


class Encoding(Enum):
    """How vectors are written in the response."""

    FLOAT = "float"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A request whose parameters are all honoured; either texts or token ids."""

    texts: tuple[str, ...] | None = field(repr=False)
    token_ids: tuple[tuple[int, ...], ...] | None = field(repr=False)
    """Exactly what the model is fed: nothing is added around it, nothing cut."""
    encoding: Encoding
    dimensions: int | None


def parse_body(body: bytes) -> dict[str, Any]:
    """Read a request body as one JSON object that has one reading.

    What is hashed into the receipt must mean one thing, so repeated names are
    refused rather than merged as common parsers do. orjson merges too, hence
    the count: outside its texts, an object without inner objects has one colon
    for each name. Where the numbers differ, the strict reader says why.

    Values are counted before they are made: four million empty lists fit into
    a body and not into memory.

    Raises:
        ApiError: 400, not such an object, or more values than any request needs.
    """
    if body.count(b'"') > MAX_VALUES:
        raise _too_many_values()
    structure = _TEXTS.sub(b"", body)
    if max(map(structure.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise _too_many_values()
    try:
        document = orjson.loads(body)
        if type(document) is dict and structure.count(b":") == len(document):
            return document
        return strict_json.parse_object(body, max_bytes=STRICT_BODY_BYTES)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the request body is not JSON: {error.msg}", code="invalid_json") from error
    except MalformedError as error:
        raise ApiError(400, f"the request body is not acceptable: {error.message}", code="invalid_json") from error


def _too_many_values() -> ApiError:
    return ApiError(400, f"the request body holds more than {MAX_VALUES} values", code="too_many_values")


def model_name(document: Mapping[str, Any]) -> str:
    """Return the ``model`` that *document* names.

    Raises:
        ApiError: 400, there is none.
    """
    name = document.get("model")
    if type(name) is not str or not name:
        raise bad_parameter("model", "the parameter 'model' must name a model", code="missing_required_parameter")
    return name


def check_task(task: Task) -> None:
    """Refuse a model that makes something else.

    Raises:
        ApiError: 400, naming ``model``.
    """
    if task is not Task.EMBEDDING:
        raise bad_parameter("model", "this model makes no embeddings", code="model_not_supported")


def parse_request(document: Mapping[str, Any], *, max_inputs: int, max_text_bytes: int) -> EmbeddingsRequest:
    """Check every parameter of *document*.

    Raises:
        ApiError: 400, naming the first parameter at fault.
    """
    unknown = sorted(document.keys() - _PARAMETERS)
    if unknown:
        raise unsupported_parameter(unknown[0])
    if "input" not in document:
        raise bad_parameter("input", "the parameter 'input' is missing", code="missing_required_parameter")
    texts, token_ids = _parse_input(document["input"], max_inputs)
    if texts and max(map(len, texts)) > max_text_bytes // 4 and max(len(t.encode()) for t in texts) > max_text_bytes:
        raise bad_parameter(
            "input", f"'input' holds a text of more than {max_text_bytes} bytes", code="string_above_max_length"
        )
    return EmbeddingsRequest(
        texts, token_ids, _parse_encoding(document.get("encoding_format")), _parse_dimensions(document)
    )


def _parse_encoding(value: Any) -> Encoding:
    if value is None:
        return Encoding.FLOAT
    if value in ("float", "base64"):
        return Encoding(value)
    raise bad_parameter("encoding_format", "'encoding_format' is either 'float' or 'base64'")


def _parse_dimensions(document: Mapping[str, Any]) -> int | None:
    value = document.get("dimensions")
    if value is None or (type(value) is int and value > 0):
        return value
    raise bad_parameter("dimensions", "'dimensions' is a positive integer")


def _parse_input(value: Any, max_inputs: int) -> tuple[tuple[str, ...] | None, tuple[tuple[int, ...], ...] | None]:
    """Return texts or token ids, the other None."""
    if type(value) is str:
        value = [value]
    if type(value) is not list or not value:
        raise bad_parameter("input", "'input' is a text, a list of texts, token ids, or a list of token id lists")
    if type(value[0]) is int:
        value = [value]
    if len(value) > max_inputs:
        raise bad_parameter("input", f"'input' has {len(value)} entries, at most {max_inputs} are allowed")
    if all(type(entry) is str for entry in value):
        if not all(value):
            raise bad_parameter("input", "'input' holds an empty text")
        return tuple(value), None
    if all(type(entry) is list and entry and all(type(token) is int for token in entry) for entry in value):
        return None, tuple(tuple(entry) for entry in value)
    raise bad_parameter("input", "'input' mixes kinds, or holds something else than texts or non-empty token id lists")


def estimate_bytes(request: EmbeddingsRequest, dim: int) -> int:
    """Return how large the response may become; a number takes at most 16 characters."""
    count = len(request.texts or request.token_ids or ())
    return 1_024 + count * (64 + 16 * dim)


def check_token_ids(batch: Sequence[Sequence[int]], *, vocabulary: int, max_tokens: int) -> None:
    """Refuse ids the model does not have, and sequences it cannot take.

    Texts longer than the model's limit are cut as the model's own tokenizer
    settings say; token ids are the caller's exact words, so they are not.

    Raises:
        ApiError: 400, naming ``input``.
    """
    for sequence in batch:
        if len(sequence) > max_tokens:
            raise bad_parameter(
                "input",
                f"'input' holds {len(sequence)} token ids, the model takes {max_tokens}",
                code="context_length_exceeded",
            )
        if min(sequence) < 0 or max(sequence) >= vocabulary:
            raise bad_parameter("input", f"'input' holds a token id outside 0..{vocabulary - 1}")


def check_dimensions(dimensions: int | None, actual: int) -> None:
    """Refuse any size but the model's own.

    Raises:
        ApiError: 400, naming ``dimensions``.
    """
    if dimensions is not None and dimensions != actual:
        raise bad_parameter(
            "dimensions", f"this model's vectors have {actual} dimensions and no others", code="unsupported_value"
        )


def embeddings_response(vectors: NDArray[np.float32], encoding: Encoding, *, model: str, tokens: int) -> ApiResponse:
    """Write the response for *vectors*, one row per input."""
    rows: list[Any]
    if encoding is Encoding.BASE64:
        packed = vectors.astype("<f4", copy=False)
        rows = [base64.b64encode(row.tobytes()).decode() for row in packed]
    else:
        rows = list(np.ascontiguousarray(vectors))
    document = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return ApiResponse(200, orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), usage=Usage(tokens))
